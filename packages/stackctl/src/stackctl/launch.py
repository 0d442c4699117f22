"""Launches the machines of a deployment, and judges each by its name.

salt-cloud ends with 0 when machines fail. What counts is what EC2, sshd and the minions say before and after it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from stackctl.deployment import Deployment
from stackctl.driver import DEPLOY_TAG
from stackctl.errors import LaunchError, StackError
from stackctl.machines import Machine, find_machines
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.salt import Master

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

OnFailure = Literal["keep", "destroy"]
ON_FAILURE = get_args(OnFailure)
KNOWN_SECONDS = 20  # that a minion has to answer before it is taken for silent
NEW_SECONDS = 90  # the same of a minion that salt-cloud has just installed

Outcome = Literal[
    "kept",
    "launched",
    "repaired",
    "replaced",
    "absent",
    "twice",
    "unexpected",
    "destroyed",
    "to launch",
    "to repair",
]


class Side(Protocol):
    """Where salt-cloud runs: `salt.Master`, or for the master itself `salt.Operator`."""

    def salt_cloud(self, words: Sequence[str], machines: int) -> str:
        """Run salt-cloud, which has so many machines to see to, and return its JSON; raise StackError."""

    def answering(self, machines: Mapping[str, Machine], deadline: float) -> set[str]:
        """Return the names whose minion answers before `time.monotonic()` is `deadline`."""

    def reach(self, machine: Machine) -> None:
        """Log in to a machine as salt-cloud does; raise StackError."""


@dataclass(frozen=True)
class Verdict:
    """What became of one name.

    Attributes:
        machine: the name.
        outcome: `kept` is the same instance as before, `repaired` too, but it was wanting and is no longer.
        before: the instance that had the name before the run.
        after: the one that has it now.
        reachable: whether SSH works as salt-cloud needs it.
        answers: whether the minion answers.
        reason: why it falls short; empty when it does not.
    """

    machine: str
    outcome: Outcome
    before: Machine | None
    after: Machine | None
    reachable: bool = False
    answers: bool = False
    reason: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing is wanting."""
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
            "good": self.good,
            "reason": self.reason,
        }


def _instance(machine: Machine | None) -> dict[str, str] | None:
    return {"id": machine.instance_id, "state": machine.state} if machine else None


@dataclass(frozen=True)
class Result:
    """What a run came to: a verdict for each name, and what stopped salt-cloud as a whole, if anything did."""

    verdicts: tuple[Verdict, ...]
    problem: str = ""

    @property
    def short(self) -> list[Verdict]:
        """The verdicts that are not good."""
        return [one for one in self.verdicts if not one.good]

    @property
    def changed(self) -> list[Verdict]:
        """The verdicts on machines that are no longer what they were."""
        return [one for one in self.verdicts if one.outcome != "kept"]

    @property
    def machines(self) -> dict[str, Machine]:
        """The machines that there are now, by name."""
        return {one.machine: one.after for one in self.verdicts if one.after}

    def require(self, log: Log) -> None:
        """Raise LaunchError when a name falls short, or salt-cloud was stopped."""
        told = [f"{self.problem}."] if self.problem else []
        if names := [one.machine for one in self.short]:
            told.append(
                f"Of {len(self.verdicts)} machines {len(names)} fall short: {', '.join(names)}."
            )
        if told:
            hint = "Run the same command again: it repairs what it can. A machine that stays so is to be replaced."
            raise LaunchError(" ".join(told), hint, log.path)


