"""Every machine has a row, and only one that wants nothing is healthy."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Self

import pytest

from stackctl import cli, status
from stackctl.deployment import Deployment
from stackctl.errors import CommandError
from stackctl.machines import Machine
from stackctl.run import Log

NAMES = ["salt-1", "lb-1", "postgres-1", "redis-1", "web-1", "web-2"]
MACHINES = {
    name: Machine(name, f"i-{number}", "running", f"10.20.1.{number}", "") for number, name in enumerate(NAMES, 4)
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

    def collect(machines: Mapping[str, Machine], answer: Mapping[str, Any] | Exception) -> dict[str, status.Row]:
        told = answer if isinstance(answer, Exception) else json.dumps(answer)
        monkeypatch.setattr(status, "ec2_client", lambda: None)
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


@pytest.mark.parametrize(("days", "well"), [(-1, False), (status.RENEW_DAYS - 1, False), (status.RENEW_DAYS + 1, True)])
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


@pytest.mark.parametrize(
    ("found", "code"), [([HEALTHY], 0), ([HEALTHY, replace(HEALTHY, state="stopped")], 1), ([], 1)]
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_exit_code_says_whether_all_is_well(
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: list[status.Row],
    code: int,
    form: list[str],
) -> None:
    monkeypatch.setattr(cli, "repository_root", lambda: deployment.root)
    monkeypatch.setattr(cli, "account", lambda _: nullcontext())
    monkeypatch.setattr(status, "collect", lambda *_: found)
    assert cli.main(["status", *form]) == code
    told = capsys.readouterr().out
    if form:
        assert json.loads(told) == [row.as_dict() for row in found]
    else:
        assert told.count("airflow active") == len(found)


def test_who_has_to_renew_a_certificate_is_told_which(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [HEALTHY, replace(HEALTHY, machine="lb-1", certificate="2026-01-31")]
    monkeypatch.setattr(cli, "repository_root", lambda: deployment.root)
    monkeypatch.setattr(cli, "account", lambda _: nullcontext())
    monkeypatch.setattr(status, "collect", lambda *_: found)
    assert cli.main(["status"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "lb-1: end of its certificate: 2026-01-31. Renew it: docs/runbooks.md."
