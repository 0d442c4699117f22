"""Waiting for what others do; the bounds are for what never comes, so a slow machine does not reach them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = 60, every: float = 0.05) -> T:
    """Return what `condition` returns as soon as that is true.

    Args:
        condition: what is asked.
        what: the state that is waited for, as the failure names it.
        seconds: how long at most.
        every: seconds between two questions.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    return answer


def runs(pid: int | str) -> bool:
    """Return whether a process runs; one that has ended and that nobody has reaped does not."""
    try:
        return bool(Path(f"/proc/{str(pid).strip()}/cmdline").read_bytes())
    except OSError:
        return False
