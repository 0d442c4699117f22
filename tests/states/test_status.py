"""What the machines report about their roles: `role.status`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from harness import Fleet, Machine, failed
from plainpillar import DEPLOYMENT
from waiting import until

ROLES = DEPLOYMENT.base_pillar("roles")
STORES = ("postgres-1", "redis-1")
MACHINES = (*STORES, "web-1", "lb-1")


@pytest.fixture(scope="module")
def machines(fleet: Fleet, converged: Callable[[str], Machine]) -> dict[str, Machine]:
    """A converged machine of each role, the web app's after its database was migrated."""
    for minion_id in STORES:
        converged(minion_id)
    assert failed(fleet.machine("web-1").apply("airflow.migrate")) == []
    return {minion_id: converged(minion_id) for minion_id in MACHINES}


def status(machine: Machine) -> dict[str, Any]:
    """Return what the machine reports."""
    answer = machine.salt("role.status")
    assert isinstance(answer, dict), answer
    return answer


@pytest.mark.parametrize("minion_id", MACHINES)
def test_serving_machine_has_no_problem(machines: dict[str, Machine], minion_id: str) -> None:
    machine, role = machines[minion_id], ROLES[minion_id.removesuffix("-1")]
    until(lambda: not status(machine)["problem"], f"{minion_id} serves")
    found = status(machine)
    assert (found["unit"], found["state"]) == (role["unit"], "active")
    assert 50 < found["memory_mib"] < 1024
    if "certificate" in role:
        end = date.fromisoformat(found["certificate_end"])
        assert end > datetime.now(UTC).date() + timedelta(days=30)
    else:
        assert found["certificate_end"] == ""


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
    assert [line for line in lines if "LOG:  connection received:" not in line] == []
