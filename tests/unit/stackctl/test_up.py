"""`up` applies nothing when the machines predict no change, and otherwise runs everything."""

from __future__ import annotations

from collections.abc import Callable, Collection
from io import StringIO
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from stackctl import up
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError, SecretsError
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
