"""`stackctl scale`: a role gets more machines or fewer.

The number is in the deployment's settings, so that every later `up` keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from stackctl import billing, capacity, counts, limits, salt, site, tree
from stackctl.account import enter, open_account
from stackctl.counts import Wanted
from stackctl.deployment import Deployment
from stackctl.errors import ScaleError
from stackctl.launch import Launcher
from stackctl.locks import Holder, Session, on_this_host
from stackctl.machines import ec2_client, find_machines, list_machines, require_master
from stackctl.progress import Progress
from stackctl.roles import role_of
from stackctl.run import Log
from stackctl.ssh import Shell
from stackctl.states import Migration
from stackctl.up import Machines, Run, converge
from stackctl.verdict import Result as LaunchResult


def surplus(deployment: Deployment, names: Sequence[str]) -> list[str]:
    """Return the machines among `names` above the number of their role, the highest first."""
    limits = deployment.counts()
    found = {
        name: number
        for name in names
        if (role := role_of(name)) in limits
        and (number := int(name.rpartition("-")[2])) > limits[role]
    }
    return sorted(found, key=lambda name: (role_of(name), -found[name]))


def newcomers(launched: LaunchResult) -> list[str]:
    """Return the machines that may serve before all others are looked at.

    Those are new web machines, unless something else has changed in the same run.
    """
    changed = launched.changed
    if any(each.outcome != "launched" or role_of(each.machine) != "web" for each in changed):
        return []
    return [each.machine for each in changed]


def plan(deployment: Deployment, wanted: Sequence[Wanted]) -> list[str]:
    """Return the steps that `scale` would take; changes nothing.

    Raises:
        ScaleError: see `capacity.check`.
        NotUpError: there is no stack.
    """
    given = {each.role: each.bounds for each in wanted}
    capacity.check(deployment, given)
    before = deployment.bounds()
    steps = [
        f"settings:machines:{role} of {deployment.name}: {before.get(role, 'the minimum')} -> {new}"
        for role, new in given.items()
        if before.get(role) != new
    ]
    with enter(deployment):
        client = ec2_client(deployment)
        existing = list_machines(client, deployment)
        require_master(deployment, existing)
    for role, new in given.items():
        number = new.clamp(counts.highest(existing, role))
        names = [f"{role}-{n}" for n in range(1, number + 1)]
        steps += [f"launch {name}" for name in names if name not in existing]
        gone = [name for name in existing if role_of(name) == role and name not in names]
        steps += [f"drain and destroy {name}" for name in reversed(gone)]
    return steps or ["nothing to do"]


def _require_no_data(
    deployment: Deployment, wanted: Sequence[Wanted], names: Sequence[str]
) -> None:
    """Raise ScaleError when one of the machines would go, and may hold data."""
    table = deployment.role_table()
    for each in wanted:
        going = [
            name
            for name in sorted({*names})
            if role_of(name) == each.role and int(name.rpartition("-")[2]) > each.bounds.maximum
        ]
        if going and (data := table.roles[each.role].data):
            raise ScaleError(
                f"{', '.join(going)} may hold data: {data}.",
                "If nobody needs it, the same command with --with-data removes them.",
            )


def scale(
    deployment: Deployment,
    wanted: Sequence[Wanted],
    progress: Progress,
    log: Log,
    *,
    show: Callable[[LaunchResult], None] = lambda _: None,
    wait: bool = False,
    with_data: bool = False,
) -> bool:
    """Give roles another number of machines, and return whether anything changed.

    New machines are launched and converged as by `up`. Those with the highest numbers go first:
    the load balancers send them nothing more, what they have in flight is waited for, then they are
    destroyed, and the orchestration brings the rest to every machine.

    Args:
        deployment: which one.
        wanted: role and number.
        progress: where to show the steps.
        log: where to keep their output.
        show: receives the result of each launch.
        wait: for another run that changes the deployment.
        with_data: whether machines may go whose disks may hold data.

    Raises:
        ScaleError: the numbers cannot be, machines would go that may hold data, or the master
            serves another tree.
        BusyError: another run changes the deployment, or states are being applied.
        StackError: what failed. The same command continues from there.
    """
    capacity.check(deployment, {each.role: each.bounds for each in wanted})
    run = Run(deployment, progress, log, Holder.this("scale"), wait)
    with (
        on_this_host(deployment, run.holder, progress.note, wait=wait),
        enter(deployment),
        Shell(deployment, client := ec2_client(deployment), log) as shell,
        Session(shell, log, run.holder, progress.note, wait=wait) as session,
        ExitStack() as stack,
    ):
        machine = require_master(deployment, list_machines(client, deployment))
        shell.trust(machine)
        session.hold(machine)
        master = salt.Master(shell, machine, log, session.jobs)
        keys = master.accepted()
        found = [*keys, *(each.name for each in find_machines(client, deployment))]
        if not with_data:
            _require_no_data(deployment, wanted, found)
        with progress.step("preflight"):
            tree.require_same(deployment, shell, machine, log)
            master.require_quiet(progress.note, wait=wait)
        with progress.step("settings") as step:
            step.changed = counts.write(deployment.settings_path, wanted)
            step.detail = ", ".join(f"{each.role}={each.bounds}" for each in wanted)
            if step.changed and not deployment.is_local:
                step.warning = f"commit {deployment.settings_path.relative_to(deployment.root)}"
        machines = Machines(run, shell, session.jobs)
        account = open_account(deployment)
        pushed, _ = machines.start_master(machine, account.master_files(account.environment()))
        now = machines.with_present(master, find_machines(client, deployment))
        stack.enter_context(billing.told(now, client))
        for warning in limits.check(now, client):
            progress.note(f"warning: {warning}")
        launched = machines.launch_others(Launcher(client, progress, log, show=show), master, now)
        keys = master.accepted()
        found = [*keys, *(machine.name for machine in find_machines(client, deployment))]
        if gone := surplus(now, sorted(set(found))):
            with progress.step("drain and destroy") as step:
                master.retire(gone, step.report, with_data=with_data)
                step.changed, step.detail = True, ", ".join(gone)
        changed = bool(launched.changed or gone)
        names = () if changed else tuple(now.machines())
        new = () if gone else newcomers(launched)
        converge(master, Migration.of(now), progress, pushed=pushed, predict=names, new=new)
        with progress.step("site") as step:
            site.require_healthy(deployment)
            step.detail = site.address(deployment)
    return progress.changes > 0
