"""The rules of security groups: those that pillar ``endpoints`` asks for, and those in EC2.

A group does not filter Amazon's DNS, instance metadata and time (169.254.169.253, .254 and .123),
so no rule names them:
https://docs.aws.amazon.com/vpc/latest/userguide/vpc-security-groups.html

It is stateful: answers need no rule, and a connection outlives its rule. But one of port 443 that
anybody may open to a group with a rule for all egress is not tracked, and ends when that rule does:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/security-group-connection-tracking.html

``boto3_secgroup`` takes a group of a name for its own whoever made it, and fails on rules for IPv6
networks and prefix lists.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__pillar__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

ANYBODY = "0.0.0.0/0"
EVERYTHING = "-1"  # EC2's word for all protocols


def ingress(role: str) -> list[dict[str, Any]]:
    """Return what a role's security group lets in.

    Each rule has a protocol, ports, and a source: another group's name, or a network.

    Raises:
        CommandExecutionError: a role that may connect has no group, or an endpoint is wrong.
    """
    found: list[dict[str, Any]] = []
    for endpoint in __salt__["endpoints.served_by"](role):
        networks = endpoint["networks"] + ([ANYBODY] if endpoint["internet"] else [])
        found += _of_groups(endpoint, "is open to")
        found += [_of_port(endpoint) | {"cidr_ip": network} for network in networks]
    return found


def egress(role: str) -> list[dict[str, Any]]:
    """Return what a role's security group lets out.

    Each rule has a protocol, ports, and a destination: another group's name, a network, or the
    name of a prefix list.

    Raises:
        CommandExecutionError: a role that listens has no group, or an endpoint is wrong.
    """
    s3 = f"com.amazonaws.{__pillar__['aws']['region']}.s3"
    found: list[dict[str, Any]] = []
    for endpoint in __salt__["endpoints.used_by"](role):
        found += _of_groups(endpoint, "leads to")
        if endpoint["internet"]:
            found.append(_of_port(endpoint) | {"cidr_ip": ANYBODY})
        if endpoint["s3"]:
            found.append(_of_port(endpoint) | {"prefix_list": s3})
    return found


def _of_groups(endpoint: Mapping[str, Any], relation: str) -> Iterator[dict[str, Any]]:
    """Yield a rule for each group at the other end of an endpoint; `relation` is for the error."""
    groups = __pillar__["aws"]["security_groups"]
    for role in sorted(groups) if endpoint["any_role"] else endpoint["roles"]:
        if role not in groups:
            raise CommandExecutionError(
                f"endpoints:{endpoint['name']} {relation} '{role}',"
                " which has no group in aws:security_groups"
            )
        yield _of_port(endpoint) | {"group_name": groups[role]}


def _of_port(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    return {"ip_protocol": "tcp", "from_port": endpoint["port"], "to_port": endpoint["port"]}


def prefix_lists(names: Iterable[str], region: str) -> dict[str, str]:
    """Return name -> id of Amazon's prefix lists.

    https://docs.aws.amazon.com/vpc/latest/userguide/working-with-aws-managed-prefix-lists.html

    Raises:
        CommandExecutionError: Amazon has no list of such a name in the region.
        AwsError: EC2 does not answer.
    """
    wished = sorted(set(names))
    if not wished:
        return {}
    filters = [{"Name": "prefix-list-name", "Values": wished}]
    answer = __salt__["aws.call"]("describe_managed_prefix_lists", region, Filters=filters)
    found = {
        str(one["PrefixListName"]): str(one["PrefixListId"])
        for one in answer["PrefixLists"]
        if one["OwnerId"] == "AWS"
    }
    if absent := [name for name in wished if name not in found]:
        raise CommandExecutionError(f"Amazon has no prefix list {absent[0]} in {region}")
    return found


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


def rules(group_id: str, region: str, *, egress: bool = False) -> dict[str, str]:
    """Return rule in words -> its id, of the rules by which a group lets something in, or out.

    Raises AwsError when EC2 does not answer.
    """
    filters = [{"Name": "group-id", "Values": [group_id]}]
    answer = __salt__["aws.call"]("describe_security_group_rules", region, Filters=filters)
    return {
        _in_words(rule): rule["SecurityGroupRuleId"]
        for rule in answer["SecurityGroupRules"]
        if rule["IsEgress"] == egress
    }


def _in_words(rule: Mapping[str, Any]) -> str:
    peer = (
        rule.get("CidrIpv4")
        or rule.get("CidrIpv6")
        or rule.get("PrefixListId")
        or rule.get("ReferencedGroupInfo", {}).get("GroupId")
    )
    ports = (rule.get("FromPort", -1), rule.get("ToPort", -1))
    return in_words(rule["IpProtocol"], ports, str(peer), egress=rule["IsEgress"])


def in_words(protocol: str, ports: tuple[int, int], peer: str, *, egress: bool) -> str:
    """Return a rule in words: `tcp 22-22 from 198.51.100.0/24`."""
    what = "everything" if protocol == EVERYTHING else f"{protocol} {ports[0]}-{ports[1]}"
    return f"{what} {'to' if egress else 'from'} {peer}"


def wanted(
    asked: Iterable[Mapping[str, Any]], ids: Mapping[str, str], *, egress: bool = False
) -> dict[str, dict[str, Any]]:
    """Return rule in words -> the rule as EC2 takes it.

    EC2 keeps the network of a rule without the bits of a host, so it is compared in that form.

    Args:
        asked: see `ingress` and `egress`.
        ids: name of each group and of each prefix list -> its id.
        egress: whether the rules let something out.

    Raises CommandExecutionError when a group has no id.
    """
    found = {}
    for rule in asked:
        protocol, ports = rule["ip_protocol"], (rule["from_port"], rule["to_port"])
        peer, given = _peer(rule, ids)
        numbers = {"IpProtocol": protocol, "FromPort": ports[0], "ToPort": ports[1]}
        found[in_words(protocol, ports, peer, egress=egress)] = numbers | given
    return found


def _peer(rule: Mapping[str, Any], ids: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the other end of a rule in words, and as EC2 takes it."""
    if network := rule.get("cidr_ip"):
        peer = str(ipaddress.ip_network(network, strict=False))
        if ":" in peer:
            return peer, {"Ipv6Ranges": [{"CidrIpv6": peer}]}
        return peer, {"IpRanges": [{"CidrIp": peer}]}
    if name := rule.get("prefix_list"):
        return ids[name], {"PrefixListIds": [{"PrefixListId": ids[name]}]}
    if rule["group_name"] not in ids:
        raise CommandExecutionError(f"there is no group {rule['group_name']}")
    peer = ids[rule["group_name"]]
    return peer, {"UserIdGroupPairs": [{"GroupId": peer}]}
