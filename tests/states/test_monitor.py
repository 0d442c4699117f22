"""The monitor machine and those that it asks, from both sides: who is told, and who is refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from statistics import median
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest

from harness import MONITOR, Fleet, Machine, address_plan
from plainpillar import BASE_URL, DEPLOYMENT, DOMAIN, ROOT
from stackctl import logs
from waiting import until

ENDPOINTS = DEPLOYMENT.base_pillar("endpoints")
NODE = ENDPOINTS["metrics-node"]["port"]
HAPROXY = ENDPOINTS["metrics-haproxy"]["port"]
LOGS = ENDPOINTS["logs"]["port"]
SENDERS = DEPLOYMENT.base_pillar("roles")["monitor"]["senders"]
PROMETHEUS = 9090
NAME = f"metrics.{DOMAIN}"
# The jobs that ask each machine, beside `prometheus`.
JOBS = {
    MONITOR: {"alerts", "node", "prometheus"},
    "lb-1": {"haproxy", "node"},
    "postgres-1": {"node", "patroni", "postgres"},
    "redis-1": {"node", "redis"},
}
UNITS = {
    MONITOR: (
        "haproxy",
        "prometheus",
        "prometheus-alertmanager",
        "prometheus-node-exporter",
        "prometheus-postgres-exporter",
        "prometheus-redis-exporter",
        "systemd-journal-remote",
    ),
    "redis-1": ("prometheus-node-exporter", "systemd-journal-upload"),
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


class Receiver:
    """What Alertmanager has sent: the alerts that fire, and when the first message of each came."""

    def __init__(self) -> None:
        self.firing: dict[tuple[str, str], float] = {}
        self.resolved: set[tuple[str, str]] = set()
        self.watchdogs: list[float] = []

    def take(self, path: str, message: dict[str, Any]) -> None:
        """Note a message."""
        if path == "/watchdog":
            self.watchdogs.append(time.monotonic())
            return
        for alert in message["alerts"]:
            key = (alert["labels"]["alertname"], alert["labels"].get("machine", ""))
            if alert["status"] == "firing":
                self.firing.setdefault(key, time.monotonic())
            else:
                self.firing.pop(key, None)
                self.resolved.add(key)


@pytest.fixture(scope="module")
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture(scope="module")
def monitor(fleet: Fleet, receiver: Receiver) -> Iterator[Machine]:
    """The monitor machine, after its highstate and that of the machines in `JOBS`."""

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.take(self.path, json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    gateway = address_plan()[DEPLOYMENT.master()]
    with ThreadingHTTPServer((gateway, 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://{gateway}:{server.server_address[1]}"
        hooks = {"webhook": f"{url}/people", "watchdog": f"{url}/watchdog"}
        with fleet.pillar.decided(alerts=hooks), fleet.monitored() as machine:
            for name in JOBS:
                fleet.converged(name)
            yield machine
        server.shutdown()


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
    master = 'count(redis_instance_info{exported_role="master"})'
    stored = ("pg_up", "redis_up", "patroni_postgres_running", "patroni_primary", master)
    until(
        lambda: [[each["value"][1] for each in query(name)] for name in stored] == [["1"]] * 5,
        "the stores tell that they serve",
    )
    assert query('pg_stat_activity_count{datname="postgres"}')
    assert query('redis_connected_clients{machine="redis-1"}')
    assert query('haproxy_frontend_status{machine="lb-1",proxy="edge"}')


def test_machines_tell_what_salt_knows_of_them(
    query: Callable[[str], list[dict[str, Any]]],
) -> None:
    """By the minion's schedule."""
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


