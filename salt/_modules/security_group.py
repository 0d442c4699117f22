"""The rules of security groups: those that pillar ``endpoints`` asks for, and unmanaged ones.

The stack's own rules have groups and IPv4 networks as sources. ``boto3_secgroup`` removes unmanaged
rules of these kinds and fails on all others, so this module finds and removes the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__pillar__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

ANYBODY = "0.0.0.0/0"


def ingress(role: str) -> list[dict[str, Any]]:
    """Return what a role's security group lets in, in the form of ``boto3_secgroup.present``.

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


def unmanaged_ingress(group_id: str, region: str) -> dict[str, str]:
    """Return id -> description of the rules that let in an IPv6 network or a prefix list.

    Raises CommandExecutionError when EC2 does not answer as expected.
    """
    filters = [{"Name": "group-id", "Values": [group_id]}]
    rules = __salt__["ec2.call"]("describe_security_group_rules", region, Filters=filters)[
        "SecurityGroupRules"
    ]
    found: dict[str, str] = {}
    for rule in rules:
        source = rule.get("CidrIpv6") or rule.get("PrefixListId")
        if source and not rule["IsEgress"]:
            ports = f"{rule['FromPort']}-{rule['ToPort']}"
            found[rule["SecurityGroupRuleId"]] = f"{rule['IpProtocol']} {ports} from {source}"
    return found


def revoke_ingress(group_id: str, rule_ids: Sequence[str], region: str) -> None:
    """Remove rules from a group. Raises CommandExecutionError when EC2 refuses."""
    __salt__["ec2.call"](
        "revoke_security_group_ingress",
        region,
        GroupId=group_id,
        SecurityGroupRuleIds=list(rule_ids),
    )
