"""Machines without CPU credits are named where a run fails, and nowhere else."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from stackctl import cpu_credits
from stackctl.errors import BusyError, CommandError, ConvergeError, LaunchError, StackError
from stackctl.machines import Machine
from stackctl.ssh import Shell

MASTER = Machine("salt-1", "i-1", "running", "10.20.1.10", "")
SLOW = "out of CPU credits: it got 10% of a core in the last 0.6 s, and wanted more"


class AskedShell:
    """Answers the question to the minions, and counts it."""

    def __init__(self, answers: dict[str, Any] | Exception) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []

    def script(self, machine: Machine, args: list[str], **_: Any) -> str:
        assert machine == MASTER
        self.asked.append(args[2:])
        if isinstance(self.answers, Exception):
            raise self.answers
        return json.dumps(self.answers)


def failing(shell: AskedShell, error: StackError) -> StackError:
    """Return what is raised when a block fails so."""
    with pytest.raises(StackError) as raised, cpu_credits.named(cast(Shell, shell), MASTER):
        raise error
    assert raised.value is error
    return raised.value


@pytest.mark.parametrize("kind", [ConvergeError, LaunchError])
def test_slow_machines_are_named_before_what_else_to_do(kind: type[StackError]) -> None:
    shell = AskedShell({"web-2": SLOW, "lb-1": SLOW, "web-1": "", "redis-1": "not available"})
    error = failing(shell, kind("web-1: no answer.", "Run the same command again."))
    assert error.hint == (
        "lb-1, web-2 are out of CPU credits and slow: docs/runbooks.md,"
        " 'A machine is out of CPU credits'. Run the same command again."
    )
    assert shell.asked == [["30", "6", "glob", "*", "cpu_credits.told"]]


def test_one_slow_machine_is_one() -> None:
    error = failing(AskedShell({"web-1": SLOW}), LaunchError("web-1 is not ready."))
    assert error.hint.startswith("web-1 is out of CPU credits and slow: ")
    assert error.hint.endswith("'.")


@pytest.mark.parametrize("answers", [{"web-1": ""}, {}, CommandError("the master is gone")])
def test_other_failures_keep_their_hint(answers: dict[str, Any] | Exception) -> None:
    error = failing(AskedShell(answers), ConvergeError("web-1: a state failed.", "Mend the cause."))
    assert error.hint == "Mend the cause."


def test_success_and_refusals_ask_nobody() -> None:
    shell = AskedShell({"web-1": SLOW})
    with cpu_credits.named(cast(Shell, shell), MASTER):
        pass
    failing(shell, BusyError("Another run changes the deployment."))
    assert shell.asked == []
