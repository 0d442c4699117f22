"""The monitor machine and those that it asks, from both sides: who is told, and who is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from harness import MONITOR, Fleet, Machine, address_plan
from plainpillar import DEPLOYMENT, DOMAIN
from waiting import until

ENDPOINTS = DEPLOYMENT.base_pillar("endpoints")
NODE = ENDPOINTS["metrics-node"]["port"]
HAPROXY = ENDPOINTS["metrics-haproxy"]["port"]
PROMETHEUS = 9090
NAME = f"metrics.{DOMAIN}"
# The jobs that ask each machine, beside `prometheus`.
JOBS = {
    MONITOR: {"node", "prometheus"},
    "lb-1": {"haproxy", "node"},
    "postgres-1": {"node", "patroni", "postgres"},
    "redis-1": {"node", "redis"},
}
UNITS = {
    MONITOR: (
        "prometheus",
        "prometheus-node-exporter",
        "prometheus-postgres-exporter",
        "prometheus-redis-exporter",
    ),
    "redis-1": ("prometheus-node-exporter",),
}
EXPOSURE = 2.5  # as in tests/stack/test_hardening.py

# Asks an exporter, and answers with the status, or with the error's name.
ASK = """
    import base64, http.client, ssl
    try:
        if ca:
            context = ssl.create_default_context(cadata=ca)
            connection = http.client.HTTPSConnection(address, port, timeout=10, context=context)
            connection.connect = lambda: None
            import socket
            plain = socket.create_connection((address, port), 10)
            connection.sock = context.wrap_socket(plain, server_hostname=name)
        else:
            connection = http.client.HTTPConnection(address, port, timeout=10)
        words = base64.b64encode(f"prometheus:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {words}"} if password else {}
        connection.request("GET", "/metrics", headers=headers)
        response = connection.getresponse()
        result = [response.status, response.read().decode()]
    except OSError as error:
        result = [0, type(error).__name__]
"""

Ask = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def monitor(fleet: Fleet) -> Iterator[Machine]:
    """The monitor machine, after its highstate and that of the machines in `JOBS`."""
    with fleet.monitored() as machine:
        for name in JOBS:
            fleet.converged(name)
        yield machine


@pytest.fixture(scope="module")
def query(monitor: Machine) -> Callable[[str], list[dict[str, Any]]]:
    """`query(expression)`: what Prometheus answers, a series each."""

    def ask(expression: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{PROMETHEUS}/api/v1/query?query={quote(expression)}"
        source = """
            import json, urllib.request
            with urllib.request.urlopen(url, timeout=10) as answer:
                result = json.load(answer)["data"]["result"]
        """
        found: list[dict[str, Any]] = monitor.python(source, url=url)
        return found

    return ask


@pytest.fixture(scope="module")
def ask(fleet: Fleet, monitor: Machine) -> Ask:
    """Ask an exporter from the monitor machine; what is not given is right."""

    def get(machine: Machine, port: int = NODE, **other: Any) -> list[Any]:
        right = {
            "address": machine.address,
            "port": port,
            "ca": fleet.pillar.ca_certificate,
            "name": NAME,
            "password": fleet.pillar.secrets["metrics-scrape"]["password"],
        }
        found: list[Any] = monitor.python(ASK, **right | other)
        return found

    return get


@pytest.mark.parametrize("name", JOBS)
def test_converges(fleet: Fleet, monitor: Machine, name: str) -> None:
    fleet.assert_idempotent(fleet.converged(name))


def up(query: Callable[[str], list[dict[str, Any]]]) -> dict[str, dict[str, str]]:
    """Return machine -> job -> whether the last scrape has succeeded, as Prometheus writes it."""
    found: dict[str, dict[str, str]] = {}
    for each in query("up"):
        labels = each["metric"]
        found.setdefault(labels["machine"], {})[labels["job"]] = each["value"][1]
    return found


def test_every_service_is_scraped(query: Callable[[str], list[dict[str, Any]]]) -> None:
    wanted = {name: dict.fromkeys(jobs, "1") for name, jobs in JOBS.items()}
    until(
        lambda: {name: jobs for name, jobs in up(query).items() if name in JOBS} == wanted,
        f"all are up: {up(query)}",
    )
    # An exporter that reaches no store answers all the same.
    for stored in ("pg_up", "redis_up", "patroni_postgres_running", "patroni_primary"):
        assert [each["value"][1] for each in query(stored)] == ["1"], stored
    assert query('pg_stat_activity_count{datname="postgres"}')
    assert query('redis_connected_clients{machine="redis-1"}')
    assert query('haproxy_frontend_status{machine="lb-1",proxy="edge"}')


def test_machines_tell_what_salt_knows_of_them(
    query: Callable[[str], list[dict[str, Any]]],
) -> None:
    """Each minute, by the minion's schedule."""
    until(
        lambda: (
            {each["metric"]["machine"] for each in query('stack_problem{about="unit"}')}
            == set(JOBS)
        ),
        "every machine has told",
        seconds=180,
    )
    assert {each["value"][1] for each in query('stack_problem{about="unit"}')} == {"0"}
    assert {each["metric"]["machine"] for each in query("stack_differences")} == set(JOBS)
    assert {each["value"][1] for each in query("stack_highstate_failed_states")} == {"0"}
    day = 86400
    assert len(query(f"stack_certificate_end_seconds - time() > 30 * {day}")) >= len(JOBS)
    assert query(f"stack_certificate_end_seconds - time() < 30 * {day}") == []