@dataclass(frozen=True)
class _Sight:
    """What there is at one moment.

    Attributes:
        machines: the instances by name, of which a name may have several.
        answering: the names whose minion answers.
        deaf: why nobody can hear them; then silence is held against no machine.
    """

    machines: Mapping[str, Sequence[Machine]]
    answering: frozenset[str] = frozenset()
    deaf: str = ""

    @classmethod
    def take(cls, client: EC2Client) -> _Sight:
        machines: dict[str, list[Machine]] = {}
        for machine in find_machines(client):
            machines.setdefault(machine.name, []).append(machine)
        return cls(machines)

    def one(self, name: str) -> Machine | None:
        found = self.machines.get(name, ())
        return found[0] if len(found) == 1 else None

    def running(self, names: Iterable[str]) -> dict[str, Machine]:
        found = {name: self.one(name) for name in names}
        return {
            name: machine
            for name, machine in found.items()
            if machine and machine.state == "running"
        }

    def ids(self) -> set[str]:
        return {machine.instance_id for found in self.machines.values() for machine in found}

    def wanting(self, name: str) -> str:
        """Return why a run of salt-cloud should see to this name; empty: it need not."""
        found, machine = self.machines.get(name, ()), self.one(name)
        if machine is None:
            ids = ", ".join(one.instance_id for one in found)
            return (
                f"it exists {len(found)} times: {ids}; terminate all but one"
                if found
                else "there is none"
            )
        if machine.state != "running":
            return f"it is {machine.state}"
        if not machine.deployed:
            return "its deployment was not finished"
        return "" if name in self.answering or self.deaf else "its minion does not answer"


# -- salt-cloud ------------------------------------------------------------------------------------


def map_words(deployment: Deployment, *, serial: bool = False) -> list[str]:
    """Return what applies the deployment's map on the master."""
    return ["--map", _on_master(deployment), *([] if serial else ["--parallel"])]


def profile_words(deployment: Deployment, name: str) -> list[str]:
    """Return what launches one machine of the map by its profile."""
    return ["--profile", deployment.machines()[name], name]


def require_same_map(deployment: Deployment, master: Master) -> None:
    """Raise StackError unless the map on the master is the one that names the machines here."""
    if (
        master.command(["cat", _on_master(deployment)], what="reading the map")
        != deployment.map_path.read_text()
    ):
        raise StackError(
            f"{deployment.map_path.name} is another one on {master.machine.name} than here.",
            "Bring it there: stackctl up",
        )


def _on_master(deployment: Deployment) -> str:
    return f"/etc/salt/cloud.maps.d/{deployment.map_name}.map"


def read_answer(output: str) -> dict[str, Any]:
    """Return what salt-cloud says of each name.

    Args:
        output: what `--out=json` printed; the deploy script's own words may stand before the object.

    Raises:
        LaunchError: there is no such object in it.
    """
    lines = output.splitlines()
    # The outputter indents: only the whole answer begins with its line.
    start = next(
        (number for number in reversed(range(len(lines))) if lines[number] in ("{", "{}")),
        len(lines),
    )
    try:
        answer = json.loads("\n".join(lines[start:]))
    except json.JSONDecodeError:
        words = " ".join(output.split())
        quoted = f"'{words if len(words) <= 200 else f'… {words[-200:]}'}'" if words else "nothing"
        raise LaunchError(f"salt-cloud was to answer in JSON, and said {quoted}.") from None
    return dict(answer)


def _error(answer: Any) -> str:
    """Return the reason that salt-cloud gives for a name; empty: it gives none."""
    reason = answer.get("Error", "") if isinstance(answer, Mapping) else ""
    return " ".join(str(reason).split())


# -- the run ---------------------------------------------------------------------------------------


def step(
    progress: Progress,
    title: str,
    side: Side,
    client: EC2Client,
    names: Sequence[str],
    words: Sequence[str],
    log: Log,
    on_failure: OnFailure,
    show: Callable[[Result], None],
) -> Result:
    """Run `apply` as a step that the operator sees, and `show` what it came to.

    Raises:
        LaunchError: a machine falls short.
    """
    with progress.step(title) as one:
        result = apply(side, client, names, words, one.report, on_failure)
        show(result)
        result.require(log)
        one.changed = bool(result.changed)
        one.detail = ", ".join(f"{verdict.outcome} {verdict.machine}" for verdict in result.changed)
    return result


