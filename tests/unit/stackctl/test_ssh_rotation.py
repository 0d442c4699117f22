"""A rotated SSH key reaches this host and every machine, wherever the rotation was cut short."""

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
    """Machines whose authorized keys are files here, a vault, and a shell that gets in with a key they know."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self.folder = folder
        self.stored = new_private_key()
        self.states = dict.fromkeys(NAMES, "running")
        self.entered: list[str] = []
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

    def trust(self, _: Machine) -> None: ...

    def script(self, machine: Machine, args: list[str], *, master: Machine, what: str) -> None:
        assert master.name == "salt-1"
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
        """See that the vault's key and the operator's own, and no other, open each machine."""
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
    monkeypatch.setattr(ssh_rotation, "list_machines", lambda _: made.machines())
    return made


def test_nothing_happens_while_the_vault_holds_the_same_key(stack: Stack) -> None:
    assert not stack.follow()
    assert stack.entered == []
    stack.check()


def test_the_first_time_the_key_is_written(stack: Stack) -> None:
    stack.deployment.ssh_key.unlink()
    stack.states.clear()
    assert stack.follow()
    assert not stack.follow()
    stack.check()


def test_a_new_key_takes_the_place_of_the_old_one_on_every_machine(stack: Stack) -> None:
    stack.stored = new_private_key()
    assert stack.follow()
    assert stack.entered == ["salt-1", "lb-1", "web-1"]
    stack.check()
    assert not stack.follow()


@pytest.mark.parametrize("failing", NAMES)
def test_a_rotation_that_was_cut_short_goes_on(stack: Stack, failing: str) -> None:
    stack.stored, stack.failing = new_private_key(), failing
    with pytest.raises(CommandError, match=f"replacing the SSH key on {failing} failed"):
        stack.follow()
    assert stack.deployment.ssh_key_before.is_file()
    # A machine made meanwhile has the new key from EC2; and the vault may have moved on once more.
    if failing != "lb-1":
        stack.authorize("lb-1", stack.stored)
    stack.stored, stack.failing = new_private_key(), ""
    assert stack.follow()
    stack.check()


def test_a_rotation_that_was_cut_short_between_its_two_files_goes_on(stack: Stack) -> None:
    write_private(stack.deployment.ssh_key_before, stack.deployment.ssh_key.read_text())
    stack.stored = new_private_key()
    assert stack.follow()
    stack.check()


def test_a_machine_that_does_not_run_stops_the_rotation(stack: Stack) -> None:
    stack.stored = new_private_key()
    stack.states["web-1"] = "stopped"
    with pytest.raises(LaunchError, match="web-1 would keep the old one: it does not run"):
        stack.follow()
    assert stack.entered == []
    stack.states["web-1"] = "running"
    stack.follow()
    stack.check()


def test_without_a_master_the_rotation_waits(stack: Stack) -> None:
    stack.stored = new_private_key()
    del stack.states["salt-1"]
    stack.follow()
    assert not stack.follow()
    assert stack.entered == []
    assert stack.deployment.ssh_key_before.is_file()
    stack.states["salt-1"] = "running"
    stack.authorize("salt-1", stack.stored)
    stack.follow()
    stack.check()


def test_both_keys_are_tried_while_a_rotation_is_under_way(
    deployment: Deployment, log: Log
) -> None:
    one = Machine("salt-1", "i-1", "running", "10.20.1.9", "")
    write_private(deployment.ssh_key, "new")

    def identities() -> list[str]:
        with Shell(deployment, cast(Any, None), log) as shell:
            command = shell.command(one, ["true"])
        return [command[place + 1] for place, word in enumerate(command) if word == "-i"]

    assert identities() == [str(deployment.ssh_key)]
    write_private(deployment.ssh_key_before, "old")
    assert identities() == [str(deployment.ssh_key), str(deployment.ssh_key_before)]
