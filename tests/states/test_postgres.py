"""PostgreSQL from both sides: who may connect, how, to which database, and what is denied."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from pytestshellutils.utils.processes import ProcessResult

from harness import Fleet, Machine
from plainpillar import DEPLOYMENT, DOMAIN, ROOT
from stackctl.password_rotation import begin, continued
from waiting import until

CA = "/root/ca.pem"
OWNER = DEPLOYMENT.base_pillar("postgres")["owner"]
LIMITS = DEPLOYMENT.base_pillar("postgres")["role_settings"]
UNIT = DEPLOYMENT.base_pillar("roles")["postgres"]["unit"]
DEFAULTS = yaml.safe_load((ROOT / "salt/postgres/defaults.yaml").read_text())
SETTINGS = DEFAULTS["postgres"]["settings"]
DATA = f"/var/lib/postgresql/{DEFAULTS['postgres']['version']}/main"
Query = Callable[..., ProcessResult]


@pytest.fixture(scope="module")
def postgres(converged: Callable[[str], Machine]) -> Machine:
    """The server."""
    return converged("postgres-1")


@pytest.fixture(scope="module")
def web(fleet: Fleet, postgres: Machine) -> Machine:
    """A web machine with psql and the stack's CA, for the clients."""
    machine = fleet.machine("web-1")
    if machine.run("which", "psql").returncode:
        machine.run("apt-get", "update", "-qq")
        done = machine.run(
            "apt-get", "install", "-qq", "--no-install-recommends", "postgresql-client"
        )
        assert done.returncode == 0, done.stderr
    machine.put(CA, fleet.pillar.ca_certificate)
    return machine


@pytest.fixture(scope="module")
def query(fleet: Fleet, postgres: Machine, web: Machine) -> Query:
    """`query(sql)`: psql's answer to the application's role on a web machine.

    A `script` of statements and of psql's own commands takes the place of `sql`.
    """
    passwords = {
        user: fleet.pillar.secrets[secret]["password"]
        for user, secret in (("airflow", "postgres-airflow"), (OWNER, "postgres-owner"))
    }

    def ask(
        sql: str = "", password: str | None = None, script: str = "", **options: str
    ) -> ProcessResult:
        options = {
            "host": f"postgres.{DOMAIN}",
            "hostaddr": postgres.address,
            "dbname": "airflow",
            "user": "airflow",
            "sslmode": "verify-full",
            "sslrootcert": CA,
            "connect_timeout": "5",
        } | options
        target = " ".join(f"{name}={value}" for name, value in options.items())
        known = passwords.get(options["user"], "none")
        web.put("/root/script.sql", script)
        task = ["-f", "/root/script.sql"] if script else ["-c", sql]
        environment = {"PGPASSWORD": known if password is None else password}
        return web.run("psql", "-XAtq", *task, target, environment=environment)

    return ask


def superuser(machine: Machine, sql: str, database: str = "postgres") -> str:
    """Return the answer to the superuser on the machine itself."""
    done = machine.run("psql", "-XAtqc", sql, database, user="postgres")
    assert done.returncode == 0, done.stderr
    return (done.stdout or "").strip()


def test_converges(fleet: Fleet, postgres: Machine) -> None:
    fleet.assert_idempotent(postgres)