@pytest.mark.parametrize(
    ("unit", "most"), [("prometheus-node-exporter", 6), ("systemd-journal-upload", 4)]
)
def test_what_every_machine_has_takes_little_memory(fleet: Fleet, unit: str, most: int) -> None:
    """As tests/unit/repo/test_capacity.py counts it: what the kernel cannot take back."""
    group = f"/sys/fs/cgroup/system.slice/{unit}.service/cgroup.procs"
    script = f"for process in $(cat {group}); do cat /proc/$process/status; done"
    for name in JOBS:
        status = fleet.converged(name).run("sh", "-c", script).stdout
        held = [line.split() for line in status.splitlines() if " kB" in line]
        mebibytes = sum(int(each[1]) for each in held if each[0] in ("RssAnon:", "VmPTE:")) / 1024
        assert mebibytes > 0
        print(name, unit, mebibytes)
        assert mebibytes <= most


# -- logs ------------------------------------------------------------------------------------------

SEARCHABLE_SECONDS = 5  # from a line to the answer of a search
Search = Callable[..., str]

# Sends an entry, or asks for entries, and answers with the status, or with the error's name.
SEND = """
    import http.client, ssl
    context = ssl.create_default_context(cadata=ca)
    if certificate:
        context.load_cert_chain(certificate)
    try:
        connection = http.client.HTTPSConnection(name, port, timeout=10, context=context)
        headers = {"Content-Type": "application/vnd.fdo.journal"}
        connection.request(method, path, body=entry or None, headers=headers)
        response = connection.getresponse()
        result = [response.status, response.read().decode()]
    except OSError as error:
        result = [0, type(error).__name__]
"""


@pytest.fixture(scope="module")
def search(monitor: Machine) -> Search:
    """`search(*names, pattern=…)`: what `stackctl logs --all` prints."""

    def run(*names: str, **wanted: Any) -> str:
        production = replace(DEPLOYMENT, map_name="production")
        where, line = logs.of_all(production, names, logs.Search(20, **wanted))
        assert where == MONITOR
        answer: str = monitor.run("sh", "-c", line).stdout
        return answer

    return run


def say(machine: Machine, text: str) -> None:
    """Log a line by the unit `told` of a machine."""
    done = machine.run("systemd-run", "--quiet", "--collect", "--unit=told", "--wait", "echo", text)
    assert done.returncode == 0, done.stderr


def test_line_is_found_within_seconds(fleet: Fleet, search: Search) -> None:
    machine, text = fleet.converged("redis-1"), uuid4().hex
    # What the machine has logged before is there.
    until(lambda: "redis-1" in search("redis-1"), "the machine has sent")
    began = time.monotonic()
    say(machine, text)
    until(lambda: text in search("redis-1", unit="told", pattern=text), "it is found")
    seconds = time.monotonic() - began
    print(f"found after {seconds:.1f} s")
    assert seconds <= SEARCHABLE_SECONDS
    assert text in search(pattern=text, since="-5min")
    for other in (
        search("lb-1", pattern=text),
        search("redis-1", unit="ssh", pattern=text),
        search(pattern=text, since="+1min"),
    ):
        assert text not in other


def test_request_is_found_by_its_id_at_the_edge(fleet: Fleet, search: Search) -> None:
    """No web machine serves, so that the answer is an error, and is logged."""
    edge = fleet.converged("lb-1")
    source = """
        import http.client, ssl
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(address, timeout=20, context=context)
        connection.request("POST", "/logs", headers={"Host": host})
        result = connection.getresponse().headers["X-Request-ID"]
    """
    host = urlsplit(BASE_URL).netloc
    found = edge.python(source, address=edge.address, host=host)
    assert found
    until(lambda: found in search("lb-1", unit="haproxy", pattern=found), "its line is there")