def plan(side: Side, client: EC2Client, names: Sequence[str]) -> Result:
    """Return what `apply` would do to each name; changes nothing."""
    before = _listen(side, _Sight.take(client), names)
    barred = _unreachable(side, before.running(names))
    to_do: dict[str, Outcome] = {
        name: "to repair" if name in before.machines else "to launch"
        for name in _to_do(before, names, barred)
    }
    verdicts = [_judge(name, before, before, barred) for name in names]
    return Result(
        tuple(replace(one, outcome=to_do.get(one.machine, one.outcome)) for one in verdicts)
    )


def apply(
    side: Side,
    client: EC2Client,
    names: Sequence[str],
    words: Sequence[str],
    report: Callable[[str], None],
    on_failure: OnFailure = "keep",
) -> Result:
    """Have salt-cloud launch and repair machines, unless all are well, and judge each.

    Args:
        side: where salt-cloud runs.
        client: the EC2 API.
        names: the machines that are wanted.
        words: what makes salt-cloud see to them.
        report: receives lines of progress.
        on_failure: `destroy` takes away what this run launched and what falls short; a machine that was there before
            is never destroyed.
    """
    before = after = _listen(side, _Sight.take(client), names)
    barred = _unreachable(side, before.running(names))
    said: dict[str, Any] = {}
    problems: list[str] = []
    if to_do := _to_do(before, names, barred):
        _mark_for_repair(client, before, to_do)
        report(f"salt-cloud sees to {', '.join(to_do)}")
        try:
            said = read_answer(side.salt_cloud(words, len(to_do)))
        except StackError as error:
            problems.append(error.what)
        report("waiting for the minions")
        installed = {
            name
            for name in to_do
            if isinstance(said.get(name), Mapping) and said[name].get("deployed")
        }
        after = _listen(side, _Sight.take(client), names, installed)
        problems += [after.deaf] if after.deaf else []
        barred = _unreachable(side, after.running(names))
    verdicts = [_judge(name, before, after, barred, _error(said.get(name))) for name in names]
    known = before.ids()
    verdicts += [
        Verdict(
            name,
            "unexpected",
            None,
            machine,
            reason="it appeared meanwhile, and the map does not name it",
        )
        for name, found in after.machines.items()
        for machine in found
        if name not in names and machine.instance_id not in known
    ]
    if on_failure == "destroy":
        verdicts = _destroy(side, client, verdicts, known, report)
    return Result(tuple(verdicts), "; ".join(problem.rstrip(".") for problem in problems))


def _listen(
    side: Side, sight: _Sight, names: Sequence[str], installed: Iterable[str] | None = None
) -> _Sight:
    """Return the sight with the minions that answer; those `installed` just now have longer to begin."""
    running = sight.running(names)
    if installed is None:
        return replace(
            sight, answering=frozenset(side.answering(running, time.monotonic() + KNOWN_SECONDS))
        )
    new = {name: machine for name, machine in running.items() if name in installed}
    old = {name: machine for name, machine in running.items() if name not in installed}
    found: set[str] = set()
    deaf = ""
    try:
        for machines, seconds in ((new, NEW_SECONDS), (old, KNOWN_SECONDS)):
            found |= side.answering(machines, time.monotonic() + seconds)
    except LaunchError as error:  # by now salt-cloud has had its say: a table without the minions says more than none
        deaf = error.what
    return replace(sight, answering=frozenset(found), deaf=deaf)


def _unreachable(side: Side, machines: Mapping[str, Machine]) -> dict[str, str]:
    """Return name -> reason for the machines to which SSH does not work."""

    def reason(machine: Machine) -> str:
        try:
            side.reach(machine)
        except StackError as error:
            return error.what.rstrip(".")
        return ""

    with ThreadPoolExecutor(max_workers=8) as pool:
        reasons = dict(zip(machines, pool.map(reason, machines.values()), strict=True))
    return {name: text for name, text in reasons.items() if text}