def test_right_password_connects_over_verified_tls(query: Query) -> None:
    answer = query("SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert answer.stdout.strip() == "airflow|t", answer.stderr


def test_wrong_password_is_refused(query: Query) -> None:
    assert "password authentication failed" in query("SELECT 1", password="wrong").stderr


def test_refusal_is_logged_to_journal_only(postgres: Machine, query: Query) -> None:
    query("SELECT 1", dbname="nosuchdatabase")
    refusals = (
        "journalctl",
        "-u",
        UNIT,
        "--no-pager",
        "--output=cat",
        "--grep=nosuchdatabase",
    )
    until(lambda: postgres.run(*refusals).returncode == 0, "the journal holds the refusal")
    assert not postgres.run("find", "/var/log/postgresql", "-type", "f").stdout


def test_plaintext_is_refused(query: Query) -> None:
    answer = query("SELECT 1", sslmode="disable")
    assert "no pg_hba.conf entry" in answer.stderr
    assert "no encryption" in answer.stderr


def test_certificate_is_valid_for_own_name_only(query: Query) -> None:
    assert "does not match host name" in query("SELECT 1", host=f"redis.{DOMAIN}").stderr


@pytest.mark.parametrize("database", ["postgres", "template1"])
def test_other_database_is_refused(query: Query, database: str) -> None:
    assert "no pg_hba.conf entry" in query("SELECT 1", dbname=database).stderr


def test_other_database_role_is_refused(query: Query) -> None:
    assert "no pg_hba.conf entry" in query("SELECT 1", user="postgres").stderr


def test_firewall_refuses_other_roles(fleet: Fleet, postgres: Machine, web: Machine) -> None:
    assert web.can_reach(postgres.address, 5432)
    assert not fleet.machine("redis-1").can_reach(postgres.address, 5432)


def test_pg_hba_refuses_own_address(fleet: Fleet, postgres: Machine) -> None:
    target = f"host={postgres.address} dbname=airflow user=airflow sslmode=require"
    password = fleet.pillar.secrets["postgres-airflow"]["password"]
    refused = postgres.run(
        "psql", "-XAtqc", "SELECT 1", target, environment={"PGPASSWORD": password}
    )
    assert "no pg_hba.conf entry" in refused.stderr


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE ROLE intruder",
        "CREATE DATABASE mine",
        "ALTER ROLE airflow SUPERUSER",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'id'",
        "SELECT rolpassword FROM pg_authid",
        "ALTER SYSTEM SET log_statement = 'all'",
    ],
)
def test_database_role_is_denied_privileged_sql(query: Query, sql: str) -> None:
    refused = query(sql)
    assert refused.returncode != 0
    assert "permission denied" in refused.stderr


@pytest.fixture
def table(query: Query) -> Iterator[str]:
    """A table with a sequence, made by the owner as a migration does."""
    made = query("CREATE TABLE t (id serial, x int)", user=OWNER)
    assert made.returncode == 0, made.stderr
    yield "t"
    assert query("DROP TABLE t", user=OWNER).returncode == 0


def test_database_role_reads_and_writes_new_tables(query: Query, table: str) -> None:
    answer = query(
        f"INSERT INTO {table} (x) VALUES (1), (2); UPDATE {table} SET x = 3 WHERE id = 1;"
        f" DELETE FROM {table} WHERE id = 2; SELECT * FROM {table}"
    )
    assert answer.stdout.strip() == "1|3", answer.stderr


@pytest.mark.parametrize(
    ("sql", "refusal"),
    [
        ("CREATE TABLE mine (x int)", "permission denied for schema public"),
        ("CREATE SCHEMA mine", "permission denied for database airflow"),
        ("CREATE TEMPORARY TABLE mine (x int)", "permission denied to create temporary tables"),
        ("ALTER TABLE t ADD y int", "must be owner of table t"),
        ("DROP TABLE t", "must be owner of table t"),
        ("CREATE INDEX ON t (x)", "must be owner of table t"),
        ("COMMENT ON TABLE t IS 'mine'", "must be owner of table t"),
        ("TRUNCATE t", "permission denied for table t"),
        (f"SET ROLE {OWNER}", "permission denied to set role"),
        ("ALTER DATABASE airflow SET work_mem = '1GB'", "must be owner of database"),
    ],
)
def test_database_role_changes_no_table(query: Query, table: str, sql: str, refusal: str) -> None:
    assert refusal in query(sql).stderr


@pytest.mark.parametrize("sql", ["CREATE ROLE intruder", "CREATE DATABASE mine"])
def test_owner_is_denied_privileged_sql(query: Query, sql: str) -> None:
    assert "permission denied" in query(sql, user=OWNER).stderr


def test_owner_connects_with_its_password_over_tls_only(query: Query) -> None:
    assert "password authentication failed" in query("SELECT 1", "wrong", user=OWNER).stderr
    assert "no encryption" in query("SELECT 1", user=OWNER, sslmode="disable").stderr


@pytest.mark.parametrize("name", LIMITS)
def test_limit_is_of_the_database_role_alone(postgres: Machine, query: Query, name: str) -> None:
    shown = f"SELECT current_setting('{name}')::interval"
    expected = query(f"SELECT '{LIMITS[name]}'::interval").stdout
    assert query(shown).stdout == expected
    assert query(shown, user=OWNER).stdout.strip() == superuser(postgres, shown) == "00:00:00"


