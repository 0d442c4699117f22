"""The file of results: what each scenario measured, when, and at which commit.

A scenario that is measured again replaces its own result and no other, so each has its date and its
commit.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "bench"


class Missing(KeyError):
    """A result has not been measured; the text names it."""


class Results:
    """What was measured, of one label: `now`, or `before` a change."""

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        self.data: dict[str, Any] = data or {"machine": {}, "scenarios": {}}

    @classmethod
    def load(cls, path: Path) -> Results:
        """Return the results of a file; none if there is no file."""
        return cls(json.loads(path.read_text())) if path.exists() else cls()

    def save(self, path: Path) -> None:
        """Write the file in one step, so that an interrupted run leaves a whole one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(self.data, indent=1, sort_keys=True) + "\n")
        scratch.replace(path)

    def put(self, scenario: str, runs: list[dict[str, Any]], revision: str) -> None:
        """Keep what the runs of a scenario gave."""
        self.data["scenarios"][scenario] = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
            "revision": revision,
            "runs": runs,
        }

    def has(self, scenario: str, revision: str) -> bool:
        """Whether a scenario was measured at a commit."""
        found = self.data["scenarios"].get(scenario)
        return bool(found) and found["revision"] == revision

    def runs(self, scenario: str) -> list[dict[str, Any]]:
        """Return the runs of a scenario; raise Missing if it was not measured."""
        found = self.data["scenarios"].get(scenario)
        if not found or not found["runs"]:
            raise Missing(scenario)
        return list(found["runs"])

    def values(self, scenario: str, *path: str) -> list[float]:
        """Return a number of every run; raise Missing if a run lacks it."""
        return [_number(run, scenario, path) for run in self.runs(scenario)]

    def number(self, scenario: str, *path: str) -> float:
        """Return the median of a number over the runs; raise Missing."""
        return median(self.values(scenario, *path))

    def spread(self, scenario: str, *path: str) -> float:
        """Return (largest - smallest) / median of a number; 0 with one run."""
        values = self.values(scenario, *path)
        middle = median(values)
        return (max(values) - min(values)) / middle if middle else 0.0


def _number(run: Mapping[str, Any], scenario: str, path: tuple[str, ...]) -> float:
    value: Any = run
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            raise Missing("/".join((scenario, *path)))
        value = value[key]
    if not isinstance(value, (int, float)):
        raise Missing("/".join((scenario, *path)))
    return float(value)


def revision() -> str:
    """Return the commit of the tree, with a `+` when files of the machines differ from it."""
    commit = _git("rev-parse", "--short=10", "HEAD")
    changed = _git("status", "--porcelain", "--", "salt", "pillar/base", "cloud.maps.d", "packages")
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def machine() -> dict[str, str]:
    """Return what the measuring host is."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }
