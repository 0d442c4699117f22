"""Security groups of the deployment's VPC, with the rules that it wishes and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

Todo = dict[str, Callable[[], Any]]

# What EC2 calls each direction, and the words of this.
INGRESS: Mapping[str, str] = {
    "name": "ingress", "add": "let in", "remove": "stop letting in", "has": "has to come in to",
}  # fmt: skip
EGRESS: Mapping[str, str] = {
    "name": "egress", "add": "let out", "remove": "stop letting out", "has": "has to leave",
}  # fmt: skip


def present(name: str, description: str, region: str) -> dict[str, Any]:
    """The deployment's VPC has a group of this name.

    Args:
        name: of the group.
        description: its description, when it is made; EC2 cannot change it.
        region: where it is.

    Returns:
        The state's result. A group of an earlier version is taken over.
    """

    def differences() -> Todo:
        found = __salt__["security_group.groups"]([name], region).get(name)
        if found is None:
            return {
                f"create the group {name}": lambda: __salt__["aws.call"](
                    "create_security_group",
                    region,
                    GroupName=name,
                    Description=description,
                    VpcId=__salt__["aws.vpc_id"](region),
                    TagSpecifications=__salt__["aws.specification"]("security-group", name),
                )
            }
        if not __salt__["aws.is_own"](found):
            return {
                f"take over {found['GroupId']} of an earlier version": lambda: __salt__["aws.mark"](
                    [found["GroupId"]], name, region
                )
            }
        return {}

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result


def ingress(name: str, rules: Iterable[Mapping[str, Any]], region: str) -> dict[str, Any]:
    """A group lets in what these rules say, and nothing else.

    Args:
        name: of the group.
        rules: see the execution module's `ingress`.
        region: where it is.

    Returns:
        The state's result. What is missing is added before anything is removed.
    """
    return _only(name, list(rules), region, INGRESS)


def egress(name: str, rules: Iterable[Mapping[str, Any]], region: str) -> dict[str, Any]:
    """A group lets out what these rules say, and nothing else; EC2's own rule lets out everything.

    Args:
        name: of the group.
        rules: see the execution module's `egress`.
        region: where it is.

    Returns:
        The state's result. What is missing is added before anything is removed.
    """
    return _only(name, list(rules), region, EGRESS)


def _only(
    name: str, asked: list[Mapping[str, Any]], region: str, way: Mapping[str, Any]
) -> dict[str, Any]:
    egress = way is EGRESS

    def differences() -> Todo:
        names = {name, *(rule["group_name"] for rule in asked if "group_name" in rule)}
        groups = __salt__["security_group.groups"](names, region)
        if absent := sorted(names - set(groups)):
            if __opts__["test"]:
                return {f"{way['add']} what {way['has']} {name}": dict}
            raise CommandExecutionError(f"the deployment has no group {absent[0]}")
        ids = {one: group["GroupId"] for one, group in groups.items()}
        lists = [rule["prefix_list"] for rule in asked if "prefix_list" in rule]
        known = ids | __salt__["security_group.prefix_lists"](lists, region)
        found = __salt__["security_group.rules"](ids[name], region, egress=egress)
        wanted = __salt__["security_group.wanted"](asked, known, egress=egress)
        todo: Todo = {}
        if missing := [rule for rule in wanted if rule not in found]:
            todo[f"{way['add']} {', '.join(missing)}"] = lambda: __salt__["aws.call"](
                f"authorize_security_group_{way['name']}",
                region,
                GroupId=ids[name],
                IpPermissions=[wanted[rule] for rule in missing],
            )
        if surplus := sorted(set(found) - set(wanted)):
            todo[f"{way['remove']} {', '.join(surplus)}"] = lambda: __salt__["aws.call"](
                f"revoke_security_group_{way['name']}",
                region,
                GroupId=ids[name],
                SecurityGroupRuleIds=[found[rule] for rule in surplus],
            )
        return todo

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result
