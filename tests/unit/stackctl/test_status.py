"""Every machine has a row, and only a machine without a fault is healthy."""

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
UNITS = {
    "salt": "salt-master",
    "lb": "haproxy",
    "postgres": "postgresql@17-main",
    "redis": "redis-server",
    "web": "airflow",
}
ACTIVE: dict[str, Any] = {
    name: {
        "unit": UNITS[name[:-2]],
        "state": "active",
        "problem": "",
        "memory_mib": 123,
        "certificate_end": "9999-12-31" if name == "postgres-1" else "",
    }
    for name in NAMES
}
HEALTHY = status.Row("web-1", "web", "10.20.1.8", "running", "answers", "airflow active", "800 MiB")


class MasterShell:
    """The master's shell, which gives one answer or raises it, and keeps the commands."""

    def __init__(self, answer: str | Exception, commands: list[list[str]]) -> None:
        self.answer = answer
        self.commands = commands

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def trust(self, machine: Machine) -> None:
        assert machine.name == "salt-1"

    def run(self, _machine: Machine, args: list[str], **_: object) -> str:
        self.commands.append(args)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def rows(deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that returns the rows of a stack with these machines and answers of Salt."""
    commands: list[list[str]] = []

    def collect(
        machines: Mapping[str, Machine], answer: Mapping[str, Any] | Exception
    ) -> dict[str, status.Row]:
        output = answer if isinstance(answer, Exception) else json.dumps(answer)
        monkeypatch.setattr(status, "ec2_client", lambda _: None)
        monkeypatch.setattr(status, "list_machines", lambda _: machines)
        monkeypatch.setattr(status, "Shell", lambda *_: MasterShell(output, commands))
        return {row.machine: row for row in status.collect(deployment, log)}

    collect.commands = commands  # type: ignore[attr-defined]
    return collect


def test_healthy_stack(rows: Any) -> None:
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
    [
        {"state": "stopped"},
        {"state": "missing"},
        {"salt": "silent"},
        {"service": "airflow inactive"},
        {"service": "airflow activating"},
        {"service": "airflow unknown"},
        {"problem": "status 503"},
    ],
    ids=str,
)
def test_row_with_one_fault_is_not_healthy(wrong: dict[str, str]) -> None:
    assert HEALTHY.healthy
    assert HEALTHY.as_dict()["healthy"] is True
    assert not replace(HEALTHY, **wrong).healthy


@pytest.mark.parametrize(
    ("days", "healthy"),
    [(-1, False), (status.RENEW_DAYS - 1, False), (status.RENEW_DAYS + 1, True)],
)
def test_certificate_that_ends_soon_is_not_healthy(days: int, *, healthy: bool) -> None:
    end = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=days)
    assert replace(HEALTHY, certificate=end.isoformat()).healthy == healthy


def test_unreadable_certificate_is_not_healthy() -> None:
    assert not replace(HEALTHY, certificate="unknown").healthy


@pytest.mark.parametrize("name", ["web-1", "postgres-1"])
def test_failed_check_is_not_healthy_and_keeps_its_reason(rows: Any, name: str) -> None:
    failed = ACTIVE[name] | {"problem": "GET http://localhost:8080/ answered 503"}
    found = rows(MACHINES, ACTIVE | {name: failed})
    assert found[name].problem == "GET http://localhost:8080/ answered 503"
    assert found[name].service.endswith(" active")
    assert [row.machine for row in found.values() if not row.healthy] == [name]


@pytest.mark.parametrize(
    "answer",
    [
        "'role.status' is not available.",
        "ERROR: no role\n in pillar",
        {},
    ],
    ids=str,
)
def test_minion_without_status_is_unknown(rows: Any, answer: Any) -> None:
    row = rows(MACHINES, ACTIVE | {"web-2": answer})["web-2"]
    assert (row.salt, row.service, row.memory) == ("answers", "airflow unknown", "")
    assert row.problem == (" ".join(answer.split()) if answer else "")
    assert not row.healthy


def test_status_is_one_salt_command(rows: Any) -> None:
    rows(MACHINES, ACTIVE)
    (command,) = rows.commands
    listed = "lb-1,postgres-1,redis-1,salt-1,web-1,web-2"
    assert command == [
        "salt",
        "--out=json",
        "--static",
        "--list",
        listed,
        "--timeout=10",
        "role.status",
    ]


def test_new_role_needs_no_change_in_python(
    rows: Any, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.map_path.write_text(deployment.map_path.read_text() + "\ncache:\n  - cache-1\n")
    path = deployment.root / "pillar" / "base" / "roles.sls"
    path.write_text(path.read_text() + "  cache:\n    unit: memcached\n")
    machines = MACHINES | {"cache-1": Machine("cache-1", "i-9", "running", "10.20.1.30", "")}
    answer = {"unit": "memcached", "state": "active", "problem": "", "memory_mib": 7}
    row = rows(machines, ACTIVE | {"cache-1": answer})["cache-1"]
    assert (row.role, row.service, row.memory) == ("cache", "memcached active", "7 MiB")
    assert row.healthy
    assert rows(machines, ACTIVE)["cache-1"].service == "memcached unknown"

    ran: list[str] = []
    monkeypatch.setattr(cli, "repository_root", lambda: deployment.root)

    def remote(_deployment: Deployment, _verb: str, name: str, line: str) -> int:
        ran.append(f"{name}: {line}")
        return 0

    monkeypatch.setattr(cli, "_remote", remote)
    assert cli.main(["logs", "cache-1"]) == 0
    assert ran == ["cache-1: journalctl --no-pager -n 50 -u memcached"]


@pytest.mark.parametrize(
    "answer",
    [
        "Minion did not return. [Not connected]",
        "Minion did not return. [No response]\nThe minions may not",
        "Minion did not return",
        False,
        None,
    ],
)
def test_minion_without_return_is_silent(rows: Any, answer: object) -> None:
    found = rows(MACHINES, ACTIVE | {"web-2": answer})
    assert (found["web-2"].salt, found["web-2"].service) == ("silent", "airflow unknown")
    assert [name for name, row in found.items() if not row.healthy] == ["web-2"]


def test_minion_without_entry_is_silent(rows: Any) -> None:
    found = rows(MACHINES, {name: text for name, text in ACTIVE.items() if name != "lb-1"})
    assert found["lb-1"].salt == "silent"


def test_missing_machine_has_a_row(rows: Any) -> None:
    found = rows({name: machine for name, machine in MACHINES.items() if name != "web-2"}, ACTIVE)
    assert (found["web-2"].state, found["web-2"].address) == ("missing", "")
    assert not found["web-2"].healthy


def test_unmapped_machine_has_a_row(rows: Any) -> None:
    found = rows(MACHINES | {"web-3": Machine("web-3", "i-9", "running", "10.20.1.19", "")}, ACTIVE)
    assert list(found) == [*NAMES, "web-3"]
    assert found["web-3"].role == "web"


def test_stopped_master_is_not_asked(rows: Any) -> None:
    unreachable = AssertionError("a master that does not run was asked")
    found = rows(MACHINES | {"salt-1": replace(MACHINES["salt-1"], state="stopped")}, unreachable)
    assert {row.salt for row in found.values()} == {"silent"}
    assert found["salt-1"].state == "stopped"


def test_error_of_master_is_logged(rows: Any, log: Log) -> None:
    found = rows(MACHINES, CommandError("asking the minions failed: Connection refused"))
    assert not any(row.healthy for row in found.values())
    assert "Connection refused" in log.path.read_text()


@pytest.fixture
def say(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the verb with these rows and this problem of the site; return the exit code."""

    def run(found: list[status.Row], *args: str, problem: str = "") -> int:
        deployment.pillar_dir.mkdir(exist_ok=True)
        deployment.settings_path.write_text("settings: {base_url: 'https://airflow.example.org'}\n")
        monkeypatch.setattr(cli, "repository_root", lambda: deployment.root)
        monkeypatch.setattr(cli, "enter", lambda _: nullcontext())
        monkeypatch.setattr(status, "collect", lambda *_: found)
        monkeypatch.setattr(site, "problem", lambda _: problem)
        return cli.main(["status", *args])

    return run


@pytest.mark.parametrize(
    ("found", "code"), [([HEALTHY], 0), ([HEALTHY, replace(HEALTHY, state="stopped")], 1), ([], 1)]
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_exit_code_is_0_only_if_all_are_healthy(
    say: Any,
    capsys: pytest.CaptureFixture[str],
    found: list[status.Row],
    code: int,
    form: list[str],
) -> None:
    assert say(found, *form) == code
    printed = capsys.readouterr().out
    if form:
        assert json.loads(printed) == [row.as_dict() | {"site": "healthy"} for row in found]
    else:
        assert printed.count("airflow active") == len(found)
        assert printed.endswith("site https://airflow.example.org: healthy\n")


def test_unhealthy_site_is_printed_and_exits_with_1(
    say: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say([HEALTHY], problem="status 503") == 1
    assert capsys.readouterr().out.endswith("site https://airflow.example.org: status 503\n")
    assert say([HEALTHY], "--json", problem="status 503") == 1
    assert [(row["healthy"], row["site"]) for row in json.loads(capsys.readouterr().out)] == [
        (True, "status 503")
    ]


def test_expiring_certificate_is_printed(say: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert say([HEALTHY, replace(HEALTHY, machine="lb-1", certificate="2026-01-31")]) == 1
    printed = capsys.readouterr().out.splitlines()[-2]
    assert printed == "lb-1: end of its certificate: 2026-01-31. Renew it: docs/runbooks.md."


def test_failed_check_is_printed_below_the_table(
    say: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say([HEALTHY, replace(HEALTHY, machine="web-2", problem="[503] at /health")]) == 1
    assert capsys.readouterr().out.splitlines()[-2] == "web-2: check failed: [503] at /health"
