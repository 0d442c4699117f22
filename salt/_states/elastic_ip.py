"""Elastic addresses that the account keeps, and that one machine has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def present(name: str, tags: Mapping[str, str], region: str) -> dict[str, Any]:
    """The account has an elastic address with this Name tag.

    Args:
        name: its Name tag.
        tags: its other tags, when it is allocated.
        region: where it belongs.

    Returns:
        The state's result; `changes` has the new address. An address is never released.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    if found := __salt__["elastic_ip.find"](name, region):
        return result | {"comment": f"{name} is {found['address']}"}
    if __opts__["test"]:
        result["changes"] = {"old": None, "new": "an elastic address"}
        return result | {"result": None, "comment": f"{name} would be allocated"}
    address = __salt__["elastic_ip.allocate"](name, tags, region)
    result["changes"] = {"old": None, "new": address}
    return result | {"comment": f"{name} was allocated: {address}"}


def associated(name: str, machine: str, project: str, region: str) -> dict[str, Any]:
    """A machine that is there has the elastic address.

    Args:
        name: the address's Name tag.
        machine: the machine's Name tag.
        project: the machine's tag `project`.
        region: where both are.

    Returns:
        The state's result. A machine that does not exist yet is no failure, because the driver
        gives it the address at its launch. The address is never taken from another machine.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    found = __salt__["elastic_ip.find"](name, region)
    if found is None:
        absent = None if __opts__["test"] else False
        return result | {"result": absent, "comment": f"there is no elastic address {name}"}
    interface = __salt__["elastic_ip.machine"](machine, project, region)
    if interface is None:
        return result | {"comment": f"{machine} gets it when it is launched"}
    if found["interface"] == interface:
        return result | {"comment": f"{machine} has it"}
    if found["interface"]:
        comment = f"{found['interface']} has {found['address']}, and {machine} does not take it"
        return result | {"result": False, "comment": comment}
    result["changes"] = {"old": None, "new": f"{found['address']} of {machine}"}
    if __opts__["test"]:
        return result | {"result": None, "comment": f"{machine} would get it"}
    __salt__["elastic_ip.associate"](found["allocation"], interface, region)
    return result | {"comment": f"{machine} has it now"}
