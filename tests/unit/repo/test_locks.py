"""Machines install the versions of uv.lock, and no package without a hash."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def requirements(text: str) -> list[str]:
    """Return the lines of a requirements file without comments, which name their command."""
    return [
        line.rstrip()
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]


def without_hash(text: str) -> list[str]:
    """Return the packages of a requirements file that no hash pins."""
    entries = re.split(r"\n(?=\S)", "\n".join(requirements(text)))
    return [entry.split()[0] for entry in entries if entry and "--hash=sha256:" not in entry]


def test_machines_install_the_locked_salt() -> None:
    uv = shutil.which(
        "uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    if uv is None:
        pytest.skip("uv is not installed: nothing to compare the lock with")
    exported = subprocess.run(
        [uv, "export", "--frozen", "--offline", "--quiet", "--only-group", "machine",
         "--no-emit-workspace", "--format", "requirements-txt"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert requirements(exported.stdout) == requirements(
        (ROOT / "requirements" / "salt.txt").read_text()
    )


@pytest.mark.parametrize("name", ["requirements/salt.txt", "salt/airflow/files/requirements.txt"])
def test_every_package_is_pinned_by_hash(name: str) -> None:
    text = (ROOT / name).read_text()
    assert len(requirements(text)) > 50
    assert without_hash(text) == []


def test_uv_and_build_backend_have_one_range() -> None:
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())
    members = [tomllib.loads(path.read_text()) for path in ROOT.glob("packages/*/pyproject.toml")]
    (backend,) = {name for member in members for name in member["build-system"]["requires"]}
    assert backend.startswith("uv_build>")
    assert backend.replace("uv_build", "uv") in workspace["dependency-groups"]["machine"]


def test_guards_trip() -> None:
    assert without_hash("a==1 \\\n    --hash=sha256:00\nb==2\n# c==3\n") == ["b==2"]
    assert requirements("# made by uv\na==1\n") != requirements("# made by uv\na==2\n")
