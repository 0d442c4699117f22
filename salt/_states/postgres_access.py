"""Who owns a PostgreSQL database, and what the application's role may do in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def present(
    name: str, owner: str, role: str, connections: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """One role owns the database and all in it; another reads and writes rows, within limits.

    What the second role owned before becomes the owner's. PUBLIC has no privilege on any database.

    Args:
        name: the database.
        owner: the role that owns it.
        role: the role that reads and writes.
        connections: how many connections `role` may open.
        settings: what its sessions begin with; the owner's begin with the server's settings.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    limits = {"connections": connections, "settings": settings}
    right = f"{owner} owns {name}, and {role} has its privileges"
    return _executed(
        ret, name, right, lambda: __salt__["postgres_access.differences"](name, owner, role, limits)
    )


def rewinding(name: str) -> dict[str, Any]:
    """A role may copy the server by pg_rewind.

    Args:
        name: the role.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    return _executed(
        ret,
        "postgres",
        f"{name} may copy the server",
        lambda: __salt__["postgres_access.rewinding"](name),
    )


def monitoring(name: str, connections: int) -> dict[str, Any]:
    """A role may read the statistics of the server, and no rows.

    Args:
        name: the role.
        connections: how many it may open.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    return _executed(
        ret,
        "postgres",
        f"{name} may read statistics",
        lambda: __salt__["postgres_access.monitoring"](name, connections),
    )


def resting(name: str) -> dict[str, Any]:
    """A role does not log in, and nobody is logged in by it; it keeps its privileges.

    Args:
        name: the role, which need not exist.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    return _executed(
        ret, "postgres", f"{name} does not log in", lambda: __salt__["postgres_access.rest"](name)
    )


def _executed(
    ret: dict[str, Any], database: str, right: str, differences: Callable[[], list[str]]
) -> dict[str, Any]:
    """Return a state's result after the statements that are to be executed."""
    try:
        statements = differences()
        if not statements:
            return {**ret, "comment": right}
        if __opts__["test"]:
            return {**ret, "result": None, "comment": f"would execute: {'; '.join(statements)}"}
        __salt__["postgres_access.execute"](database, statements)
        left = differences()
    except CommandExecutionError as error:
        # Before its first highstate, a machine has no PostgreSQL to compare with.
        return {**ret, "result": None if __opts__["test"] else False, "comment": str(error)}
    ret["changes"] = {"executed": statements}
    ret["result"] = not left
    ret["comment"] = f"still to execute: {'; '.join(left)}" if left else "the access was set"
    return ret
