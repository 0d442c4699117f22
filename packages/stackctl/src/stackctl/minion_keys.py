"""Gives Salt minions new keys, so that one which somebody has copied opens nothing any more.

Salt binds a key to no address: whoever has a minion's key gets that minion's secrets, from each
machine that reaches the master (docs/security.md). The new key is made on the machine, which it
never leaves, and the way of its public half is SSH. Nobody notices: the site needs no minion.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from stackctl import held_master, salt
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError
from stackctl.machines import ec2_client, list_machines
from stackctl.maintenance import Fleet
from stackctl.progress import Progress
from stackctl.run import Log

MINION_PKI = f"{salt.PKI}/minion"
ANSWER_SECONDS = 60


def rotate(
    deployment: Deployment, names: Sequence[str], progress: Progress, log: Log, *, wait: bool
) -> None:
    """Give minions new keys, one after the other; the first one that fails stops the rest.

    A run that is interrupted is repeated: until a minion has its new key, it waits for it.

    Args:
        deployment: whose minions.
        names: machines, or roles for all their machines.
        progress: where to show the steps.
        log: where to keep their output.
        wait: for another run that changes the deployment.

    Raises:
        BusyError: another run changes the deployment.
        ConvergeError: there is no such machine, or one does not answer with its new key.
        StackError: a machine cannot be reached.
    """
    with held_master.hold(deployment, "rotate-keys", progress, log, wait=wait) as held:
        master, shell = held.master.machine, held.shell
        with progress.step("preflight"):
            wanted = Fleet(held.master).expanded(names)
            machines = list_machines(ec2_client(deployment), deployment)
            if lacking := [name for name in wanted if name not in machines]:
                raise ConvergeError(f"{lacking[0]} does not exist.", deployment.command("status"))
        for name in wanted:
            with progress.step(f"key of {name}") as step:
                machine = machines[name]
                shell.trust(machine)
                public = shell.script(
                    machine,
                    ["new-minion-key", MINION_PKI],
                    master=master,
                    what=f"making a key on {name}",
                )
                shell.script(
                    master,
                    ["accept-minion-key", salt.MASTER_PKI, name],
                    stdin=public,
                    what=f"accepting the new key of {name}",
                )
                shell.script(
                    machine,
                    ["use-minion-key", MINION_PKI],
                    master=master,
                    what=f"restarting the minion of {name}",
                )
                if not held.master.answering([name], time.monotonic() + ANSWER_SECONDS):
                    raise ConvergeError(
                        f"{name} does not answer with its new key.",
                        f"Run this again; {deployment.command('up')} installs its minion anew.",
                    )
                step.changed = True