def test_only_senders_are_let_in_and_nobody_reads(
    fleet: Fleet, monitor: Machine, search: Search
) -> None:
    machine, text = fleet.converged("redis-1"), uuid4().hex
    fields = {"MESSAGE": text, "_HOSTNAME": "web-9", "_BOOT_ID": uuid4().hex}
    times = (f"__REALTIME_TIMESTAMP={time.time_ns() // 1000}", "__MONOTONIC_TIMESTAMP=1")
    lines = [*times, *(f"{key}={value}" for key, value in fields.items())]
    entry = "".join(f"{line}\n" for line in lines) + "\n"

    def send(certificate: str, method: str = "POST", path: str = "/upload") -> int:
        found = machine.python(
            SEND,
            ca=fleet.pillar.ca_certificate,
            certificate=certificate,
            name=f"logs.{DOMAIN}",
            port=LOGS,
            method=method,
            path=path,
            entry=entry,
        )
        return int(found[0])

    other = fleet.pillar.secrets["edge-client-tls"]
    machine.put("/root/other.pem", other["certificate"] + other["private_key"], mode=0o600)
    # A client of another kind, a server of the same CA, and nobody.
    for certificate in ("/root/other.pem", "/etc/node-exporter/tls.pem", ""):
        assert send(certificate) == 0, certificate
    assert send(SENDERS["path"], "GET", "/entries") >= 400
    assert text not in search(pattern=text)
    assert send(SENDERS["path"]) == 202
    assert text in search("web-9", pattern=text)
    # The file tells who has sent it, whatever the entry says.
    own = f"{logs.STORE}/remote-127.{machine.address.partition('.')[2]}.journal"
    assert text in monitor.run("journalctl", f"--file={own}", f"--grep={text}").stdout


def test_line_of_a_pause_arrives_afterwards(fleet: Fleet, monitor: Machine, search: Search) -> None:
    machine, text = fleet.converged("redis-1"), uuid4().hex

    def failures() -> list[str]:
        own = ("journalctl", "--unit=systemd-journal-upload", f"--since=@{began}", "--output=cat")
        return [line for line in machine.run(*own).stdout.splitlines() if "failed" in line]

    began = int(time.time())
    with broken(
        monitor,
        "systemctl stop haproxy systemd-journal-remote",
        "systemctl start systemd-journal-remote haproxy",
    ):
        say(machine, text)
        until(failures, "it cannot send")
    until(lambda: text in search("redis-1", pattern=text), "it has arrived")
    # An attempt does not fill the journal that it cannot send.
    assert len(failures()) <= 10, failures()


def test_no_secret_is_in_the_store(fleet: Fleet, monitor: Machine) -> None:
    text = monitor.run("journalctl", f"--directory={logs.STORE}", "--output=cat").stdout
    assert len(text.splitlines()) > 100
    assert [name for name, value in fleet.pillar.values().items() if value in text] == []


# -- alerts ----------------------------------------------------------------------------------------

ALERT_SECONDS = 90  # from a fault to the message


def test_rules_pass_their_tests(monitor: Machine) -> None:
    for path in sorted((ROOT / "tests/alerts").glob("*.yml")):
        monitor.put(f"/root/{path.name}", path.read_text())
        done = monitor.run("promtool", "test", "rules", f"/root/{path.name}")
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def broken(machine: Machine, how: str, repair: str) -> Iterator[float]:
    """Break something with a script while the block runs; yield when."""
    done = machine.run("sh", "-ec", how)
    assert done.returncode == 0, done.stderr
    try:
        yield time.monotonic()
    finally:
        done = machine.run("sh", "-ec", repair)
        assert done.returncode == 0, done.stderr


ENDED = """
    import datetime as dt, pathlib
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ended")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now - dt.timedelta(days=1)).sign(key, hashes.SHA256())
    )
    pathlib.Path(path).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    result = True
"""


@dataclass(frozen=True)
class Fault:
    """Something real that breaks, and the one message that people get of it.

    Attributes:
        machine: where.
        how: the script that breaks it.
        repair: the script that repairs it.
        alert: name and machine of the alert that is told.
        follows: an alert that follows from it, which is held back; empty without one.
    """

    machine: str
    how: str
    repair: str
    alert: tuple[str, str]
    follows: str = ""


