"""The plugin `ignoring`, which shows that a test covers the options in its mark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "pyproject.toml"


def run_pytest(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run pytest with the plugin."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "ignoring", "-c", CONFIG, *args],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests/support")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_mark_of_a_test_that_covers_its_option_is_accepted() -> None:
    done = run_pytest("tests/unit/ec2/test_request.py", "-k", "zone_without_subnet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 options were ignored, one at a time, in 1 runs of a test" in done.stdout


def test_mark_of_a_test_that_passes_without_its_option_is_refused(tmp_path: Path) -> None:
    test = tmp_path / "test_false.py"
    test.write_text('import pytest\n@pytest.mark.covers("size")\ndef test_it(): pass\n')
    done = run_pytest(test, f"--rootdir={tmp_path}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test_false.py::test_it passes though size is ignored" in done.stdout
