"""The rules of security groups: those that pillar ``endpoints`` asks for, and those in EC2.

``boto3_secgroup`` takes a group of a name for its own whoever made it, and fails on rules for IPv6
networks and prefix lists.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__pillar__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

ANYBODY = "0.0.0.0/0"


def ingress(role: str) -> list[dict[str, Any]]:
    """Return what a role's security group lets in.

    Each rule has a protocol, ports, and a source: another group's name, or a network.

    Raises:
        CommandExecutionError: a role that may connect has no group, or an endpoint is wrong.
    """
    groups = __pillar__["aws"]["security_groups"]
    rules: list[dict[str, Any]] = []
    for endpoint in __salt__["endpoints.served_by"](role):
        port = endpoint["port"]
        rule = {"ip_protocol": "tcp", "from_port": port, "to_port": port}
        for client in sorted(groups) if endpoint["any_role"] else endpoint["roles"]:
            if client not in groups:
                raise CommandExecutionError(
                    f"endpoints:{endpoint['name']} is open to '{client}',"
                    " which has no group in aws:security_groups"
                )
            rules.append(rule | {"source_group_name": groups[client]})
        networks = endpoint["networks"] + ([ANYBODY] if endpoint["internet"] else [])
        rules += [rule | {"cidr_ip": network} for network in networks]
    return rules


def groups(names: Iterable[str], region: str) -> dict[str, dict[str, Any]]:
    """Return name -> the deployment's group of that name in its VPC, for those that are there.

    Names of groups belong to their VPC, so a group elsewhere has nothing to do with it. A group of
    an earlier version, which has yet to be taken over, is in it too.

    Raises:
        CommandExecutionError: a group of the VPC has a name and is not the deployment's.
        AwsError: EC2 does not answer.
    """
    vpcs = __salt__["aws.own"]("vpc", region)
    if not vpcs:
        return {}
    here = __salt__["aws.things"]("security-group", region, {"vpc-id": vpcs[0]["VpcId"]})
    found = {group["GroupName"]: group for group in here}
    found = {name: found[name] for name in names if name in found}
    for name, group in found.items():
        if not __salt__["aws.is_earlier"](group):
            __salt__["aws.require_own"]("security-group", name, region, [group])
    return found


def rules(group_id: str, region: str) -> dict[str, str]:
    """Return rule in words -> its id, of the rules by which a group lets something in.

    Raises AwsError when EC2 does not answer.
    """
    filters = [{"Name": "group-id", "Values": [group_id]}]
    answer = __salt__["aws.call"]("describe_security_group_rules", region, Filters=filters)
    return {
        _in_words(rule): rule["SecurityGroupRuleId"]
        for rule in answer["SecurityGroupRules"]
        if not rule["IsEgress"]
    }


def _in_words(rule: Mapping[str, Any]) -> str:
    source = (
        rule.get("CidrIpv4")
        or rule.get("CidrIpv6")
        or rule.get("PrefixListId")
        or rule.get("ReferencedGroupInfo", {}).get("GroupId")
    )
    return in_words(rule["IpProtocol"], (rule["FromPort"], rule["ToPort"]), str(source))


def in_words(protocol: str, ports: tuple[int, int], source: str) -> str:
    """Return a rule in words: `tcp 22-22 from 198.51.100.0/24`."""
    return f"{protocol} {ports[0]}-{ports[1]} from {source}"


def wanted(asked: Iterable[Mapping[str, Any]], ids: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return rule in words -> the rule as EC2 takes it.

    EC2 keeps the network of a rule without the bits of a host, so it is compared in that form.

    Args:
        asked: see `ingress`.
        ids: name of each group -> its id.

    Raises CommandExecutionError when a group has no id.
    """
    found = {}
    for rule in asked:
        protocol, ports = rule["ip_protocol"], (rule["from_port"], rule["to_port"])
        if network := rule.get("cidr_ip"):
            source = str(ipaddress.ip_network(network, strict=False))
            given: dict[str, Any] = (
                {"Ipv6Ranges": [{"CidrIpv6": source}]}
                if ":" in source
                else {"IpRanges": [{"CidrIp": source}]}
            )
        else:
            if rule["source_group_name"] not in ids:
                raise CommandExecutionError(f"there is no group {rule['source_group_name']}")
            source = ids[rule["source_group_name"]]
            given = {"UserIdGroupPairs": [{"GroupId": source}]}
        numbers = {"IpProtocol": protocol, "FromPort": ports[0], "ToPort": ports[1]}
        found[in_words(protocol, ports, source)] = numbers | given
    return found
