"""The machines at one moment, as EC2, sshd and the minions report them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from stackctl.deployment import Deployment
from stackctl.errors import LaunchError, StackError
from stackctl.machines import Machine, find_machines
from stackctl.salt_cloud import SaltCloudHost

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

KNOWN_SECONDS = 30  # that a minion has to answer
NEW_SECONDS = 180  # the same for a minion that was just installed, and for one that boots


@dataclass(frozen=True)
class Snapshot:
    """The machines at one moment.

    Attributes:
        machines: the instances by name; a name may have several.
        answering: the names whose minion answers.
        unreachable: why no minion could be asked; then their silence is no machine's fault.
        ssh_errors: name -> why SSH fails.
    """

    machines: Mapping[str, Sequence[Machine]]
    answering: frozenset[str] = frozenset()
    unreachable: str = ""
    ssh_errors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_instances(cls, client: EC2Client, deployment: Deployment) -> Snapshot:
        """Return a snapshot of the instances alone."""
        machines: dict[str, list[Machine]] = {}
        for machine in find_machines(client, deployment):
            machines.setdefault(machine.name, []).append(machine)
        return cls(machines)

    def only(self, name: str) -> Machine | None:
        """Return the instance of a name; None when it has none or several."""
        found = self.machines.get(name, ())
        return found[0] if len(found) == 1 else None

    def running(self, names: Iterable[str]) -> dict[str, Machine]:
        """Return the machines among `names` that run."""
        found = {name: self.only(name) for name in names}
        return {
            name: machine
            for name, machine in found.items()
            if machine and machine.state == "running"
        }

    def ids(self) -> set[str]:
        """Return the ids of all instances."""
        return {machine.instance_id for found in self.machines.values() for machine in found}

    def ssh_error(self, name: str) -> str:
        """Return why SSH to a machine fails; empty: it works, or the machine does not run."""
        return self.ssh_errors.get(name, "")

    def problem(self, name: str) -> str:
        """Return why salt-cloud has to launch or repair a machine; empty: it need not."""
        found, machine = self.machines.get(name, ()), self.only(name)
        if machine is None:
            ids = ", ".join(instance.instance_id for instance in found)
            return (
                f"it exists {len(found)} times: {ids}; terminate all but one"
                if found
                else "it does not exist"
            )
        if machine.state != "running":
            return f"it is {machine.state}"
        if not machine.deployed:
            return "its deployment was not finished"
        answers = name in self.answering or self.unreachable
        return "" if answers else "its minion does not answer"


def before_run(
    client: EC2Client, host: SaltCloudHost, names: Sequence[str], new: Collection[str] = ()
) -> Snapshot:
    """Return a snapshot of the machines before salt-cloud runs; see `after_run`.

    Raises:
        LaunchError: no minion can be asked.
    """
    snapshot, error = _take(client, host, names, new)
    if error:
        raise error
    return snapshot


def after_run(
    client: EC2Client, host: SaltCloudHost, names: Sequence[str], new: Collection[str]
) -> Snapshot:
    """Return a snapshot of the machines after salt-cloud ran.

    When no minion can be asked, the snapshot says so: the rest of it is still worth a table.

    Args:
        client: the EC2 API.
        host: where salt-cloud ran.
        names: the machines that the run was for.
        new: those that boot, or whose minion was just installed; they have longer to answer.
    """
    return _take(client, host, names, new)[0]


def _take(
    client: EC2Client, host: SaltCloudHost, names: Sequence[str], new: Collection[str]
) -> tuple[Snapshot, LaunchError | None]:
    snapshot = Snapshot.of_instances(client, host.deployment)
    running = snapshot.running(names)
    fresh = {name: machine for name, machine in running.items() if name in new}
    known = {name: machine for name, machine in running.items() if name not in new}
    # Side by side: those that are known need not wait until the others have booted.
    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(partial(_look, host), (fresh, known), (NEW_SECONDS, KNOWN_SECONDS)))
    failure = next((look.failure for look in looks if look.failure), None)
    taken = replace(
        snapshot,
        answering=frozenset().union(*(look.answering for look in looks)),
        unreachable=failure.what if failure else "",
        ssh_errors={name: text for look in looks for name, text in look.ssh_errors.items()},
    )
    return taken, failure


class _Look(NamedTuple):
    """What some machines answer: see `Snapshot`."""

    answering: frozenset[str]
    failure: LaunchError | None
    ssh_errors: Mapping[str, str]


def _look(host: SaltCloudHost, machines: Mapping[str, Machine], seconds: float) -> _Look:
    answering: frozenset[str] = frozenset()
    failure = None
    try:
        answering = frozenset(host.answering(machines, time.monotonic() + seconds))
    except LaunchError as error:
        failure = error
    return _Look(answering, failure, _ssh_errors(host, machines))


def _ssh_errors(host: SaltCloudHost, machines: Mapping[str, Machine]) -> dict[str, str]:
    """Return name -> error for the machines to which SSH fails."""

    def error_of(machine: Machine) -> str:
        try:
            host.reach(machine)
        except StackError as error:
            return error.what.rstrip(".")
        return ""

    with ThreadPoolExecutor(max_workers=8) as pool:
        errors = dict(zip(machines, pool.map(error_of, machines.values()), strict=True))
    return {name: text for name, text in errors.items() if text}
