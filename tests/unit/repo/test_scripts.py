"""The scripts of the repository start, with all that they import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "name",
    [
        "audit.py",
        "bench_driver.py",
        "bench_memory.py",
        "bench_release.py",
        "code_size.py",
        "driver_docs.py",
        "mutants.py",
    ],
)
def test_script_prints_its_help(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")


def test_bench_lists_its_scenarios_and_figures() -> None:
    done = subprocess.run(
        ["make", "bench-list"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "sweep" in done.stdout
    assert "first visit CPU" in done.stdout
