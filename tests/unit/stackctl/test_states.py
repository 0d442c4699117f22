"""Results of state runs: success, change, prediction and every kind of failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stackctl.errors import ConvergeError, StackError
from stackctl.run import Log
from stackctl.states import (
    Migration,
    StateRun,
    parse_documents,
    raise_on_failure,
    read_orchestration,
    read_states,
)

GOOD = {"result": True, "changes": {}, "comment": "as it should be", "__id__": "redis-package"}
CHANGED = {
    "result": True,
    "changes": {"diff": "+port 0"},
    "comment": "updated",
    "__id__": "redis-config",
}
PREDICTED: dict[str, Any] = {
    "result": None,
    "changes": {},
    "comment": "would be updated",
    "__id__": "redis-config",
}
FAILED = {
    "result": False,
    "changes": {},
    "comment": "no such\n  package",
    "__id__": "redis-package",
}


def step(
    number: int,
    name: str,
    ret: Any,
    *,
    result: bool = True,
    comment: str = "",
    out: str = "highstate",
) -> Any:
    """Return a step of an orchestration as salt.state gives it, or as salt.function without `out`."""
    changes = ({"out": out} if out else {}) | {"ret": ret} if ret else {}
    return {
        "__run_num__": number,
        "__id__": name,
        "result": result,
        "comment": comment,
        "changes": changes,
    }


# -- read_states -----------------------------------------------------------------------------------


def test_success_without_changes() -> None:
    assert read_states("redis-1", {"a": GOOD, "b": GOOD}) == StateRun("redis-1", 2, (), ())


def test_changes_and_predicted_changes_count() -> None:
    assert read_states("redis-1", {"a": GOOD, "b": CHANGED}).changed == ("redis-config",)
    assert read_states("redis-1", {"a": GOOD, "b": PREDICTED}).changed == ("redis-config",)


def test_a_failure_is_told_in_one_line() -> None:
    outcome = read_states("redis-1", {"a": FAILED, "b": CHANGED})
    assert outcome == StateRun("redis-1", 2, ("redis-config",), ("redis-package: no such package",))


def test_a_comment_of_pages_is_cut() -> None:
    (told,) = read_states(
        "redis-1", {"a": FAILED | {"comment": "Traceback:\n" + "  in file\n" * 900}}
    ).failed
    assert told.startswith("redis-package: Traceback: in file")
    assert told.endswith(" …")
    assert len(told) < 400


def test_a_failed_state_that_changed_something_is_a_failure() -> None:
    outcome = read_states("redis-1", {"a": FAILED | {"changes": {"pid": 1}}})
    assert (outcome.changed, len(outcome.failed)) == ((), 1)


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (
            ["Rendering SLS 'base:redis' failed", "and more"],
            ("Rendering SLS 'base:redis' failed", "and more"),
        ),
        ("Minion did not return. [No response]", ("Minion did not return. [No response]",)),
        (False, ("no answer",)),
        (None, ("no answer",)),
        ({}, ("no answer",)),
        ([], ("no answer",)),
        ({"retcode": 1}, ("retcode: 1",)),
    ],
)
def test_an_answer_that_is_no_state_run_is_a_failure(answer: Any, failed: tuple[str, ...]) -> None:
    assert read_states("redis-1", answer) == StateRun(
        "redis-1", 1 if answer == {"retcode": 1} else 0, (), failed
    )


# -- parse_documents -------------------------------------------------------------------------------


def test_documents_one_after_another_are_merged() -> None:
    output = (
        json.dumps({"web-1": True}, indent=4) + "\n" + json.dumps({"web-2": {"a": [1]}}, indent=4)
    )
    assert parse_documents(output) == {"web-1": True, "web-2": {"a": [1]}}


def test_other_lines_are_passed_over() -> None:
    output = '[WARNING ] {unexpected} in {"web-1\nsalt: {\n{"web-1": true}\nERROR: Minions returned with non-zero'
    assert parse_documents(output) == {"web-1": True}


@pytest.mark.parametrize("output", ["", "No minions matched the target.", "{", "[1, 2]"])
def test_no_document_is_nothing(output: str) -> None:
    assert parse_documents(output) == {}


# -- read_orchestration ----------------------------------------------------------------------------


def test_an_orchestrations_state_runs_are_in_order() -> None:
    steps = {
        "z": step(0, "deploy-stores", {"redis-1": {"a": CHANGED}, "postgres-1": {"a": GOOD}}),
        "a": step(1, "deploy-web", {"web-1": {"a": GOOD}}),
    }
    runs = read_orchestration(steps)
    assert [(one.minion, len(one.changed)) for one in runs] == [
        ("redis-1", 1),
        ("postgres-1", 0),
        ("web-1", 0),
    ]


def test_what_a_function_returns_is_no_state() -> None:
    steps = {
        "a": step(0, "deploy-addresses", {"web-1": True, "web-2": {"10.20.1.4": "up"}}, out=""),
        "b": step(1, "deploy-check", {"web-1": ["x"]}, out=""),
    }
    assert read_orchestration(steps) == []


def test_a_function_that_failed_is_a_failure() -> None:
    steps = {
        "a": step(
            0,
            "deploy-addresses",
            {"web-1": False},
            out="",
            result=False,
            comment="failed on\n web-1",
        )
    }
    assert read_orchestration(steps) == [StateRun("deploy-addresses", 0, (), ("failed on web-1",))]


def test_a_failed_state_is_told_once_and_its_followers_after_it() -> None:
    steps = {
        "b": step(
            1,
            "deploy-web",
            None,
            result=False,
            comment="One or more requisite failed: deploy-stores",
        ),
        "a": step(
            0,
            "deploy-stores",
            {"redis-1": {"a": FAILED}},
            result=False,
            comment="Run failed on: redis-1",
        ),
    }
    assert [(one.minion, one.failed) for one in read_orchestration(steps)] == [
        ("redis-1", ("redis-package: no such package",)),
        ("deploy-web", ("One or more requisite failed: deploy-stores",)),
    ]


def test_a_minion_whose_states_do_not_render_is_a_failure() -> None:
    answers = {"web-1": ["Rendering SLS failed: no key 'secrets'"], "web-2": {"a": GOOD}}
    runs = read_orchestration(
        {"a": step(0, "deploy-web", answers, result=False, comment="Run failed on: web-1")}
    )
    assert [(one.minion, one.failed) for one in runs] == [
        ("web-1", ("Rendering SLS failed: no key 'secrets'",)),
        ("web-2", ()),
    ]


def test_a_minion_that_gave_no_answer_is_told_in_the_steps_words() -> None:
    comment = "Run failed on minions: web-1 (no return)"
    runs = read_orchestration(
        {"a": step(0, "deploy-web", {"web-1": False}, result=False, comment=comment)}
    )
    assert runs == [StateRun("deploy-web", 0, (), (comment,))]


def test_an_orchestration_that_does_not_render_is_a_failure(log: Log) -> None:
    assert read_orchestration(["Rendering SLS 'orch.deploy' failed"])[0].failed
    assert read_orchestration(None)[0].failed == ("no answer",)


# -- raise_on_failure ------------------------------------------------------------------------------


def test_success_raises_nothing(log: Log) -> None:
    raise_on_failure([], log)
    raise_on_failure([StateRun("web-1", 3, ("a",), ())], log)


def test_the_first_failure_is_told_with_how_many_there_are(log: Log) -> None:
    runs = [
        StateRun("lb-1", 1, (), ()),
        StateRun("web-1", 2, (), ("a: x", "b: y")),
        StateRun("web-2", 1, (), ("c: z",)),
    ]
    with pytest.raises(ConvergeError) as caught:
        raise_on_failure(runs, log)
    assert caught.value.what == "web-1: a: x (and 2 more)."
    assert caught.value.log == log.path
    with pytest.raises(ConvergeError, match=r"^web-2: c: z\. Mend the cause"):
        raise_on_failure(runs[2:], log)


# -- Migration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "deploy-database: {salt.function: []}",
        "deploy-database: {salt.state: [{tgt: web-1}]}",
        "{% for x in y %}",
    ],
)
def test_orchestration_without_migration_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "salt" / "orch").mkdir(parents=True)
    (tmp_path / "salt" / "orch" / "deploy.sls").write_text(text)
    with pytest.raises(StackError, match=r"deploy\.sls has no step deploy-database"):
        Migration.read(tmp_path)
