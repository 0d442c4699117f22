"""A rotated SSH key reaches this host and every machine, even if the rotation is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from stackctl import ssh_rotation
from stackctl.deployment import Deployment
from stackctl.errors import CommandError, LaunchError
from stackctl.files import write_private
from stackctl.machines import Machine
from stackctl.run import Log, run
from stackctl.secret_store import SecretStore
from stackctl.ssh import Shell, script_command
from stackctl.sshkey import new_private_key, public_key

NAMES = ["lb-1", "salt-1", "web-1"]


class Stack:
    """Machines whose authorized keys are files here, with a shell that checks the key."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self.folder = folder
        self.stored = new_private_key()
        self.states = dict.fromkeys(NAMES, "running")
        self.entered: list[str] = []
        self.trusted: list[str] = []
        self.waited_for: list[str] = []
        self.failing = ""
        write_private(deployment.ssh_key, self.stored)
        for name in NAMES:
            self.authorize(name, self.stored)

    def authorize(self, name: str, key: str) -> None:
        (self.folder / name).write_text(
            f"ssh-ed25519 AAAAsomebody her-own\n{public_key(key)} airflow-deploy\n"
        )

    def machines(self) -> dict[str, Machine]:
        return {
            name: Machine(name, f"i-{name}", state, "10.20.1.9", "")
            for name, state in self.states.items()
        }

    def trust(self, machine: Machine) -> None:
        self.trusted.append(machine.name)

    def wait_for(self, machine: Machine, master: Machine) -> None:
        assert master.state == machine.state == "running"
        self.waited_for.append(machine.name)

    def script(self, machine: Machine, args: list[str], *, master: Machine, what: str) -> None:
        assert master.name == "salt-1"
        assert machine.name in self.trusted, "Host key verification failed"
        authorized = self.folder / machine.name
        keys = [self.deployment.ssh_key, self.deployment.ssh_key_before]
        if machine.name == self.failing or not any(
            public_key(key.read_text()) in authorized.read_text() for key in keys if key.is_file()
        ):
            raise CommandError(f"{what} failed: Permission denied (publickey).")
        name, file, *keys_of_rotation = args
        assert file == "/home/admin/.ssh/authorized_keys"
        run(script_command([name, str(authorized), *keys_of_rotation]), log=None, what=what)
        self.entered.append(machine.name)

    def follow(self) -> bool:
        return ssh_rotation.follow_store(self.deployment, cast(Any, None), cast(Shell, self))

    def check(self) -> None:
        """Assert that the stored key and the operator's own are authorized, and no other."""
        assert self.deployment.ssh_key.read_text() == self.stored
        assert not self.deployment.ssh_key_before.exists()
        for name in self.states:
            lines = (self.folder / name).read_text().splitlines()
            assert [" ".join(line.split()[:2]) for line in lines] == [
                "ssh-ed25519 AAAAsomebody",
                public_key(self.stored),
            ]


@pytest.fixture
def stack(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    (tmp_path / "machines").mkdir()
    made = Stack(deployment, tmp_path / "machines")
    monkeypatch.setattr(SecretStore, "read", lambda *_: {"private_key": made.stored})
    monkeypatch.setattr(ssh_rotation, "list_machines", lambda *_: made.machines())
    return made


def test_unchanged_key_changes_nothing(stack: Stack) -> None:
    assert not stack.follow()
    assert stack.entered == []
    stack.check()


def test_first_run_writes_key(stack: Stack) -> None:
    stack.deployment.ssh_key.unlink()
    stack.states.clear()
    assert stack.follow()
    assert not stack.follow()
    stack.check()


def test_new_key_replaces_old_key_on_every_machine(stack: Stack) -> None:
    stack.stored = new_private_key()
    assert stack.follow()
    assert stack.entered == ["salt-1", "lb-1", "web-1"]
    stack.check()
    assert not stack.follow()


@pytest.mark.parametrize("failing", NAMES)
def test_interrupted_rotation_continues(stack: Stack, failing: str) -> None:
    stack.stored, stack.failing = new_private_key(), failing
    with pytest.raises(CommandError, match=f"replacing the SSH key on {failing} failed"):
        stack.follow()
    assert stack.deployment.ssh_key_before.is_file()
    # A machine launched meanwhile has the new key from EC2, and the key may be rotated again.
    if failing != "lb-1":
        stack.authorize("lb-1", stack.stored)
    stack.stored, stack.failing = new_private_key(), ""
    assert stack.follow()
    stack.check()


def test_rotation_interrupted_between_its_files_continues(stack: Stack) -> None:
    write_private(stack.deployment.ssh_key_before, stack.deployment.ssh_key.read_text())
    stack.stored = new_private_key()
    assert stack.follow()
    stack.check()


@pytest.mark.parametrize("name", ["web-1", "salt-1"])
def test_stopped_machine_is_started_for_the_rotation(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stack.stored = new_private_key()
    stack.states[name] = "stopped"
    monkeypatch.setattr(ssh_rotation, "start_machines", lambda *_: {name: "no capacity"})
    with pytest.raises(LaunchError, match=f"{name} would keep the old one: it does not start: no"):
        stack.follow()
    assert stack.entered == []

    def start(_client: object, machines: list[Machine]) -> dict[str, str]:
        stack.states |= {machine.name: "running" for machine in machines}
        return {}

    monkeypatch.setattr(ssh_rotation, "start_machines", start)
    stack.follow()
    assert stack.waited_for == [name]
    stack.check()


def test_rotation_waits_for_master(stack: Stack) -> None:
    stack.stored = new_private_key()
    del stack.states["salt-1"]
    assert stack.follow(), "this host has the new key"
    assert stack.follow() is False
    assert stack.entered == []
    assert stack.deployment.ssh_key_before.is_file()
    stack.states["salt-1"] = "running"
    stack.authorize("salt-1", stack.stored)
    stack.follow()
    stack.check()


def test_key_of_the_machines_is_kept_until_the_master_is_back(stack: Stack) -> None:
    """A second rotation meanwhile would replace the only key that the machines accept."""
    old = stack.stored
    del stack.states["salt-1"]
    for _ in range(2):
        stack.stored = new_private_key()
        stack.follow()
    assert stack.deployment.ssh_key_before.read_text() == old
    stack.states["salt-1"] = "running"
    assert stack.follow()
    stack.check()


def test_ssh_tries_both_keys_during_rotation(deployment: Deployment, log: Log) -> None:
    machine = Machine("salt-1", "i-1", "running", "10.20.1.9", "")
    write_private(deployment.ssh_key, "new")

    def identities() -> list[str]:
        with Shell(deployment, cast(Any, None), log) as shell:
            command = shell.command(machine, ["true"])
        return [command[place + 1] for place, word in enumerate(command) if word == "-i"]

    assert identities() == [str(deployment.ssh_key)]
    write_private(deployment.ssh_key_before, "old")
    assert identities() == [str(deployment.ssh_key), str(deployment.ssh_key_before)]
