"""`stackctl up`: the same steps for the deployment `local` and for a real account."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from stackctl import (
    billing,
    ca_rotation,
    capacity,
    cpu_credits,
    credentials,
    host_keys,
    limits,
    local,
    master_backup,
    packages,
    password_rotation,
    preflight,
    salt,
    secret_check,
    settings,
    site,
    ssh_rotation,
    states,
    tree,
    volumes,
)
from stackctl.account import aws_environment, enter, open_account
from stackctl.account_lock import AccountLock
from stackctl.deployment import Deployment
from stackctl.errors import (
    CommandError,
    ConvergeError,
    LaunchError,
    NoBackupError,
    SecretsError,
)
from stackctl.files import write_private
from stackctl.initialise import initialise
from stackctl.launch import Launcher, OnFailure
from stackctl.locks import Holder, Jobs, Session, on_this_host
from stackctl.machines import (
    Machine,
    ec2_client,
    find_machines,
    list_machines,
    require_master,
)
from stackctl.progress import Progress
from stackctl.roles import MASTER
from stackctl.run import Log
from stackctl.salt_cloud import Request, map_args, profile_args
from stackctl.secret_store import AGAIN, SecretStore
from stackctl.ssh import Shell, script_command
from stackctl.states import Migration
from stackctl.surplus import Removal, Surplus
from stackctl.verdict import Result as LaunchResult

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

BOOTSTRAP = f"{tree.HOME}/bootstrap"  # on the master
TRUST_SECONDS = 20  # that its console has to show its host keys, before anything is repaired


@dataclass(frozen=True)
class Result:
    """The outcome of `up`: the site's address, and whether anything changed."""

    url: str
    changed: bool


def check_host(deployment: Deployment) -> None:
    """Raise PreflightError for anything that would stop `up` later; changes nothing."""
    capacity.check(deployment, deployment.bounds())
    preflight.check_programs()
    open_account(deployment).check()


def plan(deployment: Deployment, removal: Removal = "nothing") -> list[str]:
    """Check this host and return the steps that `up` would take; changes nothing.

    Args:
        deployment: which one.
        removal: what it may remove.

    Raises:
        PreflightError: as `up` would.
    """
    check_host(deployment)
    names = list(deployment.machines())
    title = f"deployment {deployment.name}, map {deployment.map_name}"
    steps = [f"{title}: {', '.join(names)} in {deployment.region()}"]
    account = open_account(deployment)
    steps += account.pending()
    if not account.runs():
        return steps
    with enter(deployment):
        client = ec2_client(deployment)
        existing = list_machines(client, deployment)
        now = deployment.with_existing(existing, {})
        names = list(now.machines())
        missing = [name for name in names if name not in existing]
        steps += [f"launch {name}" for name in missing]
        found = find_machines(client, deployment)
        steps += map(str, volumes.differences(now, client, found))
        steps += Surplus.of(now, existing, removal).steps(now)
        steps += [f"warning: {warning}" for warning in _warnings(deployment, client)]
        if not missing:
            steps.append("compare every machine with the tree, and converge what differs")
    return steps


def up(
    deployment: Deployment,
    progress: Progress,
    log: Log,
    *,
    on_failure: OnFailure = "keep",
    show: Callable[[LaunchResult], None] = lambda _: None,
    wait: bool = False,
    removal: Removal = "nothing",
    backup: str = master_backup.NEWEST,
) -> Result:
    """Bring up whatever of the stack is missing or differs from the tree.

    Args:
        deployment: which one.
        progress: where to show the steps.
        log: where to keep their output.
        on_failure: see `launch.Launcher`.
        show: receives the result of each launch.
        wait: for another run that changes the deployment.
        removal: which of the machines that the map does not name this removes: they are drained and
            destroyed when all others run.
        backup: the name of the backup whose keys a new Salt master takes, or `NEWEST` or `WITHOUT`
            of `master_backup`.

    Raises:
        BusyError: another run changes the deployment.
        StackError: what failed, on which machine, and what to do. A later run continues from there.
    """
    holder = Holder.this("up")
    with on_this_host(deployment, holder, progress.note, wait=wait):
        return _up(Run(deployment, progress, log, holder, wait, removal, backup), on_failure, show)


