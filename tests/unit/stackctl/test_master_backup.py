"""`stackctl master`, and a new Salt master that takes the keys of the lost one.

The program on the master is replaced by what it prints; its real parser reads the arguments.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest
from rich.console import Console

from memorycloud import Running
from plainpillar import ROOT
from saltmodules import load_file
from stackctl import cli, cost, master_backup, tree, up
from stackctl.deployment import Deployment
from stackctl.errors import (
    BackupError,
    CommandError,
    NotUpError,
    SecretsError,
    UnreachableError,
)
from stackctl.locks import Holder
from stackctl.machines import Machine
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.secret_store import SecretStore, gpg, gpg_home
from stackctl.verdict import Result

program = load_file(ROOT / "salt/master/files/master_backup.py")
MASTER = Machine("salt-1", "i-1", "running", "10.20.1.250", "")
OTHERS = [MASTER, Machine("web-1", "i-2", "running", "10.20.11.9", "")]
RESTORED = {
    "restored": True,
    "name": "2026-11-27T06:00:00Z",
    "minions": ["web-1"],
    "left": ["web-9"],
    "changes": ["/etc/salt/pki/master/minions/web-1"],
}


class Program:
    """The program on the master, and everything between it and this host.

    Attributes:
        answer: what it prints, or its exit code and sentence.
        asked: its arguments, as it reads them.
        did: how it was called, and the states of the master.
    """

    def __init__(self) -> None:
        self.answer: Any = RESTORED
        self.asked: list[argparse.Namespace] = []
        self.did: list[str] = []
        self.options: dict[str, Any] = {}
        self.jobs = SimpleNamespace(run=self.job)
        self.known = "yes"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def trust(self, machine: Machine) -> None:
        self.did.append(f"trust {machine.name}")

    def hold(self, machine: Machine) -> None:
        self.did.append(f"hold {machine.name}")

    def run(self, machine: Machine, args: Sequence[str], **_: object) -> str:
        assert machine == MASTER
        self.did.append("run")
        return self._run(args)

    def job(self, machine: Machine, args: Sequence[str], **_: object) -> str:
        assert machine == MASTER
        if "bootstrap-master" in args:
            self.did.append("bootstrap")
            return '{"local": {"a": {"result": true, "changes": {}}}}'
        self.did.append("job")
        return self._run(args)

    def script(self, _machine: Machine, args: Sequence[str], **_: object) -> str:
        self.did.append(args[0])
        return self.known

    def _run(self, args: Sequence[str]) -> str:
        assert list(args[:2]) == ["/opt/salt/bin/python", master_backup.PROGRAM]
        self.asked.append(program.arguments().parse_args(args[2:]))
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, tuple):
            code, sentence = self.answer
            raise CommandError("it failed", code=code, errors=f"noise\n{sentence}\n")
        return json.dumps(self.answer)


@pytest.fixture
def master(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program on a master that is reached."""
    made = Program()
    deployment.pillar_dir.mkdir(exist_ok=True)
    deployment.settings_path.write_text("settings: {}\n")
    for name, value in {
        "enter": lambda _: nullcontext(),
        "ec2_client": lambda _: None,
        "Shell": lambda *_: made,
        "Session": lambda *_, **options: made.options.update(options) or made,
        "list_machines": lambda *_: {machine.name: machine for machine in OTHERS},
        "find_machines": lambda *_: OTHERS,
    }.items():
        monkeypatch.setattr(master_backup, name, value)
    monkeypatch.setattr(cli, "repository_root", lambda: deployment.root)
    return made


def test_backup_tells_where_it_is(master: Program, capsys: pytest.CaptureFixture[str]) -> None:
    master.answer = {
        "made": True, "where": "s3://b/master/backup.tar.gpg", "version": "v1", "bytes": 4321,
        "minions": ["salt-1", "web-1"], "readers": 2,
    }  # fmt: skip
    assert cli.main(["master", "backup"]) == 0
    (asked,) = master.asked
    assert (asked.deployment, asked.region) == ("local", "eu-west-1")
    assert asked.bucket == "airflow-stack-local-{account}-eu-west-1"
    assert asked.act is program.back_up
    assert not asked.if_needed
    assert capsys.readouterr().out == (
        "Backed up: s3://b/master/backup.tar.gpg, version v1, 4321 bytes, with the keys of salt-1,"
        " web-1; OpenPGP keys that open it: 2.\n"
    )


