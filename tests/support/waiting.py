"""Waits for a condition, with a deadline that only a failure reaches; or waits for nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TypeVar

import pytest

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = 60, every: float = 0.05) -> T:
    """Call `condition` until it returns something true, and return that.

    A condition that takes long is asked less often: it takes the CPU from what is waited for.

    Args:
        condition: the condition.
        what: the condition in words, for the error.
        seconds: the deadline.
        every: seconds between two calls, at least.

    Raises:
        AssertionError: the condition was not true before the deadline.
    """
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if answer := condition():
            return answer
        now = time.monotonic()
        assert now < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(max(every, min(3 * (now - asked), 1)))


def runs(pid: int | str) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(Path(f"/proc/{str(pid).strip()}/cmdline").read_bytes())
    except OSError:
        return False


def without_waiting(patch: pytest.MonkeyPatch, module: ModuleType) -> list[float]:
    """Have a module's pauses pass at once; return them as they come. Its clock is their sum."""
    pauses: list[float] = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=lambda: sum(pauses))
    patch.setattr(module, "time", clock)
    return pauses
