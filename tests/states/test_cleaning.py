"""Old rows go away by themselves: which ones, how many at once, and what a failure looks like."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from harness import Fleet, Machine
from plainpillar import DEPLOYMENT, ROOT

POSTGRES = DEPLOYMENT.base_pillar("postgres")
LIFETIME = DEPLOYMENT.base_pillar("airflow")["session_lifetime_minutes"]
TEXT = re.sub(r"\{%.*?%\}", "", (ROOT / "pillar/base/retention.sls").read_text())
RETENTION = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "0", TEXT))["retention"]
ANONYMOUS = RETENTION["anonymous_session_minutes"]
# As Airflow 3.3.2 and Flask-Session make them; the data as msgpack has it.
TABLES = f"""
SET ROLE {POSTGRES["owner"]};
CREATE TABLE session (id serial PRIMARY KEY, session_id varchar(255) UNIQUE, data bytea,
  expiry timestamp);
CREATE TABLE revoked_token (jti varchar(32) PRIMARY KEY, exp timestamptz NOT NULL);
CREATE TABLE log (id serial PRIMARY KEY, dttm timestamptz, event varchar(60) NOT NULL, extra text);
"""
NOBODY = (
    r"'\x82aa5f7065726d616e656e74c3aa637372665f746f6b656ed928'::bytea || repeat('a', 40)::bytea"
)
SOMEBODY = rf"{NOBODY} || '\xa85f757365725f6964a131'::bytea"
MANY = 1_000_000
FILL = (
    "INSERT INTO session (session_id, data, expiry)"
    f" SELECT md5(n::text) || 'abcdefghijk', {NOBODY}, now() AT TIME ZONE 'utc' - interval '1 h'"
    f" FROM generate_series(1, {MANY}) AS n"
)


@pytest.fixture(scope="module")
def postgres(converged: Callable[[str], Machine]) -> Iterator[Machine]:
    """The server, with tables like those of Airflow that only grow, while Airflow's are aside."""
    machine = converged("postgres-1")
    names = ("session", "revoked_token", "log")
    aside = "".join(f"ALTER TABLE IF EXISTS {name} SET SCHEMA aside;" for name in names)
    back = "".join(f"ALTER TABLE IF EXISTS aside.{name} SET SCHEMA public;" for name in names)
    sql(machine, f"CREATE SCHEMA aside; {aside}")
    clean(machine)  # before the first migration there are none
    sql(machine, TABLES)
    yield machine
    sql(machine, f"DROP TABLE {', '.join(names)}; {back} DROP SCHEMA aside")


def sql(machine: Machine, text: str) -> str:
    """Return the answer to the superuser."""
    done = machine.run("psql", "-XAtqc", text, POSTGRES["database"], user="postgres")
    assert done.returncode == 0, done.stderr
    return str(done.stdout).strip()


def clean(machine: Machine) -> str:
    """Let the timer's service run once, and return what it logged."""
    done = machine.run("systemctl", "start", "postgres-clean.service")
    log = machine.run("journalctl", "-u", "postgres-clean", "-n", "20", "-o", "cat").stdout
    assert done.returncode == 0, log
    return str(log)


def add_session(machine: Machine, name: str, data: str, age: int) -> None:
    """Add a session that was last used so many minutes ago."""
    sql(
        machine,
        f"INSERT INTO session (session_id, data, expiry) VALUES ('{name}', {data},"
        f" now() AT TIME ZONE 'utc' + interval '{LIFETIME - age} minutes')",
    )


def test_converges(fleet: Fleet, postgres: Machine) -> None:
    fleet.converge(postgres)  # another test may have started a machine since
    fleet.assert_idempotent(postgres)
    assert postgres.run("systemctl", "is-active", "postgres-clean.timer").returncode == 0


