"""Gives the Salt master another key, so that who has copied the old one commands no machine.

Minions pin the master's key. The new one is made on the master's machine, which it never leaves;
its public half reaches each machine by SSH. The site needs no master meanwhile.
"""

from __future__ import annotations

import time

from stackctl import held_master, salt
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError
from stackctl.machines import ec2_client, list_machines
from stackctl.minion_keys import ANSWER_SECONDS, MINION_PKI
from stackctl.progress import Progress
from stackctl.run import Log


def rotate(deployment: Deployment, progress: Progress, log: Log, *, wait: bool) -> None:
    """Give the master another key, and have every machine trust that one.

    All machines are reached before anything changes. Those that do not answer afterwards, also
    because this was interrupted, are for `up`, which installs their minions anew.

    Args:
        deployment: whose master.
        progress: where to show the steps.
        log: where to keep their output.
        wait: for another run that changes the deployment.

    Raises:
        BusyError: another run changes the deployment.
        ConvergeError: machines do not answer, before or afterwards.
        StackError: a machine cannot be reached.
    """
    with held_master.hold(deployment, "rotate-own-key", progress, log, wait=wait) as held:
        master, shell = held.master.machine, held.shell
        machines = list_machines(ec2_client(deployment), deployment)
        with progress.step("machines"):
            _require(held.master, deployment, set(machines), "nothing is changed")
            for machine in machines.values():
                shell.trust(machine)
        with progress.step("new key") as step:
            public = shell.script(
                master,
                ["new-master-key", salt.MASTER_PKI, master.name],
                what="giving the master another key",
            )
            step.changed = True
        for name, machine in machines.items():
            with progress.step(f"trust of {name}") as step:
                shell.script(
                    machine,
                    ["trust-master-key", salt.SALT, MINION_PKI],
                    master=master,
                    stdin=public,
                    what=f"having the minion of {name} trust the new key",
                )
                step.changed = True
        with progress.step("answers"):
            _require(held.master, deployment, set(machines), "the master has its new key")


def _require(master: salt.Master, deployment: Deployment, names: set[str], state: str) -> None:
    """Stop unless all minions answer."""
    answering = master.answering(sorted(names), time.monotonic() + ANSWER_SECONDS)
    if silent := sorted(names - answering):
        raise ConvergeError(
            f"No answer from {', '.join(silent)}; {state}.",
            f"{deployment.command('up')} installs such minions anew.",
        )
