"""The command line: each verb calls the other modules and prints the result."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import shlex
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import shtab
from botocore.exceptions import BotoCoreError, ClientError
from rich.markup import escape

from stackctl import (
    account_lock,
    billing,
    ca_rotation,
    cost,
    edge_address,
    initialise,
    launch,
    limits,
    local,
    logs,
    maintenance,
    master_backup,
    master_key,
    minion_keys,
    new_deployment,
    password_rotation,
    planning,
    printing,
    recipients,
    refusals,
    restore,
    scale,
    secret_check,
    secret_edit,
    settings,
    site,
    status,
    teardown,
    tree_files,
)
from stackctl.account import enter
from stackctl.arguments import parser
from stackctl.catalogue import DEPLOYMENT_CA
from stackctl.deployment import LOCAL, Deployment, repository_root
from stackctl.down import down
from stackctl.errors import Interrupted, MapError, StackError
from stackctl.locks import Holder, Session, on_this_host
from stackctl.machines import ec2_client, find_machines, list_machines, require_master
from stackctl.printing import ERR, OUT, print_line
from stackctl.progress import Progress
from stackctl.roles import EDGE_TLS
from stackctl.run import Log, attach
from stackctl.salt import Master
from stackctl.salt_cloud import Request, map_args, require_same_map
from stackctl.secret_store import AGAIN, SecretStore
from stackctl.ssh import SSH_FAILED, Shell
from stackctl.surplus import Removal
from stackctl.up import plan, up


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    options = parser().parse_args(arguments)
    if options.verb == "completion":
        print(shtab.complete(parser(), options.shell))  # it needs no checkout
        return 0
    try:
        deployment = Deployment(options.deployment, repository_root(), options.map)
        if not deployment.is_local and getattr(options, "action", "") != "init":
            deployment.settings()  # raises for a deployment that nobody has initialised
        tree_files.check(deployment.root)
        if deployment.has_settings:
            settings.check(deployment, complete=False)
        if options.verb in TAKES_SECRETS:
            SecretStore(deployment).check()
        if options.verb != "up":
            _require_remembered_map(deployment)
        return int(VERBS[options.verb](deployment, options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(_of_system(error))
    except (StackError, BotoCoreError, ClientError) as error:
        # Without a deployment, it is one of stackctl's own errors.
        return _failed(error if isinstance(error, StackError) else _of_aws(error, deployment))
    except KeyboardInterrupt as interrupted:
        again = "Run the same command again: it continues from where it was."
        said = str(interrupted) if isinstance(interrupted, Interrupted) else again
        ERR.print(f"Interrupted. {escape(said)}", soft_wrap=True)
        return 130


def _failed(error: StackError) -> int:
    ERR.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
    return 1


def _require_remembered_map(deployment: Deployment) -> None:
    """Raise MapError for another map than the deployment's: `up` alone changes it."""
    remembered = deployment.remembered_map()
    if deployment.has_settings and deployment.map_name != remembered:
        raise MapError(
            f"The deployment '{deployment.name}' has the map {remembered}.",
            f"This gives it another one: {deployment.command('up')} --map {deployment.map_name}",
        )


def _of_aws(error: BotoCoreError | ClientError, deployment: Deployment) -> StackError:
    return refusals.as_error(error, deployment.region())


def _of_system(error: OSError) -> StackError:
    """Return what this host has refused, such as a full disk; raise an error of a library."""
    if error.errno is None:
        raise error
    where = f"{error.filename}: " if error.filename else ""
    again = "No file is half written. When that is mended, run the same command again."
    return StackError(f"{where}{error.strerror}.", again)


def _log(deployment: Deployment, verb: str) -> Log:
    return Log(deployment.state_dir / "log", verb)


