"""Every machine has a row, and only a machine without a fault is healthy."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Self

import pytest

from stackctl import cli, site, status
from stackctl.ca_rotation import OVERDUE_DAYS, Rotation
from stackctl.certificates import RENEW_DAYS, Authority
from stackctl.deployment import Deployment
from stackctl.errors import NotUpError, PreflightError, UnreachableError
from stackctl.machines import Machine
from stackctl.run import Log
from stackctl.secret_store import SecretStore

NAMES = ["salt-1", "lb-1", "postgres-1", "redis-1", "web-1", "web-2"]
MACHINES = {
    name: Machine(name, f"i-{number}", "running", f"10.20.1.{number}", "")
    for number, name in enumerate(NAMES, 4)
}
UNITS = {
    "salt": "salt-master",
    "lb": "haproxy",
    "postgres": "patroni",
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
    """The master's shell, which gives one answer or raises it, and keeps the questions."""

    def __init__(self, answer: str | Exception, asked: list[list[str]], *, api: bool) -> None:
        self.answer = answer
        self.asked = asked
        self.api = api
        self.trusted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def trust(self, machine: Machine, timeout: float) -> None:
        assert machine.name == "salt-1"
        assert timeout < 10
        self.trusted = True

    def script(self, _machine: Machine, args: list[str], **_: object) -> str:
        assert self.trusted == self.api, "only the API can say whose host keys to trust"
        self.asked.append(args)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def report(deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that returns the report on a stack with these machines and answers of Salt."""
    asked: list[list[str]] = []
    monkeypatch.setattr(status, "enter", lambda _: nullcontext())
    monkeypatch.setattr(status, "ec2_client", lambda _: "the API")
    monkeypatch.setattr(site, "problem", lambda *_: "")

    def collect(
        machines: Mapping[str, Machine] | Exception,
        answer: Mapping[str, Any] | Exception,
        ended: Mapping[str, Machine] | None = None,
    ) -> status.Report:
        def listed(*_: object) -> Mapping[str, Machine]:
            if isinstance(machines, Exception):
                raise machines
            return machines

        output = answer if isinstance(answer, Exception) else json.dumps(answer)

        def shell(_deployment: object, client: object, *_: object, **__: object) -> MasterShell:
            return MasterShell(output, asked, api=client is not None)

        monkeypatch.setattr(status, "list_machines", listed)
        monkeypatch.setattr(status, "find_ended", lambda *_: ended or {})
        monkeypatch.setattr("stackctl.inventory.orphans", lambda *_: ["volume vol-1 of 10 GB"])
        monkeypatch.setattr(status, "Shell", shell)
        return status.collect(deployment, log)

    collect.asked = asked  # type: ignore[attr-defined]
    return collect


@pytest.fixture
def rows(report: Any) -> Any:
    """A function that returns only the rows, by machine."""

    def collect(*args: Any, **options: Any) -> dict[str, status.Row]:
        return {row.machine: row for row in report(*args, **options).rows}

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
        "patroni active",
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
        {"drift": ("nftables: a rule is missing",)},
    ],
    ids=str,
)
def test_row_with_one_fault_is_not_healthy(wrong: dict[str, Any]) -> None:
    assert HEALTHY.healthy
    assert HEALTHY.as_dict()["healthy"] is True
    assert not replace(HEALTHY, **wrong).healthy


@pytest.mark.parametrize(
    ("days", "healthy"),
    [(-1, False), (RENEW_DAYS - 1, False), (RENEW_DAYS + 1, True)],
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


def test_status_is_one_question_to_the_machines_that_run(report: Any) -> None:
    report(MACHINES, ACTIVE)
    stopped = MACHINES | {"web-1": replace(MACHINES["web-1"], state="stopped")}
    report(stopped, ACTIVE)
    listed = ["lb-1,postgres-1,redis-1,salt-1,web-1,web-2", "lb-1,postgres-1,redis-1,salt-1,web-2"]
    for names, question in zip(listed, report.asked, strict=True):
        name, _python, seconds, silent, *rest = question
        assert (name, rest) == ("ask-minions", ["list", names, "role.status"])
        # Who is slow has ten times as long as who is lost.
        assert (int(silent), int(seconds)) == (6, 60)


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


def test_minion_without_answer_is_silent(rows: Any) -> None:
    found = rows(MACHINES, {name: text for name, text in ACTIVE.items() if name != "web-2"})
    assert (found["web-2"].salt, found["web-2"].service) == ("silent", "airflow unknown")
    assert [name for name, row in found.items() if not row.healthy] == ["web-2"]


def test_missing_machine_has_a_row(rows: Any) -> None:
    found = rows({name: machine for name, machine in MACHINES.items() if name != "web-2"}, ACTIVE)
    assert (found["web-2"].state, found["web-2"].address) == ("missing", "")
    assert not found["web-2"].healthy


def test_unmapped_machine_has_a_row(rows: Any) -> None:
    found = rows(MACHINES | {"web-3": Machine("web-3", "i-9", "running", "10.20.1.19", "")}, ACTIVE)
    assert list(found) == [*NAMES, "web-3"]
    assert found["web-3"].role == "web"


SHUT_DOWN = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"


def test_machine_that_ended_has_the_reason_of_ec2(rows: Any) -> None:
    stopped = replace(MACHINES["web-1"], state="stopped", reason=SHUT_DOWN)
    lost = replace(MACHINES["web-2"], state="terminated", reason="Server.InternalError: gone")
    machines = {name: machine for name, machine in MACHINES.items() if name != "web-2"}
    found = rows(machines | {"web-1": stopped}, ACTIVE, {"web-2": lost, "lb-1": lost})
    assert (found["web-1"].state, found["web-1"].reason) == ("stopped", SHUT_DOWN)
    assert (found["web-2"].state, found["web-2"].reason) == ("missing", lost.reason)
    assert found["lb-1"].healthy, "its predecessor has ended"


def test_master_that_does_not_run_is_not_asked_and_named(report: Any) -> None:
    unreachable = AssertionError("a master that does not run was asked")
    stopped = replace(MACHINES["salt-1"], state="stopped", reason=SHUT_DOWN)
    found = report(MACHINES | {"salt-1": stopped}, unreachable)
    assert {row.salt for row in found.rows} == {"unknown"}
    said = f"salt-1, the Salt master, is stopped, says EC2: {SHUT_DOWN}."
    assert found.errors == [f"No machine could be asked. {said} This starts it: stackctl up"]
    del (without := dict(MACHINES))["salt-1"]
    assert report(without, unreachable).errors == [
        "No machine could be asked. There is no salt-1. This launches it: stackctl up"
    ]


def test_master_without_connection_is_one_sentence(report: Any, log: Log) -> None:
    error = UnreachableError(
        "Asking the minions failed: SSH has no connection to salt-1: no.", "Up!"
    )
    found = report(MACHINES, error)
    assert not found.healthy
    assert {(row.state, row.salt) for row in found.rows} == {("running", "unknown")}
    assert found.errors == [f"No machine could be asked. {error.what} Up!"]
    assert error.what in log.path.read_text()


def test_api_without_answer_leaves_machines_and_site(
    report: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = NotUpError("The local cloud does not run.", "Bring the stack up first: make up")
    with pytest.raises(NotUpError):  # nothing is known from before
        report(down, ACTIVE)
    assert report(MACHINES, ACTIVE).healthy
    monkeypatch.setattr(site, "problem", lambda *_: "status 503")
    found = report(down, ACTIVE)
    assert not found.healthy
    assert {(row.state, row.salt) for row in found.rows} == {("unknown", "answers")}
    assert found.rows[0].address == MACHINES["salt-1"].private_address
    assert (found.site, len(found.errors)) == ("status 503", 1)
    assert found.errors[0].startswith("EC2: The local cloud does not run.")


def test_credentials_of_another_account_stop_the_report(report: Any) -> None:
    """What is known from before may be another account's."""
    report(MACHINES, ACTIVE)
    with pytest.raises(PreflightError, match="another account"):
        report(PreflightError("The credentials are another account's."), ACTIVE)


def test_damaged_memory_is_no_memory(report: Any, deployment: Deployment) -> None:
    report(MACHINES, ACTIVE)
    (deployment.state_dir / status.MEMORY).write_text("{")
    with pytest.raises(NotUpError):
        report(NotUpError("The local cloud does not run.", ""), ACTIVE)


@pytest.mark.parametrize(
    ("found", "healthy"),
    [
        (status.Report([HEALTHY]), True),
        (status.Report([]), False),
        (status.Report([HEALTHY, replace(HEALTHY, state="stopped")]), False),
        (status.Report([HEALTHY], site="status 503"), False),
        (status.Report([HEALTHY], errors=["EC2: no answer"]), False),
    ],
)
def test_report_is_healthy_only_without_any_fault(found: status.Report, *, healthy: bool) -> None:
    assert found.healthy is healthy


def test_question_does_not_keep_the_process_alive() -> None:
    assert status.answer_of(status.ask(lambda: threading.current_thread().daemon), 60) is True


def test_frozen_api_and_site_are_given_up(report: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    report(MACHINES, ACTIVE)
    monkeypatch.setattr(status, "API_SECONDS", 0.1)
    monkeypatch.setattr(status, "SITE_SECONDS", 0.2)
    frozen = threading.Event()
    monkeypatch.setattr(status, "ec2_client", lambda _: frozen.wait(60))
    monkeypatch.setattr(site, "problem", lambda *_: frozen.wait(60))
    try:
        found = status_of(report)
    finally:
        frozen.set()
    assert found.errors == ["EC2: No answer within 0.1 s."]
    assert found.site == "No answer within 0.2 s."
    assert {row.salt for row in found.rows} == {"answers"}


def status_of(report: Any) -> status.Report:
    """Return the report on a stack whose minions all answer."""
    found: status.Report = report(MACHINES, ACTIVE)
    return found


def test_question_raises_what_the_asked_raises() -> None:
    def fail() -> None:
        raise TimeoutError("the asked")

    with pytest.raises(TimeoutError, match="the asked"):
        status.answer_of(status.ask(fail), 60)


def test_drift_is_not_healthy_and_hints_are(rows: Any) -> None:
    more = {"drift": ["nftables: a rule is missing"], "outdated": [], "reboot_required": False}
    hints = {"drift": [], "outdated": ["airflow"], "reboot_required": True, "growth": "web grows"}
    hints["withheld"] = ["patroni 4.0.8"]
    hints["replication"] = "replica of web-1"
    hints["cpu"] = "out of CPU credits"
    hints["backups"] = "keys backed up 2 h ago"
    hints["renewal"] = "certificate of acme.example.org until tomorrow"
    found = rows(
        MACHINES, ACTIVE | {"web-1": ACTIVE["web-1"] | more, "web-2": ACTIVE["web-2"] | hints}
    )
    assert not found["web-1"].healthy
    assert found["web-1"].drift == ("nftables: a rule is missing",)
    assert found["web-2"].healthy
    assert (found["web-2"].outdated, found["web-2"].reboot_required) == (("airflow",), True)
    assert (found["web-1"].withheld, found["web-2"].withheld) == ((), ("patroni 4.0.8",))
    assert (found["web-1"].growth, found["web-2"].growth) == ("", "web grows")
    assert (found["web-1"].replication, found["web-2"].replication) == ("", "replica of web-1")
    assert (found["web-1"].cpu, found["web-2"].cpu) == ("", "out of CPU credits")
    assert (found["web-1"].backups, found["web-2"].backups) == ("", "keys backed up 2 h ago")
    assert (found["web-1"].renewal, found["web-2"].renewal) == ("", hints["renewal"])
    assert found["web-2"].as_dict()["reboot_required"] is True


@pytest.fixture
def say(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the verb with these rows and this problem of the site; return the exit code."""

    def run(
        found: list[status.Row],
        *args: str,
        problem: str = "",
        errors: Sequence[str] = (),
        orphans: Sequence[str] = (),
        rotation: Rotation | None = None,
    ) -> int:
        deployment.pillar_dir.mkdir(exist_ok=True)
        deployment.settings_path.write_text("settings: {base_url: 'https://airflow.example.org'}\n")
        monkeypatch.setattr(cli, "repository_root", lambda: deployment.root)
        report = status.Report(found, problem, errors, orphans, "small", rotation)
        monkeypatch.setattr(status, "collect", lambda *_: report)
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
        whole = {"site": "healthy", "errors": [], "orphans": [], "rotation": ""}
        assert json.loads(printed) == [
            json.loads(json.dumps(row.as_dict())) | whole for row in found
        ]
    else:
        assert printed.count("airflow active") == len(found)
        assert printed.endswith("site https://airflow.example.org: healthy\n")


@pytest.mark.parametrize(("days", "code"), [(OVERDUE_DAYS - 1, 0), (OVERDUE_DAYS + 1, 1)])
def test_rotation_that_is_half_done_is_told_and_is_unhealthy_in_the_end(
    say: Any, capsys: pytest.CaptureFixture[str], days: int, code: int
) -> None:
    begun = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    rotation = Rotation(1, begun, "after stackctl up, run: stackctl secrets rotate deployment-ca")
    assert say([HEALTHY], rotation=rotation) == code
    hint = "" if code else "hint: "
    assert f"\n{hint}the rotation of the deployment's CA is half" in capsys.readouterr().out
    assert say([HEALTHY], "--json", rotation=rotation) == code
    assert json.loads(capsys.readouterr().out)[0]["rotation"] == str(rotation)


def test_report_has_the_rotation_of_the_settings(
    deployment: Deployment, report: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report(MACHINES, ACTIVE).rotation is None
    ca = Authority.new("local").certificate_pem
    deployment.pillar_dir.mkdir(exist_ok=True)
    settings = {"settings": {"base_url": "https://localhost", "ca_certificate": 2 * ca}}
    deployment.settings_path.write_text(json.dumps(settings))
    monkeypatch.setattr(SecretStore, "ciphertexts", lambda *_: {"private_key": "sealed"})
    found = report(MACHINES, ACTIVE)
    assert found.rotation.phase == 2
    settings["settings"]["ca_certificate"] = 3 * ca
    deployment.settings_path.write_text(json.dumps(settings))
    found = report(MACHINES, ACTIVE)
    assert "holds 3 certificates" in found.errors[0]
    assert len(found.rows) == len(MACHINES)


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
    printed = capsys.readouterr().out.splitlines()[-3]
    assert printed == "lb-1: end of its certificate: 2026-01-31. Renew it: docs/runbooks.md."


def test_failed_check_is_printed_below_the_table(
    say: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say([HEALTHY, replace(HEALTHY, machine="web-2", problem="[503] at /health")]) == 1
    assert capsys.readouterr().out.splitlines()[-3] == "web-2: check failed: [503] at /health"


def test_error_is_printed_and_exits_with_1(say: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert say([HEALTHY], errors=["EC2 API: no answer"]) == 1
    assert "\nEC2 API: no answer\nmap " in capsys.readouterr().out
    assert say([HEALTHY], "--json", errors=["EC2 API: no answer"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["errors"] == ["EC2 API: no answer"]


def test_what_no_machine_has_is_printed_and_no_fault(
    say: Any, report: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(MACHINES, ACTIVE).orphans == ["volume vol-1 of 10 GB"]
    assert say([HEALTHY], orphans=["volume vol-1 of 10 GB"]) == 0
    line = capsys.readouterr().out.splitlines()[-3]
    assert line == "hint: no machine has volume vol-1 of 10 GB, which is billed: docs/runbooks.md"


def test_spares_and_machines_that_the_map_does_not_name_are_told(
    say: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spare = replace(HEALTHY, machine="redis-2", spare=True)
    assert say([HEALTHY, spare, replace(HEALTHY, machine="web-9", in_map=False)]) == 0
    assert capsys.readouterr().out.splitlines()[4:] == [
        "redis-2: a spare: it runs no service of its role yet, and nothing depends on it",
        "web-9: the map does not name it. Who removes such machines: stackctl up --map",
        "map small: 2 machines",
        "site https://airflow.example.org: healthy",
    ]


def test_reason_drift_and_hints_are_printed(say: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert say([replace(HEALTHY, outdated=("airflow",), reboot_required=True)]) == 0
    assert capsys.readouterr().out.splitlines()[2:4] == [
        "web-1: hint: runs with older files than its disk has: airflow",
        "web-1: hint: an update waits for stackctl reboot web-1",
    ]
    assert say([replace(HEALTHY, withheld=("patroni 4.0.8", "redis-server 8.0.3"))]) == 0
    waits = "hint: these updates wait for stackctl upgrade web-1: patroni 4.0.8, redis-server 8.0.3"
    assert f"web-1: {waits}\n" in capsys.readouterr().out
    assert say([replace(HEALTHY, growth="web grows from 2 to 4: no change yet")]) == 0
    assert "web-1: web grows from 2 to 4: no change yet\n" in capsys.readouterr().out
    assert say([replace(HEALTHY, backups="keys backed up 2 h ago")]) == 0
    assert "web-1: keys backed up 2 h ago\n" in capsys.readouterr().out
    assert say([replace(HEALTHY, renewal="certificate of a CA until tomorrow")]) == 0
    assert "web-1: certificate of a CA until tomorrow\n" in capsys.readouterr().out
    assert say([replace(HEALTHY, replication="master, web-2 0 s behind")]) == 0
    assert "web-1: master, web-2 0 s behind\n" in capsys.readouterr().out
    slow = "out of CPU credits: it got 10% of a core in the last 3.1 s, and wanted more"
    assert say([replace(HEALTHY, cpu=slow)]) == 0
    assert f"web-1: {slow}. What to do: docs/runbooks.md, 'A machine" in capsys.readouterr().out
    assert say([replace(HEALTHY, state="stopped", reason=SHUT_DOWN, drift=("a [rule]",))]) == 1
    assert capsys.readouterr().out.splitlines()[2:4] == [
        f"web-1: stopped, says EC2: {SHUT_DOWN}. To have it again: stackctl up",
        "web-1: differs from the tree: a [rule]",
    ]