def test_idle_transaction_ends_the_role_and_not_a_migration(
    fleet: Fleet, postgres: Machine, query: Query
) -> None:
    idle = "BEGIN;\nSELECT pg_advisory_xact_lock(1);\n\\! sleep 2\nSELECT 'survived';\nCOMMIT;\n"
    superuser(postgres, "ALTER ROLE airflow SET idle_in_transaction_session_timeout = '1s'")
    try:
        ended, survived = query(script=idle), query(script=idle, user=OWNER)
    finally:
        fleet.converge(postgres)
    assert "terminating connection due to idle-in-transaction timeout" in ended.stderr
    assert "survived" in survived.stdout, survived.stderr
    assert "survived" in query(script=idle).stdout, "the highstate restores the limit"


@pytest.mark.long
def test_database_of_earlier_release_gets_its_owner(
    fleet: Fleet, postgres: Machine, query: Query
) -> None:
    """One role owned all, and the limit was in the server's settings."""
    superuser(postgres, "ALTER DATABASE airflow OWNER TO airflow; ALTER ROLE airflow RESET ALL")
    as_before = f"""
        REVOKE ALL ON SCHEMA public FROM airflow;
        DROP OWNED BY {OWNER};
        DROP ROLE {OWNER};
    """
    superuser(postgres, as_before.replace("\n", " "), "airflow")
    old = "CREATE TABLE old (id serial, x int); CREATE TYPE mood AS ENUM ('glad')"
    assert query(old).returncode == 0, query(old).stderr
    predicted = postgres.apply("postgres", test=True)
    assert {tag.split("_|-")[1] for tag, state in predicted.items() if state["result"] is None} == {
        "postgres-owner",
        "postgres-access",
    }
    fleet.converge(postgres)
    fleet.assert_idempotent(postgres)
    owners = """
        SELECT DISTINCT pg_get_userbyid(owner) FROM (
            SELECT datdba FROM pg_database WHERE datname = 'airflow'
            UNION SELECT relowner FROM pg_class WHERE relname IN ('old', 'old_id_seq')
            UNION SELECT typowner FROM pg_type WHERE typname = 'mood'
        ) AS everything (owner)
    """
    assert superuser(postgres, owners, "airflow") == OWNER
    answer = query("INSERT INTO old (x) VALUES (7); SELECT * FROM old")
    assert answer.stdout.strip() == "1|7", answer.stderr
    assert "must be owner of table old" in query("DROP TABLE old").stderr
    assert query("DROP TABLE old; DROP TYPE mood", user=OWNER).returncode == 0


def test_public_has_no_privileges(postgres: Machine) -> None:
    assert (
        superuser(postgres, "SELECT has_database_privilege('public', 'airflow', 'CONNECT')") == "f"
    )
    assert (
        superuser(postgres, "SELECT has_schema_privilege('public', 'public', 'CREATE')", "airflow")
        == "f"
    )


def test_database_role_leaves_connections_for_repair(postgres: Machine) -> None:
    spare = """
        SELECT current_setting('max_connections')::int - rolconnlimit
        FROM pg_roles WHERE rolname = 'airflow'
    """
    assert int(superuser(postgres, spare)) >= 10


def test_drift_is_predicted_and_repaired(
    fleet: Fleet, postgres: Machine, query: Query, table: str
) -> None:
    drift = [
        "GRANT CONNECT ON DATABASE airflow TO PUBLIC",
        "GRANT CREATE, TEMPORARY ON DATABASE airflow TO airflow",
        "GRANT CREATE ON SCHEMA public TO airflow",
        f"REVOKE INSERT ON {table} FROM airflow",
        f"REVOKE USAGE ON SEQUENCE {table}_id_seq FROM airflow",
        f"GRANT {OWNER} TO airflow",
        "ALTER ROLE airflow CREATEDB PASSWORD 'other' CONNECTION LIMIT 1",
        "ALTER ROLE airflow SET statement_timeout = 0",
        "ALTER ROLE airflow SET work_mem = '64MB'",
        f"ALTER ROLE {OWNER} SET lock_timeout = '1s'",
    ]
    superuser(postgres, "; ".join(drift), "airflow")
    predicted = postgres.apply("postgres", test=True)
    assert {tag.split("_|-")[1] for tag, state in predicted.items() if state["result"] is None} == {
        "postgres-role",
        "postgres-access",
    }
    (access,) = (state for tag, state in predicted.items() if "postgres-access" in tag)
    # CREATEDB and the password are the role's own state.
    assert len(access["comment"].split("; ")) == len(drift)
    fleet.converge(postgres)
    fleet.assert_idempotent(postgres)
    assert query(f"INSERT INTO {table} (x) VALUES (1)").returncode == 0
    assert "permission denied" in query("CREATE DATABASE mine").stderr
    assert "permission denied" in query("CREATE TABLE mine (x int)").stderr
    assert (
        superuser(postgres, "SELECT has_database_privilege('public', 'airflow', 'CONNECT')") == "f"
    )