@dataclass(frozen=True)
class Run:
    """What one run of `up` carries along."""

    deployment: Deployment
    progress: Progress
    log: Log
    holder: Holder
    wait: bool
    removal: Removal = "nothing"
    backup: str = master_backup.NEWEST


def _up(run: Run, on_failure: OnFailure, show: Callable[[LaunchResult], None]) -> Result:
    deployment, progress, log = run.deployment, run.progress, run.log
    account = open_account(deployment)
    with progress.step("preflight") as step:
        check_host(deployment)
        if missing := preflight.missing_packages():
            packages.install(missing, log)
            step.changed, step.detail = True, f"installed {', '.join(missing)}"
    variables = account.start(progress)
    recover_key(deployment, progress)
    prepare_secrets(deployment, progress, account.settings())
    check_secrets(deployment, progress)
    remember_map(deployment, progress)
    with aws_environment(variables):
        client = ec2_client(deployment)
        launcher = Launcher(client, progress, log, on_failure=on_failure, show=show)
        with (
            billing.told(deployment, client),
            Shell(deployment, client, log) as shell,
            Session(shell, log, run.holder, progress.note, wait=run.wait) as session,
            contextlib.ExitStack() as locked,
        ):
            with progress.step("AWS account") as step:
                step.warning = "; ".join(_warnings(deployment, client))
            lock = locked.enter_context(
                AccountLock(deployment, run.holder, progress.note, wait=run.wait)
            )
            _hold_early(run, client, shell, session)
            with progress.step("AWS foundation") as step:
                outcome = salt.apply_locally(deployment, log, "aws")
                step.changed, step.detail = bool(outcome.changed), _count(len(outcome.changed))
            grow_volumes(deployment, client, progress)
            # A new Salt master, which finds no console any more, needs these.
            host_keys.publish(client, find_machines(client, deployment), shell.known_keys())
            with progress.step("SSH key") as step:
                step.changed = ssh_rotation.follow_store(deployment, client, shell)
            machines = Machines(run, shell, session.jobs)
            machine = machines.launch_master(launcher)
            session.hold(machine)
            lock.release()
            others = [found.name for found in find_machines(client, deployment)]
            pushed, applied = machines.start_master(
                machine, account.master_files(variables), others
            )
            if applied:
                machine = machines.connect_master(launcher)
            master = salt.Master(shell, machine, log, session.jobs)
            now = machines.with_present(master, find_machines(client, deployment))
            with cpu_credits.named(shell, machine):
                launched = machines.launch_others(launcher, master, now)
                removed = machines.remove_surplus(master, now, find_machines(client, deployment))
                names = () if launched.changed or removed else tuple(now.machines())
                converge(master, Migration.of(now), progress, pushed=pushed, predict=names)
        url = site.address(deployment)
        with progress.step("site") as step:
            site.require_healthy(deployment)
            step.detail = url
    return Result(url, progress.changes > 0)


def _warnings(deployment: Deployment, client: EC2Client) -> list[str]:
    """Return what to know before a run; raise PreflightError for what the account refuses.

    A number that the master has chosen is not known yet; the machines that exist count.
    """
    names = [machine.name for machine in find_machines(client, deployment)]
    found = limits.check(deployment.with_existing(names, {}), client)
    ends = "" if deployment.is_local else credentials.warning()
    return [*found, *([ends] if ends else [])]


def _hold_early(run: Run, client: EC2Client, shell: Shell, session: Session) -> None:
    """Take the lock on a Salt master that can be reached before this run changes anything there."""
    name = run.deployment.master()
    found = [machine for machine in find_machines(client, run.deployment) if machine.name == name]
    if len(found) != 1 or found[0].state != "running":
        return
    master = found[0]
    # One that cannot be reached is repaired before it is locked.
    with contextlib.suppress(CommandError, LaunchError):
        shell.trust(master, timeout=TRUST_SECONDS)
        session.hold(master)


