"""What a machine that is taken over can ask the master for, and gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Fleet, Machine
from plainpillar import DEPLOYMENT

TREE = DEPLOYMENT.root
# Beside the tree's `salt/`, on the master's disk, and in the pillar.
OUTSIDE = (
    "salt://../pillar/base/top.sls",
    "salt://..//pillar/base/top.sls",
    "salt://%2e%2e/pillar/base/top.sls",
    "salt://|../pillar/base/top.sls",
    "salt://base/../../pillar/base/top.sls",
    f"salt://{TREE}/pillar/base/top.sls",
    "salt:///etc/shadow",
    "salt://top.sls?saltenv=../../pillar",
    "salt://pillar/base/top.sls?saltenv=__env__",
)


@pytest.fixture(scope="module")
def machine(converged: Callable[[str], Machine]) -> Machine:
    return converged("redis-1")


def test_files_of_the_states_alone_are_served(machine: Machine) -> None:
    inside = machine.salt("cp.get_file_str", "salt://top.sls")
    assert inside == (TREE / "salt/top.sls").read_text()
    listed = machine.salt("cp.list_master")
    assert "top.sls" in listed
    # Archives of releases are beside the states.
    folders = {path.name for path in (TREE / "salt").iterdir()} | {"airflow-releases"}
    assert {Path(name).parts[0] for name in listed} <= folders
    for name in OUTSIDE:
        assert not machine.salt("cp.get_file_str", name), name
        assert not machine.salt("cp.hash_file", name), name


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("publish.publish", ("*", "test.ping")),
        ("publish.full_data", ("web-1", "cmd.run", "id")),
        ("publish.runner", ("jobs.list_jobs",)),
        ("publish.runner", ("salt.cmd", "test.ping")),
        ("cp.push", ("/etc/hostname",)),
        ("cp.push_dir", ("/etc/ssh",)),
    ],
)
def test_machine_commands_nothing_and_sends_no_files(
    fleet: Fleet, machine: Machine, function: str, words: tuple[str, ...]
) -> None:
    assert not machine.salt(function, *words)
    kept = Path(fleet.master.config["cachedir"]) / "minions" / machine.id / "files"
    assert not kept.exists()


def test_stolen_key_cannot_remove_itself(fleet: Fleet, machine: Machine) -> None:
    """A thief of a machine's key could lock the machine out."""
    machine.salt("saltutil.revoke_auth")
    accepted = Path(fleet.master.config["pki_dir"]) / "minions" / machine.id
    assert accepted.exists()
    assert machine.salt("test.ping") is True
