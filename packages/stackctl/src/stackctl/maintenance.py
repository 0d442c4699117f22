"""`stackctl reboot` and `stackctl upgrade`: one machine after the other, while the others serve.

What a machine of each role hands over, and when it must not be away, is in
salt/_modules/maintenance.py. The Salt master cannot reboot itself from there: that is here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stackctl import held_master, salt, site
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError, StackError
from stackctl.progress import Progress
from stackctl.roles import MASTER, role_of
from stackctl.run import Log
from stackctl.ssh import Shell

BOOT_SECONDS = 600
UPGRADE_SECONDS = 3600
_PAUSE = 2
_BOOT = ["sh", "-c", "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f22 /proc/1/stat"]


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        names: machines, or roles for all their machines.
        upgrade: whether to upgrade their packages before they reboot.
        interrupt: also where nobody serves in a machine's place meanwhile.
    """

    names: Sequence[str]
    upgrade: bool = False
    interrupt: bool = False

    @property
    def verb(self) -> str:
        """The verb of the command line."""
        return "upgrade" if self.upgrade else "reboot"


class Fleet:
    """The machines, asked by the Salt master."""

    def __init__(self, master: salt.Master) -> None:
        self._master = master

    def call(self, function: str, *arguments: object) -> Any:
        """Return what a function of salt/_modules/maintenance.py returns on the master.

        Raises:
            ConvergeError: it fails.
        """
        words = [json.dumps(argument) for argument in arguments]
        command = ["salt-run", "--out=json", "salt.cmd", f"maintenance.{function}", *words]
        output = self._master.command(
            [*command, "with_pillar=True"],
            what=f"maintenance.{function}",
            accept=range(256),
            timeout=UPGRADE_SECONDS,
        )
        with contextlib.suppress(ValueError):
            return json.loads(output)
        raise ConvergeError(f"{salt.reason(output)}.")

    def expanded(self, names: Sequence[str]) -> list[str]:
        """Return the machines that names of machines and roles mean, in the order of their turn.

        Raises:
            ConvergeError: there is no such machine.
        """
        known = self._master.accepted()
        found: list[str] = []
        for name in names:
            machines = [each for each in known if name in (each, role_of(each))]
            if not machines:
                raise ConvergeError(
                    f"There is no machine or role '{name}'.", f"There are: {', '.join(known)}."
                )
            found += machines
        ordered: list[str] = self.call("order", found)
        return ordered


def plan(deployment: Deployment, wanted: Wanted, log: Log) -> tuple[list[str], bool]:
    """Return the steps, a line each, and whether all of them are possible now."""
    with held_master.reach(deployment, log) as master:
        fleet = Fleet(master)
        names = fleet.expanded(wanted.names)
        refusals = {} if wanted.interrupt else fleet.call("refusals", names)
        lines = []
        for name in names:
            waiting = fleet.call("pending", name) if wanted.upgrade else ["reboot"]
            if not waiting:
                lines.append(f"{name}: nothing waits")
            elif refusals.get(name):
                lines.append(f"{name}: refused: {refusals[name]}")
            elif wanted.upgrade and waiting != ["reboot"]:
                lines.append(f"{name}: drain, upgrade {', '.join(waiting)}, and reboot")
            else:
                lines.append(f"{name}: drain and reboot")
        return lines, not any(refusals.values())


