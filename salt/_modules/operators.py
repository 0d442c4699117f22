"""The networks from which operators come: ``settings:operator_cidrs``, checked and as EC2 has them.

EC2 clears the host bits of a network: a rule for 198.51.100.7/24 comes back as 198.51.100.0/24.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AuthorizeSecurityGroupIngress.html
Compared with what the settings say, it would be another rule, which every run would replace.

stackctl loads this file too, so that it refuses what the states would refuse.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from salt.exceptions import CommandExecutionError

KEY = "settings:operator_cidrs"
WIDEST = 8  # the shortest prefix: the largest networks that one organisation has


def networks(cidrs: Any) -> list[str]:
    """Return IPv4 networks without host bits, duplicates and overlaps, sorted.

    Args:
        cidrs: the setting: a list of networks and addresses.

    Raises:
        CommandExecutionError: it is no list, or an entry is no network that one may log in from.
    """
    if not isinstance(cidrs, list | tuple):
        raise CommandExecutionError(f"{KEY} is {cidrs!r} and not a list: write [198.51.100.7/32]")
    merged = list(ipaddress.collapse_addresses(_network(cidr) for cidr in cidrs))
    for network in merged:
        if network.prefixlen < WIDEST:
            raise CommandExecutionError(
                f"{KEY} opens {network}, more than any one organisation has:"
                f" name networks of /{WIDEST} or smaller"
            )
    return [str(network) for network in merged]


def _network(cidr: Any) -> ipaddress.IPv4Network:
    try:
        # Not of a number: 10 would be the address 0.0.0.10.
        network = ipaddress.ip_interface(cidr if isinstance(cidr, str) else "").network
    except ValueError:
        raise CommandExecutionError(
            f"{KEY} names {cidr!r}, which is no IPv4 network such as 198.51.100.7/32"
        ) from None
    if not isinstance(network, ipaddress.IPv4Network):
        raise CommandExecutionError(
            f"{KEY} names {cidr}, but the machines have IPv4 addresses only:"
            " name the IPv4 network that you come from"
        )
    start = network.network_address
    if network.prefixlen and (start.is_loopback or start.is_multicast or start.is_link_local):
        raise CommandExecutionError(f"{KEY} names {cidr}, from which nobody comes")
    return network