def _init(deployment: Deployment, options: argparse.Namespace) -> int:
    given = new_deployment.Answers(
        options.account,
        options.base_url,
        options.operator_cidr,
        options.budget,
        options.operator_key,
    )
    answers = new_deployment.complete(deployment, given, _ask)
    if options.dry_run:
        lines = new_deployment.plan(deployment, answers)
        for line in lines or ["Nothing is missing."]:
            print_line(line)
        return 0
    made = new_deployment.make(deployment, answers)
    if made.address:
        print_line(made.address)
    print_line(f"Made: {', '.join(made.things)}." if made.things else "Nothing was missing.")
    name = deployment.name
    print_line(
        f"The site's address is {made.url}. Commit pillar/{name}, and keep a copy of"
        f" {SecretStore(deployment).private_key} in a safe place, not in git."
        f" Then: stackctl plan -d {name}"
    )
    return 0


def _ask(question: str, default: str) -> str:
    """Return what the operator types; raise StackError if nobody can be asked."""
    if not sys.stdin.isatty():
        raise StackError(f"{question}: that is not known.", "See stackctl init --help.")
    hint = f" [{default}]" if default else ""
    return input(f"{question}{hint}: ").strip() or default


def _plan(deployment: Deployment, options: argparse.Namespace) -> int:
    for line in planning.plan(deployment, _log(deployment, "plan")):
        print_line(line)
    if not options.over_budget:
        cost.require_within_budget(deployment)
    return 0


def _cost(deployment: Deployment, options: argparse.Namespace) -> int:
    usage = cost.Usage(cost.amount(options.s3_gb), cost.amount(options.transfer_gb))
    found = cost.estimate(deployment, cost.machine_counts(deployment), usage)
    others = [*cost.alternatives(deployment, found)]
    if options.json:
        printing.print_cost_json(found, others)
    else:
        printing.print_cost(found, others)
    return 0


def _up(deployment: Deployment, options: argparse.Namespace) -> int:
    if not options.over_budget:
        cost.require_within_budget(deployment)
    if options.dry_run:
        for line in plan(deployment, _removal(options)):
            OUT.print(line, soft_wrap=True)
        return 0
    log = _log(deployment, "up")
    progress = Progress(OUT, log)
    OUT.print(f"Full log: {log.path}", soft_wrap=True)
    result = up(
        deployment,
        progress,
        log,
        on_failure=options.on_failure,
        show=printing.print_changed,
        wait=options.wait,
        removal=_removal(options),
        backup=options.master_backup,
    )
    changes = f"{progress.changes} steps changed something" if result.changed else "Nothing changed"
    OUT.print(f"{changes}, in {progress.elapsed:.0f} s.")
    user = deployment.base_pillar("airflow")["admin"]["username"]
    where = "" if deployment.is_local else f" -d {deployment.name}"
    OUT.print(
        f"Airflow is up: {result.url} · user {user}"
        f" · password: .venv/bin/stackctl{where} secrets show airflow-admin",
        soft_wrap=True,
    )
    return 0


def _removal(options: argparse.Namespace) -> Removal:
    if options.with_data:
        return "with-data"
    return "surplus" if options.map else "nothing"


def _launch(deployment: Deployment, options: argparse.Namespace) -> int:
    log = _log(deployment, "launch")
    show = printing.print_launch_json if options.json else printing.print_launch
    progress = Progress(ERR if options.json else OUT, log)
    holder = Holder.this("launch")
    with ExitStack() as stack:
        if not options.dry_run:
            held = on_this_host(deployment, holder, progress.note, wait=options.wait)
            stack.enter_context(held)
        stack.enter_context(enter(deployment))
        client = ec2_client(deployment)
        # Not `list_machines`: the table shows it when a name exists twice.
        machines = {machine.name: machine for machine in find_machines(client, deployment)}
        machine = require_master(deployment, machines)
        shell = stack.enter_context(Shell(deployment, client, log))
        shell.trust(machine)
        session = Session(shell, log, holder, progress.note, wait=options.wait)
        stack.enter_context(session)
        master = Master(shell, machine, log, session.jobs)
        deployment = require_same_map(deployment, master)
        names = list(deployment.machines())
        if options.dry_run:
            show(launch.plan(client, master, names))
            return 0
        session.hold(machine)
        stack.enter_context(billing.told(deployment, client))
        for warning in limits.check(deployment, client):
            progress.note(f"warning: {warning}")
        launcher = launch.Launcher(client, progress, log, on_failure=options.on_failure, show=show)
        args = map_args(deployment, serial=options.serial)
        result = launcher.step("machines", Request(master, names, args))
    if result.changed and not options.json:
        OUT.print("New machines have no role yet: stackctl up applies it.")
    return 0


