"""Results of state runs: success, change, prediction and every kind of failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stackctl.deployment import Deployment
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
from stateresults import CHANGED, FAILED, GOOD, PREDICTED


def step(
    number: int,
    name: str,
    ret: Any,
    *,
    result: bool = True,
    comment: str = "",
    out: str = "highstate",
) -> Any:
    """Return a step of an orchestration: of salt.state, or without `out` of salt.function."""
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


def test_predicted_changes_count_as_changes() -> None:
    assert read_states("redis-1", {"a": GOOD, "b": CHANGED}).changed == ("redis-config",)
    assert read_states("redis-1", {"a": GOOD, "b": PREDICTED}).changed == ("redis-config",)


def test_failure_is_one_line() -> None:
    outcome = read_states("redis-1", {"a": FAILED, "b": CHANGED})
    assert outcome == StateRun("redis-1", 2, ("redis-config",), ("redis-package: no such package",))


def test_long_comment_is_shortened() -> None:
    (printed,) = read_states(
        "redis-1", {"a": FAILED | {"comment": "Traceback:\n" + "  in file\n" * 900}}
    ).failed
    assert printed.startswith("redis-package: Traceback: in file")
    assert printed.endswith(" …")
    assert len(printed) < 400


def test_failed_state_with_changes_is_a_failure() -> None:
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
def test_answer_without_states_is_a_failure(answer: Any, failed: tuple[str, ...]) -> None:
    assert read_states("redis-1", answer) == StateRun(
        "redis-1", 1 if answer == {"retcode": 1} else 0, (), failed
    )


# -- parse_documents -------------------------------------------------------------------------------


def test_parse_documents_merges_objects() -> None:
    output = (
        json.dumps({"web-1": True}, indent=4) + "\n" + json.dumps({"web-2": {"a": [1]}}, indent=4)
    )
    assert parse_documents(output) == {"web-1": True, "web-2": {"a": [1]}}


def test_parse_documents_skips_other_lines() -> None:
    output = (
        '[WARNING ] {unexpected} in {"web-1\nsalt: {\n{"web-1": true}\n'
        "ERROR: Minions returned with non-zero"
    )
    assert parse_documents(output) == {"web-1": True}


@pytest.mark.parametrize("output", ["", "No minions matched the target.", "{", "[1, 2]"])
def test_parse_documents_without_object_is_empty(output: str) -> None:
    assert parse_documents(output) == {}


# -- read_orchestration ----------------------------------------------------------------------------


def test_state_runs_of_orchestration_are_in_order() -> None:
    steps = {
        "z": step(0, "deploy-stores", {"redis-1": {"a": CHANGED}, "postgres-1": {"a": GOOD}}),
        "a": step(1, "deploy-web", {"web-1": {"a": GOOD}}),
    }
    runs = read_orchestration(steps)
    assert [(run.minion, len(run.changed)) for run in runs] == [
        ("redis-1", 1),
        ("postgres-1", 0),
        ("web-1", 0),
    ]


def test_changes_of_a_step_that_names_no_outputter_are_no_states() -> None:
    """Such a step is none of salt.state: its `ret` may look like states."""
    silent = step(0, "deploy-check", {"web-1": {"a": FAILED}}, out="")
    assert read_orchestration({"a": silent}) == []
    assert read_orchestration({"a": {"result": True, "changes": None}}) == []


def test_steps_without_a_number_come_first() -> None:
    first = step(0, "first", {"web-1": {"a": GOOD}})
    del first["__run_num__"]
    steps = {"b": step(1, "second", {"web-2": {"a": GOOD}}), "a": first}
    assert [run.minion for run in read_orchestration(steps)] == ["web-1", "web-2"]


def test_return_value_of_function_is_no_state() -> None:
    steps = {
        "a": step(0, "deploy-addresses", {"web-1": True, "web-2": {"10.20.1.4": "up"}}, out=""),
        "b": step(1, "deploy-check", {"web-1": ["x"]}, out=""),
    }
    assert read_orchestration(steps) == []


def test_failed_function_is_a_failure() -> None:
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


def test_failed_state_is_reported_once_before_dependent_steps() -> None:
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
    assert [(run.minion, run.failed) for run in read_orchestration(steps)] == [
        ("redis-1", ("redis-package: no such package",)),
        ("deploy-web", ("One or more requisite failed: deploy-stores",)),
    ]


def test_rendering_error_of_minion_is_a_failure() -> None:
    answers = {"web-1": ["Rendering SLS failed: no key 'secrets'"], "web-2": {"a": GOOD}}
    runs = read_orchestration(
        {"a": step(0, "deploy-web", answers, result=False, comment="Run failed on: web-1")}
    )
    assert [(run.minion, run.failed) for run in runs] == [
        ("web-1", ("Rendering SLS failed: no key 'secrets'",)),
        ("web-2", ()),
    ]


def test_silent_minion_is_named_beside_another_failure() -> None:
    answers = {"redis-1": {"a": FAILED}, "postgres-1": False}
    runs = read_orchestration(
        {"a": step(0, "deploy-stores", answers, result=False, comment="Run failed on minions")}
    )
    assert [(run.minion, run.failed) for run in runs] == [
        ("redis-1", ("redis-package: no such package",)),
        ("postgres-1", ("no answer",)),
    ]


def test_step_without_answer_has_its_comment() -> None:
    comment = "No minions returned"
    runs = read_orchestration({"a": step(0, "deploy-web-1", None, result=False, comment=comment)})
    assert runs == [StateRun("deploy-web-1", 0, (), (comment,))]


def test_rendering_error_of_orchestration_is_a_failure(log: Log) -> None:
    assert read_orchestration(["Rendering SLS 'orch.deploy' failed"])[0].failed
    assert read_orchestration(None)[0].failed == ("no answer",)


# -- raise_on_failure ------------------------------------------------------------------------------


def test_success_raises_nothing(log: Log) -> None:
    raise_on_failure([], log)
    raise_on_failure([StateRun("web-1", 3, ("a",), ())], log)


def test_error_has_first_failure_and_number_of_others(log: Log) -> None:
    runs = [
        StateRun("lb-1", 1, (), ()),
        StateRun("web-1", 2, (), ("a: x", "b: y")),
        StateRun("web-2", 1, (), ("c: z",)),
    ]
    with pytest.raises(ConvergeError) as caught:
        raise_on_failure(runs, log)
    assert caught.value.what == "web-1: a: x (and 2 more)."
    with pytest.raises(ConvergeError, match=r"web-1: a: x \(and 1 more\)\."):
        raise_on_failure(runs[:2], log)
    assert caught.value.log == log.path
    with pytest.raises(ConvergeError, match=r"^web-2: c: z\. Mend the cause"):
        raise_on_failure(runs[2:], log)


# -- Migration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("web", "machine"),
    [(["web-1", "web-2"], "web-1"), (["web-10", "web-3"], "web-3")],
)
def test_lowest_web_machine_migrates(checkout: Path, web: list[str], machine: str) -> None:
    assert Migration.of(with_map(checkout, web)) == Migration(machine, "airflow.migrate")


def test_map_without_web_machine_is_an_error(checkout: Path) -> None:
    with pytest.raises(StackError, match=r"other\.map names no machine of the role 'web'"):
        Migration.of(with_map(checkout, []))


def with_map(checkout: Path, web: list[str]) -> Deployment:
    content = {"salt": ["salt-1"], "web": web}
    (checkout / "cloud.maps.d" / "other.map").write_text(json.dumps(content))
    return Deployment("local", checkout, "other")


def test_traceback_of_a_state_is_cut_to_its_error() -> None:
    comment = (
        "An exception occurred in this state: Traceback (most recent call last):\n"
        '  File "/x/salt/state.py", line 2216, in call\n    ret = self.states[x]()\n'
        "salt.exceptions.CommandExecutionError: An error occurred (UnauthorizedOperation) when"
        " calling the DescribeVpcs operation: no\n"
    )
    state = {"__id__": "aws-vpc", "result": False, "comment": comment, "changes": {}}
    run = read_states("operator", {"a": state})
    said = (
        "aws-vpc: An error occurred (UnauthorizedOperation) when calling the DescribeVpcs"
        " operation: no"
    )
    assert run.failed == (said,)


def test_refusal_of_aws_has_a_way_out(log: Log) -> None:
    text = "aws-vpc: An error occurred (ExpiredToken) when calling the DescribeVpcs operation: old"
    with pytest.raises(ConvergeError) as caught:
        raise_on_failure([StateRun("operator", 1, (), (text,))], log, "eu-west-1")
    assert caught.value.hint.startswith("The AWS credentials have ended, or")
    with pytest.raises(ConvergeError, match="Mend the cause and run the same command again"):
        raise_on_failure([StateRun("operator", 1, (), ("aws-vpc: other",))], log, "eu-west-1")
