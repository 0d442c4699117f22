"""What the next highstate would change: when it is compared, what is kept, and what is told."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load


class Salt:
    """Salt's own functions on a machine, whose states differ as a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder / "kept")
        self.results: Any = {}
        self.running = 0
        self.happens_meanwhile: list[Any] = []
        self.module = load(
            "_modules",
            "highstate",
            __salt__={"saltutil.is_running": self.is_running, "state.highstate": self.highstate},
        )

    def is_running(self, pattern: str) -> bool:
        assert pattern == "state.*"
        self.running -= 1
        return self.running >= 0

    def highstate(self, *, test: bool) -> Any:
        assert test
        for happens in self.happens_meanwhile:
            happens()
        if not isinstance(self.results, dict):
            return self.results
        return {f"file_|-{name}_|-x_|-y": {"result": each} for name, each in self.results.items()}

    def compare(self, seconds: float = 60) -> list[str]:
        found: list[str] = self.module.compare(self.folder, seconds)
        return found

    def record(self, failed: int, *right: str) -> None:
        self.module.record(failed, set(right), self.folder)

    def told(self) -> list[str]:
        found: list[str] = self.module.differences(self.folder)
        return found

    def is_right(self) -> bool:
        return Path(self.folder, "right").exists()


@pytest.fixture
def salt(tmp_path: Path) -> Salt:
    made = Salt(tmp_path)
    made.record(0, "a", "b", "c")
    Path(made.folder, "right").unlink()
    return made


def test_what_would_change_is_told_until_a_run_has_put_it_right(salt: Salt) -> None:
    salt.results = {"a": True, "b": None, "c": None}
    assert salt.compare() == ["b", "c"]
    assert salt.told() == ["the next highstate changes b", "the next highstate changes c"]
    assert not salt.is_right()
    salt.record(1, "a", "b")
    assert salt.told() == ["the next highstate changes c"]
    assert not salt.is_right()
    salt.record(0, "a", "b", "c")
    assert salt.told() == []
    assert salt.is_right()


def test_what_is_right_again_by_itself_is_told_no_more(salt: Salt) -> None:
    salt.results = {"a": None}
    salt.compare()
    salt.results = {"a": True}
    assert salt.compare() == []
    assert salt.told() == []
    assert salt.is_right()


def test_run_meanwhile_makes_a_comparison_worthless(salt: Salt) -> None:
    salt.results = {"a": None}
    salt.happens_meanwhile = [lambda: salt.record(0, "a")]
    salt.compare()
    assert salt.told() == []


@pytest.mark.parametrize(
    ("results", "error"),
    [
        ({"a": True, "b": False, "c": None}, "these states would fail: b"),
        (["Rendering SLS base failed", "No matching sls"], "Rendering SLS base failed; No match"),
    ],
)
def test_states_that_cannot_be_compared_are_an_error(salt: Salt, results: Any, error: str) -> None:
    salt.results = results
    with pytest.raises(CommandExecutionError, match=error):
        salt.compare()
    assert salt.told() == []
    assert not salt.is_right()


def test_comparison_waits_for_other_states(salt: Salt, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    salt.running = 3
    assert salt.compare() == []
    assert len(naps) == 3
    salt.running = 3
    with pytest.raises(CommandExecutionError, match="other states run"):
        salt.compare(seconds=-1)


@pytest.mark.parametrize(("hours", "said"), [(23, []), (25, ["compared 25 hours ago"])])
def test_timer_that_runs_no_more_is_told(salt: Salt, hours: float, said: list[str]) -> None:
    salt.compare()
    past = time.time() - hours * 3600
    os.utime(Path(salt.folder, "right"), (past, past))
    assert len(salt.told()) == len(said)
    assert all(part in sentence for part, sentence in zip(said, salt.told(), strict=True))


def test_before_the_first_highstate_nothing_is_known(tmp_path: Path) -> None:
    module = load("_modules", "highstate")
    assert module.differences(str(tmp_path)) == []
    assert module.applied(str(tmp_path)) is None


def test_results_are_roots_alone(salt: Salt) -> None:
    salt.compare()
    assert Path(salt.folder).stat().st_mode & 0o777 == 0o700
    assert json.loads(Path(salt.folder, "differ.json").read_text()) == []


@pytest.mark.parametrize("test", [False, True])
def test_run_of_states_records_what_it_has_put_right(*, test: bool) -> None:
    noted: list[Any] = []
    results = {"a": True, "b": False, "c": None}
    module = load(
        "_states",
        "highstate",
        __opts__={"test": test},
        __running__={f"m_|-{name}_|-n_|-f": {"result": each} for name, each in results.items()},
        __salt__={"highstate.record": lambda *given: noted.append(given)},
    )
    result = module.recorded("highstate")
    assert (result["result"], result["changes"]) == (True, {})
    assert noted == ([] if test else [(1, {"a", "c"})])
