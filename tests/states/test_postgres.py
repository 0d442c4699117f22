"""PostgreSQL from both sides: who may connect, how, to which database, and what is denied."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pytestshellutils.utils.processes import ProcessResult

from harness import Fleet, Machine
from plainpillar import DEPLOYMENT, DOMAIN
from waiting import until

CA = "/root/ca.pem"
OWNER = DEPLOYMENT.base_pillar("postgres")["owner"]
LIMITS = DEPLOYMENT.base_pillar("postgres")["role_settings"]
UNIT = DEPLOYMENT.base_pillar("roles")["postgres"]["unit"]
MEMORY = 2**30
SYSTEM = 250 * 2**20  # systemd, journald, sshd and Salt's minion
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
    return str(done.stdout).strip()


def test_converges(fleet: Fleet, postgres: Machine) -> None:
    fleet.assert_idempotent(postgres)


def test_right_password_connects_over_verified_tls(query: Query) -> None:
    answer = query("SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert answer.stdout.strip() == "airflow|t", answer.stderr


def test_wrong_password_is_refused(query: Query) -> None:
    assert "password authentication failed" in query("SELECT 1", password="wrong").stderr


def test_refusal_is_logged_to_journal_only(postgres: Machine, query: Query) -> None:
    def sizes() -> str:
        return str(postgres.run("sh", "-c", "wc -c /var/log/postgresql/*").stdout)

    before = sizes()
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
    assert sizes() == before


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


def test_service_restarts_after_crash(postgres: Machine, query: Query) -> None:
    before = superuser(postgres, "SELECT pg_postmaster_start_time()")
    assert postgres.run("systemctl", "kill", "--signal=SIGKILL", UNIT).returncode == 0
    until(lambda: query("SELECT 1").returncode == 0, "PostgreSQL answers again")
    assert superuser(postgres, "SELECT pg_postmaster_start_time()") != before


def test_memory_fits_the_machine(postgres: Machine) -> None:
    """All connections of the role, each with a sort, stay below 80 % of 1 GiB."""
    shared = _bytes(postgres, "shared_buffers") + _bytes(postgres, "maintenance_work_mem")
    connections = int(
        superuser(postgres, "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'airflow'")
    )
    assert SYSTEM + shared + connections * _bytes(postgres, "work_mem") < 0.8 * MEMORY


def _bytes(postgres: Machine, setting: str) -> int:
    return int(superuser(postgres, f"SELECT pg_size_bytes(current_setting('{setting}'))"))
