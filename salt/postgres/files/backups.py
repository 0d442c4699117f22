"""Backups of the database, and restores. Managed by Salt (salt/postgres).

pgBackRest does the work; this decides when, on which machine, and from what. Patroni calls
`bootstrap` when no server has data: a cluster begins from the newest backup, where there is one.
A timer calls `backup` on every server, and one of them makes it. A replica calls `fetch` for what
no server sends it. `tell`, `require-target` and `aside` are for Salt (salt/_modules/pgbackrest.py).
"""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

CONFIG = "/etc/pgbackrest/stack.json"
# What the next bootstrap restores; without it, the newest state. Not on a disk, and not for long:
# a later bootstrap must not find it.
TARGET = "/run/pgbackrest/target.json"
TARGET_SECONDS = 3600
# What `flush` has returned.
REPLACED = "/run/pgbackrest/replaced.json"
# For what a replica has asked `fetch`, and since when.
WANTED = "/run/pgbackrest/wanted.json"
# Another server takes over meanwhile (`ttl` of Patroni), and has not to wait for an archive that
# hangs.
WANTED_SECONDS = 30
# Ends the current segment, and tells the last one that holds anything. A position at the end of a
# segment is, for a server of version 17, in the next, which nothing fills.
# https://www.postgresql.org/docs/17/functions-admin.html#FUNCTIONS-ADMIN-BACKUP
END_SEGMENT = "SELECT pg_walfile_name(pg_switch_wal() - 1)"
STANZA = "stack"
_FETCH_SECONDS = 10
_ANSWER_SECONDS = 10
_INFO_SECONDS = 60
_TELL_SECONDS = 15  # `stackctl status` waits no longer than a minute for a machine
_LEADER_SECONDS = 120
_ASIDE_SECONDS = 900  # 10 GB take some five minutes
_POLL_SECONDS = 0.5
_NO_STANZA = (1, 2, 3)  # of pgbackrest info: no path, no backup, no data
_COUNT = 'SELECT count(*) FROM "{}"'
_LEADERS = ("leader", "standby_leader")
_FRESH = dt.timedelta(hours=1)  # a server that runs for less need not have a backup
_LATE = dt.timedelta(hours=2)  # that the backup of a day may be late


class BackupError(Exception):
    """What is wrong, and what to do."""


@dataclass(frozen=True)
class Settings:
    """What Salt says.

    Attributes:
        own: this machine's id.
        domain: of the machines' names.
        patroni_port: of Patroni's REST API.
        server_port: of pgBackRest's own server on each machine.
        tls: the folder with the member's certificate and the CA.
        data_dir: of PostgreSQL.
        bin_dir: of its programs.
        hours: the age at which another backup is made.
        full_days: the age at which the next backup is a full one.
        database: that `drill` looks at.
        tables: of that database, whose rows `drill` counts.
        settings: of PostgreSQL, with which a server starts beside the other.
    """

    own: str
    domain: str
    patroni_port: int
    server_port: int
    tls: str
    data_dir: str
    bin_dir: str
    hours: float
    full_days: float
    database: str
    tables: Sequence[str]
    settings: Mapping[str, str]

    @classmethod
    def read(cls, path: str = CONFIG) -> Settings:
        """Return what Salt has written."""
        return cls(**json.loads(Path(path).read_text()))

    @property
    def aside(self) -> Path:
        """The data of a server beside the other."""
        return Path(self.data_dir).with_name("aside")


@dataclass(frozen=True)
class Backup:
    """A backup that is complete.

    Attributes:
        label: by which pgBackRest knows it.
        full: whether it needs no other.
        stop: when it ended. Nothing older can be restored from it.
        size: of the database, in bytes.
    """

    label: str
    full: bool
    stop: dt.datetime
    size: int


# -- what there is ---------------------------------------------------------------------------------


def pgbackrest(*arguments: str, seconds: float) -> str:
    """Run pgBackRest and return its output.

    Raises:
        BackupError: it fails; the text is its own, in a line.
    """
    command = ["pgbackrest", f"--stanza={STANZA}", *arguments]
    try:
        # With a wrong key, it prints what it has decrypted.
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise BackupError(f"pgbackrest {arguments[-1]} did not end within {seconds:g} s") from None
    if done.returncode:
        raise BackupError(_reason(done.stderr or done.stdout))
    return done.stdout


