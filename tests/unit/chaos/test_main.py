"""The command line: which rows are measured, what an interrupted run keeps, and the exit code."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

main = importlib.import_module("tests.chaos.__main__")
KEYS = ("acknowledged", "lost", "doubled", "disordered", "unseen", "unknown", "done_unsaid")


class Fake:
    """Rows that need no machines."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.away = 0.0
        self.fault: BaseException | None = None
        self.cleaned = 0

    def measure(self, _scene: Any, _site: Any, row: Any) -> dict[str, Any]:
        self.ran.append(row.name)
        if self.fault:
            raise self.fault
        kind = {"asked": 1, "failed": 0, "errors": {}, "away_s": self.away, "longest_s": 0}
        kinds = dict.fromkeys(("reads", "writes", "logins"), kind)
        return {**kinds, "ledger": dict.fromkeys(KEYS, 0), "well": True, "by_itself": True}

    def clean(self, _: Any) -> None:
        self.cleaned += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    made = Fake()
    machines = dict.fromkeys(main.NEEDED)
    scene = SimpleNamespace(
        machines=lambda: machines,
        stack=SimpleNamespace(
            url="", deployment=SimpleNamespace(base_pillar=lambda _: {"admin": {"username": "a"}})
        ),
    )
    monkeypatch.setattr(main, "Scene", lambda _: scene)
    monkeypatch.setattr(main, "FILE", tmp_path / "resilience.json")
    monkeypatch.setattr(main, "measure", made.measure)
    monkeypatch.setattr(main, "green", lambda *_: {})
    monkeypatch.setattr(main, "admin_password", lambda _: "")
    monkeypatch.setattr(main, "alone", alone)
    monkeypatch.setattr(main.render, "write", lambda: None)
    monkeypatch.setattr(main.faults, "mend_all", made.clean)
    monkeypatch.setattr(main.results, "revision", lambda: "abc")
    return made


@contextlib.contextmanager
def alone(_: Any) -> Iterator[None]:
    yield


def kept(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "resilience.json").read_text())["scenarios"]
    return found


def test_chosen_rows_so_many_times(fake: Fake, tmp_path: Path) -> None:
    assert main.main(["edge-gone", "web-gone", "--runs", "2"]) == 0
    assert fake.ran == ["web-gone", "web-gone", "edge-gone", "edge-gone"]
    assert [len(row["runs"]) for row in kept(tmp_path).values()] == [2, 2]
    with pytest.raises(SystemExit, match="unknown rows: fly"):
        main.main(["fly"])


def test_missed_limit_fails_and_is_named(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.away = 12
    assert main.main(["edge-gone"]) == 1
    assert "missed: edge-gone: reads away for 12 s, to reach 10" in capsys.readouterr().out


def test_row_that_cannot_be_measured_fails_and_stops_no_other(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fault = TimeoutError("nobody")
    assert main.main(["edge-gone", "web-gone"]) == 1
    assert fake.ran == ["web-gone", "edge-gone"]
    assert "missed: web-gone: not measured" in capsys.readouterr().out


def test_interrupted_run_is_resumed_and_leaves_no_fault(fake: Fake, tmp_path: Path) -> None:
    assert main.main(["web-gone"]) == 0
    fake.fault, before = KeyboardInterrupt(), fake.cleaned
    with pytest.raises(KeyboardInterrupt):
        main.main(["edge-gone"])
    assert fake.cleaned == before + 2, "before the first row and at the end"
    fake.fault = None
    fake.ran.clear()
    assert main.main(["edge-gone", "web-gone", "--resume"]) == 0
    assert fake.ran == ["edge-gone"]
    assert main.main(["web-gone", "--resume", "--runs", "3"]) == 0
    assert len(kept(tmp_path)["web-gone"]["runs"]) == 3


def test_small_map_is_refused(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "NEEDED", {*main.NEEDED, "redis-9"})
    assert main.main(["web-gone"]) == 2
    assert fake.ran == []
