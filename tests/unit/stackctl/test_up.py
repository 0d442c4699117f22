"""A second run of `up` leaves alone what is as the tree says, and sees what is not."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import cast

import pytest
from rich.console import Console

from stackctl import up
from stackctl.errors import ConvergeError
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.salt import Master
from stackctl.states import Migration, StateRun


class ToldMaster:
    """A master that predicts what it is told, and keeps what it did."""

    def __init__(self, predicted: list[StateRun] | ConvergeError) -> None:
        self.predicted = predicted
        self.did: list[str] = []

    def sync(self) -> None:
        self.did.append("sync")

    def predict(self, migration: Migration) -> list[StateRun]:
        assert migration.machine == "web-1"
        self.did.append("predict")
        if isinstance(self.predicted, ConvergeError):
            raise self.predicted
        return self.predicted

    def orchestrate(self, name: str, report: Callable[[str], None]) -> list[StateRun]:
        report(name)
        self.did.append(name)
        return [StateRun("web-1", 9, ("airflow-admin",), ())]


@pytest.fixture
def progress(log: Log) -> Progress:
    """Steps that nobody sees."""
    return Progress(Console(file=StringIO()), log)


def converge(
    progress: Progress, master: ToldMaster, *, pushed: bool = False, predict: bool = True
) -> list[str]:
    migration = Migration("web-1", "airflow.migrate")
    up.converge(cast(Master, master), migration, progress, pushed=pushed, predict=predict)
    return master.did


WELL = StateRun("web-1", 9, (), ())
ROTATED = StateRun("web-1", 9, ("airflow-admin",), ())


def test_where_nothing_would_change_nothing_is_applied(progress: Progress) -> None:
    assert converge(progress, ToldMaster([WELL])) == ["predict"]
    assert progress.changes == 0


@pytest.mark.parametrize(
    "predicted", [[WELL, ROTATED], ConvergeError("web-1: airflow-database: it is behind.")]
)
def test_what_would_change_or_cannot_be_predicted_is_applied(
    progress: Progress, predicted: list[StateRun] | ConvergeError
) -> None:
    assert converge(progress, ToldMaster(predicted)) == ["predict", "orch.deploy"]
    assert progress.changes == 1


def test_a_new_tree_is_brought_to_the_machines_before_they_predict(progress: Progress) -> None:
    assert converge(progress, ToldMaster([WELL]), pushed=True) == ["sync", "predict"]


def test_new_machines_are_not_asked_what_they_lack(progress: Progress) -> None:
    assert converge(progress, ToldMaster([WELL]), predict=False) == ["orch.deploy"]
