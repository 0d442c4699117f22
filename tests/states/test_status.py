"""What the machines report about their roles: `role.status`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from harness import MACHINE_MEBIBYTES, Fleet, Machine
from plainpillar import DEPLOYMENT
from stackctl.status import ANSWER_SECONDS
from waiting import until

ROLES = DEPLOYMENT.base_pillar("roles")
STORES = ("postgres-1", "redis-1")
MACHINES = (*STORES, "web-1", "lb-1")


@pytest.fixture(scope="module")
def machines(fleet: Fleet, converged: Callable[[str], Machine]) -> dict[str, Machine]:
    """A converged machine of each role."""
    fleet.web_app()
    return {minion_id: converged(minion_id) for minion_id in MACHINES}


def status(machine: Machine) -> dict[str, Any]:
    """Return what the machine reports."""
    answer = machine.salt("role.status")
    assert isinstance(answer, dict), answer
    return answer


def haproxy(edge: Machine, command: str) -> None:
    """Send HAProxy a command at its socket."""
    send = """
        import socket
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect("/run/haproxy/admin.sock")
            admin.sendall(command.encode() + b"\\n")
            result = admin.recv(1024).decode().strip()
    """
    assert edge.python(send, command=command) == ""


@pytest.mark.parametrize("minion_id", MACHINES)
def test_serving_machine_has_no_problem(machines: dict[str, Machine], minion_id: str) -> None:
    machine, role = machines[minion_id], ROLES[minion_id.removesuffix("-1")]
    until(lambda: not status(machine)["problem"], f"{minion_id} serves")
    found = status(machine)
    assert (found["unit"], found["state"]) == (role["unit"], "active")
    assert 50 < found["memory_mib"] < MACHINE_MEBIBYTES
    if "certificate" in role:
        end = date.fromisoformat(found["certificate_end"])
        assert end > datetime.now(UTC).date() + timedelta(days=30)
    else:
        assert found["certificate_end"] == ""
    if minion_id == "lb-1":  # another test may have disabled them
        for backend in ("app", "static"):
            haproxy(machine, f"set server {backend}/web-1 state ready")
        found = status(machine)
    assert (found["drift"], found["outdated"], found["reboot_required"]) == ([], [], False)


def test_machine_that_is_disabled_at_the_edge_is_told(machines: dict[str, Machine]) -> None:
    edge = machines["lb-1"]
    haproxy(edge, "set server app/web-1 state maint")
    try:
        found = status(edge)
    finally:
        haproxy(edge, "set server app/web-1 state ready")
    assert found["drift"] == ["HAProxy's server app/web-1 is MAINT, set by hand"]


def test_settings_of_postgres_by_hand_are_told(machines: dict[str, Machine]) -> None:
    postgres = machines["postgres-1"]

    def sql(statement: str) -> None:
        done = postgres.run("psql", "-Xqc", statement, user="postgres")
        assert done.returncode == 0, done.stderr

    sql("ALTER SYSTEM SET max_worker_processes = 5")
    sql("ALTER DATABASE airflow SET work_mem = '5MB'")
    sql("CREATE ROLE eve SUPERUSER")
    sql("SELECT pg_reload_conf()")
    waits = "PostgreSQL sets max_worker_processes at its next restart only"
    try:
        until(lambda: waits in status(postgres)["drift"], "PostgreSQL has read its settings")
        found = status(postgres)["drift"]
    finally:
        sql("ALTER SYSTEM RESET max_worker_processes")
        sql("ALTER DATABASE airflow RESET work_mem")
        sql("DROP ROLE eve")
        # PostgreSQL forgets what waits for a restart at its restart only.
        postgres.run("systemctl", "restart", ROLES["postgres"]["unit"])
    assert found == [
        waits,
        "PostgreSQL has max_worker_processes = 5 by ALTER SYSTEM",
        "PostgreSQL has {work_mem=5MB} for the database airflow",
        "PostgreSQL has the superuser eve",
    ]
    until(lambda: not status(postgres)["problem"], "PostgreSQL serves again")
    assert status(postgres)["drift"] == []


def test_replaced_code_is_told(machines: dict[str, Machine]) -> None:
    """As after an update of a library that a running program has loaded."""
    redis = machines["redis-1"]
    redis.run("cp", "/usr/bin/sleep", "/usr/local/bin/test-sleep")
    redis.run(
        # Which ends when the program is loaded.
        *("systemd-run", "--unit=test-sleep", "--property=Type=exec"),
        *("/usr/local/bin/test-sleep", "600"),
    )
    redis.run("rm", "/usr/local/bin/test-sleep")
    redis.run("touch", "/run/reboot-required")
    try:
        found = status(redis)
    finally:
        redis.run("systemctl", "stop", "test-sleep")
        redis.run("rm", "/run/reboot-required")
    assert (found["outdated"], found["reboot_required"]) == (["test-sleep.service"], True)


def test_machine_out_of_cpu_credits_serves_and_says_so(
    converged: Callable[[str], Machine],
) -> None:
    """At a tenth of a core, a machine answers as `stackctl status` asks it, and names the cause."""
    redis = converged("redis-1")
    assert status(redis)["cpu"] == ""
    with redis.without_credits():
        began = time.monotonic()
        found = redis.salt("role.status", seconds=ANSWER_SECONDS)
        print(f"role.status at a tenth of a core: {time.monotonic() - began:.1f} s")
        assert redis.salt("cpu_credits.told").startswith("out of CPU credits")
    assert found["cpu"].startswith("out of CPU credits: it got ")
    assert (found["state"], found["problem"]) == ("active", "")
    assert redis.salt("cpu_credits.told") == ""


@pytest.mark.parametrize("minion_id", STORES)
def test_stopped_service_is_a_problem(machines: dict[str, Machine], minion_id: str) -> None:
    machine = machines[minion_id]
    unit = status(machine)["unit"]
    machine.run("systemctl", "stop", unit)
    try:
        found = status(machine)
    finally:
        machine.run("systemctl", "start", unit)
    assert found["state"] == "inactive"
    assert found["problem"].endswith("Connection refused")
    until(lambda: not status(machine)["problem"], f"{minion_id} serves again")


def test_check_of_postgres_logs_no_error(machines: dict[str, Machine]) -> None:
    postgres = machines["postgres-1"]
    before = str(postgres.run("date", "+%F %T").stdout).strip()
    assert status(postgres)["problem"] == ""
    journal = ("journalctl", "--no-pager", "--output=cat", f"--since={before}")
    lines = postgres.run(*journal, f"--unit={ROLES['postgres']['unit']}").stdout.splitlines()
    # Clients end their connections as they like.
    own = [line for line in lines if "airflow@airflow" not in line]
    assert [line for line in own if re.search("ERROR|FATAL|could not", line)] == []