def recover_key(deployment: Deployment, progress: Progress) -> None:
    """Take the deployment's GPG key from the bucket where this host lacks it.

    The Salt master needs it. The operator who runs this opens the backup with a key of his or her
    own, so that git, that key and the bucket are enough.

    Raises:
        SecretsError: there is no backup, or that key does not open it.
    """
    store = SecretStore(deployment)
    if deployment.is_local or store.private_key.is_file() or not store.public_key.is_file():
        return
    with progress.step("GPG key") as step:
        key, backup = master_backup.take_private_key(deployment)
        step.changed = write_private(store.private_key, key)
        step.detail = f"taken from the backup of {backup}"
        step.warning = f"keep a copy of {store.private_key} in a safe place, not in git"


def prepare_secrets(
    deployment: Deployment, progress: Progress, answers: Mapping[str, object]
) -> None:
    """Make the missing secrets of `local`; an operator makes those of a real account.

    Args:
        deployment: which one.
        progress: where to show the step.
        answers: what the settings of `local` have to say about its account.

    Raises:
        SecretsError: a real account lacks a secret, for example one that is new in this tree.
    """
    with progress.step("secrets") as step:
        store = SecretStore(deployment)
        if deployment.is_local:
            made = initialise(deployment, local.base_url(), answers=answers)
            step.changed, step.detail = bool(made), f"made {len(made)}" if made else ""
        elif renamed := store.rename_keys():
            step.changed, step.detail = True, f"renamed {len(renamed)} pillar keys"
            step.warning = f"commit pillar/{deployment.name}: {', '.join(renamed)}"
        deployment.settings()
        if missing := store.missing():
            raise SecretsError(
                f"pillar/{deployment.name} lacks secrets that the machines read:"
                f" {', '.join(missing)}.",
                f"Make what is missing: stackctl secrets init -d {deployment.name}",
            )
        settings.check(deployment, complete=True)
        on = (ca_rotation.current(deployment), password_rotation.current(deployment))
        step.warning = "; ".join(str(part) for part in (step.warning, *on) if part)


def check_secrets(deployment: Deployment, progress: Progress) -> None:
    """Tell what is wrong with the secrets before anything is applied.

    Raises:
        SecretsError: machines cannot be given what they read.
    """
    with progress.step("secrets check") as step:
        found = secret_check.check(deployment)
        if stopping := [str(finding) for finding in found if finding.stops]:
            raise SecretsError(" ".join(stopping), AGAIN)
        if found:
            more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
            step.warning = f"{found[0]}{more} See {deployment.command('secrets check')}"


def grow_volumes(deployment: Deployment, client: EC2Client, progress: Progress) -> None:
    """Give volumes the size of their machines' profiles, where that is larger."""
    found = volumes.differences(deployment, client, find_machines(client, deployment))
    if not found:
        return
    with progress.step("volumes") as step:
        grown, left = volumes.grow(client, found)
        step.changed, step.detail = bool(grown), ", ".join(grown)
        step.warning = "; ".join(left)


def remember_map(deployment: Deployment, progress: Progress) -> None:
    """Write the choice of the map into the settings, where every later run finds it."""
    with progress.step("map") as step:
        before = deployment.remembered_map()
        step.detail = f"{deployment.map_name}: {len(deployment.machines())} machines"
        if deployment.remember_map():
            step.changed = True
            step.detail = f"{before} -> {step.detail}"
            if not deployment.is_local:
                step.warning = f"commit {deployment.settings_path.relative_to(deployment.root)}"


def _count(changes: int) -> str:
    return f"{changes} changes" if changes != 1 else "1 change"