def _scale(deployment: Deployment, options: argparse.Namespace) -> int:
    if not options.over_budget:
        wanted = {each.role: each.bounds for each in options.wanted}
        cost.require_within_budget(deployment, wanted)
    if options.dry_run:
        for line in scale.plan(deployment, options.wanted):
            print_line(line)
        return 0
    log = _log(deployment, "scale")
    progress = Progress(OUT, log)
    OUT.print(f"Full log: {log.path}", soft_wrap=True)
    changed = scale.scale(
        deployment,
        options.wanted,
        progress,
        log,
        show=printing.print_changed,
        wait=options.wait,
        with_data=options.with_data,
    )
    changes = f"{progress.changes} steps changed something" if changed else "Nothing changed"
    OUT.print(f"{changes}, in {progress.elapsed:.0f} s.")
    return 0


def _maintain(deployment: Deployment, options: argparse.Namespace) -> int:
    wanted = maintenance.Wanted(options.names, options.verb == "upgrade", options.interrupt)
    log = _log(deployment, wanted.verb)
    if options.dry_run:
        lines, possible = maintenance.plan(deployment, wanted, log)
        for line in lines:
            print_line(line)
        return 0 if possible else 1
    progress = Progress(OUT, log)
    OUT.print(f"Full log: {log.path}", soft_wrap=True)
    maintenance.run(deployment, wanted, progress, log, wait=options.wait)
    OUT.print(f"Done, in {progress.elapsed:.0f} s.")
    return 0


def _replace(deployment: Deployment, options: argparse.Namespace) -> int:
    log = _log(deployment, "replace")
    progress = Progress(OUT, log)
    OUT.print(f"Full log: {log.path}", soft_wrap=True)
    maintenance.replace(deployment, options.machine, progress, log, wait=options.wait)
    print_line(f"{options.machine} is gone. This launches it anew: {deployment.command('up')}")
    return 0


def _backup(deployment: Deployment, options: argparse.Namespace) -> int:
    with restore.asking(deployment, _log(deployment, "backup")) as database:
        if options.list:
            for line in restore.backups(database) or ["There is no backup yet."]:
                print_line(line)
        else:
            made = restore.backup(database, full=options.full)
            print_line(f"{made[0].upper()}{made[1:]}.")
    return 0


def _restore(deployment: Deployment, options: argparse.Namespace) -> int:
    if options.drill or options.end or options.aside:
        return _restore_aside(deployment, options)
    if not options.to:
        raise StackError(
            "Restore what?", "Give a time, such as 2026-11-27T14:30:00Z, or latest: see --help."
        )
    log = _log(deployment, "restore")
    with restore.asking(deployment, log) as database:
        steps = restore.plan(database, options.to, options.timeline)
    for line in steps:
        print_line(line)
    if options.dry_run:
        return 0
    if not options.yes:
        _confirm(deployment, "restored")
    progress = Progress(OUT, log)
    OUT.print(f"Full log: {log.path}", soft_wrap=True)
    before = restore.restore(
        deployment, options.to, options.timeline, progress, log, wait=options.wait
    )
    print_line(f"Restored {options.to}, in {progress.elapsed:.0f} s.")
    if before["time"]:
        print_line(
            f"What was there comes back by: {deployment.command('restore')} {before['time']}"
            f" --timeline {before['timeline']}"
        )
    return 0