def run(
    deployment: Deployment, wanted: Wanted, progress: Progress, log: Log, *, wait: bool = False
) -> None:
    """Reboot machines one after the other; the first one that fails stops the rest.

    Args:
        deployment: whose.
        wanted: which, and how.
        progress: where to show the steps.
        log: where to keep their output.
        wait: for another run that changes the deployment.

    Raises:
        BusyError: another run changes the deployment.
        ConvergeError: a machine must not be away now, or did not come back; and why.
    """
    with held_master.hold(deployment, wanted.verb, progress, log, wait=wait) as held:
        master = held.master
        fleet = Fleet(master)
        with progress.step("preflight"):
            names = fleet.expanded(wanted.names)
        for name in names:
            with progress.step(name) as step:
                waiting = fleet.call("pending", name) if wanted.upgrade else ["reboot"]
                if not waiting:
                    step.detail = "nothing waits"
                    continue
                step.report(f"{wanted.verb} {name}")
                if role_of(name) == MASTER:
                    if wanted.upgrade:
                        _upgrade_master(master)
                    _reboot_master(held.shell, master)
                    held.session.hold(master.machine)
                else:
                    told = {
                        "reboot": [name],
                        "upgrade": wanted.upgrade,
                        "interrupt": wanted.interrupt,
                    }
                    master.orchestrate("orch.reboot", step.report, told)
                step.changed, step.detail = True, ", ".join(waiting)
        with progress.step("site") as step:
            site.require_healthy(deployment)
            step.detail = site.address(deployment)


def replace(
    deployment: Deployment, name: str, progress: Progress, log: Log, *, wait: bool = False
) -> None:
    """Drain and destroy a machine, so that the next `up` launches it as its profile and map say.

    That is the way to another zone, type or image. The volume of a protected machine stays behind.

    Args:
        deployment: whose.
        name: the machine.
        progress: where to show the steps.
        log: where to keep their output.
        wait: for another run that changes the deployment.

    Raises:
        BusyError: another run changes the deployment.
        ConvergeError: nobody serves in its place, or has its data; or what failed.
    """
    with held_master.hold(deployment, "replace", progress, log, wait=wait) as held:
        master = held.master
        with progress.step("preflight"):
            if role_of(name) == MASTER:
                raise ConvergeError(
                    f"{name} has the keys of all others.",
                    "See docs/runbooks.md, 'The master is lost'.",
                )
            fleet = Fleet(master)
            if fleet.expanded([name]) != [name]:
                raise ConvergeError(f"'{name}' is no machine.", "Replace one after the other.")
            if refusal := fleet.call("refusals", [name])[name]:
                raise ConvergeError(
                    f"{name} cannot be replaced: {refusal}.",
                    "Where it is the only one: docs/runbooks.md, 'Move a machine to another zone'.",
                )
        with progress.step(f"drain and destroy {name}") as step:
            if role_of(name) == "redis":
                # A master hands over before it stops; draining does no more for a replica.
                question = ["--timeout=120", name, "service.stop", "redis-server"]
                master.ask(question, what=f"stopping Redis on {name}")
            master.retire([name], step.report, with_data=True)
            step.changed = True


def _upgrade_master(master: salt.Master) -> None:
    name = master.machine.name
    question = [f"--timeout={UPGRADE_SECONDS}", name, "pkg.upgrade", "dist_upgrade=True"]
    answer = master.ask(question, what="upgrading the Salt master", timeout=UPGRADE_SECONDS)
    if not isinstance(answer.get(name), dict):
        raise ConvergeError(f"{name}: {salt.reason(str(answer.get(name) or 'no answer'))}.")


def _reboot_master(shell: Shell, master: salt.Master) -> None:
    """Reboot the Salt master, and wait until its minion answers it."""
    machine = master.machine
    before = shell.run(machine, _BOOT, what="asking for its boot")
    with contextlib.suppress(StackError):  # the connection ends with it
        shell.run(machine, ["systemctl", "reboot"], what=f"rebooting {machine.name}")
    deadline = time.monotonic() + BOOT_SECONDS
    while True:
        with contextlib.suppress(StackError):
            if shell.run(machine, _BOOT, what="asking for its boot", timeout=30) != before:
                break
        if time.monotonic() > deadline:
            raise ConvergeError(f"{machine.name} has not come back after its reboot.")
        time.sleep(_PAUSE)
    if not master.answering([machine.name], deadline):
        raise ConvergeError(f"{machine.name} does not answer after its reboot.")
