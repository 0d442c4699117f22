"""A clock that only moves when the code under test sleeps."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """What stands in for the module `time`.

    Attributes:
        now: the seconds since the test began.
        naps: how often the code has slept.
        at: seconds -> what happens when the clock gets there.
    """

    def __init__(self) -> None:
        """Begin at zero."""
        self.now = 0.0
        self.naps = 0
        self.at: dict[float, Callable[[], object]] = {}

    def monotonic(self) -> float:
        """Return the seconds since the test began."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on, and let happen what happens meanwhile."""
        assert seconds > 0, "this would never end"
        self.now += seconds
        self.naps += 1
        assert self.naps < 10_000, "this never ends"
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()