def test_data_checksums_are_on(postgres: Machine) -> None:
    assert superuser(postgres, "SHOW data_checksums") == "on"


@pytest.mark.parametrize("signal", ["KILL", "INT"], ids=["crash", "orderly end"])
def test_service_restarts(postgres: Machine, query: Query, signal: str) -> None:
    before = superuser(postgres, "SELECT pg_postmaster_start_time()")
    postgres.run("sh", "-c", f"kill -{signal} $(head -1 {DATA}/postmaster.pid)")
    writable = "SELECT 1 WHERE NOT pg_is_in_recovery()"
    until(lambda: query(writable).stdout, "PostgreSQL takes writes again")
    assert superuser(postgres, "SELECT pg_postmaster_start_time()") != before


def test_settings_are_loaded(postgres: Machine) -> None:
    """Each from our file, none of them refused, none of them waiting for a restart."""
    ours = "SELECT name FROM pg_settings WHERE sourcefile LIKE '%/postgresql.conf'"
    assert SETTINGS.keys() - superuser(postgres, ours).split() == set()
    assert superuser(postgres, "SELECT name FROM pg_settings WHERE pending_restart") == ""
    assert superuser(postgres, "SELECT name FROM pg_file_settings WHERE error IS NOT NULL") == ""


def test_statistics_hold_statements_without_passwords(postgres: Machine) -> None:
    superuser(postgres, "CREATE ROLE bystander; ALTER ROLE bystander PASSWORD 'hush-hush'")
    superuser(postgres, "SELECT 'looked at' FROM pg_roles; DROP ROLE bystander")
    kept = superuser(postgres, "SELECT query FROM pg_stat_statements")
    assert "FROM pg_roles" in kept
    assert "bystander" not in kept
    assert postgres.run("grep", "-rqF", "hush-hush", "/var/lib/postgresql").returncode == 1


def test_application_cannot_read_statistics_of_others(query: Query) -> None:
    refused = query("SELECT query FROM pg_stat_statements")
    assert 'relation "pg_stat_statements" does not exist' in refused.stderr


def test_query_of_vanished_client_ends(postgres: Machine, query: Query, web: Machine) -> None:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(300)'"
    asking = threading.Thread(target=query, args=["SELECT pg_sleep(300)"])
    asking.start()
    until(lambda: superuser(postgres, asked) == "1", "the query runs", every=0.5)
    web.run("pkill", "-KILL", "psql")
    asking.join()
    until(lambda: superuser(postgres, asked) == "0", "the query has ended", 30, every=0.5)


def test_log_names_who_connected(postgres: Machine, query: Query, web: Machine) -> None:
    assert query("SELECT 1/0", application_name="adding-machine").returncode != 0
    assert query("SELECT 1", application_name="adding-machine").returncode == 0
    journal = ("journalctl", "-u", UNIT, "--no-pager", "--output=cat")
    line = f"airflow@airflow {web.address} app=adding-machine LOG:  disconnection"
    until(lambda: line in postgres.run(*journal).stdout, "the log names the client", every=0.5)


def test_process_gives_memory_of_large_query_back(postgres: Machine) -> None:
    """With glibc's own thresholds it keeps 20 MiB for as long as the connection lasts."""
    large = "SELECT length(string_agg(repeat('x', 1000) || n, '')) FROM generate_series(1, 20000) n"
    held = "SELECT substring(pg_read_file('/proc/self/smaps_rollup') from 'Pss_Anon: +([0-9]+) kB')"
    commands = [word for sql in (large, large, held) for word in ("-c", sql)]
    session = postgres.run("psql", "-XAtq", *commands, user="postgres")
    assert int(session.stdout.splitlines()[-1]) < 4 * 1024


