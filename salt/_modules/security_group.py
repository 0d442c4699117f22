"""Security group rules: those out of the pillar `endpoints`, the home of who may talk to whom, and those nobody meant.

Sources are groups and IPv4 networks. `boto3_secgroup` takes out foreign ones of these, and trips over all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]

WORLD = "0.0.0.0/0"


def ingress(
    role: str,
    endpoints: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, str],
    operator_cidrs: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return what a role's security group lets in, in the form that ``boto3_secgroup.present`` wants.

    Args:
        role: whose group it is.
        endpoints: name -> ``port``, ``on`` (roles that listen) and ``from`` (roles that may connect, or ``world``);
            ``*`` stands for every role.
        groups: role -> name of its security group.
        operator_cidrs: networks from which the Salt master is reached by SSH.

    Raises:
        CommandExecutionError: an endpoint names a role that has no group.
    """
    rules: list[dict[str, Any]] = []
    for name, endpoint in endpoints.items():
        if not {role, "*"} & set(endpoint["on"]):
            continue
        rule = {"ip_protocol": "tcp", "from_port": endpoint["port"], "to_port": endpoint["port"]}
        for peer in sorted(set(groups) if "*" in endpoint["from"] else set(endpoint["from"])):
            if peer == "world":
                rules.append(rule | {"cidr_ip": WORLD})
            elif peer in groups:
                rules.append(rule | {"source_group_name": groups[peer]})
            else:
                raise CommandExecutionError(
                    f"endpoints:{name} is open to '{peer}', which has no group in aws:security_groups"
                )
        if name == "ssh" and role == "salt":
            rules += [rule | {"cidr_ip": cidr} for cidr in operator_cidrs]
    return rules


def alien_ingress(group_id: str, region: str) -> dict[str, str]:
    """Return id -> description of the rules that let in an IPv6 network or a prefix list.

    Raises CommandExecutionError when EC2 does not answer as expected.
    """
    filters = [{"Name": "group-id", "Values": [group_id]}]
    rules = __salt__["ec2.call"]("describe_security_group_rules", region, Filters=filters)[
        "SecurityGroupRules"
    ]
    return {
        rule[
            "SecurityGroupRuleId"
        ]: f"{rule['IpProtocol']} {rule['FromPort']}-{rule['ToPort']} from {source}"
        for rule in rules
        if not rule["IsEgress"] and (source := rule.get("CidrIpv6") or rule.get("PrefixListId"))
    }


def revoke_ingress(group_id: str, rule_ids: Sequence[str], region: str) -> None:
    """Take rules out of a group. Raises CommandExecutionError when EC2 refuses."""
    __salt__["ec2.call"](
        "revoke_security_group_ingress",
        region,
        GroupId=group_id,
        SecurityGroupRuleIds=list(rule_ids),
    )
