"""Launches and repairs the machines of a deployment, and judges each of them.

salt-cloud ends with exit code 0 when machines fail. So the verdict on a machine comes from what
EC2, sshd and its minion report before and after the run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from saltext.ec2.tags import DEPLOY_TAG
from stackctl.errors import StackError
from stackctl.machines import Machine, start_machines
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.salt_cloud import Request, SaltCloudHost, error_in, read_output
from stackctl.snapshot import Snapshot, after_run, before_run
from stackctl.verdict import Outcome, Result, Verdict

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

OnFailure = Literal["keep", "destroy"]
ON_FAILURE = get_args(OnFailure)
Report = Callable[[str], None]
"""Receives one line of progress at a time."""


def plan(client: EC2Client, host: SaltCloudHost, names: Sequence[str]) -> Result:
    """Return what a run would do to each machine; changes nothing."""
    before = before_run(client, host, names)
    to_do: dict[str, Outcome] = {
        name: "to repair" if name in before.machines else "to launch"
        for name in _to_do(before, names)
    }
    to_do |= dict.fromkeys(_stopped(before, names), "to start")
    verdicts = [_judge(name, before, before) for name in names]
    return Result(
        tuple(
            replace(verdict, outcome=to_do.get(verdict.machine, verdict.outcome))
            for verdict in verdicts
        )
    )


@dataclass(frozen=True)
class _Run:
    """The outcome of salt-cloud: a snapshot, answers by machine, and errors that concern all."""

    after: Snapshot
    answers: Mapping[str, Any]
    problems: Sequence[str] = ()


class Launcher:
    """Has machines launched and repaired, step by step, for one run of stackctl."""

    def __init__(
        self,
        client: EC2Client,
        progress: Progress,
        log: Log,
        *,
        on_failure: OnFailure = "keep",
        show: Callable[[Result], None],
    ) -> None:
        """Keep the context of all steps.

        Args:
            client: the EC2 API.
            progress: where to show the steps.
            log: the log that an error names.
            on_failure: `destroy` removes machines that the run launched and that are not ready; it
                never removes a machine that existed before.
            show: receives the result of each step.
        """
        self._client = client
        self._progress = progress
        self._log = log
        self._on_failure = on_failure
        self._show = show

    def step(self, title: str, request: Request, new: Collection[str] = ()) -> Result:
        """Run `apply` as a step that the operator sees.

        Raises:
            LaunchError: a machine is not ready.
        """
        with self._progress.step(title) as step:
            result = self.apply(request, step.report, new)
            self._show(result)
            result.require(self._log, self._client.meta.region_name)
            step.changed = bool(result.changed)
            step.detail = ", ".join(
                f"{verdict.outcome} {verdict.machine}" for verdict in result.changed
            )
        return result

    def apply(self, request: Request, report: Report, new: Collection[str] = ()) -> Result:
        """Start the machines that are stopped, have salt-cloud launch and repair the others.

        Args:
            request: the machines.
            report: receives lines of progress.
            new: those whose minion has longer to answer, because its master has just started.

        Returns:
            A verdict on each machine.

        Raises:
            LaunchError: no minion can be asked before the run.
        """
        first = Snapshot.of_instances(self._client, request.host.deployment)
        started = self._start(first, request.names, report)
        now = before_run(self._client, request.host, request.names, {*new, *started})
        run = _Run(now, {})
        if to_do := _to_do(now, request.names):
            _mark_for_repair(self._client, now, to_do)
            run = self._salt_cloud(request, to_do, report)
        before = replace(now, machines=first.machines)
        verdicts = [
            _judge(name, before, run.after, error_in(run.answers.get(name)))
            for name in request.names
        ]
        verdicts = [
            replace(verdict, outcome="started")
            if verdict.machine in started and verdict.machine not in to_do and verdict.ready
            else verdict
            for verdict in verdicts
        ]
        verdicts += _unexpected(before, run.after, request.names)
        if self._on_failure == "destroy":
            verdicts = self._destroy(request.host, verdicts, before.ids(), report)
        problem = "; ".join(problem.rstrip(".") for problem in run.problems)
        return Result(tuple(verdicts), problem)

    def _start(self, before: Snapshot, names: Sequence[str], report: Report) -> set[str]:
        """Start the machines that are stopped and have their minion; return those that run now.

        A minion keeps its key, so nothing has to be installed. salt-cloud tries the others, and
        says why EC2 does not start them.
        """
        stopped = _stopped(before, names)
        if not stopped:
            return set()
        report(f"starting {', '.join(stopped)}")
        refused = start_machines(self._client, stopped.values())
        for name, error in refused.items():
            self._log.write(f"starting {name}: {error}")
        return set(stopped) - set(refused)

    def _salt_cloud(self, request: Request, to_do: Sequence[str], report: Report) -> _Run:
        report(f"salt-cloud launches or repairs {', '.join(to_do)}")
        answers: dict[str, Any] = {}
        problems: list[str] = []
        try:
            answers = read_output(request.host.salt_cloud(request.args, len(to_do)))
        except StackError as error:
            problems.append(error.what)
        report("waiting for the minions")
        installed = {
            name
            for name in to_do
            if isinstance(answers.get(name), Mapping) and answers[name].get("deployed")
        }
        after = after_run(self._client, request.host, request.names, installed)
        if after.unreachable:
            problems.append(after.unreachable)
        return _Run(after, answers, problems)

    def _destroy(
        self, host: SaltCloudHost, verdicts: list[Verdict], known: set[str], report: Report
    ) -> list[Verdict]:
        """Destroy the machines that this run launched and that are not ready, with their keys.

        Args:
            host: where salt-cloud runs.
            verdicts: on all machines.
            known: the ids of instances that existed before the run.
            report: receives lines of progress.

        Returns:
            The verdicts after that.
        """
        to_destroy = {
            verdict.machine: verdict.after.instance_id
            for verdict in verdicts
            if verdict.outcome in ("launched", "replaced")
            and not verdict.ready
            and verdict.after
            and verdict.after.instance_id not in known
        }
        if not to_destroy:
            return verdicts
        report(f"destroying {', '.join(to_destroy)}")
        failure = "it still runs"
        _unprotect(self._client, to_destroy.values())
        try:
            host.salt_cloud(["--destroy", *to_destroy], len(to_destroy))
        except StackError as error:
            failure = error.what
        remaining = Snapshot.of_instances(self._client, host.deployment).ids()
        after = []
        for verdict in verdicts:
            instance_id = to_destroy.get(verdict.machine)
            if instance_id is None:
                after.append(verdict)
            elif instance_id in remaining:
                reason = f"{verdict.reason}; destroying it failed: {failure}"
                after.append(replace(verdict, reason=reason))
            else:
                reason = f"{verdict.reason}; then it was destroyed, and its key with it"
                after.append(Verdict(verdict.machine, "destroyed", verdict.before, None,
                                     reason=reason))  # fmt: skip
        return after


def _to_do(before: Snapshot, names: Iterable[str]) -> list[str]:
    """Return the machines that salt-cloud can launch or repair.

    salt-cloud cannot repair a machine that runs and refuses SSH, unless its first deployment is not
    finished.
    """

    def can_be_done(name: str) -> bool:
        if name not in before.machines:
            return True
        machine = before.only(name)
        return machine is not None and (machine.deploy == "pending" or not before.ssh_error(name))

    return [name for name in names if before.problem(name) and can_be_done(name)]


def _stopped(before: Snapshot, names: Iterable[str]) -> dict[str, Machine]:
    """Return the machines that are stopped, and only have to be started."""
    found = {name: before.only(name) for name in names}
    return {
        name: machine
        for name, machine in found.items()
        if machine and machine.state in ("stopping", "stopped") and machine.deployed
    }


def _mark_for_repair(client: EC2Client, before: Snapshot, names: Iterable[str]) -> None:
    """Have the driver deploy these machines again: it skips those that are marked as deployed."""
    machines = [machine for name in names if (machine := before.only(name))]
    ids = [machine.instance_id for machine in machines if machine.deploy != "pending"]
    if ids:
        client.create_tags(Resources=ids, Tags=[{"Key": DEPLOY_TAG, "Value": "pending"}])


def _judge(name: str, before: Snapshot, after: Snapshot, error: str = "") -> Verdict:
    """Return the verdict on one machine.

    Its reason is salt-cloud's own, where there is one, because that is the most exact.
    """
    old, new = before.only(name), after.only(name)
    reason = error or after.problem(name) or after.ssh_error(name)
    answers = name in after.answering
    outcome: Outcome
    if new is None:
        outcome = "twice" if name in after.machines else "absent"
    elif old is None:
        outcome = "kept" if name in before.machines else "launched"
    elif old.instance_id != new.instance_id:
        outcome = "replaced"
    else:
        outcome = "repaired" if before.problem(name) and answers and not reason else "kept"
    reachable = not after.ssh_error(name) and name in after.running([name])
    return Verdict(name, outcome, old, new, reachable, answers, reason)


def _unexpected(before: Snapshot, after: Snapshot, names: Sequence[str]) -> list[Verdict]:
    """Return verdicts on machines that appeared during the run and that nobody asked for."""
    known = before.ids()
    reason = "it appeared during the run, and the map does not name it"
    return [
        Verdict(name, "unexpected", None, machine, reason=reason)
        for name, machines in after.machines.items()
        for machine in machines
        if name not in names and machine.instance_id not in known
    ]


def _unprotect(client: EC2Client, instance_ids: Iterable[str]) -> None:
    """Allow EC2 to terminate new machines with their root volumes: they hold no data yet."""
    for page in client.get_paginator("describe_instances").paginate(InstanceIds=list(instance_ids)):
        for instance in (found for group in page["Reservations"] for found in group["Instances"]):
            instance_id, root = instance["InstanceId"], instance.get("RootDeviceName")
            client.modify_instance_attribute(
                InstanceId=instance_id, DisableApiTermination={"Value": False}
            )
            devices = instance.get("BlockDeviceMappings", [])
            if any(device["DeviceName"] == root for device in devices):
                client.modify_instance_attribute(
                    InstanceId=instance_id,
                    BlockDeviceMappings=[
                        {"DeviceName": str(root), "Ebs": {"DeleteOnTermination": True}}
                    ],
                )
