"""What machines may connect to: the rules that `groups` reads, and `ruleset` writes for nftables.

https://docs.aws.amazon.com/vpc/latest/userguide/security-group-rules.html
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

ANY = "-1"
"""The protocol of a rule for all protocols and ports."""
EVERYWHERE = "0.0.0.0/0"
PUBLIC = ipaddress.ip_network("198.18.0.0/15")
"""Where public addresses are from: they are no machine's on the Internet.
https://www.rfc-editor.org/rfc/rfc2544#appendix-C"""
S3 = "s3"
"""The service that a machine reaches by an endpoint in its VPC."""


@dataclass(frozen=True)
class Rule:
    """What a rule lets through.

    Args:
        protocol: `tcp`, `udp`, `icmp`, another protocol's number, or `ANY`.
        first: the first port, or ICMP's type; None: any.
        last: the last port, or ICMP's code; None: any.
        networks: where the other end may be.
        group: the group that the other end may have; empty: `networks` counts.
    """

    protocol: str
    first: int | None = None
    last: int | None = None
    networks: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class Group:
    """The rules of a security group."""

    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Interface:
    """A network interface.

    Args:
        instance_id: of the machine that has it; empty: none has.
        addresses: its private addresses.
        groups: the ids of its groups.
        vpc: the networks of its VPC; what is elsewhere, it reaches only if it has a way out.
        public: the address at which the Internet reaches it; empty: it does not.
        way_out: whether what it sends can leave the VPC.
        api: whether it reaches the APIs of all services; here they are at one address and port.
        s3: whether it reaches S3.
    """

    instance_id: str
    addresses: tuple[str, ...]
    groups: tuple[str, ...] = ()
    vpc: tuple[str, ...] = ()
    public: str = ""
    way_out: bool = True
    api: bool = True
    s3: bool = True


@dataclass(frozen=True)
class Policy:
    """Which machine may connect to what.

    Args:
        interfaces: by id, but for those of terminated machines.
        groups: by id.
        vpcs: subnet id -> VPC id.
        elastic: Name tag of an elastic address -> private address of the interface that has it.
    """

    interfaces: dict[str, Interface] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    vpcs: dict[str, str] = field(default_factory=dict)
    elastic: dict[str, str] = field(default_factory=dict)

    def members(self, group: str) -> list[str]:
        """Return the addresses of the interfaces that have a group."""
        return sorted(
            address
            for interface in self.interfaces.values()
            if group in interface.groups
            for address in interface.addresses
        )

    def reaches(self, address: str, service: str) -> bool:
        """Return whether what comes from an address may reach a service of Amazon.

        Args:
            address: of a machine; what is at any other address is outside, and may.
            service: its name in signatures.
        """
        return all(
            interface.api or (interface.s3 and service == S3)
            for interface in self.interfaces.values()
            if address in interface.addresses and interface.instance_id
        )