def test_other_machines_are_targets_too(query: Callable[[str], list[dict[str, Any]]]) -> None:
    """Those that do not run are down; none is left out."""
    assert {*address_plan(), MONITOR} == set(up(query))


@pytest.mark.parametrize(("name", "port"), [("redis-1", NODE), ("lb-1", HAPROXY)])
def test_who_knows_the_password_is_told(ask: Ask, fleet: Fleet, name: str, port: int) -> None:
    machine = fleet.converged(name)
    status, text = ask(machine, port)
    assert (status, "# TYPE" in text) == (200, True)
    for wrong in ("", "wrong"):
        assert ask(machine, port, password=wrong)[0] == 401
    assert ask(machine, port, name=f"redis.{DOMAIN}") == [0, "SSLCertVerificationError"]
    assert ask(machine, port, ca="")[0] != 200


@pytest.mark.parametrize(
    ("name", "port"), [("redis-1", NODE), ("lb-1", HAPROXY), (MONITOR, NODE), (MONITOR, PROMETHEUS)]
)
def test_no_other_machine_reaches_it(fleet: Fleet, monitor: Machine, name: str, port: int) -> None:
    stranger = fleet.converged("postgres-1")
    assert not stranger.can_reach(fleet.machine(name).address, port)
    if port != PROMETHEUS:
        assert monitor.can_reach(fleet.machine(name).address, port)


@pytest.mark.parametrize(("name", "unit"), [(name, unit) for name in UNITS for unit in UNITS[name]])
def test_exporter_can_do_little(fleet: Fleet, name: str, unit: str) -> None:
    shown = fleet.converged(name).run("systemd-analyze", "security", "--json=short")
    rated = {each["unit"]: float(each["exposure"]) for each in json.loads(shown.stdout)}
    assert rated[f"{unit}.service"] <= EXPOSURE


def test_exporter_takes_little_memory(fleet: Fleet) -> None:
    """As tests/unit/repo/test_capacity.py counts it: what the kernel cannot take back."""
    script = "cat /proc/$(systemctl show -P MainPID prometheus-node-exporter)/status"
    for name in JOBS:
        status = fleet.converged(name).run("sh", "-c", script).stdout
        held = {line.split()[0]: line.split()[1] for line in status.splitlines() if " kB" in line}
        mebibytes = (int(held["RssAnon:"]) + int(held["VmPTE:"])) / 1024
        print(name, mebibytes)
        assert mebibytes <= 6


def test_machines_without_a_monitor_tell_nobody(fleet: Fleet, monitor: Machine) -> None:
    with fleet.without_address(MONITOR):
        machine = fleet.machine("redis-1")
        fleet.assert_idempotent(fleet.converged("redis-1"))
        assert not monitor.can_reach(machine.address, NODE)
        assert machine.run("systemctl", "is-active", "prometheus-node-exporter").returncode != 0
    fleet.converged("redis-1")
