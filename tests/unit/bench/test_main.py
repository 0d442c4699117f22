"""The command line: which scenarios run, what an interrupted run keeps, and the exit code."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.scenarios import Scenario

main = importlib.import_module("bench.__main__")


def static(ratio: float) -> dict[str, Any]:
    return {
        "stock": {"cpu_ms": {"bench-stock": ratio}},
        "web": {"cpu_ms": {"web-1": 1.0}},
    }


class Fake:
    """Scenarios that need no machines."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.opened: list[bool] = []
        self.ratio = 250.0
        self.fault: BaseException | None = None

    def scenario(self, name: str, *, repeated: bool = False) -> Scenario:
        def run(lab: Any) -> dict[str, Any]:
            self.ran.append(name)
            if name == "killed" and self.fault:
                raise self.fault
            return static(self.ratio) if name == "static" else {"failed": 0, "longest_s": 1}

        return Scenario(name, name, run, 1, stock=name == "static", repeated=repeated)

    @contextlib.contextmanager
    def open_lab(self, _: Any, *, with_stock: bool, **__: Any) -> Iterator[None]:
        self.opened.append(with_stock)
        yield None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    made = Fake()
    scenarios = (
        made.scenario("static", repeated=True),
        made.scenario("killed"),
        made.scenario("frozen"),
    )
    monkeypatch.setattr(main, "SCENARIOS", scenarios)
    monkeypatch.setattr(main, "BY_NAME", {one.name: one for one in scenarios})
    monkeypatch.setattr(main, "FOLDER", tmp_path)
    monkeypatch.setattr(main.lab, "open_lab", made.open_lab)
    monkeypatch.setattr(main.render, "write", lambda: None)
    monkeypatch.setattr(results, "revision", lambda: "abc")
    return made


def test_runs_repeat_what_is_harmless(fake: Fake, tmp_path: Path) -> None:
    assert main.main(["--runs", "2"]) == 0
    assert fake.ran == ["static", "static", "killed", "frozen"]
    kept = json.loads((tmp_path / "results.json").read_text())["scenarios"]
    assert [len(kept[name]["runs"]) for name in ("static", "killed", "frozen")] == [2, 1, 1]


def test_chosen_scenarios_only(fake: Fake) -> None:
    assert main.main(["frozen"]) == 0
    assert (fake.ran, fake.opened) == (["frozen"], [False]), "and no stock machine for nothing"
    with pytest.raises(SystemExit, match="unknown scenarios: fly"):
        main.main(["fly"])


def test_missed_figure_fails_and_is_named(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.ratio = 150
    assert main.main(["static"]) == 1
    assert capsys.readouterr().out == "missed: static: 150, to reach ≥ 200\n"


def test_failed_scenario_stops_no_other(fake: Fake, tmp_path: Path) -> None:
    fake.fault = TimeoutError("not up")
    assert main.main(["--runs", "1"]) == 1
    assert fake.ran == ["static", "killed", "frozen"]
    assert set(json.loads((tmp_path / "results.json").read_text())["scenarios"]) == {
        "static",
        "frozen",
    }


def test_interrupted_run_is_resumed(fake: Fake) -> None:
    fake.fault = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        main.main(["--runs", "1"])
    fake.fault = None
    fake.ran.clear()
    assert main.main(["--runs", "1", "--resume"]) == 0
    assert fake.ran == ["killed", "frozen"]


def test_other_label_is_another_file(fake: Fake, tmp_path: Path) -> None:
    assert main.main(["frozen", "--label", "before"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["before.json"]


def test_dry_run_measures_nothing(fake: Fake, tmp_path: Path) -> None:
    assert main.main(["--dry-run"]) == 0
    assert fake.ran == []
    assert list(tmp_path.iterdir()) == []
