"""When a backup is due and who makes it, what can be restored, and what a bootstrap does."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fakeclock import Clock
from plainpillar import ROOT
from saltmodules import load_file

NOW = dt.datetime(2025, 11, 27, 12, tzinfo=dt.UTC)


@pytest.fixture
def backups() -> ModuleType:
    return load_file(ROOT / "salt/postgres/files/backups.py")


@pytest.fixture
def settings(backups: ModuleType, tmp_path: Path) -> Any:
    return backups.Settings(
        own="postgres-2",
        domain="stack.internal",
        patroni_port=8008,
        server_port=8432,
        tls="/tls",
        data_dir=str(tmp_path / "main"),
        bin_dir=str(tmp_path / "bin"),
        hours=24,
        full_days=7,
        database="airflow",
        tables=["dag"],
        settings={"max_connections": "82"},
    )


def made(backups: ModuleType, *ages: tuple[bool, float], size: int = 1000) -> list[Any]:
    """Return backups: whether it is a full one, and how many hours ago it ended."""
    return [
        backups.Backup(f"{hours}", full, NOW - dt.timedelta(hours=hours), size)
        for full, hours in ages
    ]


@pytest.mark.parametrize(
    ("ages", "due"),
    [
        ((), "full"),
        (((True, 1),), ""),
        (((True, 24),), "incr"),
        (((True, 100), (False, 23.9)), ""),
        (((True, 100), (False, 24)), "incr"),
        (((True, 168), (False, 1)), "full"),
        (((True, 400), (True, 2)), ""),
    ],
)
def test_kind_that_is_due(
    backups: ModuleType, settings: Any, ages: tuple[tuple[bool, float], ...], due: str
) -> None:
    assert backups.kind(made(backups, *ages), NOW, settings) == due


def member(number: int, role: str, state: str) -> dict[str, str]:
    return {"name": f"postgres-{number}", "role": role, "state": state}


@pytest.mark.parametrize(
    ("members", "makes"),
    [
        ([member(1, "leader", "running")], "postgres-1"),
        ([member(1, "replica", "streaming"), member(2, "leader", "running")], "postgres-1"),
        (
            [
                member(1, "leader", "running"),
                member(3, "quorum_standby", "streaming"),
                member(2, "quorum_standby", "streaming"),
            ],
            "postgres-2",
        ),
        # One that copies the data or is lost makes none.
        ([member(1, "leader", "running"), member(2, "replica", "creating replica")], "postgres-1"),
        ([member(1, "replica", "stopped")], ""),
    ],
)
def test_machine_that_makes_backups(
    backups: ModuleType, members: list[dict[str, str]], makes: str
) -> None:
    assert backups.maker(members) == makes


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("yesterday", "is no time: write it as"),
        ("2025-11-27T11:00:00", "has no zone: add Z"),
        (
            "2025-11-20T00:00:00Z",
            "is before the oldest backup, which ended at 2025-11-26T12:00:00Z",
        ),
        ("2999-01-01T00:00:00+01:00", "is in the future: it is "),
    ],
)
def test_target_that_cannot_be_reached(backups: ModuleType, to: str, reason: str) -> None:
    found = made(backups, (True, 24), (False, 1))
    with pytest.raises(backups.BackupError, match=reason):
        backups.Target.parse(to, "", found)


def test_target_needs_a_backup_and_a_number(backups: ModuleType) -> None:
    with pytest.raises(backups.BackupError, match=r"there is no backup .* stackctl backup"):
        backups.Target.parse("latest", "", [])
    with pytest.raises(backups.BackupError, match="'x' is no timeline"):
        backups.Target.parse("latest", "x", made(backups, (True, 1)))


def test_options_of_a_target(backups: ModuleType) -> None:
    found = made(backups, (True, 24))
    assert backups.Target.parse("latest", "", found).options() == []
    assert backups.Target.parse("2025-11-27T12:30:00.25+01:00", "12", found).options() == [
        "--target-timeline=12",
        "--type=time",
        "--target=2025-11-27 11:30:00.250000+00",
        "--target-action=promote",
    ]


class Repository:
    """In pgBackRest's place: what `info` says, and the commands that it got."""

    def __init__(self, backups: ModuleType, patch: pytest.MonkeyPatch) -> None:
        self.stanzas: list[dict[str, Any]] = []
        self.failure = ""
        self.commands: list[tuple[str, ...]] = []
        self.error = backups.BackupError
        patch.setattr(backups, "pgbackrest", self.run)

    def run(self, *words: str, seconds: float) -> str:
        assert seconds > 0
        self.commands.append(words)
        if self.failure:
            raise self.error(self.failure)
        return json.dumps(self.stanzas)

    def keep(self, *stops: dt.datetime, code: int = 0, message: str = "ok") -> None:
        """Have it hold a full backup that ended at each of these moments."""
        self.stanzas = [
            {
                "name": "stack",
                "status": {"code": code, "message": message},
                "repo": [{"status": {"code": code, "message": f"[{message}]"}}],
                "backup": [
                    {
                        "label": stop.isoformat(),
                        "type": "full",
                        "timestamp": {"stop": stop.timestamp()},
                        "info": {"size": 2**20},
                        "error": False,
                    }
                    for stop in stops
                ],
            }
        ]