def _to_do(before: _Sight, names: Iterable[str], barred: Mapping[str, str]) -> list[str]:
    """Return the names that salt-cloud can do something for.

    A machine that runs without letting salt-cloud in is beyond its repair, unless it is still being installed.
    """
    wanting = [name for name in names if before.wanting(name)]
    return [
        name
        for name in wanting
        if name not in before.machines
        or ((one := before.one(name)) and (one.deploy == "pending" or name not in barred))
    ]


def _mark_for_repair(client: EC2Client, before: _Sight, names: Iterable[str]) -> None:
    """Tell the driver which machines are not well after all: it leaves alone what is marked as deployed."""
    found = [
        machine for name in names if (machine := before.one(name)) and machine.deploy != "pending"
    ]
    if found:
        ids = [machine.instance_id for machine in found]
        client.create_tags(Resources=ids, Tags=[{"Key": DEPLOY_TAG, "Value": "pending"}])


def _judge(
    name: str, before: _Sight, after: _Sight, barred: Mapping[str, str], error: str = ""
) -> Verdict:
    """Return the verdict on one name; the first reason that is given counts: salt-cloud's own is the most exact."""
    old, new = before.one(name), after.one(name)
    reason = error or after.wanting(name) or barred.get(name, "")
    answers = name in after.answering
    outcome: Outcome
    if new is None:
        outcome = "twice" if name in after.machines else "absent"
    elif old is None:
        outcome = "kept" if name in before.machines else "launched"
    elif old.instance_id != new.instance_id:
        outcome = "replaced"
    else:
        outcome = "repaired" if before.wanting(name) and answers and not reason else "kept"
    reachable = name not in barred and name in after.running([name])
    return Verdict(name, outcome, old, new, reachable, answers, reason)


def _release(client: EC2Client, instance_ids: Iterable[str]) -> None:
    """Let new machines be terminated with their root volumes, whatever protects them: nothing is on them yet."""
    for page in client.get_paginator("describe_instances").paginate(InstanceIds=list(instance_ids)):
        for instance in (one for group in page["Reservations"] for one in group["Instances"]):
            instance_id, root = instance["InstanceId"], instance.get("RootDeviceName")
            client.modify_instance_attribute(
                InstanceId=instance_id, DisableApiTermination={"Value": False}
            )
            if any(each["DeviceName"] == root for each in instance.get("BlockDeviceMappings", [])):
                client.modify_instance_attribute(
                    InstanceId=instance_id,
                    BlockDeviceMappings=[
                        {"DeviceName": str(root), "Ebs": {"DeleteOnTermination": True}}
                    ],
                )


def _destroy(
    side: Side,
    client: EC2Client,
    verdicts: list[Verdict],
    known: set[str],
    report: Callable[[str], None],
) -> list[Verdict]:
    """Destroy what this run launched and what falls short, its key included, and return the verdicts after that."""
    victims = {
        one.machine: one.after.instance_id
        for one in verdicts
        if one.outcome in ("launched", "replaced")
        and not one.good
        and one.after
        and one.after.instance_id not in known
    }
    if not victims:
        return verdicts
    report(f"destroying {', '.join(victims)}")
    failure = "it still runs"
    _release(client, victims.values())
    try:
        side.salt_cloud(["--destroy", *victims], len(victims))
    except StackError as error:
        failure = error.what
    living = _Sight.take(client).ids()
    after = []
    for one in verdicts:
        if one.machine not in victims:
            after.append(one)
        elif victims[one.machine] in living:
            after.append(replace(one, reason=f"{one.reason}; destroying it failed: {failure}"))
        else:
            reason = f"{one.reason}; then it was destroyed, and its key with it"
            after.append(
                replace(
                    one,
                    outcome="destroyed",
                    after=None,
                    reachable=False,
                    answers=False,
                    reason=reason,
                )
            )
    return after