def test_backups_are_listed(master: Program, capsys: pytest.CaptureFixture[str]) -> None:
    backups = [{"name": "2026-11-27T06:00:00Z", "bytes": 4321, "version": "v1"}]
    master.answer = {"where": "s3://b/o", "backups": backups}
    assert cli.main(["master", "backups"]) == 0
    assert capsys.readouterr().out == "2026-11-27T06:00:00Z  4321 bytes\n1 backups: s3://b/o\n"
    assert cli.main(["master", "backups", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == master.answer


def test_refusal_is_the_programs_own_sentence(
    master: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    master.answer = (1, "the bucket is not there")
    assert cli.main(["master", "backup"]) == 1
    said = capsys.readouterr().err
    assert "stackctl master backup: the bucket is not there." in said
    assert "noise" not in said
    master.answer = UnreachableError("SSH has no connection to salt-1.", code=255)
    assert cli.main(["master", "backups"]) == 1
    assert "SSH has no connection" in capsys.readouterr().err


def test_restore_by_hand_holds_the_lock_and_names_what_differs(
    master: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["master", "restore", "--from", RESTORED["name"], "--wait"]) == 0  # type: ignore[list-item]
    assert master.did == ["trust salt-1", "hold salt-1", "job"]
    assert master.options["wait"] is True
    (asked,) = master.asked
    assert (asked.id, asked.version, asked.machines, asked.dry_run, asked.if_new) == (
        "salt-1", RESTORED["name"], ["salt-1", "web-1"], False, False,
    )  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "replaced /etc/salt/pki/master/minions/web-1",
        "left out, because their machines do not exist: web-9",
        "The master has the keys of the backup of 2026-11-27T06:00:00Z. Then: stackctl up",
    ]


def test_restore_can_be_rehearsed(master: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["master", "restore", "--dry-run"]) == 0
    (asked,) = master.asked
    assert (asked.version, asked.dry_run) == ("", True)
    said = capsys.readouterr().out
    assert "would replace /etc/salt/pki/master/minions/web-1" in said
    assert "Then:" not in said
    master.answer = {**RESTORED, "changes": [], "left": []}
    assert cli.main(["master", "restore", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "The master has the keys of the backup of 2026-11-27T06:00:00Z already.\n"
    )


def test_restore_without_a_master_names_up(
    master: Program, deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master_backup, "list_machines", lambda *_: {})
    with pytest.raises(NotUpError, match="stackctl up"):
        master_backup.restore(deployment, log, print, master_backup.Choice())
    assert master.asked == []


# -- `up` ------------------------------------------------------------------------------------------


@pytest.fixture
def screen() -> StringIO:
    return StringIO()


@pytest.fixture
def start(
    master: Program,
    deployment: Deployment,
    log: Log,
    screen: StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., up.Machines]:
    """A function that has `up` start a master, and returns what goes on with the machines."""
    monkeypatch.setattr(tree, "push", lambda *_: (True, "abc"))
    monkeypatch.setattr(tree, "untracked_warning", lambda *_: "")

    def begin(others: Collection[str] = ("salt-1", "web-1"), backup: str = "newest") -> up.Machines:
        progress = Progress(Console(file=screen, width=300), log)
        run = up.Run(deployment, progress, log, Holder.this("up"), wait=False, backup=backup)
        machines = up.Machines(run, cast(Any, master), cast(Any, master.jobs))
        machines.start_master(MASTER, {}, others)
        return machines

    return begin


class Launcher:
    """Keeps for which minions a launch waits longer."""

    def step(self, _title: str, _request: object, new: Collection[str] = ()) -> Result:
        self.new = set(new)
        return Result(())


def waits_for(machines: up.Machines, deployment: Deployment) -> set[str]:
    launcher = Launcher()
    machines.launch_others(cast(Any, launcher), cast(Any, None), deployment)
    return launcher.new


def test_new_master_has_the_keys_before_its_state_is_applied(
    master: Program, deployment: Deployment, start: Callable[..., up.Machines], screen: StringIO
) -> None:
    machines = start()
    assert master.did == ["job", "bootstrap"]
    (asked,) = master.asked
    assert (asked.id, asked.version, asked.if_new, asked.machines) == (
        "salt-1", "", True, ["web-1"],
    )  # fmt: skip
    assert "salt-1 has the keys of the backup of 2026-11-27T06:00:00Z" in screen.getvalue()
    assert waits_for(machines, deployment) == {"web-1"}, "they reconnect, which takes a while"


def test_backup_of_choice_is_restored(master: Program, start: Callable[..., up.Machines]) -> None:
    start(backup="2026-01-01T00:00:00Z")
    assert [asked.version for asked in master.asked] == ["2026-01-01T00:00:00Z"]


def test_master_that_has_its_key_keeps_it(
    master: Program, deployment: Deployment, start: Callable[..., up.Machines], screen: StringIO
) -> None:
    master.answer = {"restored": False}
    machines = start()
    assert master.did[-1] == "bootstrap"
    assert "!" not in screen.getvalue()
    assert waits_for(machines, deployment) == set()


@pytest.mark.parametrize(("others", "backup"), [(("salt-1",), "newest"), (("web-1",), "none")])
def test_no_backup_is_looked_for_without_minions_or_by_request(
    master: Program, start: Callable[..., up.Machines], others: tuple[str, ...], backup: str
) -> None:
    start(others, backup)
    assert master.asked == []
    assert master.did[-1] == "bootstrap"


def test_without_backup_the_minions_are_installed_anew_which_is_told(
    master: Program, deployment: Deployment, start: Callable[..., up.Machines], screen: StringIO
) -> None:
    master.answer = (program.NONE, "there is no backup at s3://b/o")
    machines = start()
    assert master.did[-1] == "bootstrap"
    assert (
        "! Salt master: there is no backup of a lost master's keys: these minions are installed"
        " anew: web-1"
    ) in screen.getvalue()
    assert waits_for(machines, deployment) == set()


def test_refused_backup_stops_the_run_with_the_way_on(
    master: Program, start: Callable[..., up.Machines]
) -> None:
    master.answer = (1, "the backup of 2026-11-27T06:00:00Z is refused: it is damaged")
    with pytest.raises(BackupError) as caught:
        start()
    assert "bootstrap" not in master.did, "a master that has started has a key of its own"
    said = str(caught.value)
    assert "is refused: it is damaged." in said
    assert "stackctl up --master-backup NAME" in said
    assert "stackctl up --master-backup none" in said


# -- a host that has lost the deployment's GPG key -------------------------------------------------


@pytest.fixture
def backed_up(
    prod: Deployment, in_cloud: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Deployment]:
    """A deployment with a backup in the bucket; its own key is not here, only an operator's."""
    shutil.copytree(ROOT / "salt/master", prod.root / "salt/master")
    store = SecretStore(prod)
    store.create_key()
    with gpg_home() as home:
        kind = ["future-default", "default", "never"]
        gpg(home, ["--passphrase", "", "--quick-generate-key", "ann", *kind])
        store.operators.mkdir()
        (store.operators / "ann.asc").write_text(gpg(home, ["--armor", "--export"]))
        monkeypatch.setenv("GNUPGHOME", str(home))
        bucket = "airflow-stack-prod-123456789012-eu-west-1"
        where = {"LocationConstraint": "eu-west-1"}
        in_cloud.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration=where)
        with gpg_home() as own:
            gpg(own, ["--import", str(store.private_key)])
            keys = program.readers(prod.pillar_dir)
            found = program.Backup("prod", "2026-11-27T06:00:00Z", {"pki/salt-1.pem": b"key"})
            sealed = program.seal(found, keys, own)
        in_cloud.client("s3").put_object(Bucket=bucket, Key=program.OBJECT, Body=sealed)
        yield prod


def test_operator_with_own_key_gets_the_deployments_from_the_bucket(
    backed_up: Deployment, log: Log, screen: StringIO
) -> None:
    store = SecretStore(backed_up)
    store.folder.mkdir()
    store.write("a", {"b": "value"})
    lost = store.private_key.read_text()
    store.private_key.unlink()
    up.recover_key(backed_up, Progress(Console(file=screen, width=300), log))
    assert "taken from the backup of 20" in screen.getvalue()
    assert store.private_key.stat().st_mode & 0o777 == 0o600
    assert lost not in log.path.read_text()
    assert store.read("a") == {"b": "value"}
    before = screen.getvalue()
    up.recover_key(backed_up, Progress(Console(file=screen, width=300), log))
    assert screen.getvalue() == before, "the key is there"


def test_who_cannot_open_the_backup_is_told_what_to_do(
    backed_up: Deployment, log: Log, screen: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SecretStore(backed_up)
    store.private_key.unlink()
    with gpg_home() as home:
        monkeypatch.setenv("GNUPGHOME", str(home))
        with pytest.raises(SecretsError, match=r"gpg-private\.asc is not .*no key here opens it"):
            up.recover_key(backed_up, Progress(Console(file=screen, width=300), log))
    assert not store.private_key.exists()


def test_up_takes_the_option(master: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def run(*_: object, **options: Any) -> up.Result:
        given.update(options)
        return up.Result("https://example.org", changed=False)

    monkeypatch.setattr(cli, "up", run)
    monkeypatch.setattr(cost, "require_within_budget", lambda *_: None)
    for options, wanted in (([], "newest"), (["--master-backup", "none"], "none")):
        assert cli.main(["up", *options]) == 0
        assert given["backup"] == wanted
