"""A repository of backups that takes this server's write-ahead log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def stanza(name: str) -> dict[str, Any]:
    """The repository knows this cluster, so that its log can be archived.

    Args:
        name: pgBackRest's name of the cluster.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        command = __salt__["pgbackrest.stanza"]()
        if not command:
            return ret | {"comment": "the repository knows this cluster"}
        if __opts__["test"]:
            return ret | {"result": None, "comment": f"pgbackrest {command} would be called"}
        __salt__["pgbackrest.prepare_stanza"](command)
    except CommandExecutionError as error:
        return ret | {"result": None if __opts__["test"] else False, "comment": str(error)}
    return ret | {
        "changes": {name: command},
        "comment": "the repository knows this cluster from now on",
    }