def _reason(output: str) -> str:
    """Return pgBackRest's own errors, without times and process numbers, in a line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if "ERROR" in line), 0)
    text = " ".join(
        line.partition("ERROR:")[2].strip() or line for line in lines[first : first + 4]
    )
    return _explained(text)


def _explained(text: str) -> str:
    """Return an error with what to do about it, where that is known."""
    if "CryptoError" in text or "FormatError" in text:
        return (
            f"{text}: have the backups been encrypted with another key than the secret"
            " postgres-backup? Restore that secret from git"
        )
    return text


def look(seconds: float = _INFO_SECONDS) -> list[Backup]:
    """Return the backups that can be restored, the oldest first; empty: there is none.

    Args:
        seconds: after which the repository counts as one that does not answer.

    Raises:
        BackupError: the repository cannot be read, which is not the same as an empty one.
    """
    # Not strict: what a wrong key has decrypted may be in a message.
    output = pgbackrest("--output=json", "info", seconds=seconds)
    found = json.loads(output, strict=False)
    stanza = next((each for each in found if each["name"] == STANZA), None)
    if stanza is None or stanza["status"]["code"] in _NO_STANZA:
        return []
    if stanza["status"]["code"] != 0:
        reasons = [each["status"]["message"] for each in stanza.get("repo", ())]
        raise BackupError(_explained(" ".join([stanza["status"]["message"], *reasons])))
    return [
        Backup(
            each["label"],
            each["type"] == "full",
            dt.datetime.fromtimestamp(each["timestamp"]["stop"], dt.UTC),
            each["info"]["size"],
        )
        for each in stanza["backup"]
        if not each.get("error")
    ]


def members(settings: Settings) -> list[dict[str, Any]]:
    """Return the servers, as Patroni on this machine knows them.

    Raises:
        BackupError: it does not answer.
    """
    context = ssl.create_default_context(cafile=f"{settings.tls}/ca.pem")
    host = f"{settings.own}.{settings.domain}"
    connection = http.client.HTTPSConnection(
        host, settings.patroni_port, timeout=_ANSWER_SECONDS, context=context
    )
    try:
        connection.request("GET", "/cluster")
        found: list[dict[str, Any]] = json.load(connection.getresponse())["members"]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise BackupError(f"Patroni on {settings.own} does not answer: {error}") from error
    finally:
        connection.close()
    return found


def leader(found: Sequence[Mapping[str, Any]]) -> str:
    """Return which of the servers leads; empty: none does."""
    return next((str(each["name"]) for each in found if each["role"] in _LEADERS), "")


def maker(found: Sequence[Mapping[str, Any]]) -> str:
    """Return which server makes backups: the first replica that follows, or else the leader."""
    following = sorted(str(each["name"]) for each in found if each.get("state") == "streaming")
    return following[0] if following else leader(found)


# -- backup ----------------------------------------------------------------------------------------


def kind(backups: Sequence[Backup], now: dt.datetime, settings: Settings) -> str:
    """Return which backup is due, `full` or `incr`; empty: none is."""
    full = max((each.stop for each in backups if each.full), default=None)
    if full is None or now - full >= dt.timedelta(days=settings.full_days):
        return "full"
    newest = max(each.stop for each in backups)
    return "incr" if now - newest >= dt.timedelta(hours=settings.hours) else ""


def backup(settings: Settings, *, full: bool, now: bool) -> str:
    """Make a backup if one is due and this machine makes it; return what was done, in words.

    Args:
        settings: of this machine.
        full: whether it has to be a full one.
        now: whether it is made although none is due.

    Raises:
        BackupError: no server leads, or pgBackRest fails.
    """
    found = _led(settings)
    leads, makes = leader(found), maker(found)
    if makes != settings.own:
        return f"{makes} makes the backups"
    due = kind(look(), dt.datetime.now(dt.UTC), settings)
    if not (due or now):
        return "none is due"
    wanted = "full" if full else due or "incr"
    pgbackrest(*_of_replica(settings, leads), f"--type={wanted}", "backup", seconds=6 * 3600)
    made = max(look(), key=lambda each: each.stop)
    return f"made {made.label} ({made.size / 2**20:.0f} MiB) on {settings.own}"


def _led(settings: Settings) -> list[dict[str, Any]]:
    """Return the servers once one of them leads: after a boot, none does for some seconds."""
    deadline = time.monotonic() + _LEADER_SECONDS
    while True:
        problem = "no server leads, so there is nothing to back up"
        try:
            if leader(found := members(settings)):
                return found
        except BackupError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise BackupError(problem)
        time.sleep(_POLL_SECONDS)


def _of_replica(settings: Settings, leads: str) -> list[str]:
    """Return the options by which a replica asks the leader to begin and to end a backup."""
    if leads == settings.own:
        return []
    tls = {"ca": "ca.pem", "cert": "certificate.pem", "key": "key.pem"}
    return [
        "--backup-standby",
        f"--pg2-host={leads}.{settings.domain}",
        "--pg2-host-type=tls",
        f"--pg2-host-port={settings.server_port}",
        *(f"--pg2-host-{name}-file={settings.tls}/{file}" for name, file in tls.items()),
        f"--pg2-path={settings.data_dir}",
    ]


# -- restore ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What to restore.

    Attributes:
        time: the moment; None: the newest state.
        timeline: of a history that was left by an earlier restore; empty: the newest.
    """

    time: dt.datetime | None = None
    timeline: str = ""

    @classmethod
    def parse(cls, to: str, timeline: str, backups: Sequence[Backup]) -> Target:
        """Return a target that can be reached.

        Args:
            to: `latest`, or a time with its zone.
            timeline: a number, or empty.
            backups: that there are.

        Raises:
            BackupError: it is no time, or nothing of that time is there.
        """
        if not backups:
            raise BackupError("there is no backup of this deployment. Make one: stackctl backup")
        if timeline and not timeline.isdigit():
            raise BackupError(f"'{timeline}' is no timeline: it is a number, such as 3")
        if to == "latest":
            return cls(None, timeline)
        try:
            moment = dt.datetime.fromisoformat(to)
        except ValueError:
            raise BackupError(
                f"'{to}' is no time: write it as 2026-11-27T14:30:00Z, or `latest`"
            ) from None
        if moment.tzinfo is None:
            raise BackupError(f"'{to}' has no zone: add Z for UTC, or an offset such as +01:00")
        now, first = dt.datetime.now(dt.UTC), backups[0].stop
        if moment > now:
            raise BackupError(f"{to} is in the future: it is {_words(now)}")
        if moment < first:
            raise BackupError(
                f"{to} is before the oldest backup, which ended at {_words(first)}: nothing of that"
                " time can be restored"
            )
        return cls(moment.astimezone(dt.UTC), timeline)

    def options(self) -> list[str]:
        """Return pgBackRest's options."""
        options = [f"--target-timeline={self.timeline}"] if self.timeline else []
        if self.time is None:
            return options
        # Its own format has a space, and an offset in whole hours.
        text = self.time.strftime("%Y-%m-%d %H:%M:%S.%f+00")
        return [*options, "--type=time", f"--target={text}", "--target-action=promote"]


