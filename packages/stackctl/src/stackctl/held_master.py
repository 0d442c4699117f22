"""The Salt master: asked by a verb, or held by it, so that nobody else changes the deployment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stackctl import salt, tree
from stackctl.account import enter
from stackctl.deployment import Deployment
from stackctl.locks import Holder, Session, on_this_host
from stackctl.machines import ec2_client, list_machines, require_master
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.ssh import Shell


@dataclass(frozen=True)
class Held:
    """A master that is held.

    Attributes:
        shell: reaches its machine.
        session: the lock on it, which a reboot ends.
        master: what it can be asked for.
    """

    shell: Shell
    session: Session
    master: salt.Master


@contextmanager
def reach(deployment: Deployment, log: Log) -> Iterator[salt.Master]:
    """Yield the master, for questions that change nothing.

    Raises:
        StackError: there is no master, or it cannot be reached.
    """
    with enter(deployment), Shell(deployment, client := ec2_client(deployment), log) as shell:
        machine = require_master(deployment, list_machines(client, deployment))
        shell.trust(machine)
        yield salt.Master(shell, machine, log)


@contextmanager
def hold(
    deployment: Deployment, verb: str, progress: Progress, log: Log, *, wait: bool = False
) -> Iterator[Held]:
    """Hold the master during the block; it has nothing else to do, and this checkout's tree.

    Args:
        deployment: whose master.
        verb: what holds it, for those who wait.
        progress: where to show the steps.
        log: where to keep their output.
        wait: for another run that changes the deployment.

    Raises:
        BusyError: another run changes the deployment.
        StackError: there is no master, it cannot be reached, or it has another tree.
    """
    holder = Holder.this(verb)
    with (
        on_this_host(deployment, holder, progress.note, wait=wait),
        enter(deployment),
        Shell(deployment, client := ec2_client(deployment), log) as shell,
        Session(shell, log, holder, progress.note, wait=wait) as session,
    ):
        machine = require_master(deployment, list_machines(client, deployment))
        shell.trust(machine)
        session.hold(machine)
        master = salt.Master(shell, machine, log, session.jobs)
        with progress.step("master"):
            tree.require_same(deployment, shell, machine, log)
            master.require_quiet(progress.note, wait=wait)
        yield Held(shell, session, master)
