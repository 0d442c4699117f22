"""The module and the state `postgres_access`, with a fake psql and a fake module."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load

LIMITS = {"connections": 72, "settings": {"statement_timeout": "60s"}}
STATEMENTS = ["ALTER DATABASE airflow OWNER TO airflow_owner", "ALTER ROLE airflow RESET work_mem"]

# -- the module ------------------------------------------------------------------------------------


class Psql:
    """What psql was asked, and what it answers in turn."""

    def __init__(self, *answers: str, retcode: int = 0) -> None:
        self.answers = list(answers)
        self.retcode = retcode
        self.scripts: list[str] = []
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **options: Any) -> dict[str, Any]:
        assert options["runas"] == "postgres"
        assert options["python_shell"] is False
        # A database that does not answer yet is no error in the minion's log.
        assert options["ignore_retcode"] is True
        self.commands.append(command)
        self.scripts.append(options["stdin"])
        out = self.answers.pop(0)
        return {"retcode": self.retcode, "stdout": out, "stderr": "ERROR: no"}


def module(psql: Psql) -> ModuleType:
    return load("_modules", "postgres_access", __salt__={"cmd.run_all": psql})


def test_differences_are_the_lines_of_psql() -> None:
    psql = Psql("postgres\nairflow\nairflow_owner", "\n".join(STATEMENTS))
    found = module(psql).differences("airflow", "airflow_owner", "airflow", LIMITS)
    assert found == STATEMENTS
    asked = psql.commands[1]
    variables = dict(word.split("=", 1) for word in asked if "=" in word and word[:2] != "--")
    assert json.loads(variables.pop("settings")) == LIMITS["settings"]
    assert variables == {
        "ON_ERROR_STOP": "1",
        "owner": "airflow_owner",
        "role": "airflow",
        "connections": "72",
    }
    assert asked[-2:] == ["--dbname", "airflow"]


def test_nothing_to_do_is_no_statement() -> None:
    psql = Psql("airflow\nairflow_owner", "")
    assert module(psql).differences("airflow", "airflow_owner", "airflow", LIMITS) == []


@pytest.mark.parametrize("known", ["airflow", "airflow_owner"])
def test_missing_role_is_named(known: str) -> None:
    missing = ({"airflow", "airflow_owner"} - {known}).pop()
    with pytest.raises(CommandExecutionError, match=f"^PostgreSQL has no role {missing}$"):
        module(Psql(known)).differences("airflow", "airflow_owner", "airflow", LIMITS)


def test_what_a_copy_needs_are_the_lines_of_psql() -> None:
    """pg_rewind connects to the database that is there without the application's."""
    psql = Psql("\n".join(STATEMENTS), "")
    found = module(psql)
    assert found.rewinding("replicator") == STATEMENTS
    assert "role=replicator" in psql.commands[0]
    assert psql.commands[0][-2:] == ["--dbname", "postgres"]
    # https://www.postgresql.org/docs/17/app-pgrewind.html
    for needed in ("pg_ls_dir", "pg_stat_file", "pg_read_binary_file"):
        assert needed in psql.scripts[0]
    assert found.rewinding("replicator") == []


def test_what_statistics_need_are_the_lines_of_psql() -> None:
    psql = Psql("\n".join(STATEMENTS), "")
    found = module(psql)
    assert found.monitoring("watch", 2) == STATEMENTS
    assert {"role=watch", "connections=2"} <= set(psql.commands[0])
    assert psql.commands[0][-2:] == ["--dbname", "postgres"]
    assert "pg_monitor" in psql.scripts[0]
    assert found.monitoring("watch", 2) == []


def test_statements_are_one_transaction_that_does_not_wait_for_ever() -> None:
    psql = Psql("")
    module(psql).execute("airflow", STATEMENTS)
    (script,) = psql.scripts
    lines = script.splitlines()
    assert (lines[0], lines[-1]) == ("BEGIN;", "COMMIT;")
    assert "lock_timeout" in lines[1]
    assert lines[2:-1] == [f"{statement};" for statement in STATEMENTS]


def test_failed_statement_is_an_error() -> None:
    with pytest.raises(CommandExecutionError, match=r"^psql failed with 3: ERROR: no$"):
        module(Psql("", retcode=3)).execute("airflow", STATEMENTS)


PILLAR = {
    "postgres": {
        "role": "app",
        "other_role": "app_b",
        "owner": "own",
        "replication": "follow",
        "other_replication": "follow_b",
        "metrics": "watch",
    }
}
STABLE = {
    "postgres-airflow": {"password": "one"},
    "postgres-owner": {"password": "two"},
    "postgres-replication": {"password": "three"},
    "metrics-scrape": {"password": "four"},
}


