"""The command line: it parses and prints, and leaves the work to the other modules."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import localcloud.errors
from stackctl import initialise, launch, local, site, status
from stackctl.deployment import LOCAL, Deployment, repository_root
from stackctl.errors import StackError
from stackctl.machines import ec2_client, find_machines, list_machines, require_master
from stackctl.progress import Progress
from stackctl.run import Log, attach
from stackctl.salt import Master
from stackctl.secret_store import SecretStore
from stackctl.ssh import Shell
from stackctl.up import account, down, plan, require_local, up

ON_FAILURE = "what becomes of a machine that this run launched and that falls short (default: keep, for the next run)"
OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


class _Rest(argparse.Action):
    """The rest of the line as it stands: only a first `--` is not part of it, and it may not be empty."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        words = values[1:] if values[:1] == ["--"] else values
        if not words:
            parser.error(f"what is to be run? {parser.prog} … -- {(self.metavar or self.dest)}")
        setattr(namespace, self.dest, words)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="stackctl",
        description="Bring the Airflow stack up, look at it, and take it down.",
        epilog="Plain Salt works without this: log in to salt-1 and use salt, salt-run and salt-cloud.",
    )
    top.add_argument(
        "-d",
        "--deployment",
        default=LOCAL,
        help="'local' (this machine, the default) or a folder of pillar/",
    )
    top.add_argument(
        "--map", default="small", help="the map of cloud.maps.d that says which machines exist"
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        # Before the verb or behind it: both read naturally.
        made.add_argument(
            "-d", "--deployment", default=argparse.SUPPRESS, help="see stackctl --help"
        )
        return made

    one = verb(
        "up", "Bring up whatever is missing or not as the tree says; a second run changes nothing."
    )
    one.add_argument(
        "--dry-run",
        action="store_true",
        help="check this host and say what would be done; touch nothing",
    )
    one.add_argument("--on-failure", choices=launch.ON_FAILURE, default="keep", help=ON_FAILURE)
    one = verb(
        "launch",
        "Launch and repair the map's machines, and judge each; exit with 1 if one falls short.",
    )
    one.add_argument("--on-failure", choices=launch.ON_FAILURE, default="keep", help=ON_FAILURE)
    one.add_argument("--serial", action="store_true", help="one after another, not all at once")
    one.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be launched or repaired; change nothing",
    )
    one.add_argument("--json", action="store_true", help="for programs")
    one = verb("down", "Remove the local stack: machines, networks, image, processes, keys.")
    one.add_argument(
        "--keep-image",
        action="store_true",
        help="leave the machine image: the next start is quicker",
    )
    one.add_argument(
        "--dry-run", action="store_true", help="say what would be removed; touch nothing"
    )
    one = verb("status", "Show every machine and the site; exit with 1 unless all is well.")
    one.add_argument("--json", action="store_true", help="for programs")
    one = verb("exec", "Run a command as root on a machine: stackctl exec web-1 -- uptime")
    one.add_argument("machine")
    one.add_argument("command", nargs=argparse.REMAINDER, action=_Rest)
    one = verb("salt", "Run `salt` on the master: stackctl salt -- '*' test.ping")
    one.add_argument("words", nargs=argparse.REMAINDER, action=_Rest, metavar="ARG")
    one = verb("logs", "Print the log of a machine's service, or without a machine the last `up`.")
    one.add_argument("machine", nargs="?")
    one.add_argument("-n", "--lines", type=_count, default=50, help="how many (default: 50)")
    one = verb("secrets", "Make, show or renew the deployment's secrets.")
    actions = one.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make whatever is missing; existing secrets stay")
    init.add_argument(
        "--base-url", help="the address users type (needed the first time, except for 'local')"
    )
    init.add_argument(
        "--account",
        type=_account_number,
        help="the AWS account that the deployment lives in, and no other",
    )
    names = actions.add_parser("list", help="name every secret")
    show = actions.add_parser(
        "show", help="print one value: stackctl secrets show airflow-admin password"
    )
    show.add_argument("secret", metavar="SECRET")
    show.add_argument(
        "field", nargs="?", metavar="FIELD", help="may be omitted if the secret has only one"
    )
    rotate = actions.add_parser(
        "rotate", help="make secrets anew; `up` then brings them to the machines"
    )
    rotate.add_argument("secret", nargs="+", metavar="SECRET")
    for action in (init, names, show, rotate):
        action.add_argument(
            "-d", "--deployment", default=argparse.SUPPRESS, help="see stackctl --help"
        )
    return top


def _count(text: str) -> int:
    if (number := int(text)) < 0:
        raise ValueError
    return number


