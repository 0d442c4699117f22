"""The host's nftables rules that keep the machines of a cloud to their security groups.

A cloud has two tables. The one of family `inet` does what a security group does: a packet that
leaves a machine passes the machine's egress rules, and one that enters a machine passes its ingress
rules, unless it belongs to a connection that was let through. So the kernel's connection tracking
makes the groups stateful, and a connection outlives the rule that let it through, as on EC2:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/security-group-connection-tracking.html

The other table, of family `bridge`, drops what a machine sends from an address that is not its own,
as EC2's check of sources does. It knows a machine by its port of the bridge, which root on the
machine cannot change:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-eni.html
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from localcloud.config import METADATA_ADDRESS, TIME_ADDRESS
from localcloud.reachability import ANY, EVERYWHERE, PUBLIC, Group, Interface, Policy, Rule

FAMILIES = ("inet", "bridge")
LEAVING, ENTERING = -11, -10
"""Priorities of the chains: before those of Docker and of most others, which have 0 and drop what
they want to, too."""
SAME_SOURCE = 99
"""The priority of the rule that keeps Docker from giving packets another source, which it does with
100."""
OTHER_TARGET = -101
"""The priority of the rules that lead public addresses to machines, and machines to the metadata
service and to the time: before Docker's."""
_ALL_PORTS = (0, 65535)
_AT_PUBLIC = f"ct original ip daddr {PUBLIC}"


@dataclass(frozen=True)
class Places:
    """The host's devices that the machines are at.

    Args:
        bridges: subnet id -> bridge.
        ports: instance id -> the machine's port of its bridge.
    """

    bridges: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Services:
    """What machines reach whatever their groups say.

    Args:
        api: address and port of the API, which is also the instance metadata service, and by UDP
            the time service; these two need neither a way out nor a rule, the API both.
        s3_port: of S3 over TLS at the same address.
        resolvers: the addresses of the name servers, which EC2's groups do not filter either.
        publish: see `localcloud.config.CloudConfig`.
    """

    api: tuple[str, int]
    s3_port: int
    resolvers: tuple[str, ...] = ()
    publish: Mapping[str, Mapping[int, tuple[str, int]]] = field(default_factory=dict)


def table(cloud: str) -> str:
    """Return the name of the tables of a cloud."""
    return f"localcloud-{cloud}"


def removal(cloud: str) -> str:
    """Return the commands that remove the tables of a cloud, whether or not they exist."""
    return "".join(
        f"table {family} {table(cloud)}\ndelete table {family} {table(cloud)}\n"
        for family in FAMILIES
    )


def render(cloud: str, policy: Policy, places: Places, services: Services) -> str:
    """Return the commands that replace the tables of a cloud, in one transaction."""
    text = removal(cloud)
    if places.bridges:
        text += _block(f"table inet {table(cloud)}", _filter(policy, places, services))
    owned = {
        places.ports[interface.instance_id]: (eni, interface)
        for eni, interface in policy.interfaces.items()
        if interface.instance_id in places.ports
    }
    if owned:
        text += _block(f"table bridge {table(cloud)}", _own_addresses(owned))
    return text


# -- the groups


