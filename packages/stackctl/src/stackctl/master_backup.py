"""Backups of the Salt master's keys: made and restored on the master, whose role has the bucket.

`salt/master/files/master_backup.py` does the work. It runs from the tree, because a new master has
to get its keys before any state is applied there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stackctl import salt, tree, tree_modules
from stackctl.account import enter
from stackctl.deployment import Deployment
from stackctl.errors import (
    BackupError,
    CommandError,
    NoBackupError,
    SecretsError,
    UnreachableError,
)
from stackctl.locks import Holder, Jobs, Note, Session, on_this_host
from stackctl.machines import Machine, ec2_client, find_machines, list_machines, require_master
from stackctl.run import Log
from stackctl.secret_store import SecretStore
from stackctl.ssh import Shell

PROGRAM = f"{tree.HOME}/current/salt/master/files/master_backup.py"  # on the master
NONE = 3  # its exit code when the bucket has no backup
NEWEST, WITHOUT = "newest", "none"  # in the place of a backup's name


@dataclass(frozen=True)
class Restored:
    """What a restore has done, or would do.

    Attributes:
        name: of the backup.
        minions: whose keys come from it.
        left: those whose keys stay out, because their machines do not exist.
        changes: the files on the master that differ from it.
    """

    name: str
    minions: tuple[str, ...]
    left: tuple[str, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What `restore` is told.

    Attributes:
        name: of the backup; empty: the newest.
        dry_run: whether to change nothing.
        wait: for another run that changes the deployment.
    """

    name: str = ""
    dry_run: bool = False
    wait: bool = False


@dataclass(frozen=True)
class Rescue:
    """What a new master shall have.

    Attributes:
        others: the machines that exist, whose minions know the lost master's key.
        choice: the name of a backup, or `NEWEST`.
    """

    others: Sequence[str]
    choice: str = NEWEST


def back_up(deployment: Deployment, log: Log) -> dict[str, Any]:
    """Make a backup now; return where it is, its size, its minions, and how many can open it.

    Raises:
        BackupError: why there is none.
        NotUpError: no master runs.
    """
    return _ask(deployment, log, "backup")


def listed(deployment: Deployment, log: Log) -> dict[str, Any]:
    """Return where the backups are and what is known of each, the newest first; see `back_up`."""
    return _ask(deployment, log, "list")


def restore(deployment: Deployment, log: Log, note: Note, choice: Choice) -> Restored:
    """Put a backup in the place of the keys that the master has; it restarts meanwhile.

    Keys of minions that are not in the backup stay.

    Args:
        deployment: which one.
        log: where to keep the output.
        note: told which run this one waits for.
        choice: what to restore.

    Raises:
        BackupError: there is no backup, or it is refused.
        BusyError: another run changes the deployment.
        NotUpError: no master runs; `up` launches one and restores the newest backup there.
    """
    holder = Holder.this("master restore")
    with (
        on_this_host(deployment, holder, note, wait=choice.wait),
        enter(deployment),
        Shell(deployment, client := ec2_client(deployment), log) as shell,
        Session(shell, log, holder, note, wait=choice.wait) as session,
    ):
        machine = require_master(deployment, list_machines(client, deployment))
        shell.trust(machine)
        session.hold(machine)
        names = [found.name for found in find_machines(client, deployment)]
        flags = ["--version", choice.name, *(["--dry-run"] if choice.dry_run else [])]
        found = _restore(deployment, session.jobs, machine, [*_of(names), *flags])
        if found is None:
            raise BackupError("The master has restored nothing.")
        return found


def rescue(
    deployment: Deployment, jobs: Jobs, machine: Machine, rescued: Rescue
) -> Restored | None:
    """Give a master without a key those of the lost one; None: it has a key, and keeps it.

    Raises:
        NoBackupError: there is no backup.
        BackupError: it is refused, or the bucket does not answer.
    """
    flags = ["--version", "" if rescued.choice == NEWEST else rescued.choice, "--if-new"]
    try:
        return _restore(deployment, jobs, machine, [*_of(rescued.others), *flags])
    except NoBackupError:
        raise
    except BackupError as error:
        up = deployment.command("up")
        error.hint = (
            f"An older one: {up} --master-backup NAME; stackctl master backups lists them. Without"
            f" one, so that every minion is installed anew: {up} --master-backup {WITHOUT}"
        )
        raise


def take_private_key(deployment: Deployment) -> tuple[str, str]:
    """Return the deployment's GPG key from the newest backup, and the backup's name.

    It is opened on this host, with an operator's own key in his or her keyring.

    Raises:
        SecretsError: there is no backup, or that key does not open it.
    """
    program = tree_modules.load_file(deployment, "master/files/master_backup.py")
    store = SecretStore(deployment)
    try:
        bucket = program.Bucket(_bucket(deployment), deployment.region())
        version = bucket.find("")
        content = bucket.get(version)
        backup = program.unseal(content, store.public_key, None, deployment.name)
        return backup.files[program.PRIVATE_KEY].decode(), version.name
    except program.BackupError as error:
        raise SecretsError(
            f"The private key {store.private_key} is not on this machine, and no backup of the"
            f" master gives it: {error}.",
            "Copy it here from where the deployment keeps it, or let an operator run this whose own"
            " OpenPGP key opens the secrets.",
        ) from None


def _of(names: Sequence[str]) -> list[str]:
    return ["--machines", ",".join(names)]


def _command(deployment: Deployment, *args: str) -> list[str]:
    """Return the command that runs the program on the master."""
    own = ["--deployment", deployment.name, "--region", deployment.region()]
    own += ["--bucket", _bucket(deployment)]
    return [f"{salt.SALT}/python", PROGRAM, *own, *args]


def _bucket(deployment: Deployment) -> str:
    return deployment.in_account(str(deployment.base_pillar("aws")["bucket"]["name"]))


def _ask(deployment: Deployment, log: Log, verb: str) -> dict[str, Any]:
    with enter(deployment), Shell(deployment, client := ec2_client(deployment), log) as shell:
        machine = require_master(deployment, list_machines(client, deployment))
        shell.trust(machine)
        with _refused(f"stackctl master {verb}"):
            return dict(json.loads(shell.run(machine, _command(deployment, verb), what=verb)))


def _restore(
    deployment: Deployment, jobs: Jobs, machine: Machine, args: Sequence[str]
) -> Restored | None:
    task = "restoring the master's keys"
    args = _command(deployment, "restore", "--id", machine.name, *args)
    with _refused(task):
        found = json.loads(jobs.run(machine, args, task=task))
    if not found["restored"]:
        return None
    lists = (tuple(found[key]) for key in ("minions", "left", "changes"))
    return Restored(found["name"], *lists)


@contextmanager
def _refused(task: str) -> Iterator[None]:
    """Raise BackupError with the program's own sentence for what it refuses."""
    try:
        yield
    except UnreachableError:
        raise
    except CommandError as error:
        kind = NoBackupError if error.code == NONE else BackupError
        lines = [line.strip() for line in error.errors.splitlines() if line.strip()]
        raise kind(f"{task}: {lines[-1] if lines else error.what}.", log=error.log) from None
