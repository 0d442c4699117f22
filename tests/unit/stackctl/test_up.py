"""`up` applies nothing when the machines predict no change, and otherwise runs everything."""

from __future__ import annotations

from collections.abc import Callable, Collection
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from stackctl import tree, up
from stackctl.deployment import Deployment
from stackctl.errors import (
    BusyError,
    ConvergeError,
    LaunchError,
    SecretsError,
    UnreachableError,
)
from stackctl.locks import Holder
from stackctl.machines import Machine
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.salt import Master
from stackctl.secret_store import SecretStore
from stackctl.states import Migration, StateRun

MACHINES = ("salt-1", "lb-1", "web-1")


class FakeMaster:
    """A master with given predictions, which keeps its calls."""

    def __init__(self, predicted: list[StateRun] | ConvergeError) -> None:
        self.predicted = predicted
        self.did: list[str] = []

    def sync(self) -> None:
        self.did.append("sync")

    def predict(self, migration: Migration, machines: Collection[str]) -> list[StateRun]:
        assert migration.machine == "web-1"
        assert machines == MACHINES
        self.did.append("predict")
        if isinstance(self.predicted, ConvergeError):
            raise self.predicted
        return self.predicted

    def wait_for_states(self, _note: object) -> None:
        self.did.append("wait")

    def orchestrate(self, name: str, report: Callable[[str], None]) -> list[StateRun]:
        report(name)
        self.did.append(name)
        return [StateRun("web-1", 9, ("airflow-admin",), ())]


@pytest.fixture
def progress(log: Log) -> Progress:
    """Steps that nobody sees."""
    return Progress(Console(file=StringIO()), log)


def converge(
    progress: Progress,
    master: FakeMaster,
    *,
    pushed: bool = False,
    predict: Collection[str] = MACHINES,
) -> list[str]:
    migration = Migration("web-1", "airflow.migrate")
    up.converge(cast(Master, master), migration, progress, pushed=pushed, predict=predict)
    return master.did


UNCHANGED = StateRun("web-1", 9, (), ())
ROTATED = StateRun("web-1", 9, ("airflow-admin",), ())


def test_prediction_without_changes_applies_nothing(progress: Progress) -> None:
    assert converge(progress, FakeMaster([UNCHANGED])) == ["predict"]
    assert progress.changes == 0


@pytest.mark.parametrize(
    "predicted", [[UNCHANGED, ROTATED], ConvergeError("web-1: airflow-database: it is behind.")]
)
def test_predicted_or_unpredictable_change_is_applied(
    progress: Progress, predicted: list[StateRun] | ConvergeError
) -> None:
    assert converge(progress, FakeMaster(predicted)) == ["predict", "wait", "orch.deploy"]
    assert progress.changes == 1


def test_new_tree_is_synced_before_prediction(progress: Progress) -> None:
    assert converge(progress, FakeMaster([UNCHANGED]), pushed=True) == ["sync", "predict"]


def test_new_machines_skip_prediction(progress: Progress) -> None:
    assert converge(progress, FakeMaster([UNCHANGED]), predict=()) == ["wait", "orch.deploy"]


def test_up_renames_pillar_keys_of_real_deployment(checkout: Path, log: Log) -> None:
    prod = Deployment("prod", checkout)
    with_every_secret(prod)
    file = prod.pillar_dir / "secrets" / "redis-airflow.sls"
    file.write_text("#!yaml|gpg\nsecrets:\n  redis_airflow:\n    password: |\n      ciphertext\n")
    screen = StringIO()
    up.prepare_secrets(prod, Progress(Console(file=screen, width=120), log))
    assert "  redis-airflow:\n    password: |\n      ciphertext\n" in file.read_text()
    assert "renamed 1 pillar keys" in screen.getvalue()
    assert "secrets: commit pillar/prod: redis-airflow" in screen.getvalue()
    again = Progress(Console(file=StringIO()), log)
    up.prepare_secrets(prod, again)
    assert again.changes == 0


def with_every_secret(deployment: Deployment) -> None:
    """Give a deployment settings and a file for every secret that a machine reads."""
    store = SecretStore(deployment)
    store.folder.mkdir(parents=True)
    deployment.settings_path.write_text("settings: {}\n")
    for secret in store.missing():
        (store.folder / f"{secret}.sls").touch()


