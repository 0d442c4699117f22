"""`stackctl master rotate-keys` and `rotate-own-key`: the order of their steps, what stops them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from stackctl import held_master, master_key, minion_keys
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError
from stackctl.progress import Progress
from stackctl.run import Log

NAMES = ("salt-1", "web-1", "web-2")


class Run:
    """A held master, and the shell on the machines.

    Attributes:
        did: what was done, in order.
        silent: minions that do not answer.
        lost: those that do not answer once the master has its new key.
        machines: those that exist.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        self.silent: set[str] = set()
        self.lost: set[str] = set()
        self.machines = {name: SimpleNamespace(name=name) for name in NAMES}
        self.machine = self.machines["salt-1"]
        self.deployment = SimpleNamespace(command=lambda verb: f"stackctl {verb}")
        patch.setattr(held_master, "hold", self.hold)
        patch.setattr(minion_keys, "Fleet", lambda master: self if master is self else None)
        for module in (minion_keys, master_key):
            patch.setattr(module, "ec2_client", lambda _: None)
            patch.setattr(module, "list_machines", lambda *_: self.machines)

    @contextmanager
    def hold(self, _: object, verb: str, *__: object, wait: bool) -> Iterator[Any]:
        self.did.append(f"hold for {verb}, wait={wait}")
        yield SimpleNamespace(master=self, shell=self)

    def expanded(self, names: Sequence[str]) -> list[str]:
        return ["web-1", "web-2"] if [*names] == ["web"] else [*names]

    def trust(self, machine: Any) -> None:
        self.did.append(f"trust {machine.name}")

    def script(
        self, machine: Any, args: list[str], *, what: str, master: Any = None, stdin: str = ""
    ) -> str:
        assert what
        assert f"trust {machine.name}" in self.did or machine is self.machine
        assert machine is self.machine or master is self.machine
        self.did.append(" ".join([machine.name, *args, *([f"< {stdin}"] if stdin else [])]))
        if args[0] == "new-master-key":
            self.silent |= self.lost
        return f"public key {machine.name}" if args[0].startswith("new-") else ""

    def answering(self, names: Sequence[str], _: float) -> set[str]:
        return {*names} - self.silent

    def rotate(self, *names: str) -> str:
        """Rotate the keys of minions, or without any the master's own."""
        screen = StringIO()
        log = cast(Log, SimpleNamespace(write=lambda _: None, path=None))
        progress = Progress(Console(file=screen, width=200), log)
        deployment = cast(Deployment, self.deployment)
        if names:
            minion_keys.rotate(deployment, names, progress, log, wait=True)
        else:
            master_key.rotate(deployment, progress, log, wait=True)
        return screen.getvalue()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def steps(name: str) -> list[str]:
    return [
        f"trust {name}",
        f"{name} new-minion-key /etc/salt/pki/minion",
        f"salt-1 accept-minion-key /etc/salt/pki/master {name} < public key {name}",
        f"{name} use-minion-key /etc/salt/pki/minion",
    ]


def test_each_minion_of_a_role_gets_a_key(run: Run) -> None:
    assert "key of web-2" in run.rotate("web")
    assert run.did == ["hold for rotate-keys, wait=True", *steps("web-1"), *steps("web-2")]


def test_minion_of_the_master_gets_a_key_likewise(run: Run) -> None:
    run.rotate("salt-1")
    assert run.did[1:] == steps("salt-1")


def test_minion_that_does_not_answer_stops_the_rest(run: Run) -> None:
    run.silent = {"web-1"}
    with pytest.raises(ConvergeError, match="web-1 does not answer with its new key") as caught:
        run.rotate("web")
    assert "stackctl up installs its minion anew" in str(caught.value)
    assert run.did[1:] == steps("web-1")


def test_machine_that_is_gone_stops_the_run_before_it_changes_anything(run: Run) -> None:
    del run.machines["web-2"]
    with pytest.raises(ConvergeError, match="web-2 does not exist"):
        run.rotate("web")
    assert run.did == ["hold for rotate-keys, wait=True"]


TRUST = "trust-master-key /opt/salt/bin /etc/salt/pki/minion < public key salt-1"


def test_master_gets_a_key_that_all_trust(run: Run) -> None:
    run.rotate()
    assert run.did == [
        "hold for rotate-own-key, wait=True",
        *(f"trust {name}" for name in NAMES),
        "salt-1 new-master-key /etc/salt/pki/master salt-1",
        *(f"{name} {TRUST}" for name in NAMES),
    ]


def test_master_keeps_its_key_while_a_machine_is_silent(run: Run) -> None:
    """Who could not be told of the new key would refuse the master."""
    run.silent = {"web-2"}
    with pytest.raises(ConvergeError, match="No answer from web-2; nothing is changed"):
        run.rotate()
    assert run.did == ["hold for rotate-own-key, wait=True"]


def test_machine_that_does_not_trust_the_new_key_is_named(run: Run) -> None:
    run.lost = {"web-1"}
    with pytest.raises(ConvergeError, match="No answer from web-1; the master has its") as caught:
        run.rotate()
    assert "stackctl up installs such minions anew" in str(caught.value)
