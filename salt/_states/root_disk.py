"""A machine's root file system has all of its disk."""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__opts__: dict[str, Any]
__salt__: dict[str, Any]


def grown(name: str) -> dict[str, Any]:
    """Have the file system use all of a disk that has grown.

    Args:
        name: where it is mounted.
    """
    ret: dict[str, Any] = {"name": name, "changes": {}, "result": True, "comment": "it has all"}
    try:
        room = __salt__["root_disk.room"](name)
        if not room:
            return ret
        ret["changes"] = {"room": room}
        if __opts__["test"]:
            return {**ret, "result": None, "comment": room}
        __salt__["root_disk.grow"](name)
        if left := __salt__["root_disk.room"](name):
            return {**ret, "changes": {}, "result": False, "comment": left}
    except CommandExecutionError as error:
        return {**ret, "changes": {}, "result": False, "comment": str(error)}
    return {**ret, "comment": f"grown: {room}"}
