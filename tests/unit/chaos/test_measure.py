"""A row is measured in order, its fault is ended whatever happens, and `up` helps at last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.chaos import faults, measure
from tests.chaos.answers import Answer
from tests.chaos.faults import Fault
from tests.chaos.ledger import Ledger
from tests.chaos.rows import Row

SITE: Any = None
GREEN = {"healthy": True, "site": "healthy", "errors": []}
RED = {
    "healthy": False, "site": "healthy", "errors": [], "state": "stopped", "salt": "",
    "service": "", "problem": "", "reason": "", "drift": [],
}  # fmt: skip


class FakeScene:
    """A stack that is red as often as a test says, and notes what happens to it."""

    def __init__(self, *, red: float = 0, up_helps: bool = True) -> None:
        self.did: list[str] = []
        self.red = red
        self.up_helps = up_helps
        self.stack = SimpleNamespace(rows=self._rows, up=self._up)

    def _rows(self) -> dict[str, dict[str, Any]]:
        self.did.append("status")
        self.red -= 1
        return {"web-1": GREEN if self.red < 0 else RED}

    def _up(self) -> str:
        self.did.append("up")
        self.red = 0 if self.up_helps else float("inf")
        return ""

    def find(self, targets: Any) -> list[str]:
        return [f"{target}-1" for target in targets]

    def written(self, _: str) -> list[tuple[int, int]]:
        self.did.append("compare")
        return []

    def forget(self, _: str) -> None:
        self.did.append("forget")


class FakeVisitors:
    """Visitors who are always served."""

    def __init__(self, *_: Any) -> None:
        self.ledger = Ledger()
        self.answers: dict[str, Any] = {kind: Served() for kind in ("reads", "writes", "logins")}

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        yield


class Served:
    """Good answers at any time.

    Attributes:
        pauses: whose sum is the time.
    """

    pauses: list[float] = []  # noqa: RUF012 - of all

    def __iter__(self) -> Iterator[Answer]:
        now = sum(Served.pauses)
        return iter([Answer(now - 0.2, now - 0.1, "200", True)])


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a measure take no time."""
    pauses: list[float] = []
    monkeypatch.setattr(measure, "Visitors", FakeVisitors)
    monkeypatch.setattr(Served, "pauses", pauses)
    times = SimpleNamespace(sleep=pauses.append, time=lambda: sum(pauses))
    monkeypatch.setattr(measure, "time", times)


def faulty(
    monkeypatch: pytest.MonkeyPatch, *, lasts: bool, error: BaseException | None = None
) -> Row:
    """Return a row with a fault that notes what it does."""

    def strike(scene: Any, name: str) -> None:
        scene.did.append(f"strike {name}")
        if error:
            raise error

    def mend(scene: Any, name: str) -> None:
        scene.did.append(f"mend {name}")

    monkeypatch.setitem(faults.FAULTS, "test", Fault("a test", strike, mend if lasts else None))
    return Row(("web",), "test", hold=5)


def measured(scene: FakeScene, row: Row) -> dict[str, Any]:
    given: Any = scene
    return measure.measure(given, SITE, row)


def test_fault_that_lasts_is_ended_before_status_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = FakeScene()
    run = measured(scene, faulty(monkeypatch, lasts=True))
    assert scene.did == ["strike web-1", "mend web-1", "status", "compare", "forget"]
    assert run["lasted_s"] >= 5
    assert (run["by_itself"], run["well"], run["up_s"]) == (True, True, 0)


def test_other_fault_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = FakeScene(red=3)
    run = measured(scene, faulty(monkeypatch, lasts=False))
    assert scene.did == ["strike web-1", *["status"] * 4, "compare", "forget"]
    assert (run["lasted_s"], run["by_itself"]) == (0, True)
    assert run["well_s"] >= 3


def test_fault_is_ended_when_the_measure_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = FakeScene()
    row = faulty(monkeypatch, lasts=True, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        measured(scene, row)
    assert scene.did == ["strike web-1", "mend web-1"]


def test_up_repairs_what_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = FakeScene(red=float("inf"))
    run = measured(scene, faulty(monkeypatch, lasts=False))
    assert scene.did.count("up") == 1
    assert (run["by_itself"], run["well"]) == (False, True)
    assert "stopped" in run["red"]["web-1"]


def test_what_up_does_not_repair_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    run = measured(FakeScene(red=float("inf"), up_helps=False), faulty(monkeypatch, lasts=False))
    assert (run["by_itself"], run["well"]) == (False, False)
