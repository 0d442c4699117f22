"""Every command of the Salt package is in PATH on the master, as the README says."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest

from plainpillar import DEPLOYMENT, ROOT, PlainPillar
from rendering import Compiler

# It works in Salt's own packages only, and says so.
ONEDIR_ONLY = {"salt-pip"}
BIN = "/usr/local/bin/"


def console_scripts() -> set[str]:
    """Return the commands of the locked Salt."""
    found = distribution("salt").entry_points
    return {script.name for script in found if script.group == "console_scripts"}


def of_every_minion() -> set[str]:
    """Return the commands that the deployment of a minion links."""
    text = (ROOT / "cloud.deploy.d" / "salt-minion.sh").read_text()
    (names,) = re.findall(r"^for command in (.+); do$", text, re.MULTILINE)
    return set(names.split())


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Command -> target, of the links that the master's states make in PATH."""
    folder = tmp_path_factory.mktemp("pillar")
    pillar = PlainPillar(folder, ssh_public_key="ssh-ed25519 AAAA", operator_cidrs=[])
    master = DEPLOYMENT.master()
    compiled = Compiler(master, tmp_path_factory.mktemp("master"), pillar).states("master")
    return {
        chunk["name"].removeprefix(BIN): chunk["target"]
        for chunk in compiled.chunks
        if chunk["state"] == "file" and chunk["fun"] == "symlink" and chunk["name"].startswith(BIN)
    }


def test_master_has_every_command_in_its_path(linked: dict[str, str]) -> None:
    assert {*linked} | of_every_minion() == console_scripts() - ONEDIR_ONLY
    assert all(target == f"/opt/salt/bin/{name}" for name, target in linked.items())


def test_readme_names_what_is_not_there() -> None:
    text = Path(ROOT / "README.md").read_text()
    assert all(f"`{name}`" in text for name in ONEDIR_ONLY)
