"""What became of each machine in a run of salt-cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from stackctl import refusals
from stackctl.errors import LaunchError
from stackctl.machines import Machine
from stackctl.run import Log

Outcome = Literal[
    "kept",
    "launched",
    "started",
    "repaired",
    "replaced",
    "absent",
    "twice",
    "unexpected",
    "destroyed",
    "to launch",
    "to start",
    "to repair",
]
HINT = (
    "Run the same command again: it repairs what it can."
    " Replace a machine that stays so (docs/runbooks.md)."
)


@dataclass(frozen=True)
class Verdict:
    """What became of one machine.

    Attributes:
        machine: its name.
        outcome: `kept`, `started` and `repaired` are the same instance as before the run.
        before: the instance that had the name before the run.
        after: the instance that has it now.
        reachable: whether SSH works as salt-cloud needs it.
        answers: whether the minion answers.
        reason: why the machine is not ready; empty when it is.
    """

    machine: str
    outcome: Outcome
    before: Machine | None
    after: Machine | None
    reachable: bool = False
    answers: bool = False
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether the machine runs, with a minion that answers."""
        return not self.reason

    @property
    def deployed(self) -> bool:
        """Whether the driver has marked the minion's installation as done."""
        return self.after is not None and self.after.deployed

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict for `--json`."""
        return {
            "machine": self.machine,
            "outcome": self.outcome,
            "before": _instance(self.before),
            "after": _instance(self.after),
            "deployed": self.deployed,
            "reachable": self.reachable,
            "answers": self.answers,
            "ready": self.ready,
            "reason": self.reason,
        }


def _instance(machine: Machine | None) -> dict[str, str] | None:
    return {"id": machine.instance_id, "state": machine.state} if machine else None


@dataclass(frozen=True)
class Result:
    """The outcome of a run: a verdict for each machine, and an error that concerns all of them."""

    verdicts: tuple[Verdict, ...]
    problem: str = ""

    @property
    def failed(self) -> list[Verdict]:
        """The verdicts on machines that are not ready."""
        return [verdict for verdict in self.verdicts if not verdict.ready]

    @property
    def changed(self) -> list[Verdict]:
        """The verdicts on machines that the run changed, or that changed meanwhile."""
        return [verdict for verdict in self.verdicts if verdict.outcome != "kept"]

    @property
    def machines(self) -> dict[str, Machine]:
        """The machines that exist now, by name."""
        return {verdict.machine: verdict.after for verdict in self.verdicts if verdict.after}

    def require(self, log: Log, region: str = "") -> None:
        """Raise LaunchError when a machine is not ready, or the run failed for all.

        Args:
            log: the log that the error names.
            region: where the machines are to run, for the way out of a refusal.
        """
        messages = [f"{self.problem}."] if self.problem else []
        if names := [verdict.machine for verdict in self.failed]:
            are = "is" if len(names) == 1 else "are"
            count = f"{len(names)} of {len(self.verdicts)} machines"
            messages.append(f"{count} {are} not ready: {', '.join(names)}.")
        if messages:
            reasons = [verdict.reason for verdict in self.failed]
            reasons += [self.problem] if self.problem else []
            known = [refusals.explain(reason, region) for reason in reasons]
            hints = [*known, *([] if all(known) else [HINT])]
            hint = " ".join(dict.fromkeys(part for part in hints if part))
            raise LaunchError(" ".join(messages), hint, log.path)
