"""Networks in the requests of EC2's API, which EC2 takes without their host bits.

EC2 modifies 100.68.0.18/18 to 100.68.0.0/18, in rules of security groups, VPCs, subnets and routes.
A rule that only differs from another in its host bits is a duplicate. moto keeps what it is given.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AuthorizeSecurityGroupIngress.html
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSubnet.html
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateRoute.html
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

PARAMETERS = frozenset((
    "Cidr", "CidrBlock", "CidrIp", "CidrIpv4", "CidrIpv6", "DestinationCidrBlock",
    "DestinationIpv6CidrBlock", "Ipv6CidrBlock",
))  # fmt: skip


def canonical(form: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a request as EC2 takes them; no network stays as it is."""
    return {
        name: _canonical(value) if name.rpartition(".")[2] in PARAMETERS else value
        for name, value in form.items()
    }


def _canonical(value: str) -> str:
    address, slash, _ = value.partition("/")
    try:
        return str(ipaddress.ip_network(value, strict=False)) if slash and address else value
    except ValueError:
        return value  # EC2 refuses it
