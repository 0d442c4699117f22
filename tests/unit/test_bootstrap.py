"""The bootstrap script installs missing packages as root."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from plainpillar import ROOT

PYTHON = """
case "$*" in -c*) exit 0;; esac
[ -e installed ] || exit 1
mkdir -p "$3/bin" .venv/bin
ln -sf /bin/true "$3/bin/pip"
ln -sf /bin/true "$3/bin/uv"
"""


@pytest.mark.parametrize(("user", "command"), [(0, "apt-get"), (1000, "sudo apt-get")])
def test_python3_venv_is_installed_as_root(tmp_path: Path, user: int, command: str) -> None:
    for name in ("scripts/bootstrap", "requirements/salt.txt"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    programs = {
        "python3": PYTHON,
        "id": f"echo {user}",
        "apt-get": """
            echo "${BY-}apt-get $1" >> calls
            case $* in install*python3-venv) touch installed;; esac
        """,
        "sudo": 'BY="sudo " exec "$@"',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    done = subprocess.run(
        [tmp_path / "scripts/bootstrap"], env=path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"{command} update",
        f"{command} install",
    ]