def _account_number(text: str) -> str:
    if not re.fullmatch(r"[0-9]{12}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no AWS account: it has 12 digits")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    options = parser().parse_args(arguments)
    try:
        deployment = Deployment(options.deployment, repository_root(), options.map)
        if not deployment.is_local and getattr(options, "action", "") != "init":
            deployment.settings()  # a name that nobody has initialised is more likely a slip
        return int(VERBS[options.verb](deployment, options))
    except (StackError, localcloud.errors.LocalCloudError, BotoCoreError, ClientError) as error:
        ERR.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        ERR.print("Interrupted. Run the same command again: it goes on from where it was.")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _log(deployment: Deployment, verb: str) -> Log:
    return Log(deployment.state_dir / "log", verb)


def _up(deployment: Deployment, options: argparse.Namespace) -> int:
    if options.dry_run:
        for line in plan(deployment):
            OUT.print(line)
        return 0
    log = _log(deployment, "up")
    progress = Progress(OUT, log)
    OUT.print(f"Full log: {log.path}", soft_wrap=True)

    def show(launched: launch.Result) -> None:
        if launched.changed or launched.short:
            _show_machines(launched)

    result = up(deployment, progress, log, on_failure=options.on_failure, show=show)
    told = f"{progress.changes} steps changed something" if result.changed else "Nothing changed"
    OUT.print(f"{told}, in {progress.elapsed:.0f} s.")
    user = deployment.base_pillar("airflow")["admin"]["username"]
    how = f".venv/bin/stackctl -d {deployment.name} secrets show airflow-admin"
    OUT.print(
        f"Airflow is up: {result.url} · user {user} · password: {how.replace(' -d local', '')}",
        soft_wrap=True,
    )
    return 0


def _launch(deployment: Deployment, options: argparse.Namespace) -> int:
    log = _log(deployment, "launch")
    names = list(deployment.machines())
    show = _print_json if options.json else _show_machines
    with account(deployment):
        client = ec2_client(deployment)
        # Not `list_machines`: that a name exists twice is for the table to say.
        machine = require_master(deployment, {one.name: one for one in find_machines(client)})
        with Shell(deployment, client, log) as shell:
            shell.trust(machine)
            master = Master(shell, machine, log)
            launch.require_same_map(deployment, master)
            if options.dry_run:
                show(launch.plan(master, client, names))
                return 0
            progress = Progress(ERR if options.json else OUT, log)
            words = launch.map_words(deployment, serial=options.serial)
            result = launch.step(
                progress, "machines", master, client, names, words, log, options.on_failure, show
            )
    if result.changed and not options.json:
        OUT.print("What was launched has no role yet: stackctl up applies it.")
    return 0


def _print_json(result: launch.Result) -> None:
    OUT.print_json(json.dumps([one.as_dict() for one in result.verdicts]))


