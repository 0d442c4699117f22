"""Waiting for a machine, until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Wait:
    """How long to wait for a machine, and whether waiting still makes sense.

    Attributes:
        deadline: when to give up, on the clock of `time.monotonic()`.
        check: is called before each pause, and raises when the machine cannot become ready.
    """

    deadline: float
    check: Callable[[], None] = lambda: None

    @classmethod
    def lasting(cls, seconds: float, check: Callable[[], None]) -> Wait:
        """Return a wait that ends after some seconds."""
        return cls(time.monotonic() + seconds, check)

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def pause(self, seconds: float) -> None:
        """Check the machine, then sleep.

        Raises:
            LaunchError: the machine has been terminated.
        """
        self.check()
        time.sleep(seconds)
