"""Brings a rotated SSH key from the secret store to this host and to every machine.

During a rotation this host keeps the old key beside the new one, and a machine accepts one of the
two. So a rotation may be interrupted at any point, and the next run continues it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackctl.catalogue import CLOUD_SSH
from stackctl.deployment import Deployment
from stackctl.errors import LaunchError
from stackctl.files import write_private
from stackctl.machines import list_machines, require_master, start_machines
from stackctl.secret_store import SecretStore
from stackctl.ssh import SSH_USER, Shell
from stackctl.sshkey import public_key

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

AUTHORIZED_KEYS = f"/home/{SSH_USER}/.ssh/authorized_keys"


def follow_store(deployment: Deployment, client: EC2Client, shell: Shell) -> bool:
    """Give this host and every machine the key of the secret store; return whether that changed it.

    Without a Salt master the other machines cannot be reached: then they and this host keep the
    old key until the next run.

    Raises:
        LaunchError: a machine does not start, and would keep the old key.
        CommandError: a machine cannot be reached.
    """
    wanted = SecretStore(deployment).read(CLOUD_SSH)["private_key"]
    key, before = deployment.ssh_key, deployment.ssh_key_before
    # An old key is left from a rotation that was interrupted.
    if before.is_file() and not _replace_key(deployment, client, shell):
        return False
    if not key.is_file() or key.read_text() == wanted:
        return write_private(key, wanted)
    write_private(before, key.read_text())
    write_private(key, wanted)
    _replace_key(deployment, client, shell)
    return True


def _replace_key(deployment: Deployment, client: EC2Client, shell: Shell) -> bool:
    """Replace the old key on every machine, then forget it; return False without a master."""
    machines = list_machines(client, deployment)
    if machines:
        booting = [machine for machine in machines.values() if machine.state != "running"]
        if refused := start_machines(client, booting):
            name, error = next(iter(refused.items()))
            raise LaunchError(
                f"The SSH key is being replaced, and {name} would keep the old one: it does not"
                f" start: {error}.",
                "Remove the cause, or destroy the machine, then run this again.",
            )
        if booting:
            machines = list_machines(client, deployment)
        if deployment.master() not in machines:
            return False
        master = require_master(deployment, machines)
        old = public_key(deployment.ssh_key_before.read_text())
        new = public_key(deployment.ssh_key.read_text())
        others = [machine for machine in machines.values() if machine != master]
        for machine in (master, *others):
            shell.trust(machine)
            if machine.name in {other.name for other in booting}:
                shell.wait_for(machine, master)
            shell.script(
                machine,
                ["replace-ssh-key", AUTHORIZED_KEYS, old, new],
                master=master,
                what=f"replacing the SSH key on {machine.name}",
            )
    deployment.ssh_key_before.unlink()
    return True