def test_up_names_secret_that_real_deployment_lacks(checkout: Path, log: Log) -> None:
    prod = Deployment("prod", checkout)
    with_every_secret(prod)
    (prod.pillar_dir / "secrets" / "postgres-owner.sls").unlink()
    with pytest.raises(
        SecretsError,
        match=r"pillar/prod lacks secrets that the machines read: postgres-owner\."
        r".*stackctl secrets init -d prod",
    ):
        up.prepare_secrets(prod, Progress(Console(file=StringIO()), log))


def test_up_makes_secret_that_local_lacks(checkout: Path, log: Log) -> None:
    deployment = Deployment("local", checkout)
    up.prepare_secrets(deployment, Progress(Console(file=StringIO()), log))
    file = deployment.pillar_dir / "secrets" / "postgres-owner.sls"
    file.unlink()
    again = Progress(Console(file=StringIO()), log)
    up.prepare_secrets(deployment, again)
    assert file.is_file()
    assert again.changes == 1


class Shell:
    """A shell to a master whose console may show no host keys."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def trust(self, machine: Machine, timeout: float) -> None:
        assert machine.name == "salt-1"
        assert timeout < 60
        if self.error:
            raise self.error


class Session:
    """A lock on the master, which may be held."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.held: list[str] = []

    def hold(self, machine: Machine) -> None:
        if self.error:
            raise self.error
        self.held.append(machine.name)


@pytest.mark.parametrize(
    ("states", "shell", "session", "held"),
    [
        (["running"], None, None, ["salt-1"]),
        (["stopped"], None, None, []),
        ([], None, None, []),
        (["running", "running"], None, None, []),
        (["running"], LaunchError("no host keys"), None, []),
        (["running"], None, UnreachableError("no route"), []),
    ],
)
def test_master_that_can_be_reached_is_locked_before_it_is_changed(
    deployment: Deployment,
    log: Log,
    progress: Progress,
    monkeypatch: pytest.MonkeyPatch,
    states: list[str],
    shell: Exception | None,
    session: Exception | None,
    held: list[str],
) -> None:
    machines = [Machine("salt-1", "i-1", state, "10.20.1.250", "") for state in states]
    monkeypatch.setattr(up, "find_machines", lambda _: machines)
    lock = Session(session)
    run = up._Run(deployment, progress, log, Holder.this("up"), wait=False)
    up._hold_early(run, cast(Any, None), cast(Any, Shell(shell)), cast(Any, lock))
    assert lock.held == held


def test_lock_of_another_run_stops_this_one(
    deployment: Deployment, log: Log, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [Machine("salt-1", "i-1", "running", "10.20.1.250", "")]
    monkeypatch.setattr(up, "find_machines", lambda _: machines)
    run = up._Run(deployment, progress, log, Holder.this("up"), wait=False)
    busy = cast(Any, Session(BusyError("Another run changes this deployment.")))
    with pytest.raises(BusyError):
        up._hold_early(run, cast(Any, None), cast(Any, Shell(None)), busy)


class MasterShell:
    """The master's shell, which says whether its state was applied with its present key."""

    def __init__(self, ready: str) -> None:
        self.ready = ready

    def script(self, _machine: Machine, args: list[str], **_: object) -> str:
        assert args[0] == "master-is-ready"
        return self.ready


@pytest.mark.parametrize(
    ("pushed", "ready", "applied"),
    [(False, "yes\n", False), (False, "", True), (True, "yes\n", True)],
)
def test_state_of_master_is_applied_for_a_new_tree_and_for_a_new_key(
    deployment: Deployment,
    log: Log,
    progress: Progress,
    monkeypatch: pytest.MonkeyPatch,
    pushed: bool,
    ready: str,
    applied: bool,
) -> None:
    jobs: list[list[str]] = []

    class Jobs:
        def run(self, _machine: Machine, args: list[str], **_: object) -> str:
            jobs.append(args)
            return '{"local": {"a": {"result": true, "changes": {}}}}'

    monkeypatch.setattr(tree, "push", lambda *_: (pushed, "abc"))
    monkeypatch.setattr(tree, "untracked_warning", lambda *_: "")
    run = up._Run(deployment, progress, log, Holder.this("up"), wait=False)
    machines = up._Machines(run, cast(Any, MasterShell(ready)), cast(Any, Jobs()))
    master = Machine("salt-1", "i-1", "running", "10.20.1.250", "")
    assert machines.start_master(master, {}) == (pushed, applied)
    assert len(jobs) == applied
    assert progress.changes == pushed
