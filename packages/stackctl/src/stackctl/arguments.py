"""The command line's arguments."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import shtab

from stackctl.counts import Wanted
from stackctl.deployment import LOCAL
from stackctl.launch import ON_FAILURE

DEPLOYMENT_HELP = "see stackctl --help"
MAP_HELP = (
    "the map of cloud.maps.d that names the machines: `up` gives it to the deployment, removes the"
    " machines that it does not name, and remembers it (default: the remembered one, or small)"
)
WITH_DATA_HELP = (
    "also remove machines whose disks may hold data; the volume of a protected one stays behind"
)
JSON_HELP = "print JSON"
WAIT_HELP = (
    "wait for another run that changes the deployment (default: say whose it is, and exit with 1);"
    " what an interrupted run has left running on the master is always waited for"
)
BACKUP_HELP = (
    "which backup of its keys a new Salt master takes when its machine was lost, so that no minion"
    " is installed anew: a name of `master backups`, `none`, or the default, `newest`"
)
REBOOT_HELP = (
    "Reboot machines, one after the other: each hands over what it does before, and the next one"
    " waits until it serves again."
)
UPGRADE_HELP = (
    "Upgrade Debian's packages of machines and reboot them, one after the other, as reboot does; a"
    " machine for which nothing waits is left alone."
)
REPLACE_HELP = (
    "Drain and destroy a machine while the others serve; the next `up` launches it anew, in the"
    " zone and of the type that the map and its profile say."
)
UNLOCK_HELP = (
    "Remove the lock of a run of `up` or `down` that has died before the Salt master was there, or"
    " could be reached. Of a run from this checkout, the next run does it."
)
OVER_BUDGET_HELP = "do not mind settings:budget of the deployment this time"
ON_FAILURE_HELP = (
    "what happens to a machine that this run launched and that is not ready"
    " (default: keep, for the next run)"
)


class _Rest(argparse.Action):
    """Stores the rest of the line, without its first `--`; it may not be empty."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        args = values[1:] if values[:1] == ["--"] else values
        if not args:
            parser.error(f"there is no command: {parser.prog} … -- {(self.metavar or self.dest)}")
        setattr(namespace, self.dest, args)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="stackctl",
        description="Bring the Airflow stack up, look at it, and take it down.",
        epilog="Plain Salt works without stackctl: log in to salt-1"
        " and use salt, salt-run and salt-cloud.",
    )
    top.add_argument(
        "-d",
        "--deployment",
        default=LOCAL,
        help="'local' (this machine, the default) or a folder of pillar/",
    )
    top.add_argument(
        "--map",
        default="",
        metavar="NAME",
        help=MAP_HELP,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_changing_verbs(verbs)
    _add_database_verbs(verbs)
    _add_reading_verbs(verbs)
    _add_secrets(_add(verbs, "secrets", "Make, show or renew the deployment's secrets."))
    _add_master(_add(verbs, "master", "Back up or restore the Salt master's keys."))
    completion = _add(verbs, "completion", "Print a shell's completion of the verbs and options.")
    completion.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return top


def _add(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    # The deployment may be given before the verb or after it.
    made.add_argument("-d", "--deployment", default=argparse.SUPPRESS, help=DEPLOYMENT_HELP)
    return made


def _add_init(verbs: Any) -> None:
    text = (
        "Make the files of a new deployment in an AWS account: settings, keys and secrets. What"
        " exists stays; an answer that differs from it is refused."
    )
    init = verbs.add_parser("init", help=text, description=text)
    init.set_defaults(action="init")
    init.add_argument("deployment", metavar="NAME", help="of the deployment, such as prod")
    init.add_argument("--account", default="", help="the number of its AWS account")
    init.add_argument(
        "--operator-cidr",
        action="append",
        default=[],
        metavar="CIDR",
        help="a network that operators come from, such as 198.51.100.7/32; may be repeated"
        " (default: asked, with this host's own address)",
    )
    init.add_argument(
        "--base-url",
        default="",
        help="the address that users type (default: that of an Elastic IP, which costs money)",
    )
    init.add_argument(
        "--operator-key",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="an operator's public key, as gpg or Keybase exports it; may be repeated",
    )
    init.add_argument("--budget", type=_amount, help="USD that it may cost a month")
    init.add_argument("--dry-run", action="store_true", help="print what would be made")


def _add_changing_verbs(verbs: Any) -> None:
    _add_init(verbs)
    plan = _add(
        verbs,
        "plan",
        "Print what `up` would create, change and leave, after asking the account for permissions"
        " and quotas, and what it costs a month; change nothing.",
    )
    plan.add_argument("--over-budget", action="store_true", help=OVER_BUDGET_HELP)
    up = _add(
        verbs,
        "up",
        "Bring up whatever is missing or differs from the tree; a second run changes nothing.",
    )
    up.add_argument(
        "--dry-run",
        action="store_true",
        help="check this host and print what would be done; change nothing",
    )
    up.add_argument("--map", default=argparse.SUPPRESS, metavar="NAME", help=MAP_HELP)
    up.add_argument("--with-data", action="store_true", help=WITH_DATA_HELP)
    up.add_argument("--on-failure", choices=ON_FAILURE, default="keep", help=ON_FAILURE_HELP)
    up.add_argument("--wait", action="store_true", help=WAIT_HELP)
    up.add_argument("--over-budget", action="store_true", help=OVER_BUDGET_HELP)
    up.add_argument("--master-backup", default="newest", metavar="NAME", help=BACKUP_HELP)
    launch = _add(
        verbs,
        "launch",
        "Launch and repair the map's machines, and judge each; exit with 1 if one is not ready.",
    )
    launch.add_argument("--on-failure", choices=ON_FAILURE, default="keep", help=ON_FAILURE_HELP)
    launch.add_argument("--serial", action="store_true", help="one after another, not all at once")
    launch.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be launched or repaired; change nothing",
    )
    launch.add_argument("--json", action="store_true", help=JSON_HELP)
    launch.add_argument("--wait", action="store_true", help=WAIT_HELP)
    scale = _add(
        verbs,
        "scale",
        "Give a role more machines or fewer: scale web=4, or scale web=2..4 to have the Salt master"
        " choose. Fewer: the machines with the highest numbers are drained, then destroyed.",
    )
    scale.add_argument(
        "wanted",
        nargs="+",
        type=_wanted,
        metavar="ROLE=NUMBER",
        help="how many machines the role has; MINIMUM..MAXIMUM: the master adds and removes some",
    )
    scale.add_argument("--with-data", action="store_true", help=WITH_DATA_HELP)
    scale.add_argument("--dry-run", action="store_true", help="print what would be done")
    scale.add_argument("--wait", action="store_true", help=WAIT_HELP)
    scale.add_argument("--over-budget", action="store_true", help=OVER_BUDGET_HELP)
    _add_maintenance(verbs)
    down = _add(
        verbs,
        "down",
        "Remove the local stack: machines, networks, image, API, keys. Of a deployment in an AWS"
        " account: destroy everything that has its tags, and prove that nothing else is left.",
    )
    down.add_argument(
        "--yes", action="store_true", help="do not ask for the name of a deployment in an account"
    )
    down.add_argument(
        "--with-data",
        action="store_true",
        help="destroy also its volumes, snapshots and buckets that hold data",
    )
    down.add_argument(
        "--keep-image",
        action="store_true",
        help="keep the machine image, so that the next start takes less time",
    )
    down.add_argument("--wait", action="store_true", help=WAIT_HELP)
    down.add_argument(
        "--dry-run", action="store_true", help="print what would be removed; change nothing"
    )
    unlock = _add(verbs, "unlock", UNLOCK_HELP)
    unlock.add_argument("--dry-run", action="store_true", help="print whose lock it is")


def _add_maintenance(verbs: Any) -> None:
    for name, text in (("reboot", REBOOT_HELP), ("upgrade", UPGRADE_HELP)):
        verb = _add(verbs, name, text)
        verb.add_argument(
            "names", nargs="+", metavar="MACHINE", help="or a role, for all its machines"
        )
        verb.add_argument(
            "--interrupt",
            action="store_true",
            help="also where nobody serves in a machine's place meanwhile (default: refused)",
        )
        verb.add_argument(
            "--dry-run",
            action="store_true",
            help="print what would be done; exit with 1 where a machine must not be away now",
        )
        verb.add_argument("--wait", action="store_true", help=WAIT_HELP)
    replace = _add(verbs, "replace", REPLACE_HELP)
    replace.add_argument("machine")
    replace.add_argument("--wait", action="store_true", help=WAIT_HELP)


def _add_database_verbs(verbs: Any) -> None:
    backup = _add(verbs, "backup", "Make a backup of the database now, or list those that exist.")
    backup.add_argument("--full", action="store_true", help="of everything, not of what changed")
    backup.add_argument("--list", action="store_true", help="print the backups; make none")
    restore = _add(
        verbs,
        "restore",
        "Give the database the state of another moment, on every server; or look at one beside it.",
    )
    restore.add_argument(
        "to",
        nargs="?",
        metavar="TIME",
        help="such as 2026-11-27T14:30:00Z, or `latest`: the newest that is archived",
    )
    restore.add_argument(
        "--timeline",
        default="",
        metavar="NUMBER",
        help="of a history that an earlier restore has replaced; it has printed the number",
    )
    restore.add_argument(
        "--aside",
        action="store_true",
        help="restore beside a server that goes on, and print the command that opens it",
    )
    restore.add_argument("--end", action="store_true", help="remove what --aside has restored")
    restore.add_argument(
        "--drill",
        action="store_true",
        help="prove that the newest state can be restored: restore it beside a server, count rows,"
        " remove it, and print how long that took",
    )
    restore.add_argument("--dry-run", action="store_true", help="print what would be done")
    restore.add_argument("--yes", action="store_true", help="do not ask for the deployment's name")
    restore.add_argument("--wait", action="store_true", help=WAIT_HELP)


def _add_reading_verbs(verbs: Any) -> None:
    status = _add(
        verbs, "status", "Show every machine and the site; exit with 1 unless all are healthy."
    )
    status.add_argument("--json", action="store_true", help=JSON_HELP)
    cost = _add(
        verbs,
        "cost",
        "Print what the deployment costs a month in an AWS account, by role, and what else would.",
    )
    cost.add_argument("--json", action="store_true", help=JSON_HELP)
    cost.add_argument("--s3-gb", type=_amount, default=0, help="kept in S3 (default: 0)")
    cost.add_argument(
        "--transfer-gb", type=_amount, default=100, help="out of AWS, a month (default: 100)"
    )
    execute = _add(verbs, "exec", "Run a command as root on a machine: exec web-1 -- uptime")
    execute.add_argument("machine")
    execute.add_argument("command", nargs=argparse.REMAINDER, action=_Rest)
    salt = _add(verbs, "salt", "Run `salt` on the master: salt -- '*' test.ping")
    salt.add_argument("args", nargs=argparse.REMAINDER, action=_Rest, metavar="ARG")
    logs = _add(
        verbs,
        "logs",
        "Print the log of a machine's service, of all machines, or without either of the last up.",
    )
    logs.add_argument("machines", nargs="*", metavar="MACHINE")
    logs.add_argument(
        "--all",
        action="store_true",
        help="search what all machines have logged, or these, also those that are gone",
    )
    logs.add_argument("--unit", default="", help="only this systemd unit")
    logs.add_argument("--since", default="", help="such as --since=-1h or --since='09:30'")
    logs.add_argument(
        "--grep", default="", metavar="PATTERN", help="only these, such as the id of a request"
    )
    logs.add_argument("-n", "--lines", type=_count, default=50, help="how many (default: 50)")


def _add_secrets(verb: argparse.ArgumentParser) -> None:
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = _add(actions, "init", "Make what is missing; secrets that exist stay.")
    init.add_argument(
        "--base-url",
        help="the address that users type (default, the first time: that of an Elastic IP, which is"
        " found or allocated in the account; it costs money from then on)",
    )
    init.add_argument(
        "--account",
        type=_account_number,
        help="the AWS account of the deployment; stackctl refuses every other",
    )
    _add(actions, "list", "Print the names of all secrets.")
    show = _add(actions, "show", "Print one field of a secret: show airflow-admin password")
    show.add_argument("secret", metavar="SECRET")
    show.add_argument(
        "field", nargs="?", metavar="FIELD", help="may be omitted if the secret has only one"
    )
    setter = _add(
        actions,
        "set",
        "Give a field of a secret the value that is read from standard input, such as a password"
        " that another program has made; `up` then brings it to the machines.",
    )
    setter.add_argument("secret", metavar="SECRET")
    setter.add_argument("field", metavar="FIELD")
    edit = _add(
        actions,
        "edit",
        "Change a secret in $VISUAL or $EDITOR, on a file in memory that is removed afterwards;"
        " for edge-tls, a certificate of a public CA and its key.",
    )
    edit.add_argument("secret", metavar="SECRET")
    check = _add(
        actions,
        "check",
        "Decrypt every field, and print what is wrong with secrets, keys and readers, with file and"
        " field and without a value; exit with 1 if something is.",
    )
    check.add_argument("--json", action="store_true", help=JSON_HELP)
    readers = _add(
        actions,
        "recipients",
        "Print who can decrypt: the Salt master and each operator, with the key's fingerprint and"
        " end, and the secrets that are not encrypted to it.",
    )
    readers.add_argument("--json", action="store_true", help=JSON_HELP)
    share = _add(
        actions,
        "share",
        "Encrypt every secret also to an operator's public key, who then needs no other.",
    )
    share.add_argument(
        "file", type=Path, metavar="FILE", help="one public key, as gpg or Keybase exports it"
    )
    share.add_argument("--name", help="of the operator (default: the file's, without its ending)")
    unshare = _add(actions, "unshare", "Encrypt every secret without an operator's key.")
    unshare.add_argument("operator", metavar="NAME")
    rotate = _add(
        actions,
        "rotate",
        "Make secrets anew; `up` then brings them to the machines. The old value of a password is"
        " taken, too, until `secrets continue`. deployment-ca goes alone, and in three phases: run"
        " it again after each `up`.",
    )
    which = rotate.add_mutually_exclusive_group(required=True)
    which.add_argument("secret", nargs="*", default=[], metavar="SECRET")
    which.add_argument(
        "--all",
        action="store_true",
        help="each but those that go by a way of their own, which it names",
    )
    rotate.add_argument(
        "--at-once",
        action="store_true",
        help="for a value that others know: `up` has the old one taken by nobody; requests may"
        " fail meanwhile",
    )
    go_on = _add(
        actions,
        "continue",
        "Go on with rotations that are begun, after `up` has brought them to every machine.",
    )
    go_on.add_argument(
        "secret", nargs="*", metavar="SECRET", help="(default: all whose rotation is on)"
    )


def _add_master(verb: argparse.ArgumentParser) -> None:
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add(
        actions,
        "backup",
        "Back up the master's keys now, encrypted, into the deployment's bucket; a timer on the"
        " master does the same once a day, and within minutes after a key has changed.",
    )
    backups = _add(actions, "backups", "Print the backups that the bucket has, the newest first.")
    backups.add_argument("--json", action="store_true", help=JSON_HELP)
    restore = _add(
        actions,
        "restore",
        "Put a backup in the place of the keys that the master has. `up` does this by itself when"
        " it has launched a new master.",
    )
    restore.add_argument(
        "--from",
        dest="name",
        default="",
        metavar="NAME",
        help="as `master backups` prints it (default: the newest)",
    )
    restore.add_argument("--dry-run", action="store_true", help="print what would be replaced")
    restore.add_argument("--wait", action="store_true", help=WAIT_HELP)
    rotate = _add(
        actions,
        "rotate-keys",
        "Give minions new keys, one after the other: a copy of an old one opens nothing any more."
        " The site serves meanwhile.",
    )
    rotate.add_argument("names", nargs="+", metavar="MACHINE|ROLE")
    own = _add(
        actions,
        "rotate-own-key",
        "Give the master another key, and have every machine trust that one. The site serves"
        " meanwhile.",
    )
    for each in (rotate, own):
        each.add_argument("--wait", action="store_true", help=WAIT_HELP)


def _count(text: str) -> int:
    if (number := int(text)) < 0:
        raise ValueError
    return number


def _amount(text: str) -> float:
    if (number := float(text)) < 0:
        raise ValueError
    return number


def _wanted(text: str) -> Wanted:
    try:
        return Wanted.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _account_number(text: str) -> str:
    if not re.fullmatch(r"[0-9]{12}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no AWS account: it has 12 digits")
    return text
