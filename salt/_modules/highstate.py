"""What the next highstate of this machine would change: a timer compares, and `drift` tells.

A comparison is as dear as a highstate. The timer's unit (salt/base/highstate.sls) leaves it out
while the file `right` is young: nothing differed when a comparison or the last run of states ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__salt__: dict[str, Callable[..., Any]]

FOLDER = "/var/lib/highstate"
LATE_HOURS = 24
"""The age of `right` at which nothing compares the states any more."""


def compare(folder: str = FOLDER, seconds: float = 1800) -> list[str]:
    """Compare this machine with its states; return the ids of those that would change something.

    While states run, this waits. When some run meanwhile, what it has found counts for nothing.

    Args:
        folder: where the result is kept.
        seconds: to wait at most.

    Raises:
        CommandExecutionError: other states ran all the time, or the states cannot be compared: one
            of them would fail, or the master does not answer.
    """
    deadline = time.monotonic() + seconds
    while __salt__["saltutil.is_running"]("state.*"):
        if time.monotonic() > deadline:
            raise CommandExecutionError("other states run")
        time.sleep(1)
    before = applied(folder)
    states = __salt__["state.highstate"](test=True)
    if not isinstance(states, dict):
        raise CommandExecutionError("; ".join(states))
    if failed := _ids(states, False):
        raise CommandExecutionError(f"these states would fail: {', '.join(failed)}")
    found = _ids(states, None)
    if applied(folder) == before:
        _keep(folder, found)
    return found


def differences(folder: str = FOLDER) -> list[str]:
    """Return what the last comparison has found, as sentences for the operator.

    Args:
        folder: where the results are kept.
    """
    found = [f"the next highstate changes {each}" for each in differ(folder)]
    right = Path(folder, "right")
    if not found and right.exists():
        hours = (time.time() - right.stat().st_mtime) / 3600
        if hours > LATE_HOURS:
            found = [f"the states were compared {hours:.0f} hours ago: highstate-compare.timer"]
    return found


def differ(folder: str = FOLDER) -> list[str]:
    """Return the ids of the states that would change something, as far as that is known.

    Args:
        folder: where the results are kept.
    """
    return _read(folder, "differ") or []


def applied(folder: str = FOLDER) -> dict[str, Any] | None:
    """Return the ``end`` of the last run of states and how many ``failed``; None before the first.

    Args:
        folder: where the results are kept.
    """
    found: dict[str, Any] | None = _read(folder, "applied")
    return found


def record(failed: int, right: Collection[str], folder: str = FOLDER) -> None:
    """Keep that a run of states ends now; what it has put right differs no more.

    Args:
        failed: how many of its states have failed.
        right: the ids of the others.
        folder: where the results are kept.
    """
    Path(folder).mkdir(mode=0o700, exist_ok=True)
    _write(folder, "applied", {"end": time.time(), "failed": failed})
    _keep(folder, [each for each in differ(folder) if each not in right])


def _keep(folder: str, ids: list[str]) -> None:
    _write(folder, "differ", ids)
    if not ids:
        Path(folder, "right").touch()


def _ids(states: dict[str, Any], result: bool | None) -> list[str]:
    """Return the ids of the states with a result, of which None means that they would change."""
    return sorted(
        {tag.split("_|-")[1] for tag, state in states.items() if state["result"] is result}
    )


def _read(folder: str, name: str) -> Any:
    try:
        return json.loads(Path(folder, f"{name}.json").read_text())
    except FileNotFoundError:
        return None


def _write(folder: str, name: str, content: Any) -> None:
    """Replace a file in one step: others may read it at any moment."""
    scratch = Path(folder, f"{name}.new")
    scratch.write_text(json.dumps(content))
    scratch.replace(Path(folder, f"{name}.json"))
