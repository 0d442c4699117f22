"""Waits for a condition, with a deadline that only a failure reaches and a slow host does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = 60, every: float = 0.05) -> T:
    """Call `condition` until it returns something true, and return that.

    Args:
        condition: the condition.
        what: the condition in words, for the error.
        seconds: the deadline.
        every: seconds between two calls.

    Raises:
        AssertionError: the condition was not true before the deadline.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    return answer


def runs(pid: int | str) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(Path(f"/proc/{str(pid).strip()}/cmdline").read_bytes())
    except OSError:
        return False