def write_target(to: str, timeline: str, path: str = TARGET) -> None:
    """Say what the next bootstrap restores, for a while."""
    text = json.dumps({"to": to, "timeline": timeline, "until": time.time() + TARGET_SECONDS})
    Path(path).write_text(text)


def read_target(path: str = TARGET) -> tuple[str, str]:
    """Return time and timeline of what to restore; by default the newest state."""
    with suppress(OSError, ValueError):
        found = json.loads(Path(path).read_text())
        if time.time() < found["until"]:
            return found["to"], found["timeline"]
    return "latest", ""


def bootstrap(settings: Settings, data_dir: str) -> str:
    """Begin a cluster, from a backup where there is one; return what was done, in words.

    Args:
        settings: of this machine.
        data_dir: where the data goes.

    Raises:
        BackupError: the repository cannot be read. It may have backups, so nothing is begun.
    """
    backups, (to, timeline) = look(), read_target()
    if not backups and to == "latest":
        options = ["--data-checksums", "--locale=C.UTF-8", "--encoding=UTF8", "--auth=peer"]
        command = [f"{settings.bin_dir}/initdb", "--pgdata", data_dir, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BackupError(f"initdb: {done.stderr.strip()}")
        return "there is no backup: begun with an empty cluster"
    target = Target.parse(to, timeline, backups)
    restore(data_dir, target)
    return f"restored {to}"


def restore(data_dir: str | Path, target: Target, *options: str) -> None:
    """Restore into a folder, which must be empty or missing. PostgreSQL then replays the log."""
    words = [f"--pg1-path={data_dir}", *target.options(), *options, "restore"]
    pgbackrest(*words, seconds=_ASIDE_SECONDS)


# -- a server beside the other ---------------------------------------------------------------------


def aside_command(settings: Settings) -> list[str]:
    """Return the command that runs a restored server beside the other, at a socket of its own."""
    options = {
        **settings.settings,
        "listen_addresses": "",
        "unix_socket_directories": str(settings.aside),
        "archive_mode": "off",
        "ssl": "off",
        "shared_preload_libraries": "",
        "shared_buffers": "16MB",
        "log_destination": "stderr",
        "primary_conninfo": "",
    }
    words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    return [f"{settings.bin_dir}/postgres", "-D", str(settings.aside), *words]


def make_aside(settings: Settings, to: str, timeline: str) -> Target:
    """Restore into a folder of its own.

    Raises:
        BackupError: there is one already, it does not fit on the disk, or pgBackRest fails.
    """
    if settings.aside.exists():
        raise BackupError(f"{settings.aside} is there already: remove it (stackctl restore --end)")
    backups = look()
    target = Target.parse(to, timeline, backups)
    require_room(settings.aside.parent, backups)
    try:
        restore(settings.aside, target, "--archive-mode=off")
    except BackupError:
        shutil.rmtree(settings.aside, ignore_errors=True)
        raise
    return target


def require_room(folder: Path, backups: Sequence[Backup]) -> None:
    """Raise BackupError where the newest backup does not fit on the disk of a folder."""
    needed, free = 1.2 * backups[-1].size, shutil.disk_usage(folder).free
    if needed > free:
        raise BackupError(
            f"the data takes {needed / 2**20:.0f} MiB, and {folder} has {free / 2**20:.0f} MiB free"
        )


@contextmanager
def running_aside(settings: Settings) -> Iterator[None]:
    """Run a restored server beside the other, until the block ends."""
    with subprocess.Popen(
        aside_command(settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            _wait_for_aside(settings, server)
            yield
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(30)
            server.kill()


def _wait_for_aside(settings: Settings, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _ASIDE_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            said = server.stderr.read() if server.stderr else ""
            lines = [line for line in said.splitlines() if "FATAL" in line or "ERROR" in line]
            raise BackupError(f"the restored server has ended: {' '.join(lines[-2:])}")
        with suppress(BackupError):
            if ask(str(settings.aside), "postgres", "SELECT pg_is_in_recovery()") == "f":
                return
        time.sleep(_POLL_SECONDS)
    raise BackupError(f"the restored server has not replayed its log within {_ASIDE_SECONDS} s")


def drill(settings: Settings) -> dict[str, Any]:
    """Restore the newest state beside the server, look at it, and remove it.

    Returns:
        `seconds`: until the restored server took queries. `behind_seconds`: from its last
        transaction or from the last backup to now. `rows`: table -> rows. `at`: when.

    Raises:
        BackupError: the restore fails, or a table is missing or empty.
    """
    begin = time.monotonic()
    make_aside(settings, "latest", "")
    try:
        with running_aside(settings):
            took = time.monotonic() - begin
            where = str(settings.aside)
            last = "SELECT extract(epoch FROM pg_last_xact_replay_timestamp())"
            # None was replayed where the last backup is newer than the last transaction.
            reached = float(ask(where, "postgres", last) or look()[-1].stop.timestamp())
            behind = time.time() - reached
            rows = {
                table: int(ask(where, settings.database, _COUNT.format(table)))
                for table in settings.tables
            }
    finally:
        shutil.rmtree(settings.aside, ignore_errors=True)
    if empty := [table for table, number in rows.items() if number == 0]:
        raise BackupError(f"the restored database has no rows in {', '.join(empty)}")
    return {
        "seconds": round(took, 1),
        "behind_seconds": round(behind, 1),
        "rows": rows,
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


# -- for a replica ---------------------------------------------------------------------------------


def fetch(segment: str, path: str, wanted: str = WANTED) -> str:
    """Bring a segment of the write-ahead log from the archive, if no server sends it for long.

    PostgreSQL asks for the next segment whenever its stream breaks, and asks the stream again after
    a no. The primary sends what it has, so the archive is needed by a replica that was away for so
    long that no server has the segment any more, and by one whose data was rewound to a checkpoint
    of long ago.

    Args:
        segment: its name.
        path: where it goes.
        wanted: the file that remembers what was asked for.

    Raises:
        BackupError: it is not there, or not yet time to look. To PostgreSQL both mean no.
    """
    if not re.fullmatch("[0-9A-F]{24}", segment):
        raise BackupError(f"{segment} comes from a server alone")
    now = time.monotonic()
    asked = Wanted.read(wanted)
    is_recent = now - asked.last < WANTED_SECONDS / 2
    goes_on = is_recent and asked.fetches  # one segment after the other
    # Where a timeline begins, it asks for the segment of both in turn.
    is_same = is_recent and asked.segment[8:] == segment[8:]
    since = asked.since if is_same else now
    if not goes_on and now - since < WANTED_SECONDS:
        Wanted(segment, since, now).write(wanted)
        raise BackupError(f"{segment} is not asked of the archive yet")
    try:
        pgbackrest("archive-get", segment, path, seconds=_FETCH_SECONDS)
    except BackupError:
        Wanted(segment, time.monotonic(), time.monotonic()).write(wanted)
        raise
    Wanted(segment, since, time.monotonic(), fetches=True).write(wanted)
    return f"{segment} comes from the archive"


@dataclass(frozen=True)
class Wanted:
    """What a replica has asked for. Times are of the machine's monotonic clock, in seconds.

    Attributes:
        segment: its name.
        since: of the first question.
        last: of the last one. PostgreSQL asks every five seconds while it has no stream.
        fetches: whether the archive had it.
    """

    segment: str = ""
    since: float = 0
    last: float = float("-inf")
    fetches: bool = False

    @classmethod
    def read(cls, path: str) -> Wanted:
        """Return what a file remembers; nothing when there is none."""
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, path: str) -> None:
        """Remember it."""
        Path(path).write_text(json.dumps(asdict(self)))


# -- for Salt --------------------------------------------------------------------------------------


def tell(settings: Settings) -> dict[str, str]:
    """Return how the backups are: `backups` in words, and what is wrong as `problem`.

    The leader tells of all; both are empty on other servers.
    """
    if leader(members(settings)) != settings.own:
        return {"backups": "", "problem": ""}
    now = dt.datetime.now(dt.UTC)
    question = (
        "SELECT extract(epoch FROM now() - last_archived_time),"
        " coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),"
        " extract(epoch FROM now() - pg_postmaster_start_time()) FROM pg_stat_archiver"
    )
    archived, fails, runs = ask("/var/run/postgresql", "postgres", question).split("|")
    try:
        backups = look(_TELL_SECONDS)
    except BackupError as error:
        return {"backups": "", "problem": f"the backups cannot be read: {error}"}
    told, problems = [], []
    if backups:
        age = now - backups[-1].stop
        told.append(f"last backup {_ago(age)}")
        if age > dt.timedelta(hours=settings.hours) + _LATE:
            problems.append(f"the last backup was {_ago(age)}: see journalctl -u postgres-backup")
    elif float(runs) > _FRESH.total_seconds():
        problems.append("there is no backup: see journalctl -u postgres-backup")
    else:
        told.append("no backup yet")
    if archived:
        told.append(f"log archived {_ago(dt.timedelta(seconds=float(archived)))}")
    if fails == "t":
        problems.append("the write-ahead log cannot be archived: see journalctl -u patroni")
    return {"backups": ", ".join(told), "problem": "; ".join(problems)}


def flush(settings: Settings, seconds: float = 60) -> dict[str, str]:
    """Have what is committed archived, if this server leads.

    A transaction comes last, so that a moment before it can be restored.

    Returns:
        `time`: until which everything is archived. `timeline`: of the history that is left. Both
        are empty where this server does not lead.

    Raises:
        BackupError: it is not archived in time.
    """
    if leader(members(settings)) != settings.own:
        return {"time": "", "timeline": ""}
    where = "/var/run/postgresql"
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    ask(where, "postgres", "SELECT pg_current_xact_id()")
    switched = ask(where, "postgres", END_SEGMENT)
    deadline = time.monotonic() + seconds
    question = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
    while ask(where, "postgres", question)[:24] < switched:
        if time.monotonic() > deadline:
            raise BackupError(
                f"{switched} is not archived within {seconds:g} s: see journalctl -u patroni"
            )
        time.sleep(_POLL_SECONDS)
    found = {"time": now, "timeline": str(int(switched[:8], 16))}
    Path(REPLACED).write_text(json.dumps(found))
    return found


def ask(where: str, database: str, question: str) -> str:
    """Return the answer of a server on this machine to a question.

    Args:
        where: the folder of its socket.
        database: which one.
        question: in SQL.

    Raises:
        BackupError: it does not answer, or refuses.
    """
    command = ["psql", "--no-psqlrc", "--no-align", "--tuples-only", "--no-password"]
    words = [f"--host={where}", f"--dbname={database}", f"--command={question}"]
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise BackupError(done.stderr.strip())
    return done.stdout.strip()


def _ago(age: dt.timedelta) -> str:
    seconds = int(age.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{max(seconds, 0)} s ago"


def _words(moment: dt.datetime) -> str:
    return moment.isoformat(sep="T", timespec="seconds").replace("+00:00", "Z")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__)
    verbs = found.add_subparsers(dest="verb", required=True)
    begin = verbs.add_parser("bootstrap", help="begin a cluster, as Patroni asks for it")
    begin.add_argument("--scope", help="of Patroni; not used")
    begin.add_argument("--datadir", required=True, help="where the data goes")
    make = verbs.add_parser("backup", help="make the backup that is due")
    make.add_argument("--full", action="store_true", help="a full one")
    make.add_argument("--now", action="store_true", help="also when none is due")
    for verb, text in (
        ("require-target", "say whether something can be restored"),
        ("write-target", "say what the next bootstrap restores"),
        ("make-aside", "restore beside the server"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("--to", default="latest", help="`latest`, or a time with its zone")
        one.add_argument("--timeline", default="", help="a number")
    get = verbs.add_parser(
        "fetch", help="bring a segment of the log, if no server sends it for long"
    )
    get.add_argument("segment", help="its name")
    get.add_argument("path", help="where it goes")
    verbs.add_parser("list", help="print the backups as JSON")
    verbs.add_parser("maker", help="print which server makes backups as JSON")
    verbs.add_parser("tell", help="print how the backups are as JSON")
    verbs.add_parser("flush", help="have everything archived; print until when as JSON")
    verbs.add_parser("run-aside", help="become the server beside the other")
    trial = verbs.add_parser("drill", help="restore, look and remove; print a report as JSON")
    trial.add_argument("--scheduled", action="store_true", help="only where backups are made")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit code."""
    options = parser().parse_args(arguments)
    settings = Settings.read()
    try:
        print(DO[options.verb](settings, options), flush=True)
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _bootstrap(settings: Settings, options: argparse.Namespace) -> str:
    return bootstrap(settings, options.datadir)


def _backup(settings: Settings, options: argparse.Namespace) -> str:
    return backup(settings, full=options.full, now=options.now or options.full)


def _require_target(settings: Settings, options: argparse.Namespace) -> str:
    backups = look()
    Target.parse(options.to, options.timeline, backups)
    require_room(Path(settings.data_dir).parent, backups)
    return json.dumps({"oldest": _words(backups[0].stop), "newest": _words(backups[-1].stop)})


def _write_target(_: Settings, options: argparse.Namespace) -> str:
    Target.parse(options.to, options.timeline, look())
    write_target(options.to, options.timeline)
    return "{}"


def _make_aside(settings: Settings, options: argparse.Namespace) -> str:
    make_aside(settings, options.to, options.timeline)
    return "{}"


def _list(*_: object) -> str:
    found = [
        {
            "label": each.label,
            "kind": "full" if each.full else "incremental",
            "ended": _words(each.stop),
            "mib": round(each.size / 2**20),
        }
        for each in look()
    ]
    return json.dumps(found)


def _drill(settings: Settings, options: argparse.Namespace) -> str:
    if options.scheduled and (makes := maker(members(settings))) != settings.own:
        return f"{makes} makes the trials"
    return json.dumps(drill(settings))


def _run_aside(settings: Settings, _: argparse.Namespace) -> NoReturn:
    command = aside_command(settings)
    os.execv(command[0], command)  # noqa: S606 - a fixed program, without a shell


DO: Mapping[str, Callable[[Settings, argparse.Namespace], str]] = {
    "bootstrap": _bootstrap,
    "backup": _backup,
    "require-target": _require_target,
    "write-target": _write_target,
    "make-aside": _make_aside,
    "fetch": lambda _, options: fetch(options.segment, options.path),
    "list": _list,
    "maker": lambda settings, _: json.dumps(maker(members(settings))),
    "tell": lambda settings, _: json.dumps(tell(settings)),
    "flush": lambda settings, _: json.dumps(flush(settings)),
    "run-aside": _run_aside,
    "drill": _drill,
}


if __name__ == "__main__":
    sys.exit(main())
