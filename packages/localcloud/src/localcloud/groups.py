"""Security groups as moto keeps them, and the policy that they and routes make for machines.

https://docs.aws.amazon.com/vpc/latest/userguide/security-group-rules.html
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from moto.ec2.models import EC2Backend
from moto.ec2.models.elastic_network_interfaces import (
    NetworkInterface,
    NetworkInterfaceBackend,
)
from moto.ec2.models.instances import Instance, InstanceBackend
from moto.ec2.models.security_groups import (
    SecurityGroup,
    SecurityGroupBackend,
    SecurityGroupRule,
)

from localcloud import endpoints, routes
from localcloud.reachability import ANY, EVERYWHERE, S3, Group, Interface, Policy, Rule

HTTPS = 443
"""The port of every API of Amazon."""
_PROTOCOLS = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6", "all": ANY}


def policy(backend: EC2Backend) -> Policy:
    """Return the policy that the groups of an account's region make."""
    vpcs = {
        str(subnet.id): str(subnet.vpc_id)
        for of_zone in backend.subnets.values()
        for subnet in of_zone.values()
    }
    found = dict(_groups(backend))
    interfaces = dict(_interfaces(backend, found))
    return Policy(interfaces, found, vpcs, routes.elastic(backend))


def _interfaces(backend: EC2Backend, known: Mapping[str, Group]) -> Iterator[tuple[str, Interface]]:
    s3 = _s3_networks(backend)
    for eni in backend.enis.values():
        if not (eni.instance and eni.instance.state == "terminated"):
            addresses = tuple(str(one["PrivateIpAddress"]) for one in eni.private_ip_addresses)
            groups = tuple(sorted({str(group.id) for group in eni.group_set if group}))
            instance_id = str(eni.instance.id) if eni.instance else ""
            way_out = routes.has_way_out(backend, eni)
            rules = [rule for group in groups if group in known for rule in known[group].egress]
            api = any(_lets_out(rule, ()) for rule in rules)
            to_s3 = any(_lets_out(rule, s3) for rule in rules)
            yield (
                str(eni.id),
                Interface(
                    instance_id,
                    addresses,
                    groups,
                    vpc=routes.networks(backend, str(eni.subnet.vpc_id)),
                    public=routes.public_address(backend, eni),
                    way_out=way_out,
                    api=way_out and api,
                    s3=(way_out or endpoints.leads_to(backend, eni, S3)) and to_s3,
                ),
            )


def _lets_out(rule: Rule, networks: Collection[str]) -> bool:
    """Return whether an egress rule lets out HTTPS to these networks; empty: to any address.

    Only a rule for every address leads to the APIs: which addresses they have, changes.
    https://docs.aws.amazon.com/vpc/latest/userguide/aws-ip-ranges.html
    """
    if rule.protocol == ANY:
        port = True
    else:
        last = rule.first if rule.last is None else rule.last
        port = rule.protocol == "tcp" and (
            rule.first is None or (last is not None and rule.first <= HTTPS <= last)
        )
    return port and (
        EVERYWHERE in rule.networks or (bool(networks) and set(networks) <= set(rule.networks))
    )


def _s3_networks(backend: EC2Backend) -> tuple[str, ...]:
    """Return the addresses of S3 in a region: those of its prefix list."""
    name = f"com.amazonaws.{backend.region_name}.s3"
    lists = [one for one in backend.managed_prefix_lists.values() if one.prefix_list_name == name]
    return tuple(network for one in lists for network in _networks_of(one))


def _groups(backend: EC2Backend) -> Iterator[tuple[str, Group]]:
    for of_vpc in backend.groups.values():
        for group in of_vpc.values():
            yield (
                str(group.id),
                Group(
                    tuple(_rules(backend, group.ingress_rules)),
                    tuple(_rules(backend, group.egress_rules)),
                ),
            )


def _rules(backend: EC2Backend, rules: Iterable[SecurityGroupRule]) -> Iterator[Rule]:
    """Yield rules but those for IPv6, which no machine has."""
    for rule in rules:
        networks: tuple[str, ...] = ()
        if rule.cidr_ipv4:
            networks = (str(rule.cidr_ipv4),)
        elif rule.prefix_list_id:
            known = backend.managed_prefix_lists.get(str(rule.prefix_list_id))
            networks = tuple(_networks_of(known)) if known else ()
        group = str((rule.referenced_group_info or {}).get("GroupId") or "")
        if networks or group:
            name = str(rule.ip_protocol).lower()
            ports = (_port(rule.from_port), _port(rule.to_port))
            yield Rule(_PROTOCOLS.get(name, name), *ports, networks, group)


def _networks_of(prefix_list: Any) -> Iterator[str]:
    newest = max(prefix_list.entries, default=None)
    for entry in prefix_list.entries.get(newest, ()):
        yield str(entry["Cidr"])


def _port(value: object) -> int | None:
    """Return a port, or an ICMP type or code; -1 stands for any, as no port does."""
    return None if value is None or int(str(value)) == -1 else int(str(value))


def hook(replace: Callable[[Any, str, Any], Any]) -> None:
    """Have moto keep groups as EC2 does.

    Args:
        replace: sets an attribute of a class, and returns what it was.
    """

    def create(backend: Any, *given: Any, **options: Any) -> SecurityGroup:
        """The default group of a VPC lets its members connect to each other.

        https://docs.aws.amazon.com/vpc/latest/userguide/default-security-group.html
        """
        made: SecurityGroup = original_create(backend, *given, **options)
        if made.is_default:
            owner = made.owner_id
            itself = {"GroupId": made.id, "OwnerId": owner, "UserId": owner}
            rule = SecurityGroupRule(
                backend, ANY, made.id, None, None, None, source_group=itself, is_egress=False
            )
            made.ingress_rules.append(rule)
        return made

    def group_set(interface: NetworkInterface) -> list[SecurityGroup]:
        """An interface has its own groups; an instance's are those of its first interface."""
        groups: list[SecurityGroup] = interface._group_set
        return groups

    def modify_instance(backend: Any, instance_id: str, group_ids: list[str]) -> Instance:
        """The groups of an instance replace those of its first interface."""
        instance: Instance = original_instance(backend, instance_id, group_ids)
        instance.nics[0]._group_set = list(instance.security_groups)
        return instance

    def modify_interface(backend: Any, eni_id: str, *given: Any, **options: Any) -> None:
        """The groups of a first interface are its instance's."""
        original_interface(backend, eni_id, *given, **options)
        eni = backend.get_network_interface(eni_id)
        if eni.instance and eni.device_index == 0:
            eni.instance.security_groups = list(eni._group_set)

    original_create = replace(SecurityGroupBackend, "create_security_group", create)
    replace(NetworkInterface, "group_set", property(group_set))
    original_instance = replace(InstanceBackend, "modify_instance_security_groups", modify_instance)
    original_interface = replace(
        NetworkInterfaceBackend, "modify_network_interface_attribute", modify_interface
    )