def _restore_aside(deployment: Deployment, options: argparse.Namespace) -> int:
    with restore.asking(deployment, _log(deployment, "restore")) as database:
        if options.drill:
            report = restore.drill(database)
            rows = ", ".join(f"{name} {number}" for name, number in report["rows"].items())
            print_line(
                f"Restored in {report['seconds']} s, with everything until"
                f" {report['behind_seconds']} s ago. Rows: {rows}. Nothing is left of it."
            )
        elif options.end:
            ended = restore.end_aside(database)
            print_line(f"Removed from {', '.join(ended)}." if ended else "There was nothing.")
        else:
            name, command = restore.look_aside(database, options.to or "latest", options.timeline)
            print_line(f"Look at it: {deployment.command('exec')} {name} -- {command}")
            print_line(f"Remove it: {deployment.command('restore')} --end")
    return 0


def _down(deployment: Deployment, options: argparse.Namespace) -> int:
    if not deployment.is_local:
        return _down_account(deployment, options)
    if options.dry_run:
        image = "" if options.keep_image else "the machine image, "
        OUT.print(
            f"Would remove the containers, networks and volumes labelled"
            f" {local.cloud_name(deployment)}, the EC2 API's process,"
            f" {image}{deployment.state_dir} and {deployment.pillar_dir}."
        )
        return 0
    # The log is outside the folder that is removed.
    log = Log(Path(os.environ.get("TMPDIR", "/tmp")) / "stackctl", "down")  # noqa: S108
    progress = Progress(OUT, log)
    down(deployment, progress, keep_image=options.keep_image, wait=options.wait)
    log.remove()
    OUT.print(f"Everything is removed, in {progress.elapsed:.0f} s.")
    return 0


def _down_account(deployment: Deployment, options: argparse.Namespace) -> int:
    going = teardown.doomed(deployment, with_data=options.with_data)
    for line in going.lines(deployment.name):
        print_line(line)
    if not going.things and not going.unknown:
        what = "Nothing else" if going.kept else "Nothing"
        print_line(f"{what} of {deployment.name} is left in the account.")
        return 0
    if options.dry_run:
        return 0
    if not options.yes:
        _confirm(deployment, "destroyed")
    log = _log(deployment, "down")
    progress = Progress(OUT, log)
    going = teardown.destroy(
        deployment, progress, log, with_data=options.with_data, wait=options.wait
    )
    print_line(
        f"Destroyed, in {progress.elapsed:.0f} s; left in the account:"
        f" {', '.join(map(str, going.kept)) or 'nothing'}. pillar/{deployment.name} and"
        f" .stack/{deployment.name}, with the private key, are as before. A new `up` needs a new"
        " address of the site: docs/runbooks.md."
    )
    return 0


def _unlock(deployment: Deployment, options: argparse.Namespace) -> int:
    with enter(deployment):
        bucket = account_lock.Bucket.of(deployment)
        held = account_lock.read(bucket)
        if held is None:
            print_line(f"Nobody holds the lock of {deployment.name}.")
        elif options.dry_run:
            print_line(f"Would remove the lock of {held}.")
        elif account_lock.clear(bucket, held):
            print_line(f"Removed the lock of {held}.")
        else:
            raise StackError("The lock is another one's by now, and stays.")
    return 0


def _confirm(deployment: Deployment, done: str) -> None:
    """Have the operator type the deployment's name; raise StackError otherwise.

    Args:
        deployment: which one.
        done: what happens to it, such as `destroyed`.
    """
    if not sys.stdin.isatty():
        raise StackError(
            f"Nothing was {done}: nobody can be asked whether {deployment.name} shall be.",
            "If it shall, add --yes.",
        )
    answer = input(f"Type the name of the deployment, {deployment.name}, and it is {done}: ")
    if answer.strip() != deployment.name:
        raise StackError(f"Nothing was {done}: that is not {deployment.name}.")


