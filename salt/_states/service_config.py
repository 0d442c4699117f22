"""Running services that have loaded their configuration files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def loaded(name: str, files: Sequence[str], reload: bool = False) -> dict[str, Any]:
    """The service ``name`` has loaded these files since they last changed, or does not run.

    The service's own state watches this state. A watch on the files alone is lost when the run
    fails between the change and the restart: in the next run no file changes.

    Args:
        name: the systemd unit.
        files: the paths of the configuration files.
        reload: whether a reload makes the service load them.
    """
    changed = __salt__["service_config.changed_since_load"](name, files, reload=reload)
    if not changed:
        comment = f"{name} has loaded its files"
        return {"name": name, "result": True, "changes": {}, "comment": comment}
    return {
        "name": name,
        "result": None if __opts__["test"] else True,
        "changes": {"not loaded": changed},
        "comment": f"{name} has not loaded {', '.join(changed)} yet",
    }