def _filter(policy: Policy, places: Places, services: Services) -> Iterator[str]:
    bridges = _set(f'"{name}"' for name in sorted(places.bridges.values()))
    by_gateway = f"iifname {bridges} oifname {bridges} {_AT_PUBLIC} goto enter-by-gateway"
    for name, hook, priority, verdicts in (
        ("forward-from", "forward", LEAVING, [f"iifname {bridges} goto leave"]),
        ("forward-to", "forward", ENTERING, [by_gateway, f"oifname {bridges} goto enter"]),
        ("to-host", "input", LEAVING, [f"iifname {bridges} goto leave"]),
        ("from-host", "output", ENTERING, [f"oifname {bridges} goto enter"]),
    ):
        head = f"type filter hook {hook} priority {priority}; policy accept;"
        yield _chain(name, [head, *verdicts])
    yield _chain("leave", [*_tracked(), *_always(services), *_lookup(policy, "saddr", "out")])
    yield _chain("enter", [*_tracked(), *_lookup(policy, "daddr", "in")])
    yield _chain("enter-by-gateway", [*_tracked(), *_lookup(policy, "daddr", "by-gateway")])
    service = f"{services.api[0]}:{services.api[1]}"
    asked = f"iifname {bridges} ip daddr {METADATA_ADDRESS} tcp dport 80"
    head = f"type nat hook prerouting priority {OTHER_TARGET}; policy accept;"
    time = f"iifname {bridges} ip daddr {TIME_ADDRESS} udp dport 123"
    led = [f"{match} dnat ip to {service}" for match in (asked, time)]
    yield _chain("link-local", [head, *led])
    yield from _same_source(policy, places)
    yield from _public(policy, bridges, services)
    for eni, interface in sorted(policy.interfaces.items()):
        for way in ("out", "in", "by-gateway"):
            jumps = [f"jump {group}-{way}" for group in interface.groups if group in policy.groups]
            first = _beyond(interface, services) if way == "out" else []
            yield _chain(f"{eni}-{way}", [*first, *jumps, "drop"])
    for name, group in sorted(policy.groups.items()):
        yield from _group(name, group, policy)


def _beyond(interface: Interface, services: Services) -> Iterator[str]:
    """Yield what comes before the groups: whether a machine reaches what is not in its VPC.

    The API here has neither AWS's addresses nor its port, so no rule of a group names it:
    `localcloud.groups` has looked whether one lets the machine reach AWS. At this address are all
    services; the API itself tells S3 from the others (`Policy.reaches`).
    """
    address, port = services.api
    verdict = "accept" if interface.api or interface.s3 else "drop"
    yield f"ip daddr {address} tcp dport {port} {verdict}"
    verdict = "accept" if interface.s3 else "drop"
    yield f"ip daddr {address} tcp dport {services.s3_port} {verdict}"
    if interface.vpc and not interface.way_out:
        yield f"ct original ip daddr != {_set(interface.vpc)} drop"


def _tracked() -> list[str]:
    return ["meta nfproto != ipv4 drop", "ct state established,related accept"]


def _always(services: Services) -> Iterator[str]:
    yield f"ct original ip daddr {_set((METADATA_ADDRESS, TIME_ADDRESS))} accept"
    if services.resolvers:
        servers = _set(sorted(services.resolvers))
        yield f"ip daddr {servers} meta l4proto {{ tcp, udp }} th dport 53 accept"


def _lookup(policy: Policy, field_name: str, way: str) -> list[str]:
    # moto gives the interface of a NAT gateway an address that a machine may have.
    order = sorted(policy.interfaces.items(), key=lambda one: (bool(one[1].instance_id), one[0]))
    known = {address: eni for eni, interface in order for address in interface.addresses}
    targets = [f"{address} : goto {eni}-{way}" for address, eni in sorted(known.items())]
    return [*([f"ip {field_name} vmap {_set(targets)}"] if targets else []), "drop"]


def _same_source(policy: Policy, places: Places) -> Iterator[str]:
    """Keep the source of what goes from one subnet to another; Docker takes it for going out."""
    addresses = sorted({address for one in policy.interfaces.values() for address in one.addresses})
    if len(places.bridges) > 1 and addresses:
        same = _set(f"{address} : {address}" for address in addresses)
        yield _chain(
            "same-source",
            [
                f"type nat hook postrouting priority {SAME_SOURCE}; policy accept;",
                f"ip daddr {_set(addresses)} snat ip to ip saddr map {same}",
            ],
        )