def _status(deployment: Deployment, options: argparse.Namespace) -> int:
    report = status.collect(deployment, _log(deployment, "status"))
    if options.json:
        printing.print_status_json(report)
    else:
        printing.print_status(report, site.address(deployment), deployment.command("up"))
    return 0 if report.healthy else 1


def _remote(deployment: Deployment, verb: str, name: str, line: str, *, tty: bool = False) -> int:
    """Run a shell line on a machine with this terminal's input and output; return its exit code."""
    with enter(deployment):
        client = ec2_client(deployment)
        machines = list_machines(client, deployment)
        master = require_master(deployment, machines)
        if name not in machines:
            raise StackError(f"There is no machine '{name}'.", f"There are: {', '.join(machines)}.")
        with Shell(deployment, client, _log(deployment, verb)) as shell:
            shell.trust(master)
            shell.trust(machines[name])
            args = shell.command(machines[name], ["sh", "-c", line], master=master, tty=tty)
            code = attach(args, what=f"SSH to {name}")
            if code == SSH_FAILED:
                # It may be the command's own exit code. SSH has said why, and this what to do.
                for machine in (master, machines[name]):
                    shell.run(machine, ["true"], master=master, what=f"SSH to {machine.name}")
            return code


def _exec(deployment: Deployment, options: argparse.Namespace) -> int:
    # A terminal ends lines with CR LF and mixes both outputs: a file or a pipe must not get that.
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    return _remote(deployment, "exec", options.machine, _shell_line(options.command), tty=tty)


def _salt(deployment: Deployment, options: argparse.Namespace) -> int:
    return _remote(deployment, "salt", deployment.master(), _shell_line(["salt", *options.args]))


def _shell_line(args: Sequence[str]) -> str:
    # One argument is a shell line (`exec web-1 -- 'ps | wc -l'`), several are a program with args.
    return args[0] if len(args) == 1 else shlex.join(args)


def _logs(deployment: Deployment, options: argparse.Namespace) -> int:
    search = logs.Search(options.lines, options.unit, options.since, options.grep)
    if options.all:
        machine, line = logs.of_all(deployment, options.machines, search)
        return _remote(deployment, "logs", machine, line)
    if len(options.machines) > 1:
        raise StackError("Several machines are searched with --all.")
    if not options.machines:
        if search != logs.Search(options.lines):
            raise StackError("Search where?", "Name a machine, or add --all.")
        path = deployment.state_dir / "log" / "up.log"
        if not path.is_file():
            raise StackError("There is no log of an `up` yet.", "Run: make up")
        for line in deque(path.read_text().splitlines(), maxlen=options.lines):
            print_line(line)
        return 0
    (machine,) = options.machines
    line = logs.of_machine(deployment, machine, search)
    return _remote(deployment, "logs", machine, line)


def _secrets(deployment: Deployment, options: argparse.Namespace) -> int:
    store = SecretStore(deployment)
    match options.action:
        case "list":
            OUT.print("\n".join(store.names()))
        case "show":
            fields = store.read(options.secret)
            field = options.field or (next(iter(fields)) if len(fields) == 1 else None)
            if field not in fields:
                raise StackError(
                    f"Which field of {options.secret}?", f"There are: {', '.join(fields)}."
                )
            sys.stdout.write(fields[field].rstrip("\n") + "\n")
        case "check":
            return _check_secrets(deployment, options)
        case "recipients":
            _recipients(store, options)
        case "set" | "edit":
            _change_secret(deployment, options)
        case "share":
            name = options.name or options.file.stem.lower()
            key, changed = recipients.share(deployment, options.file, name)
            print_line(f"{name} reads every secret with the key {key.fingerprint} ({key.user}).")
            _say_encrypted(deployment, changed)
        case "unshare":
            _say_encrypted(deployment, recipients.unshare(deployment, options.operator))
            rotate = deployment.command("secrets rotate NAME")
            print_line(
                f"{options.operator} may have kept what was readable until now, and git's"
                f" history has it; to make that worthless: {rotate} (docs/runbooks.md)."
            )
        case "continue":
            _continue_rotation(deployment, options.secret)
        case "init" | "rotate":
            _make_secrets(deployment, options)
    return 0