@pytest.fixture
def repository(backups: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository(backups, monkeypatch)


@pytest.mark.parametrize("code", [1, 2, 3])
def test_repository_without_a_backup(
    backups: ModuleType, repository: Repository, code: int
) -> None:
    assert backups.look() == []
    repository.keep(code=code, message="no valid backups")
    assert backups.look() == []


def test_repository_that_cannot_be_read_is_not_empty(
    backups: ModuleType, repository: Repository
) -> None:
    repository.keep(code=99, message="CryptoError: unable to flush")
    with pytest.raises(backups.BackupError, match="another key than the secret postgres-backup"):
        backups.look()
    repository.keep(code=99, message="HostConnectError")
    with pytest.raises(backups.BackupError, match=r"HostConnectError \[HostConnectError\]"):
        backups.look()


def test_damaged_backup_does_not_count(backups: ModuleType, repository: Repository) -> None:
    repository.keep(NOW, NOW + dt.timedelta(hours=1))
    repository.stanzas[0]["backup"][1]["error"] = True
    assert [each.stop for each in backups.look()] == [NOW]


def initdb(settings: Any, *, fails: bool = False) -> Path:
    """Make a program in the place of initdb; return the file to which it writes its arguments."""
    folder = Path(settings.bin_dir)
    folder.mkdir()
    program = folder / "initdb"
    called = folder / "called"
    end = "echo no room >&2; exit 1" if fails else "exit 0"
    program.write_text(f'#!/bin/sh\necho "$@" > {called}\n{end}\n')
    program.chmod(0o755)
    return called


def test_cluster_begins_empty_without_a_backup(
    backups: ModuleType, repository: Repository, settings: Any
) -> None:
    called = initdb(settings)
    assert "empty cluster" in backups.bootstrap(settings, "/data")
    assert "--pgdata /data --data-checksums" in called.read_text()
    assert repository.commands == [("--output=json", "info")]


def test_failure_of_initdb_is_told(
    backups: ModuleType, repository: Repository, settings: Any
) -> None:
    assert repository.stanzas == []
    initdb(settings, fails=True)
    with pytest.raises(backups.BackupError, match="initdb: no room"):
        backups.bootstrap(settings, "/data")


def test_cluster_begins_from_the_newest_backup(
    backups: ModuleType, repository: Repository, settings: Any
) -> None:
    repository.keep(NOW)
    assert backups.bootstrap(settings, "/data") == "restored latest"
    assert repository.commands[-1] == ("--pg1-path=/data", "restore")


def test_no_cluster_begins_while_the_repository_cannot_be_read(
    backups: ModuleType, repository: Repository, settings: Any
) -> None:
    called = initdb(settings)
    repository.failure = "HTTP request failed with 403"
    with pytest.raises(backups.BackupError, match="403"):
        backups.bootstrap(settings, "/data")
    assert not called.exists()


def test_target_is_forgotten_after_a_while(
    backups: ModuleType,
    repository: Repository,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "target.json"
    repository.keep(NOW - dt.timedelta(days=1))
    monkeypatch.setattr(backups.read_target, "__defaults__", (str(path),))
    backups.write_target("2025-11-27T11:00:00Z", "3", str(path))
    assert backups.bootstrap(settings, "/data") == "restored 2025-11-27T11:00:00Z"
    assert "--target-timeline=3" in repository.commands[-1]
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"until": 0}))
    assert backups.bootstrap(settings, "/data") == "restored latest"


def test_data_that_does_not_fit_is_not_restored(backups: ModuleType, tmp_path: Path) -> None:
    backups.require_room(tmp_path, made(backups, (True, 1)))
    with pytest.raises(backups.BackupError, match="MiB free"):
        backups.require_room(tmp_path, made(backups, (True, 1), size=2**60))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("P00  ERROR: [041]: unable to open\n", "[041]: unable to open"),
        ("WARN: x\nP00   ERROR: [056]: gone\n       HINT: is it there?\n", "[056]: gone HINT"),
        ("something else\n", "something else"),
    ],
)
def test_reason_of_pgbackrest(backups: ModuleType, output: str, reason: str) -> None:
    assert backups._reason(output).startswith(reason)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (59, "59 s"), (130, "2 min"), (7300, "2 h"), (200_000, "2 d")],
)
def test_age_in_words(backups: ModuleType, seconds: int, words: str) -> None:
    assert backups._ago(dt.timedelta(seconds=seconds)) == f"{words} ago"