def who(**changed: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return who logs in and who does not, where a secret has these fields."""
    secrets = STABLE | {name.replace("_", "-"): fields for name, fields in changed.items()}
    made = load("_modules", "postgres_access", __pillar__={**PILLAR, "secrets": secrets})
    names = {kind: [tuple(one.values()) for one in found] for kind, found in made.logins().items()}
    return names, made.resting()


def test_first_of_a_pair_logs_in_before_any_rotation() -> None:
    assert who() == (
        {
            "role": [("app", "one")],
            "owner": [("own", "two")],
            "replication": [("follow", "three")],
            "metrics": [("watch", "four")],
        },
        ["app_b", "follow_b"],
    )


def test_both_of_a_pair_log_in_during_a_rotation() -> None:
    before = {"previous_user": "app", "previous_password": "one"}
    names, resting = who(postgres_airflow={"user": "app_b", "password": "new", **before})
    assert names["role"] == [("app_b", "new"), ("app", "one")]
    assert resting == ["follow_b"]
    soon = {"next_user": "follow_b", "next_password": "new"}
    names, resting = who(postgres_replication={"password": "three", **soon})
    assert names["replication"] == [("follow", "three"), ("follow_b", "new")]
    assert resting == ["app_b"]


def test_first_of_a_pair_rests_after_a_rotation() -> None:
    names, resting = who(postgres_airflow={"user": "app_b", "password": "new"})
    assert (names["role"], resting) == ([("app_b", "new")], ["app", "follow_b"])


def test_secret_of_another_role_is_refused() -> None:
    with pytest.raises(
        CommandExecutionError, match="of the role postgres, and not of app or app_b"
    ):
        who(postgres_airflow={"user": "postgres", "password": "new"})


def test_resting_asks_about_one_role() -> None:
    psql = Psql(STATEMENTS[0])
    assert module(psql).rest("app_b") == [STATEMENTS[0]]
    assert "role=app_b" in psql.commands[0]


# -- the state -------------------------------------------------------------------------------------


class Access:
    """A database that differs by these statements."""

    def __init__(self, differences: list[str], database: str = "airflow") -> None:
        self.database = database
        self.left = differences
        self.executed: list[str] = []
        self.works = True
        self.fails = False

    def differences(self, database: str, owner: str, role: str, limits: Any) -> list[str]:
        assert (database, owner, role, limits) == ("airflow", "airflow_owner", "airflow", LIMITS)
        if self.fails:
            raise CommandExecutionError("PostgreSQL has no role airflow_owner")
        return self.left

    def rewinding(self, role: str) -> list[str]:
        assert role == "replicator"
        if self.fails:
            raise CommandExecutionError("PostgreSQL has no role airflow_owner")
        return self.left

    def rest(self, role: str) -> list[str]:
        return self.rewinding(role)

    def execute(self, database: str, statements: list[str]) -> None:
        assert database == self.database
        self.executed += statements
        self.left = [] if self.works else self.left


def apply(access: Access, *, test: bool = False) -> dict[str, Any]:
    """Apply the state whose statements are for the database."""
    functions = {
        "postgres_access.differences": access.differences,
        "postgres_access.rewinding": access.rewinding,
        "postgres_access.rest": access.rest,
        "postgres_access.execute": access.execute,
    }
    state = load("_states", "postgres_access", __salt__=functions, __opts__={"test": test})
    if access.database == "postgres":
        rewinding: dict[str, Any] = state.rewinding("replicator")
        assert rewinding["name"] == "replicator"
        return rewinding
    ret: dict[str, Any] = state.present("airflow", "airflow_owner", "airflow", **LIMITS)
    assert ret["name"] == "airflow"
    return ret


# `present` and `rewinding`.
both = pytest.mark.parametrize("database", ["airflow", "postgres"])


@both
@pytest.mark.parametrize("test", [False, True])
def test_access_as_it_should_be_is_unchanged(test: bool, database: str) -> None:
    access = Access([], database)
    ret = apply(access, test=test)
    assert (ret["result"], ret["changes"], access.executed) == (True, {}, [])
    assert ret["comment"]


@both
def test_differences_are_executed_and_reported(database: str) -> None:
    access = Access(STATEMENTS, database)
    ret = apply(access)
    assert (ret["result"], ret["changes"]) == (True, {"executed": STATEMENTS})
    assert access.executed == STATEMENTS
    assert apply(access)["changes"] == {}


@both
def test_differences_are_predicted(database: str) -> None:
    access = Access(STATEMENTS, database)
    ret = apply(access, test=True)
    assert (ret["result"], ret["changes"], access.executed) == (None, {}, [])
    assert all(statement in ret["comment"] for statement in STATEMENTS)


@both
def test_statement_without_effect_fails_the_state(database: str) -> None:
    access = Access(STATEMENTS, database)
    access.works = False
    ret = apply(access)
    assert (ret["result"], ret["changes"]) == (False, {"executed": STATEMENTS})
    assert STATEMENTS[0] in ret["comment"]


@both
@pytest.mark.parametrize(("test", "result"), [(False, False), (True, None)])
def test_database_that_does_not_answer(test: bool, result: bool | None, database: str) -> None:
    access = Access(STATEMENTS, database)
    access.fails = True
    ret = apply(access, test=test)
    assert (ret["result"], ret["changes"]) == (result, {})
    assert ret["comment"] == "PostgreSQL has no role airflow_owner"