def _make_secrets(deployment: Deployment, options: argparse.Namespace) -> None:
    wanted = list(options.secret) if options.action == "rotate" else []
    is_all = options.action == "rotate" and options.all
    if is_all:
        wanted = sorted(initialise.rotatable(deployment))
    if wanted == [DEPLOYMENT_CA]:
        url = _base_url(deployment, None, None)
        for line in ca_rotation.rotate(deployment, url, _log(deployment, "secrets-rotate")):
            print_line(line)
        return
    number = _aws_account(deployment, getattr(options, "account", None))
    url = _base_url(deployment, getattr(options, "base_url", None), number)
    made = initialise.initialise(
        deployment, url, frozenset(wanted), number, at_once=getattr(options, "at_once", False)
    )
    OUT.print(f"Made: {', '.join(made)}." if made else "Nothing was missing.")
    if rotation := password_rotation.current(deployment):
        print_line(f"{rotation}")
    if is_all:
        others = ", ".join(sorted({*initialise.LASTING, DEPLOYMENT_CA}))
        print_line(
            f"With {password_rotation.AIRFLOW_KEYS} all have to log in again. Each of these goes"
            f" its own way: {others}, the keys of minions, the GPG key (docs/runbooks.md)."
        )
    if not deployment.is_local and "the GPG key" in made:
        OUT.print(
            f"Commit pillar/{deployment.name}. Keep a copy of"
            f" {SecretStore(deployment).private_key} in a safe place, not in git."
        )


def _continue_rotation(deployment: Deployment, secrets: Sequence[str]) -> None:
    if password_rotation.current(deployment):
        password_rotation.require_applied(deployment, _log(deployment, "secrets-rotate"))
    told = password_rotation.go_on(deployment, secrets)
    for line in told:
        print_line(line)
    if not told:
        print_line("No rotation is on.")
        return
    commit = "" if deployment.is_local else f"Commit pillar/{deployment.name}. "
    rotation = password_rotation.current(deployment)
    print_line(f"{commit}{rotation or 'Run: ' + deployment.command('up')}")


def _check_secrets(deployment: Deployment, options: argparse.Namespace) -> int:
    found = secret_check.check(deployment)
    if options.json:
        OUT.print_json(json.dumps([vars(finding) for finding in found]))
    else:
        for finding in found:
            print_line(str(finding))
        number = f"{len(found)} fault{'s'[: len(found) > 1]}"
        print_line(f"{number}. {AGAIN}" if found else "Nothing is wrong.")
    return 1 if found else 0


def _recipients(store: SecretStore, options: argparse.Namespace) -> None:
    found = recipients.recipients(store)
    lacking = recipients.lacking(store, found)
    if options.json:
        printing.print_recipients_json(found, lacking)
    else:
        printing.print_recipients(found, lacking)


def _change_secret(deployment: Deployment, options: argparse.Namespace) -> None:
    """Take values from standard input or from an editor; a command line is seen by others."""
    name = options.secret
    if options.action == "edit":
        changed = secret_edit.edit(deployment, name, secret_edit.in_editor)
    else:
        value = _read_value(f"{options.field} of {name}: ")
        changed = secret_edit.set_field(deployment, name, options.field, value)
    commit = "" if deployment.is_local else f" Commit pillar/{deployment.name}."
    told = f"Changed: {name}.{commit} This brings it to the machines: {deployment.command('up')}"
    print_line(told if changed else "Nothing was changed.")


def _read_value(question: str) -> str:
    """Return standard input; a terminal does not show what is typed."""
    if not sys.stdin.isatty():
        return sys.stdin.buffer.read().decode(errors="replace")
    try:
        return getpass.getpass(question)
    except EOFError:
        raise StackError("No value was given. Nothing was changed.") from None


