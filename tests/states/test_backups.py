"""Backups of a single database server, and every way to restore them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from harness import Fleet, Machine
from waiting import until

SERVER = "postgres-1"
DATA = "/var/lib/postgresql/17/main"
PROGRAM = ("/usr/bin/python3", "-I", "/usr/local/lib/stack/backups.py")
OWNER = "SET ROLE airflow_owner"
TABLES = ("ab_user", "alembic_version", "dag")


@pytest.fixture(scope="module")
def server(fleet: Fleet) -> Iterator[Machine]:
    """A database server with a row in each table that the drill looks at."""
    fleet.retire(SERVER)
    machine = fleet.converged(SERVER)
    for table in TABLES:
        sql(machine, f"{OWNER}; CREATE TABLE {table} (n int); INSERT INTO {table} VALUES (1)")
    yield machine
    fleet.retire(SERVER)


def sql(machine: Machine, statement: str, database: str = "airflow") -> str:
    """Return the answer to the superuser on the machine itself."""
    done = machine.run("psql", "-XAtqc", statement, database, user="postgres")
    assert done.returncode == 0, done.stderr
    return (done.stdout or "").strip()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def replace_data(machine: Machine, **target: str) -> str:
    """Restore as orch/restore.sls does, and return what was done."""
    machine.salt("pgbackrest.set_aside", seconds=120)
    machine.salt("pgbackrest.forget_cluster")
    return str(machine.salt("pgbackrest.begin", seconds=600, **target))


def test_first_backup_is_made_by_itself(server: Machine) -> None:
    found = until(lambda: server.salt("pgbackrest.backups"), "a backup is made", 120, every=2)
    assert [each["kind"] for each in found] == ["full"]


def test_nothing_changes_in_another_highstate(fleet: Fleet, server: Machine) -> None:
    fleet.assert_idempotent(server)


def test_log_is_archived_within_a_minute(server: Machine) -> None:
    sql(server, f"{OWNER}; CREATE TABLE ledger (n int); INSERT INTO ledger VALUES (1)")
    written = sql(server, "SELECT pg_walfile_name(pg_current_wal_lsn() - 1)")
    begin = time.monotonic()
    question = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
    until(lambda: sql(server, question)[:24] >= written, "the log is archived", 90, every=1)
    took = time.monotonic() - begin
    print(f"archived after {took:.0f} s")
    assert took < 70


def test_end_of_the_log_is_awaited_where_nothing_follows(server: Machine) -> None:
    """As when `archive_timeout` has just ended the segment that held the last transaction."""
    program = "import sys; sys.path.insert(0, '/usr/local/lib/stack')"
    question = server.run(
        "/usr/bin/python3", "-c", f"{program}; import backups; print(backups.END_SEGMENT)"
    ).stdout.strip()
    sql(server, "INSERT INTO ledger VALUES (5); DELETE FROM ledger WHERE n = 5")
    ended = sql(server, question)
    assert sql(server, question) == ended, "there is nothing after it"
    last = "SELECT last_archived_wal FROM pg_stat_archiver"
    until(lambda: sql(server, last) >= ended, "the segment is archived", 30, every=1)


def test_status_tells_of_backups(server: Machine) -> None:
    told = server.salt("role.status")
    assert told["problem"] == ""
    assert told["backups"].startswith("last backup ")
    assert "log archived" in told["backups"]


def test_failed_look_is_told_until_one_succeeds(server: Machine) -> None:
    """As while S3 is away for a moment: nobody has to wait for the next look of the timer."""
    folder = "/var/lib/pgbackrest/backup"
    mode = server.run("stat", "-c%a", folder).stdout.strip()
    server.run("chmod", "000", folder)
    server.run("systemctl", "start", "postgres-backup")
    told = ["postgres-backup.service has failed, and is started again"]
    assert server.salt("role.status")["drift"] == told
    server.run("chmod", mode, folder)
    until(lambda: server.salt("role.status")["drift"] == [], "it is tried again", 60, every=2)


def test_backups_are_ciphertext(fleet: Fleet, server: Machine) -> None:
    """No file of the repository holds what a row holds, or begins as its format does."""
    sql(
        server, f"{OWNER}; CREATE TABLE marked (t text); INSERT INTO marked VALUES ('a-marked-row')"
    )
    server.salt("pgbackrest.flush")
    found = server.run("grep", "-rlE", "a-marked-row|backrest-format", "/var/lib/pgbackrest")
    assert not (found.stdout or "").strip()
    password = fleet.pillar.secrets["postgres-backup"]["password"]
    for words in (("ps", "axww"), ("journalctl", "--no-pager", "--output=cat")):
        assert password not in server.run(*words).stdout
    assert server.run("stat", "-c%a %U:%G", "/etc/pgbackrest/pgbackrest.conf").stdout.strip() == (
        "640 root:postgres"
    )


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("yesterday", "is no time"),
        ("2026-11-27T10:00:00", "has no zone"),
        ("2019-01-01T00:00:00Z", "is before the oldest backup"),
        ("2099-01-01T00:00:00Z", "is in the future"),
    ],
)
def test_what_cannot_be_restored_is_refused(server: Machine, to: str, reason: str) -> None:
    assert reason in str(server.salt("pgbackrest.require_target", to=to))


def test_moment_is_restored_exactly(server: Machine) -> None:
    sql(server, "INSERT INTO ledger VALUES (2)")
    moment = now()
    sql(server, "INSERT INTO ledger VALUES (3)")
    before = server.salt("pgbackrest.flush")
    begin = time.monotonic()
    print(replace_data(server, to=moment), f"{time.monotonic() - begin:.1f} s")
    assert sql(server, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM ledger") == "1 2"
    # What was replaced is a history of its own, and comes back by its number.
    sql(server, "INSERT INTO ledger VALUES (4)")
    server.salt("pgbackrest.flush")
    replace_data(server, to=before["time"], timeline=before["timeline"])
    assert sql(server, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM ledger") == "1 2 3"


def test_highstate_settles_what_was_restored(fleet: Fleet, server: Machine) -> None:
    fleet.converge(server)
    assert server.salt("pgbackrest.discard").endswith("is removed")
    fleet.assert_idempotent(server)
    assert server.salt("role.status")["problem"] == ""
    assert server.salt("role.status")["drift"] == []


def test_failed_restore_leaves_the_data(server: Machine) -> None:
    rows = sql(server, "SELECT count(*) FROM ledger")
    server.salt("pgbackrest.set_aside", seconds=120)
    server.salt("pgbackrest.forget_cluster")
    server.run("mv", "/var/lib/pgbackrest/archive", "/var/lib/pgbackrest/gone")
    failure = str(server.salt("pgbackrest.begin", seconds=600))
    server.run("mv", "/var/lib/pgbackrest/gone", "/var/lib/pgbackrest/archive")
    assert "restored" not in failure
    server.salt("pgbackrest.put_back", seconds=120)
    until(lambda: server.salt("patroni.is_primary"), "it leads again", 60, every=1)
    assert sql(server, "SELECT count(*) FROM ledger") == rows


def test_server_beside_the_other_shows_a_moment(server: Machine) -> None:
    moment = now()
    sql(server, "DELETE FROM ledger")
    server.salt("pgbackrest.flush")
    command = server.salt("pgbackrest.aside", to=moment, seconds=300)
    assert command.startswith("sudo -u postgres psql -h /var/lib/postgresql/17/aside"), command
    words = ("psql", "-XAtqh", "/var/lib/postgresql/17/aside", "-c", "SELECT count(*) FROM ledger")
    assert server.run(*words, "airflow", user="postgres").stdout.strip() == "3"
    assert sql(server, "SELECT count(*) FROM ledger") == "0"
    assert "already" in str(server.salt("pgbackrest.aside", seconds=60))
    assert server.salt("pgbackrest.end_aside") is True
    assert server.salt("pgbackrest.end_aside") is False


def test_drill_restores_looks_and_leaves_nothing(server: Machine) -> None:
    report = server.salt("pgbackrest.drill", seconds=300)
    print(report)
    assert set(report["rows"]) == set(TABLES)
    assert server.run("test", "-e", "/var/lib/postgresql/17/aside").returncode != 0
    sql(server, "DELETE FROM dag")
    server.salt("pgbackrest.flush")
    assert "no rows in dag" in str(server.salt("pgbackrest.drill", seconds=300))
    assert server.run("test", "-e", "/var/lib/postgresql/17/aside").returncode != 0


@pytest.mark.long
def test_lost_machine_comes_back_with_its_data(fleet: Fleet, server: Machine) -> None:
    """The small map's only server, and everything but git, key and bucket."""
    sql(server, "INSERT INTO ledger VALUES (7)")
    server.salt("pgbackrest.flush")
    fleet.retire(SERVER, keep_backups=True)
    begin = time.monotonic()
    again = fleet.converged(SERVER)
    print(f"a new machine has the data after {time.monotonic() - begin:.0f} s")
    assert sql(again, "SELECT max(n) FROM ledger") == "7"
    assert again.salt("role.status")["problem"] == ""


def test_wrong_key_begins_no_empty_cluster(fleet: Fleet) -> None:
    machine = fleet.machine(SERVER)
    machine.run("systemctl", "stop", "patroni")
    machine.run(
        "sed",
        "-i",
        "s/^repo1-cipher-pass=.*/repo1-cipher-pass=wrong/",
        "/etc/pgbackrest/pgbackrest.conf",
    )
    done = machine.run(
        *PROGRAM, "bootstrap", "--datadir=/var/lib/postgresql/17/other", user="postgres"
    )
    assert done.returncode == 1
    assert "secret postgres-backup" in done.stderr
    assert machine.run("test", "-e", "/var/lib/postgresql/17/other").returncode != 0
