"""Every machine has a row, and only one that wants nothing is healthy."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Self

import pytest

from stackctl import cli, site, status
from stackctl.deployment import Deployment
from stackctl.errors import CommandError
from stackctl.machines import Machine
from stackctl.run import Log

NAMES = ["salt-1", "lb-1", "postgres-1", "redis-1", "web-1", "web-2"]
MACHINES = {
    name: Machine(name, f"i-{number}", "running", f"10.20.1.{number}", "")
    for number, name in enumerate(NAMES, 4)
}
ACTIVE = dict.fromkeys(NAMES, "active\n123 MiB") | {"postgres-1": "active\n123 MiB\n9999-12-31"}
HEALTHY = status.Row("web-1", "web", "10.20.1.8", "running", "answers", "airflow active", "800 MiB")


class ToldShell:
    """The master's shell, which gives one answer or raises it."""

    def __init__(self, answer: str | Exception) -> None:
        self.answer = answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def trust(self, machine: Machine) -> None:
        assert machine.name == "salt-1"

    def run(self, *_: object, **__: object) -> str:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def rows(deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what collects the rows of a stack with these machines, of which Salt says this."""

    def collect(
        machines: Mapping[str, Machine], answer: Mapping[str, Any] | Exception
    ) -> dict[str, status.Row]:
        told = answer if isinstance(answer, Exception) else json.dumps(answer)
        monkeypatch.setattr(status, "ec2_client", lambda _: None)
        monkeypatch.setattr(status, "list_machines", lambda _: machines)
        monkeypatch.setattr(status, "Shell", lambda *_: ToldShell(told))
        return {row.machine: row for row in status.collect(deployment, log)}

    return collect


def test_a_stack_that_is_well(rows: Any) -> None:
    found = rows(MACHINES, ACTIVE)
    assert list(found) == NAMES
    assert all(row.healthy for row in found.values())
    assert found["postgres-1"] == status.Row(
        "postgres-1",
        "postgres",
        "10.20.1.6",
        "running",
        "answers",
        "postgresql@17-main active",
        "123 MiB",
        "9999-12-31",
    )


@pytest.mark.parametrize(
    "wrong",
    [{"state": "stopped"}, {"state": "missing"}, {"salt": "silent"}, {"service": "airflow inactive"},
     {"service": "airflow activating"}, {"service": "airflow unknown"}],
    ids=str,
)  # fmt: skip
def test_one_thing_wanting_is_not_healthy(wrong: dict[str, str]) -> None:
    assert HEALTHY.healthy
    assert HEALTHY.as_dict()["healthy"] is True
    assert not replace(HEALTHY, **wrong).healthy


@pytest.mark.parametrize(
    ("days", "well"), [(-1, False), (status.RENEW_DAYS - 1, False), (status.RENEW_DAYS + 1, True)]
)
def test_a_certificate_that_ends_soon_is_not_healthy(days: int, *, well: bool) -> None:
    end = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=days)
    assert replace(HEALTHY, certificate=end.isoformat()).healthy == well


def test_a_certificate_that_cannot_be_read_is_not_healthy() -> None:
    assert not replace(HEALTHY, certificate="unknown").healthy


@pytest.mark.parametrize(
    "answer",
    ["Minion did not return. [Not connected]", "Minion did not return. [No response]\nThe minions may not have all",
     "Minion did not return", False, None],
)  # fmt: skip
def test_a_minion_that_does_not_answer_is_silent(rows: Any, answer: object) -> None:
    found = rows(MACHINES, ACTIVE | {"web-2": answer})
    assert (found["web-2"].salt, found["web-2"].service) == ("silent", "airflow unknown")
    assert [name for name, row in found.items() if not row.healthy] == ["web-2"]


def test_a_minion_that_says_nothing_at_all_is_silent(rows: Any) -> None:
    found = rows(MACHINES, {name: text for name, text in ACTIVE.items() if name != "lb-1"})
    assert found["lb-1"].salt == "silent"


def test_a_machine_that_is_missing_has_a_row(rows: Any) -> None:
    found = rows({name: one for name, one in MACHINES.items() if name != "web-2"}, ACTIVE)
    assert (found["web-2"].state, found["web-2"].address) == ("missing", "")
    assert not found["web-2"].healthy


def test_a_machine_that_the_map_does_not_name_has_one_too(rows: Any) -> None:
    found = rows(MACHINES | {"web-3": Machine("web-3", "i-9", "running", "10.20.1.19", "")}, ACTIVE)
    assert list(found) == [*NAMES, "web-3"]
    assert found["web-3"].role == "web"


def test_without_a_running_master_nobody_answers(rows: Any) -> None:
    unreachable = AssertionError("a master that does not run was asked")
    found = rows(MACHINES | {"salt-1": replace(MACHINES["salt-1"], state="stopped")}, unreachable)
    assert {row.salt for row in found.values()} == {"silent"}
    assert found["salt-1"].state == "stopped"


def test_a_master_that_cannot_be_asked_is_told_in_the_log(rows: Any, log: Log) -> None:
    found = rows(MACHINES, CommandError("asking the minions failed: Connection refused"))
    assert not any(row.healthy for row in found.values())
    assert "Connection refused" in log.path.read_text()


@pytest.fixture
def say(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the verb on a stack with these rows and this problem of its site; return the exit code."""

    def run(found: list[status.Row], *words: str, problem: str = "") -> int:
        deployment.pillar_dir.mkdir(exist_ok=True)
        deployment.settings_path.write_text("settings: {base_url: 'https://airflow.example.org'}\n")
        monkeypatch.setattr(cli, "repository_root", lambda: deployment.root)
        monkeypatch.setattr(cli, "account", lambda _: nullcontext())
        monkeypatch.setattr(status, "collect", lambda *_: found)
        monkeypatch.setattr(site, "problem", lambda _: problem)
        return cli.main(["status", *words])

    return run


@pytest.mark.parametrize(
    ("found", "code"), [([HEALTHY], 0), ([HEALTHY, replace(HEALTHY, state="stopped")], 1), ([], 1)]
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_exit_code_says_whether_all_is_well(
    say: Any,
    capsys: pytest.CaptureFixture[str],
    found: list[status.Row],
    code: int,
    form: list[str],
) -> None:
    assert say(found, *form) == code
    told = capsys.readouterr().out
    if form:
        assert json.loads(told) == [row.as_dict() | {"site": "healthy"} for row in found]
    else:
        assert told.count("airflow active") == len(found)
        assert told.endswith("site https://airflow.example.org: healthy\n")


def test_a_site_that_is_ill_is_told_though_every_machine_is_well(
    say: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say([HEALTHY], problem="status 503") == 1
    assert capsys.readouterr().out.endswith("site https://airflow.example.org: status 503\n")
    assert say([HEALTHY], "--json", problem="status 503") == 1
    assert [(row["healthy"], row["site"]) for row in json.loads(capsys.readouterr().out)] == [
        (True, "status 503")
    ]


def test_who_has_to_renew_a_certificate_is_told_which(
    say: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say([HEALTHY, replace(HEALTHY, machine="lb-1", certificate="2026-01-31")]) == 1
    told = capsys.readouterr().out.splitlines()[-2]
    assert told == "lb-1: end of its certificate: 2026-01-31. Renew it: docs/runbooks.md."