def _say_encrypted(deployment: Deployment, changed: Sequence[str]) -> None:
    if changed:
        print_line(
            f"Encrypted anew: {', '.join(changed)}. Compare the fingerprint with what the operator"
            f" says, then commit pillar/{deployment.name}."
        )
    else:
        print_line("No secret had to be encrypted anew.")


def _base_url(deployment: Deployment, given: str | None, account: str | None) -> str:
    """Return the address that users type: the one of the settings, if there are any.

    A new deployment of an account without an own name gets an Elastic IP.
    """
    if not deployment.has_settings:
        if given:
            settings.check_site(given)
        if given or deployment.is_local:
            return given or local.base_url()
        if account:
            found = edge_address.ensure(deployment, account)
            OUT.print(str(found), soft_wrap=True)
            return found.base_url
        raise StackError(
            f"The deployment '{deployment.name}' is new, and its AWS account is not known.",
            f"Run: stackctl secrets init -d {deployment.name} --account 123456789012",
        )
    current = str(deployment.settings()["base_url"])
    if given and given != current:
        name = deployment.name
        raise StackError(
            f"The deployment '{name}' has the address {current} already.",
            f"Change base_url in pillar/{name}/settings.sls, then:"
            f" stackctl secrets rotate {EDGE_TLS} -d {name}; stackctl up -d {name}",
        )
    return current


def _aws_account(deployment: Deployment, given: str | None) -> str | None:
    """Return the account to write into the settings; an option does not replace the one there."""
    if given and deployment.is_local:
        raise StackError(f"The deployment '{LOCAL}' lives on this machine, in no AWS account.")
    current = deployment.settings().get("aws_account") if deployment.has_settings else None
    if given and current and given != current:
        raise StackError(
            f"The deployment '{deployment.name}' lives in the AWS account {current} already.",
            f"If that is wrong, change aws_account in pillar/{deployment.name}/settings.sls.",
        )
    return given


def _master(deployment: Deployment, options: argparse.Namespace) -> int:
    log = _log(deployment, f"master-{options.action}")
    match options.action:
        case "backup":
            made = master_backup.back_up(deployment, log)
            print_line(
                f"Backed up: {made['where']}, version {made['version']}, {made['bytes']} bytes,"
                f" with the keys of {', '.join(made['minions']) or 'no minion'};"
                f" OpenPGP keys that open it: {made['readers']}."
            )
        case "backups":
            found = master_backup.listed(deployment, log)
            if options.json:
                OUT.print_json(json.dumps(found))
            else:
                printing.print_backups(found)
        case "restore":
            choice = master_backup.Choice(options.name, options.dry_run, options.wait)
            told = master_backup.restore(deployment, log, print_line, choice)
            printing.print_restored(told, deployment.command("up"), dry_run=options.dry_run)
        case "rotate-keys" | "rotate-own-key":
            progress = Progress(OUT, log)
            if options.action == "rotate-keys":
                minion_keys.rotate(deployment, options.names, progress, log, wait=options.wait)
            else:
                master_key.rotate(deployment, progress, log, wait=options.wait)
            OUT.print(f"Done, in {progress.elapsed:.0f} s.")
    return 0


TAKES_SECRETS = {"up", "plan", "launch"}
"""The verbs that bring secrets to machines, or say what that would do."""
VERBS = {
    "init": _init,
    "plan": _plan,
    "up": _up,
    "launch": _launch,
    "backup": _backup,
    "restore": _restore,
    "scale": _scale,
    "reboot": _maintain,
    "upgrade": _maintain,
    "replace": _replace,
    "down": _down,
    "unlock": _unlock,
    "status": _status,
    "cost": _cost,
    "exec": _exec,
    "salt": _salt,
    "logs": _logs,
    "secrets": _secrets,
    "master": _master,
}