class Machines:
    """The steps of one run of `up` that bring up machines."""

    def __init__(self, run: Run, shell: Shell, jobs: Jobs) -> None:
        self._deployment = run.deployment
        self._log = run.log
        self._progress = run.progress
        self._shell = shell
        self._jobs = jobs
        self._removal = run.removal
        self._backup = run.backup
        self._rescued: tuple[str, ...] = ()

    def launch_master(self, launcher: Launcher) -> Machine:
        """Launch or repair the Salt master from this host, and return the machine."""
        result = launcher.step(self._deployment.master(), self._master_request())
        return require_master(self._deployment, result.machines)

    def connect_master(self, launcher: Launcher) -> Machine:
        """Have the minion of a Salt master that has just started answer it; return the machine.

        Before, nobody could ask that minion, and it may not trust the master's key.
        """
        name = self._deployment.master()
        result = launcher.step(f"{name}'s minion", self._master_request(), new=[name])
        return require_master(self._deployment, result.machines)

    def _master_request(self) -> Request:
        name = self._deployment.master()
        host = salt.Operator(self._deployment, self._shell, self._log)
        return Request(host, [name], profile_args(self._deployment, name))

    def with_present(self, master: salt.Master, existing: Iterable[Machine]) -> Deployment:
        """Return the deployment with the numbers of machines that the master has chosen.

        A new master has chosen none yet; then those that exist count.

        Args:
            master: the Salt master; it has the numbers of the settings.
            existing: the machines in the account.
        """
        if not any(bounds.automatic for bounds in self._deployment.bounds().values()):
            return self._deployment
        recorded = master.recorded_counts()
        now = self._deployment.with_existing((machine.name for machine in existing), recorded)
        if now.counts() != recorded:
            master.record_counts(now.counts())
        return now

    def launch_others(
        self, launcher: Launcher, master: salt.Master, deployment: Deployment
    ) -> LaunchResult:
        """Have the Salt master launch the machines of the map.

        Args:
            launcher: of this run.
            master: the Salt master.
            deployment: with the numbers of machines that it has now.
        """
        names = list(deployment.machines())
        request = Request(master, names, map_args(deployment))
        # Their minions come back to a master that has just got the lost one's keys.
        return launcher.step("machines", request, new=self._rescued)

    def remove_surplus(
        self, master: salt.Master, deployment: Deployment, existing: Iterable[Machine]
    ) -> bool:
        """Remove what the map does not name, as far as this run may; return whether it has.

        Args:
            master: the Salt master.
            deployment: with the numbers of machines that it has now.
            existing: the machines in the account.
        """
        names = {machine.name for machine in existing}
        if self._removal != "nothing":  # a run that was interrupted may have left a key alone
            names |= {*master.accepted()}
        found = Surplus.of(deployment, names, self._removal)
        if not found.going and not found.staying:
            return False
        with self._progress.step("surplus machines") as step:
            step.warning = found.told(deployment)
            if found.going:
                master.wait_for_states(self._progress.note)
                master.retire(found.going, step.report, with_data=self._removal == "with-data")
                step.changed, step.detail = True, f"destroyed {', '.join(found.going)}"
        return bool(found.going)

    def start_master(
        self, machine: Machine, aws_files: Mapping[str, str], others: Iterable[str] = ()
    ) -> tuple[bool, bool]:
        """Have the Salt master serve this tree, with the keys of the one before it.

        Args:
            machine: the master's.
            aws_files: files below ~/.aws that lead it to the account.
            others: the machines that exist; without any, nobody knows an earlier master's key.

        Returns:
            Whether the tree had to be pushed, and whether the master's state was applied.
        """
        deployment, shell = self._deployment, self._shell
        unit = deployment.role_table().roles[MASTER].unit
        with self._progress.step("Salt master") as step:
            step.report("pushing the tree")
            pushed, revision = tree.push(deployment, shell, machine, self._log)
            if aws_files:
                shell.script(
                    machine,
                    ["unpack-private", "/root/.aws"],
                    what=f"writing the AWS configuration of {machine.name}",
                    stdin=tree.files_archive(aws_files),
                )
            changed = 0
            found = ""
            apply = pushed or not self._is_ready(machine, unit)
            if apply:
                if minions := {*others} - {machine.name}:
                    step.report("looking for its keys")
                    found = self._rescue(machine, sorted(minions))
                step.report("applying its state")
                changed = self._bootstrap_master(machine)
            step.changed = pushed or bool(changed)
            step.detail = f"revision {revision[:12]}{'-dirty' if 'dirty' in revision else ''}"
            untracked = tree.untracked_warning(deployment, self._log)
            step.warning = "; ".join(part for part in (found, untracked) if part)
        return pushed, apply

    def _rescue(self, machine: Machine, others: Sequence[str]) -> str:
        """Give a master without a key those of the lost one; return what to know about that."""
        if self._backup == master_backup.WITHOUT:
            return ""
        wanted = master_backup.Rescue(others, self._backup)
        try:
            found = master_backup.rescue(self._deployment, self._jobs, machine, wanted)
        except NoBackupError:
            return (
                "there is no backup of a lost master's keys: these minions are installed anew:"
                f" {', '.join(others)}"
            )
        if found is None:
            return ""
        self._rescued = found.minions
        return f"{machine.name} has the keys of the backup of {found.name}"

    def _is_ready(self, machine: Machine, unit: str) -> bool:
        """Return whether the master runs, and salt-cloud there knows its present key."""
        args = ["master-is-ready", BOOTSTRAP, salt.MASTER_PKI, unit]
        what = f"reading the state of {unit} on {machine.name}"
        return self._shell.script(machine, args, what=what).strip() == "yes"

    def _bootstrap_master(self, machine: Machine) -> int:
        """Apply the master's state from the pushed tree, without a master; return the changes."""
        current = f"{tree.HOME}/current"
        config = {
            "id": machine.name,
            "file_client": "local",
            "file_roots": {"base": [f"{current}/salt"]},
            "pillar_roots": {
                "base": [f"{tree.HOME}/pillar/{self._deployment.name}", f"{current}/pillar/base"]
            },
            "gpg_keydir": tree.GPG_KEYS,
            # `state.apply NAME` does not sync modules.
            "module_dirs": [f"{current}/salt"],
            "hash_type": "sha256",
        }
        args = ["bootstrap-master", BOOTSTRAP, salt.MASTER_PKI, f"{salt.SALT}/salt-call", "master"]
        output = self._jobs.run(
            machine,
            script_command(args),
            task=f"making {machine.name} the Salt master",
            stdin=yaml.safe_dump(config),
            accept=salt.ANY_RESULT,
        )
        outcome = states.read_states(machine.name, states.parse_documents(output).get("local"))
        states.raise_on_failure([outcome], self._log)
        return len(outcome.changed)


def converge(
    master: salt.Master,
    migration: Migration,
    progress: Progress,
    *,
    pushed: bool,
    predict: Collection[str],
    new: Collection[str] = (),
) -> None:
    """Run the orchestration, unless it would change nothing.

    Args:
        master: the Salt master.
        migration: see `salt.Master.predict`.
        progress: where to show the step.
        pushed: the master has just got another tree.
        predict: every machine, to ask them first; none when some are new.
        new: web machines that have to serve before the others are looked at; salt/orch/deploy.sls.
    """
    with progress.step("states") as step:
        if predict:
            step.report("comparing every machine with the tree")
            # A state may depend on what an earlier one changes, and then it cannot predict. So a
            # failed prediction is no failure: the orchestration shows it.
            with contextlib.suppress(ConvergeError):
                if pushed:
                    master.sync()
                if not any(run.changed for run in master.predict(migration, predict)):
                    step.detail = "0 changes"
                    master.note_converged()
                    return
        master.wait_for_states(progress.note)
        step.report("orchestration deploy")
        runs = master.orchestrate("orch.deploy", step.report, {"new": sorted(new)} if new else None)
        master.note_converged()
        changes = sum(len(run.changed) for run in runs)
        step.changed, step.detail = changes > 0, _count(changes)