@pytest.mark.long
def test_rotated_password_refuses_nobody_until_the_rotation_goes_on(
    fleet: Fleet, postgres: Machine, query: Query, table: str
) -> None:
    secret, roles = "postgres-airflow", ("airflow", "airflow_b")
    before = fleet.pillar.secrets[secret]
    old, new = before["password"], "of-the-other-role"
    write = f"INSERT INTO {table} (x) VALUES (1) RETURNING current_user"
    with fleet.pillar.rotated():
        both = begin(DEPLOYMENT, secret, {"password": new}, before)
        fleet.pillar.give(secret, both)
        fleet.converge(postgres)
        fleet.assert_idempotent(postgres)
        for user, password in zip(roles, (old, new), strict=True):
            answer = query(write, user=user, password=password)
            assert answer.stdout.strip() == user, answer.stderr
        refused = "permission denied for schema public"
        assert refused in query("CREATE TABLE mine (x int)", user=roles[1], password=new).stderr
        assert "authentication failed" in query("SELECT 1", user=roles[1], password=old).stderr

        script = "SELECT 1; \\! sleep 600"
        given = {"script": script, "application_name": "by-the-old-role"}
        threading.Thread(target=query, kwargs=given, daemon=True).start()
        asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'by-the-old-role'"
        until(lambda: superuser(postgres, asked) == "1", "somebody is logged in by the old role")
        fleet.pillar.give(secret, continued(DEPLOYMENT, secret, both))
        fleet.converge(postgres)
        fleet.assert_idempotent(postgres)
        assert superuser(postgres, asked) == "0"
        assert "no pg_hba.conf entry" in query("SELECT 1", user=roles[0], password=old).stderr
        awake = (
            "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname LIKE 'airflow%' ORDER BY 1"
        )
        assert superuser(postgres, awake).split() == [roles[1], OWNER]
        assert query(write, user=roles[1], password=new).stdout.strip() == roles[1]
    # The next turn is the first role's again.
    fleet.converge(postgres)
    fleet.assert_idempotent(postgres)
    assert query(write).stdout.strip() == roles[0]
    assert superuser(postgres, awake).split() == [roles[0], OWNER]


# Asks etcd as Patroni does, all the time, until a file tells to stop: status -> how often.
ASK_ETCD = """
import collections, http.client, pathlib, ssl, threading

result, stop = collections.Counter(), pathlib.Path(stop)
context = ssl.create_default_context(cafile=f"{tls}/ca.pem")
context.load_cert_chain(f"{tls}/certificate.pem", f"{tls}/key.pem")

def ask():
    connection = http.client.HTTPSConnection(host, port, timeout=10, context=context)
    while not stop.exists():
        try:
            connection.request("POST", "/v3/maintenance/status", "{}")
            answer = connection.getresponse()
            answer.read()
            result[answer.status] += 1
        except (OSError, http.client.HTTPException):
            result["broken"] += 1
            connection.close()

threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_etcd_that_stops_answers_nothing_wrong(postgres: Machine) -> None:
    """Patroni takes an error in an answer for the loss of its place, and stops PostgreSQL."""
    began = superuser(postgres, "SELECT pg_postmaster_start_time()")
    stop = "/run/asking-stop"
    values = {
        "tls": DEPLOYMENT.base_pillar("roles")["postgres"]["certificate"]["path"].rpartition("/")[
            0
        ],
        "host": f"postgres-1.{DOMAIN}",
        "port": DEPLOYMENT.base_pillar("endpoints")["etcd-client"]["port"],
        "stop": stop,
    }
    postgres.run("rm", "-f", stop)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(postgres.python, ASK_ETCD, **values)
        for _ in range(3):
            assert postgres.run("systemctl", "restart", "etcd").returncode == 0
        postgres.run("touch", stop)
    answers = asked.result()
    assert set(answers) == {"200", "broken"}, answers
    assert superuser(postgres, "SELECT pg_postmaster_start_time()") == began
