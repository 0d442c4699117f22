"""How many machines a role has: the settings of a deployment say it, within what its map allows.

`settings:machines` gives a role either a number, or `minimum` and `maximum`. In the second case the
Salt master changes the number between the two (salt/master/files/scale_machines.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from stackctl import settings_file
from stackctl.errors import StackError
from stackctl.roles import role_of

NUMBER = "0|[1-9][0-9]{0,4}"
_WANTED = re.compile(rf"(?P<role>[a-z][a-z0-9-]*)=(?P<from>{NUMBER})(?:\.\.(?P<to>{NUMBER}))?")


@dataclass(frozen=True)
class Bounds:
    """How many machines a role has at least and at most; both are the same for a fixed number."""

    minimum: int
    maximum: int

    @property
    def automatic(self) -> bool:
        """Whether the Salt master chooses the number."""
        return self.minimum < self.maximum

    def clamp(self, number: int) -> int:
        """Return the nearest number within the bounds."""
        return min(max(number, self.minimum), self.maximum)

    def setting(self) -> int | dict[str, int]:
        """Return the value for `settings:machines:<role>`."""
        if self.automatic:
            return {"minimum": self.minimum, "maximum": self.maximum}
        return self.minimum

    def __str__(self) -> str:
        """Return the bounds as the command line takes them."""
        return f"{self.minimum}..{self.maximum}" if self.automatic else str(self.minimum)


@dataclass(frozen=True)
class Wanted:
    """A role, and how many machines it is to have."""

    role: str
    bounds: Bounds

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `web=4`, or `web=2..4`.

        Raises:
            ValueError: it is neither.
        """
        match = _WANTED.fullmatch(text)
        if match is None:
            raise ValueError(f"'{text}' is no ROLE=NUMBER and no ROLE=MINIMUM..MAXIMUM")
        bounds = Bounds(int(match["from"]), int(match["to"] or match["from"]))
        if bounds.minimum > bounds.maximum:
            raise ValueError(f"'{text}': the minimum is above the maximum")
        return cls(match["role"], bounds)


def read(settings: Mapping[str, Any], source: str) -> dict[str, Bounds]:
    """Return role -> bounds from a deployment's settings.

    Args:
        settings: the pillar `settings`.
        source: their file, for errors.

    Raises:
        StackError: a value is neither a number nor a pair of bounds.
    """
    found: dict[str, Bounds] = {}
    machines = settings.get("machines") or {}
    if not isinstance(machines, Mapping):
        raise StackError(
            f"settings:machines is {machines!r} in {source}.", "Write a number for each role."
        )
    for role, value in machines.items():
        match value:
            case bool():
                pass
            case int() if value >= 0:
                found[role] = Bounds(value, value)
            case {"minimum": int(low), "maximum": int(high), **rest} if (
                0 <= low <= high and not rest
            ):
                found[role] = Bounds(low, high)
        if role not in found:
            raise StackError(
                f"settings:machines:{role} is {value!r} in {source}.",
                "Write a number, or {minimum: 2, maximum: 4}.",
            )
    return found


def highest(names: Iterable[str], role: str) -> int:
    """Return the highest number of a role's machines; 0: there is none."""
    numbers = [int(name.rpartition("-")[2]) for name in names if role_of(name) == role]
    return max(numbers, default=0)


def write(path: Path, wanted: Iterable[Wanted]) -> bool:
    """Write counts into a deployment's settings, and return whether that changed anything."""
    settings = yaml.safe_load(path.read_text())["settings"]  # stackctl.settings has checked it
    machines = dict(settings.get("machines") or {})
    machines |= {each.role: each.bounds.setting() for each in wanted}
    return settings_file.write(path, "machines", machines)
