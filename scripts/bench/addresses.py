"""Lets this host speak to the machines from many addresses, as many visitors do.

The edge and Airflow limit an address, and one address with the load of a city would measure these
limits. Each new connection to a port of the site leaves with one of the addresses at the end of the
machines' network. Only this host's own connections are changed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CHAIN = "BENCH-VISITORS"
COUNT = 40
FIRST = 200  # in the machines' /24; pillar/base/aws.sls gives 250 to the Salt master
PORTS = "443,8080"


def _iptables(*arguments: str, check: bool = True) -> int:
    return subprocess.run(
        ["iptables", "-w", "-t", "nat", *arguments], check=check, capture_output=True
    ).returncode


def rules(gateway: str) -> list[list[str]]:
    """Return the rules of the chain: the n-th of those left takes a new connection by 1/n."""
    network = gateway.rpartition(".")[0]
    found = []
    for left in range(COUNT, 0, -1):
        chance = [] if left == 1 else ["-m", "statistic", "--mode", "random"]
        chance += [] if left == 1 else ["--probability", f"{1 / left:.6f}"]
        address = f"{network}.{FIRST + COUNT - left}"
        found.append([*chance, "-j", "SNAT", "--to-source", address])
    return found


def remove(bridge: str, gateway: str) -> None:
    """Remove what `visitors` has made, or an interrupted run has left."""
    while _iptables("-D", "POSTROUTING", *_jump(bridge), check=False) == 0:
        pass
    _iptables("-F", CHAIN, check=False)
    _iptables("-X", CHAIN, check=False)
    network = gateway.rpartition(".")[0]
    for number in range(FIRST, FIRST + COUNT):
        subprocess.run(
            ["ip", "address", "del", f"{network}.{number}/32", "dev", bridge],
            check=False,
            capture_output=True,
        )


def _jump(bridge: str) -> list[str]:
    local = ["-m", "addrtype", "--src-type", "LOCAL"]
    return ["-o", bridge, "-p", "tcp", *local, "-m", "multiport", "--dports", PORTS, "-j", CHAIN]


@contextmanager
def visitors(bridge: str, gateway: str) -> Iterator[None]:
    """Let this host's connections to the site come from `COUNT` addresses meanwhile.

    Args:
        bridge: the interface of the machines' network on this host.
        gateway: this host's address in that network.
    """
    remove(bridge, gateway)
    try:
        network = gateway.rpartition(".")[0]
        for number in range(FIRST, FIRST + COUNT):
            add = ["ip", "address", "add", f"{network}.{number}/32", "dev", bridge]
            subprocess.run(add, check=True)
        _iptables("-N", CHAIN)
        for rule in rules(gateway):
            _iptables("-A", CHAIN, *rule)
        _iptables("-I", "POSTROUTING", *_jump(bridge))
        yield
    finally:
        remove(bridge, gateway)