def test_backup_waits_for_a_leader_after_a_boot(
    backups: ModuleType, repository: Repository, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(backups, "time", clock)
    looks: list[list[dict[str, str]]] = []

    def members(_: object) -> list[dict[str, str]]:
        if not looks:
            raise backups.BackupError("Patroni on postgres-2 does not answer")
        return looks[0] if len(looks) == 1 else looks.pop(0)

    monkeypatch.setattr(backups, "members", members)
    with pytest.raises(backups.BackupError, match="does not answer"):
        backups.backup(settings, full=False, now=False)
    assert clock.now >= 120
    led = [member(2, "leader", "running")]
    looks += [[member(2, "replica", "starting")], led]
    repository.keep(dt.datetime.now(dt.UTC))
    assert backups.backup(settings, full=False, now=False) == "none is due"
    looks[:] = [[member(1, "leader", "running"), member(3, "replica", "streaming")]]
    assert backups.backup(settings, full=True, now=True) == "postgres-3 makes the backups"


SEGMENT, NEXT = "00000001000000000000000C", "00000001000000000000000D"


class Archive:
    """Stands for pgBackRest: what it has, and what it was asked for."""

    def __init__(self, *has: str) -> None:
        self.has = has
        self.asked: list[str] = []

    def __call__(self, verb: str, segment: str, path: str, *, seconds: float) -> str:
        assert (verb, path, seconds) == ("archive-get", "pg_wal/RECOVERYXLOG", 10)
        self.asked.append(segment)
        if segment not in self.has:
            raise self.error(f"unable to find {segment}")
        return ""

    error: type[Exception]


@pytest.fixture
def ask(
    backups: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., bool]:
    """`ask(archive, segment, seconds)`: ask for a segment so long after the last question."""
    clock = Clock()
    monkeypatch.setattr(backups.time, "monotonic", clock.monotonic)

    def fetch(archive: Archive, segment: str, after: float = 5) -> bool:
        archive.error = backups.BackupError
        monkeypatch.setattr(backups, "pgbackrest", archive)
        clock.sleep(after)
        try:
            backups.fetch(segment, "pg_wal/RECOVERYXLOG", str(tmp_path / "wanted"))
        except backups.BackupError:
            return False
        return True

    return fetch


def test_replica_waits_for_a_server_before_it_asks_the_archive(ask: Callable[..., bool]) -> None:
    """In the first half minute another server takes over, and must not wait for S3."""
    archive = Archive(SEGMENT)
    assert [ask(archive, SEGMENT) for _ in range(7)] == [False] * 6 + [True]
    assert archive.asked == [SEGMENT]


def test_replica_asks_for_both_timelines_where_one_begins(ask: Callable[..., bool]) -> None:
    newer = SEGMENT.replace("00000001", "00000002")
    archive = Archive(newer)
    names = [newer, SEGMENT] * 7
    assert [ask(archive, name, 2.5) for name in names] == [False] * 12 + [True, False]
    assert archive.asked == [newer, SEGMENT]


def test_replica_fetches_one_segment_after_the_other(ask: Callable[..., bool]) -> None:
    archive = Archive(SEGMENT, NEXT)
    while not ask(archive, SEGMENT):
        pass
    assert ask(archive, NEXT, 0.1)
    # The archive has no more: a server is asked, and half a minute passes again.
    last = "00000001000000000000000E"
    assert not ask(archive, last, 0.1)
    assert archive.asked == [SEGMENT, NEXT, last]
    assert [ask(archive, last) for _ in range(5)] == [False] * 5
    assert archive.asked == [SEGMENT, NEXT, last]


def test_questions_of_long_ago_do_not_count(ask: Callable[..., bool]) -> None:
    """A stream that breaks twice in the same segment is not one that is broken meanwhile."""
    archive = Archive(SEGMENT)
    assert not ask(archive, SEGMENT)
    assert not ask(archive, SEGMENT, 3600)
    assert archive.asked == []
    assert [ask(archive, SEGMENT) for _ in range(6)] == [False] * 5 + [True]
    assert not ask(archive, NEXT, 3600)


def test_history_comes_from_a_server_alone(ask: Callable[..., bool]) -> None:
    archive = Archive("00000002.history")
    assert not any(ask(archive, "00000002.history") for _ in range(20))
    assert archive.asked == []
