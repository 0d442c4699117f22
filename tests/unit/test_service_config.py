"""The modules `service_config`: configuration files that a running service has not loaded."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from saltmodules import load


@pytest.mark.parametrize(
    ("state", "reload", "expected"),
    [
        ("active", False, ["after", "link"]),
        ("active", True, []),
        ("inactive", False, []),
        ("failed", False, []),
    ],
)
def test_files_changed_since_load(
    tmp_path: Path, state: str, *, reload: bool, expected: list[str]
) -> None:
    """The unit started an hour ago and was reloaded now; a file and a link changed in between."""
    asked: list[list[str]] = []

    def systemctl(command: list[str], *, python_shell: bool) -> str:
        assert not python_shell
        asked.append(command)
        stamp = command[2].rpartition(",")[2]
        ago = {"ActiveEnterTimestampMonotonic": 3600, "StateChangeTimestampMonotonic": 0}[stamp]
        return f"ActiveState={state}\n{stamp}={int((time.monotonic() - ago) * 1e6)}\n"

    module = load("_modules", "service_config", __salt__={"cmd.run_stdout": systemctl})
    (tmp_path / "link").symlink_to("before")
    for name, ago in {"before": 7200, "after": 1800, "link": 1800}.items():
        path, moment = tmp_path / name, time.time() - ago
        if name != "link":
            path.touch()
        os.utime(path, (moment, moment), follow_symlinks=False)
    files = [str(tmp_path / name) for name in ("before", "after", "link", "absent")]
    found = module.changed_since_load("app", files, reload=reload)
    assert [Path(path).name for path in found] == expected
    assert asked[0][-1] == "app"
