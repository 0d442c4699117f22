"""What Salt forgets from one run to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def fresh(name: str, files: Sequence[str], reload: bool = False) -> dict[str, Any]:
    """The service ``name`` has read these files since they last changed, or does not run; its own state watches this.

    A watch alone is lost when a failure comes between the change and the restart: in the next run nothing changes.
    With ``reload``, a reload makes the service read them.
    """
    stale = __salt__["stack.changed_since_start"](name, files, reload=reload)
    if not stale:
        return {"name": name, "result": True, "changes": {}, "comment": f"{name} knows its files"}
    comment = f"{name} has not read {', '.join(stale)} yet"
    return {
        "name": name,
        "result": None if __opts__["test"] else True,
        "changes": {"unread": stale},
        "comment": comment,
    }
