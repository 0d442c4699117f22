"""Security groups without the kinds of rules that `boto3_secgroup` cannot remove."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def no_unmanaged_ingress(name: str, vpc_name: str, region: str) -> dict[str, Any]:
    """A group lets in neither IPv6 networks nor prefix lists.

    Args:
        name: of the group.
        vpc_name: the VPC that it belongs to.
        region: where that is.

    Returns:
        The state's result; `changes` name the removed rules.
    """
    result: dict[str, Any] = {
        "name": name,
        "result": True,
        "changes": {},
        "comment": f"{name} holds no such rule",
    }
    group_id = __salt__["boto3_secgroup.get_group_id"](name, vpc_name=vpc_name, region=region)
    if not group_id:
        absent = None if __opts__["test"] else False
        return result | {"result": absent, "comment": f"there is no group {name} in {vpc_name}"}
    rules = __salt__["security_group.unmanaged_ingress"](group_id, region)
    if not rules:
        return result
    result["changes"] = {"old": sorted(rules.values()), "new": []}
    if __opts__["test"]:
        return result | {
            "result": None,
            "comment": f"{len(rules)} rules would be removed from {name}",
        }
    __salt__["security_group.revoke_ingress"](group_id, list(rules), region)
    return result | {"comment": f"{len(rules)} rules were removed from {name}"}
