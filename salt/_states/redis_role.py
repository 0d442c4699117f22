"""Redis has a role among its machines before it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def decided(name: str, seconds: int) -> dict[str, Any]:
    """It is known whom Redis on this machine follows, or that nobody else is the master.

    Otherwise the start of Redis would fail with no more than systemd's word for it.

    Args:
        name: what the machines have in common, for the reader.
        seconds: how long to wait for the other machines.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    if __opts__["test"]:
        return result | {"comment": "it is asked when Redis starts"}
    try:
        found = __salt__["redis_role.decide"](seconds)
    except CommandExecutionError as error:
        return result | {"result": False, "comment": str(error)}
    if found["changed"]:
        return result | {"changes": {"role": found["changed"]}, "comment": found["changed"]}
    comment = f"the master is {found['master']}" if found["master"] else "Redis runs"
    return result | {"comment": comment}