def _public(policy: Policy, bridges: str, services: Services) -> Iterator[str]:
    """Have machines be reached at their public addresses, as by an internet gateway.

    This host, which is the outside, reaches them, and so do other machines, whose packets have
    their own public addresses then. What is published on this host follows the elastic address.

    Docker maps ports with the priority -100.
    """
    owners = sorted(
        (interface.public, interface.addresses[0])
        for interface in policy.interfaces.values()
        if interface.public and ipaddress.ip_address(interface.public) in PUBLIC
    )
    led = []
    if owners:
        led = [f"dnat ip to ip daddr map {_set(f'{public} : {own}' for public, own in owners)}"]
        sources = _set(f"{own} : {public}" for public, own in owners)
        inside = _set(own for _, own in owners)
        yield _chain(
            "gateway-in",
            [
                f"type nat hook prerouting priority {OTHER_TARGET}; policy accept;",
                f"iifname {bridges} {led[0]}",
            ],
        )
        yield _chain(
            "gateway-out",
            [
                f"type nat hook postrouting priority {SAME_SOURCE - 1}; policy accept;",
                f"{_AT_PUBLIC} ip saddr {inside} snat ip to ip saddr map {sources}",
            ],
        )
    led += _published(policy, services)
    if led:
        yield _chain(
            "public", [f"type nat hook output priority {OTHER_TARGET}; policy accept;", *led]
        )
    if services.publish:
        yield _chain(
            "published-source",
            [
                f"type nat hook postrouting priority {SAME_SOURCE - 1}; policy accept;",
                f"oifname {bridges} ip saddr 127.0.0.0/8 masquerade",
            ],
        )


def _published(policy: Policy, services: Services) -> Iterator[str]:
    """Yield the rules for what is published of the machines that have an elastic address now."""
    for name, ports in sorted(services.publish.items()):
        if name in policy.elastic:
            for port, (host, published) in sorted(ports.items()):
                target = f"{policy.elastic[name]}:{port}"
                yield f"ip daddr {host} tcp dport {published} dnat ip to {target}"


def _group(name: str, group: Group, policy: Policy) -> Iterator[str]:
    # Who comes by the gateway has a public address: a rule for a group, or for a network inside,
    # is not for it. Of other networks, those alone count here that are all addresses.
    anybody = [rule for rule in group.ingress if EVERYWHERE in rule.networks]
    for way, side, rules in (
        ("in", "ip saddr", group.ingress),
        ("out", "ct original ip daddr", group.egress),
        ("by-gateway", "ip saddr", anybody),
    ):
        matches = [_match(rule, side, policy) for rule in rules]
        yield _chain(f"{name}-{way}", [f"{match}accept" for match in matches if match is not None])


def _match(rule: Rule, side: str, policy: Policy) -> str | None:
    """Return the beginning of a rule; None: nobody is at the other end."""
    peers = policy.members(rule.group) if rule.group else list(rule.networks)
    if not peers:
        return None
    where = "" if EVERYWHERE in peers else f"{side} {_set(sorted(set(peers)))} "
    return where + _traffic(rule)


def _traffic(rule: Rule) -> str:
    if rule.protocol == ANY:
        return ""
    if rule.protocol == "icmp":
        parts = [
            f"icmp {name} {value} "
            for name, value in (("type", rule.first), ("code", rule.last))
            if value is not None
        ]
        return "".join(parts) or "ip protocol icmp "
    if rule.protocol in ("tcp", "udp") and rule.first is not None:
        last = rule.first if rule.last is None else rule.last
        if (rule.first, last) != _ALL_PORTS:
            return f"{rule.protocol} dport {rule.first}-{last} "
    return f"meta l4proto {rule.protocol} "


# -- the sources


def _own_addresses(owned: Mapping[str, tuple[str, Interface]]) -> Iterator[str]:
    ports = _set(f'"{port}" : goto {eni}' for port, (eni, _) in sorted(owned.items()))
    yield _chain(
        "from-port",
        ["type filter hook prerouting priority -300; policy accept;", f"iifname vmap {ports}"],
    )
    for eni, interface in sorted(owned.values(), key=lambda one: one[0]):
        own = _set(interface.addresses)
        yield _chain(eni, [f"ip saddr {own} accept", f"arp saddr ip {own} accept", "drop"])


# -- nft's language


def _set(elements: Iterable[str]) -> str:
    return f"{{ {', '.join(elements)} }}"


def _chain(name: str, rules: Iterable[str]) -> str:
    return _block(f"chain {name}", (f"{rule}\n" for rule in rules))


def _block(head: str, body: Iterable[str]) -> str:
    text = "".join(body)
    lines = "".join(f"  {line}\n" for line in text.splitlines())
    return f"{head} {{\n{lines}}}\n"