FAULTS = (
    Fault(
        "redis-1",
        "systemctl stop redis-sentinel redis-server",
        "systemctl start redis-server redis-sentinel",
        ("NoRedisMaster", ""),
        "RedisDown",
    ),
    Fault(
        "postgres-1",
        "chmod 0 /var/lib/pgbackrest",
        "chmod 0750 /var/lib/pgbackrest",
        ("BackupsFail", "postgres-1"),
    ),
    Fault(
        "lb-1",
        "cd /etc/haproxy; cp -p client.pem /root/kept.pem; cat /root/ended.pem > client.pem",
        "cat /root/kept.pem > /etc/haproxy/client.pem; rm /root/kept.pem",
        ("CertificateEnded", "lb-1"),
    ),
)


@pytest.mark.long
def test_faults_are_told_soon_and_each_by_one_page(
    fleet: Fleet, monitor: Machine, receiver: Receiver
) -> None:
    """All at once, on a machine each: most of the time is spent on waiting."""
    fleet.converged("lb-1").python(ENDED, path="/root/ended.pem")
    wanted = {fault.alert for fault in FAULTS}
    before = set(receiver.firing)
    assert not wanted & before
    with ExitStack() as faults:
        since = {
            fault.alert: faults.enter_context(
                broken(fleet.converged(fault.machine), fault.how, fault.repair)
            )
            for fault in FAULTS
        }
        until(lambda: wanted <= set(receiver.firing), "all are told", seconds=180)
        seconds = {alert: receiver.firing[alert] - since[alert] for alert in wanted}
        print({alert: f"told after {each:.0f} s" for alert, each in seconds.items()})
        # What follows from one is known, and pages nobody.
        follows = {fault.follows for fault in FAULTS} - {""}

        def held_back() -> bool:
            known = monitor.run("amtool", "alert", "query", "--inhibited").stdout
            return all(name in known for name in follows)

        until(held_back, f"{follows} are held back", seconds=240)
        machines = {"", *(fault.machine for fault in FAULTS)}
        assert {key for key in set(receiver.firing) - before if key[1] in machines} == wanted
    assert max(seconds.values()) <= ALERT_SECONDS
    until(lambda: wanted <= receiver.resolved, "all have ended", seconds=240)


@pytest.mark.long
def test_operator_silences_by_command(monitor: Machine, receiver: Receiver, fleet: Fleet) -> None:
    silence = ("amtool", "silence", "add", "alertname=NoRedisMaster", "--duration=1h")
    refused = monitor.run(*silence)
    assert refused.returncode != 0, "a silence without a reason is refused"
    done = monitor.run(*silence, "--comment=test", "--author=test")
    assert done.returncode == 0, done.stderr
    redis = fleet.converged("redis-1")
    with broken(
        redis,
        "systemctl stop redis-sentinel redis-server",
        "systemctl start redis-server redis-sentinel",
    ):
        until(
            lambda: "NoRedisMaster" in monitor.run("amtool", "alert", "query", "-s").stdout,
            "it fires and is silenced",
            seconds=180,
        )
        assert ("NoRedisMaster", "") not in receiver.firing
    ended = monitor.run("amtool", "silence", "expire", done.stdout.strip())
    assert ended.returncode == 0, ended.stderr


def test_watchdog_is_told_again_and_again(monitor: Machine, receiver: Receiver) -> None:
    """Whoever waits for it outside notices within minutes that it does not come."""
    del monitor
    until(lambda: len(receiver.watchdogs) >= 4, "four have come", seconds=240)
    # The first ones came while other machines were made, which takes all of the host.
    gaps = [later - one for one, later in pairwise(receiver.watchdogs[-4:])]
    assert median(gaps) <= 75, gaps
    assert max(gaps) <= 240, gaps


@pytest.mark.long
def test_machines_without_a_monitor_tell_nobody(fleet: Fleet, monitor: Machine) -> None:
    with fleet.without_address(MONITOR):
        machine = fleet.machine("redis-1")
        fleet.converge(machine)
        fleet.assert_idempotent(machine)
        assert not monitor.can_reach(machine.address, NODE)
        for unit in UNITS[machine.id]:
            assert machine.run("systemctl", "is-active", unit).returncode != 0
    fleet.converged("redis-1")
