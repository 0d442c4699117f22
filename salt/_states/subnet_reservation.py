"""Private addresses that EC2 gives to nobody unless a launch asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def present(name: str, subnet_name: str, tags: Mapping[str, str], region: str) -> dict[str, Any]:
    """A subnet keeps an address for a machine that asks for it.

    Args:
        name: the address.
        subnet_name: the Name tag of its subnet.
        tags: of the reservation, when it is made.
        region: where the subnet is.

    Returns:
        The state's result; `changes` have the new reservation. None is ever deleted.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    subnet_id = __salt__["subnet_reservation.subnet"](subnet_name, region)
    if not subnet_id:
        absent = None if __opts__["test"] else False
        return result | {"result": absent, "comment": f"there is no subnet {subnet_name}"}
    if __salt__["subnet_reservation.holds"](name, subnet_id, region):
        return result | {"comment": f"{name} is reserved in {subnet_name}"}
    result["changes"] = {"old": None, "new": name}
    if __opts__["test"]:
        return result | {"result": None, "comment": f"{name} would be reserved in {subnet_name}"}
    __salt__["subnet_reservation.reserve"](name, subnet_id, tags, region)
    return result | {"comment": f"{name} was reserved in {subnet_name}"}
