"""Loads the rules that keep machines to their security groups into the host's kernel.

They are in tables of the cloud's own, and beside them only `DOCKER-USER`, the chain that Docker
keeps for others, has rules of the cloud, each with its name: without them, Docker would drop what
goes from one subnet to another. The rules are the kernel's, so they hold while no API runs.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

from localcloud import packages, ruleset
from localcloud.config import Report
from localcloud.errors import FirewallFailed, LocalCloudError
from localcloud.reachability import Policy
from localcloud.ruleset import Places, Services

CHAIN = "DOCKER-USER"
DEVICES = Path("/sys/class/net")
ROUTE_LOCALNET = "/proc/sys/net/ipv4/conf/{bridge}/route_localnet"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Firewall:
    """The rules of one cloud.

    Args:
        cloud: the name of the cloud.
        services: what every machine reaches.
    """

    def __init__(self, cloud: str, services: Services) -> None:
        self._cloud = cloud
        self._services = services
        self._loaded = ""
        self._filtered: set[str] = set()
        self._forwarded: set[tuple[str, str]] | None = None

    def load(self, policy: Policy, places: Places) -> bool:
        """Replace the rules, unless they are what this has loaded; return whether it replaced them.

        Raises:
            FirewallFailed: the kernel does not take them, or this user may not load them.
        """
        text = ruleset.render(self._cloud, policy, places, self._services)
        if text == self._loaded:
            return False
        bridges = set(places.bridges.values())
        for bridge in sorted(bridges - self._filtered):
            _filter_inside(bridge)
        self._filtered = bridges
        _run("nft", "--file", "-", given=text)
        self._forward(set(_neighbours(policy, places)))
        self._loaded = text
        return True

    def _forward(self, wanted: set[tuple[str, str]]) -> None:
        if self._forwarded != wanted:
            _join(self._cloud, wanted)
            self._forwarded = wanted


def ensure(report: Report) -> None:
    """Install nftables where it is missing.

    Raises:
        PackagesFailed: apt failed.
        EngineUnavailable: this user is not root and has no sudo.
    """
    if not installed():
        packages.install(["nftables"], report)


def installed() -> bool:
    """Return whether nftables is installed."""
    return _program("nft") is not None


def remove(cloud: str) -> None:
    """Remove the rules of a cloud; where there are none, nothing happens.

    Raises:
        FirewallFailed: the kernel refuses.
    """
    if installed():
        _run("nft", "--file", "-", given=ruleset.removal(cloud))
    if _program("iptables"):
        _join(cloud, set())


def _neighbours(policy: Policy, places: Places) -> Iterator[tuple[str, str]]:
    """Yield each two bridges between which packets pass: those of the subnets of one VPC."""
    for (here, one), (there, other) in permutations(places.bridges.items(), 2):
        if here in policy.vpcs and policy.vpcs[here] == policy.vpcs.get(there):
            yield one, other


def _filter_inside(bridge: str) -> None:
    """Have the kernel show the rules also what goes from one port of a bridge to another.

    And have it route what this host sends from loopback to a machine: `ruleset` gives it another
    source, and the answers go back.

    https://docs.kernel.org/networking/ip-sysctl.html (/proc/sys/net/bridge/*, route_localnet)
    """
    _run("tee", ROUTE_LOCALNET.format(bridge=bridge), given="1")
    for name in ("nf_call_iptables", "nf_call_ip6tables"):
        switch = DEVICES / bridge / "bridge" / name
        if not switch.exists():
            _run("modprobe", "br_netfilter")
        if switch.read_text().strip() != "1":
            _run("tee", str(switch), given="1")


def _join(cloud: str, pairs: set[tuple[str, str]]) -> None:
    """Have Docker let packets pass between two bridges for each pair, and for no others."""
    own = ["-m", "comment", "--comment", ruleset.table(cloud), "-j", "ACCEPT"]
    known = set()
    for line in _run("iptables", "--wait", "-S", CHAIN, check=False).splitlines():
        words = line.split()
        if words[:2] == ["-A", CHAIN] and ruleset.table(cloud) in words:
            pair = (words[words.index("-i") + 1], words[words.index("-o") + 1])
            known.add(pair)
            if pair not in pairs:
                _run("iptables", "--wait", "-D", CHAIN, "-i", pair[0], "-o", pair[1], *own)
    for pair in sorted(pairs - known):
        _run("iptables", "--wait", "-I", CHAIN, "-i", pair[0], "-o", pair[1], *own)


def _run(*command: str, given: str = "", check: bool = True) -> str:
    program = _program(command[0])
    if program is None:
        raise FirewallFailed(f"{command[0]} is not installed, so nothing keeps machines apart.")
    try:
        words = packages.privileged(program, *command[1:])
    except LocalCloudError as error:
        raise FirewallFailed(f"Security groups are rules of the host's kernel: {error}") from error
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise FirewallFailed(
            f"`{' '.join(command)}` failed, so machines are not kept to their security groups:\n"
            f"{packages.tail(done.stderr)}"
        )
    return done.stdout


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_PATH)
