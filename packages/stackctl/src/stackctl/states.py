"""The results of state runs, as Salt prints them in JSON."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stackctl import refusals
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError, StackError
from stackctl.run import Log

MEND = "Mend the cause and run the same command again: it continues from here."
EXCEPTION = "An exception occurred in this state: Traceback"  # salt/state.py begins a comment so
COMMENT_LENGTH = 300  # of a failed state, in an error; the log has all of it


@dataclass(frozen=True)
class StateRun:
    """The result of applying states to one machine.

    Attributes:
        minion: the machine.
        total: number of states.
        changed: ids of the states that changed something, or would with `test=True`.
        failed: id and comment of the states that failed.
    """

    minion: str
    total: int
    changed: tuple[str, ...]
    failed: tuple[str, ...]


def read_states(minion: str, result: Any) -> StateRun:
    """Return one minion's result of a state run.

    Args:
        minion: the machine.
        result: a mapping of state results; anything else (errors, a text, False) is a failure.
    """
    if not isinstance(result, Mapping) or not result:
        reasons = result if isinstance(result, list) and result else [result or "no answer"]
        return StateRun(minion, 0, (), tuple(str(reason) for reason in reasons))
    changed: list[str] = []
    failed: list[str] = []
    for key, state in result.items():
        if not isinstance(state, Mapping) or "result" not in state:
            failed.append(f"{key}: {state}")
            continue
        name = str(state.get("__id__", key))
        if state["result"] is False:
            comment = _without_traceback(str(state.get("comment", "")))
            short = textwrap.shorten(comment, COMMENT_LENGTH, placeholder=" …")
            failed.append(f"{name}: {short}")
        elif state["result"] is None or state.get("changes"):
            changed.append(name)
    return StateRun(minion, len(result), tuple(changed), tuple(failed))


def _without_traceback(comment: str) -> str:
    """Return the error of a state in which an exception ended, without where that happened."""
    if not comment.startswith(EXCEPTION):
        return comment
    lines = [line.strip() for line in comment.splitlines() if line.strip()]
    return re.sub(r"^[\w.]+(?:Error|Exception): ", "", lines[-1])


def parse_documents(output: str) -> dict[str, Any]:
    """Merge the JSON objects that `salt --out=json` prints, one for each minion."""
    decoder = json.JSONDecoder()
    merged: dict[str, Any] = {}
    position = output.find("{")
    while position >= 0:
        try:
            document, end = decoder.raw_decode(output, position)
        except json.JSONDecodeError:
            position = output.find("{", position + 1)
            continue
        merged.update(document)
        position = output.find("{", end)
    return merged


def raise_on_failure(runs: Iterable[StateRun], log: Log, region: str = "") -> None:
    """Raise ConvergeError for the first failed state, with the number of all.

    Args:
        runs: the results.
        log: the log that the error names.
        region: of AWS, for the way out of a refusal.
    """
    failures = [(run.minion, text) for run in runs for text in run.failed]
    if failures:
        minion, text = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise ConvergeError(
            f"{minion}: {text}{more}.",
            refusals.explain(text, region) or MEND,
            log.path,
        )


def read_orchestration(steps: Any) -> list[StateRun]:
    """Return the state runs in a result of `state.orchestrate`, in order.

    A step that failed without a failed state in it is a run of its own.
    """
    if not isinstance(steps, Mapping):
        return [read_states("master", steps)]
    runs: list[StateRun] = []
    for step in sorted(steps.values(), key=lambda step: step.get("__run_num__", 0)):
        changes = step.get("changes") or {}
        # Only steps that applied states have `out: highstate`; other steps called a function.
        per_minion = changes["ret"] if changes.get("out") == "highstate" else {}
        inner = [read_states(minion, result) for minion, result in per_minion.items()]
        runs += inner
        if step.get("result") is False and not any(run.failed for run in inner):
            comment = " ".join(str(step.get("comment")).split())
            runs.append(StateRun(str(step.get("__id__")), 0, (), (comment,)))
    return runs


@dataclass(frozen=True)
class Migration:
    """The orchestration's step that migrates the database.

    Attributes:
        machine: the machine that it runs on.
        states: what it applies there, which contains the machine's highstate.
    """

    machine: str
    states: str

    @classmethod
    def of(cls, deployment: Deployment) -> Migration:
        """Return the migration of a deployment; salt/orch/deploy.sls has the same rule.

        Raises:
            StackError: the map names no web machine.
        """
        machines = deployment.machines_of("web")
        if not machines:
            raise StackError(
                f"{deployment.map_path.name} names no machine of the role 'web'.", "Name one."
            )
        return cls(min(machines, key=lambda name: int(name.rpartition("-")[2])), "airflow.migrate")