def _show_machines(result: launch.Result) -> None:
    # No wider than 80 columns, so that ids are whole where there is no terminal.
    table = Table(
        "machine", "outcome", "instance", "state", "deployed", "SSH", "minion",
        box=None, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for one in result.verdicts:
        ids = dict.fromkeys(machine.instance_id for machine in (one.before, one.after) if machine)
        states = dict.fromkeys(
            machine.state if machine else "none" for machine in (one.before, one.after)
        )
        table.add_row(
            f"[{'green' if one.good else 'red'}]{one.machine}[/]",
            one.outcome,
            " → ".join(ids),
            " → ".join(states),
            *("yes" if is_so else "no" for is_so in (one.deployed, one.reachable)),
            "answers" if one.answers else "silent",
        )
    OUT.print(table)
    for one in result.short:
        OUT.print(f"{one.machine}: {one.reason}", markup=False, soft_wrap=True)


def _down(deployment: Deployment, options: argparse.Namespace) -> int:
    require_local(deployment)
    if options.dry_run:
        cloud = local.cloud_name(deployment)
        OUT.print(
            f"Would remove the containers, networks and volumes labelled {cloud}, the EC2 API's process,"
        )
        OUT.print(
            f"{'' if options.keep_image else 'the machine image, '}{deployment.state_dir} and {deployment.pillar_dir}."
        )
        return 0
    log = Log(Path(os.environ.get("TMPDIR", "/tmp")) / "stackctl", "down")  # noqa: S108 - it outlives what is removed
    progress = Progress(OUT, log)
    down(deployment, progress, keep_image=options.keep_image)
    log.remove()
    OUT.print(f"Everything is gone, in {progress.elapsed:.0f} s.")
    return 0


def _status(deployment: Deployment, options: argparse.Namespace) -> int:
    with account(deployment):
        rows = status.collect(deployment, _log(deployment, "status"))
    told = site.problem(deployment) or "healthy"
    if options.json:
        # A list of machines, and the site is none: each says it, so that nobody's filter meets something else.
        OUT.print_json(json.dumps([row.as_dict() | {"site": told} for row in rows]))
    else:
        table = Table("machine", "role", "address", "state", "salt", "service", "memory", box=None)
        for row in rows:
            colour = "green" if row.healthy else "red"
            table.add_row(
                f"[{colour}]{row.machine}[/]",
                row.role,
                row.address,
                row.state,
                row.salt,
                row.service,
                row.memory,
            )
        OUT.print(table)
        for row in rows:
            if row.expires:
                OUT.print(
                    f"{row.machine}: end of its certificate: {row.certificate}. Renew it: docs/runbooks.md."
                )
        OUT.print(f"site {site.address(deployment)}: {told}", markup=False, soft_wrap=True)
    return 0 if told == "healthy" and rows and all(row.healthy for row in rows) else 1


def _remote(deployment: Deployment, verb: str, name: str, line: str, *, tty: bool = False) -> int:
    """Run a shell line on a machine with this terminal's input and output; return its exit code."""
    with account(deployment):
        client = ec2_client(deployment)
        machines = list_machines(client)
        master = require_master(deployment, machines)
        if name not in machines:
            raise StackError(f"There is no machine '{name}'.", f"There are: {', '.join(machines)}.")
        log = _log(deployment, verb)
        with Shell(deployment, client, log) as shell:
            shell.trust(master)
            shell.trust(machines[name])
            args = shell.command(machines[name], ["sh", "-c", line], master=master, tty=tty)
            return attach(args, what=f"SSH to {name}")


def _exec(deployment: Deployment, options: argparse.Namespace) -> int:
    # A terminal ends lines with CR LF and mixes both outputs: what goes to a file or a pipe has to be without one.
    tty = sys.stdin.isatty() and sys.stdout.isatty()
    return _remote(deployment, "exec", options.machine, _join(options.command), tty=tty)


def _salt(deployment: Deployment, options: argparse.Namespace) -> int:
    return _remote(deployment, "salt", deployment.master(), _join(["salt", *options.words]))


def _join(words: Sequence[str]) -> str:
    # One word is a shell line (`exec web-1 -- 'ps | wc -l'`); several are a program and its arguments.
    return words[0] if len(words) == 1 else shlex.join(words)


def _logs(deployment: Deployment, options: argparse.Namespace) -> int:
    if options.machine is None:
        path = deployment.state_dir / "log" / "up.log"
        if not path.is_file():
            raise StackError("There is no log of an `up` yet.", "Run: make up")
        for line in deque(path.read_text().splitlines(), maxlen=options.lines):
            OUT.print(line, markup=False, soft_wrap=True)
        return 0
    role = deployment.role_table().of(options.machine)
    if role is None:
        raise StackError(
            f"'{options.machine}' is of no known role.",
            f"Roles: {', '.join(deployment.role_table().roles)}.",
        )
    return _remote(
        deployment,
        "logs",
        options.machine,
        f"journalctl --no-pager -n {options.lines} -u {role.unit}",
    )


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
        case "init" | "rotate":
            url = _base_url(deployment, getattr(options, "base_url", None))
            number = _aws_account(deployment, getattr(options, "account", None))
            rotate = frozenset(options.secret if options.action == "rotate" else ())
            made = initialise.initialise(deployment, url, rotate, number)
            OUT.print(f"Made: {', '.join(made)}." if made else "Nothing was missing.")
            if not deployment.is_local and "the GPG key" in made:
                OUT.print(
                    f"Commit pillar/{deployment.name}. Keep a copy of {store.private_key} in a safe place, not in git."
                )
    return 0


def _base_url(deployment: Deployment, given: str | None) -> str:
    """Return the address that users type: the settings' own, once there are any."""
    if not deployment.has_settings:
        if given or deployment.is_local:
            return given or local.base_url()
        raise StackError(
            "A new deployment needs its address.", "Add: --base-url https://airflow.example.com"
        )
    current = str(deployment.settings()["base_url"])
    if given and given != current:
        raise StackError(
            f"The deployment '{deployment.name}' has the address {current} already.",
            f"Change base_url in pillar/{deployment.name}/settings.sls, then:"
            f" stackctl secrets rotate edge-tls -d {deployment.name}; stackctl up -d {deployment.name}",
        )
    return current


def _aws_account(deployment: Deployment, given: str | None) -> str | None:
    """Return the account to write into the settings, which no option moves the deployment away from."""
    if given and deployment.is_local:
        raise StackError(f"The deployment '{LOCAL}' lives on this machine, in no AWS account.")
    current = deployment.settings().get("aws_account") if deployment.has_settings else None
    if given and current and given != current:
        raise StackError(
            f"The deployment '{deployment.name}' lives in the AWS account {current} already.",
            f"If that is wrong, change aws_account in pillar/{deployment.name}/settings.sls.",
        )
    return given


VERBS = {
    "up": _up,
    "launch": _launch,
    "down": _down,
    "status": _status,
    "exec": _exec,
    "salt": _salt,
    "logs": _logs,
    "secrets": _secrets,
}