def test_old_rows_go_and_others_stay(postgres: Machine) -> None:
    add_session(postgres, "new visit", NOBODY, ANONYMOUS - 5)
    add_session(postgres, "old visit", NOBODY, ANONYMOUS + 5)
    add_session(postgres, "logged in", SOMEBODY, LIFETIME - 5)
    add_session(postgres, "ended", SOMEBODY, LIFETIME + 5)
    days = RETENTION["log_days"]
    sql(
        postgres,
        "INSERT INTO revoked_token VALUES ('old', now() - interval '1 s'),"
        " ('new', now() + interval '1 h');"
        f"INSERT INTO log (dttm, event) VALUES (now() - interval '{days + 1} days', 'old'),"
        f" (now() - interval '{days - 1} days', 'new')",
    )
    log = clean(postgres)
    assert sql(postgres, "SELECT session_id FROM session ORDER BY 1") == "logged in\nnew visit"
    assert sql(postgres, "SELECT jti FROM revoked_token") == "new"
    assert sql(postgres, "SELECT event FROM log") == "new"
    for line in ("session: 2 rows", "revoked_token: 1 rows", "log: 1 rows"):
        assert f"{line} removed" in log


def test_ids_never_run_out(postgres: Machine) -> None:
    clean(postgres)
    sql(postgres, "TRUNCATE session; SELECT setval('session_id_seq', 2147483647)")
    add_session(postgres, "first id again", NOBODY, 0)
    assert sql(postgres, "SELECT id FROM session WHERE session_id = 'first id again'") == "1"


def test_second_run_at_the_same_time_is_harmless(postgres: Machine) -> None:
    add_session(postgres, "old visit", NOBODY, ANONYMOUS + 5)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(
            sql, postgres, "SELECT pg_advisory_lock(hashtext('clean')), pg_sleep(5)"
        )
        while sql(postgres, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") != "1":
            assert not other.done()
        assert "another run removes rows" in clean(postgres)
        assert "old visit" in sql(postgres, "SELECT session_id FROM session")
    clean(postgres)
    assert "old visit" not in sql(postgres, "SELECT session_id FROM session")


@pytest.mark.long
def test_million_rows_lock_nothing_and_leave_a_small_log(postgres: Machine) -> None:
    sql(postgres, f"{FILL}; CHECKPOINT")
    size = int(sql(postgres, "SELECT pg_total_relation_size('session')"))
    row = size / MANY
    before = sql(postgres, "SELECT pg_current_wal_insert_lsn()")
    postgres.put(
        "/opt/insert.sql",
        "\\timing on\n"
        "INSERT INTO session (session_id, data, expiry)"
        f" VALUES (gen_random_uuid(), {SOMEBODY}, now() AT TIME ZONE 'utc' + interval '1 h');\n",
    )
    insert = ("psql", "-XAtqf", "/opt/insert.sql", POSTGRES["database"])
    postgres.run("systemctl", "start", "--no-block", "postgres-clean.service")
    times: list[float] = []
    while postgres.run("systemctl", "is-active", "postgres-clean").stdout.strip() == "activating":
        done = postgres.run(*insert, user="postgres")
        assert done.returncode == 0, done.stderr
        times += map(float, re.findall(r"Time: ([0-9.]+) ms", done.stdout))
    longest = max(times)
    log = postgres.run("journalctl", "-u", "postgres-clean", "-n", "20", "-o", "cat").stdout
    assert f"session: {MANY} rows removed" in log
    wal = int(
        sql(postgres, f"SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{before}')::bigint")
    )
    kept = int(sql(postgres, "SELECT sum(size) FROM pg_ls_waldir()"))
    print(
        f"\n{row:.0f} bytes a row; {wal / 2**20:.0f} MiB of WAL, {kept / 2**20:.0f} MiB kept;"
        f" longest insert meanwhile {longest:.0f} ms"
    )
    assert row < 400  # tests/unit/repo/test_capacity.py
    assert longest < 2000
    assert wal < 3 * size
    assert postgres.oom_kills() == 0
    # The space is there for others.
    sql(postgres, FILL)
    assert int(sql(postgres, "SELECT pg_total_relation_size('session')")) < 1.3 * size


def test_failure_is_told(postgres: Machine) -> None:
    sql(postgres, "ALTER TABLE log RENAME COLUMN dttm TO moment")
    try:
        assert postgres.run("systemctl", "start", "postgres-clean.service").returncode != 0
        told = postgres.salt("drift.found")
        assert any("postgres-clean.service" in sentence for sentence in told), told
    finally:
        sql(postgres, "ALTER TABLE log RENAME COLUMN moment TO dttm")
    clean(postgres)
    assert not any("postgres-clean" in sentence for sentence in postgres.salt("drift.found"))
