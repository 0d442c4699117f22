"""TLS between load balancer and web machine: an upgrade to it, and rotations, lose no request."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from handshake import shake_hands
from harness import Fleet, Machine, failed
from plainpillar import BASE_URL, DEPLOYMENT
from stackctl.certificates import Authority
from waiting import until

CONFIG = "/etc/haproxy/haproxy.cfg"
# As earlier releases had it: nothing of TLS behind the port of a web machine.
PLAIN = (
    r"sed -i -E 's/^( +server web-[0-9]+ [0-9.]+:[0-9]+) ssl .* crt \S+/\1/' " + CONFIG,
    "systemctl reload haproxy",
)
STOP = "/run/asking-stop"
# What has the certificates of each machine.
TLS = {"postgres-1": "postgres", "redis-1": "redis", "web-1": "airflow", "lb-1": "haproxy"}
# Reads and writes by connections of their own, until a file tells to stop: answer -> how often.
LOAD = """
import collections, http.client, pathlib, ssl, threading, time

result, stop, began = collections.Counter(), pathlib.Path(stop), time.monotonic()
context = ssl.create_default_context(cadata=ca)
deadline = time.monotonic() + 500

def ask(method, path, body):
    while not stop.exists() and time.monotonic() < deadline:
        try:
            connection = http.client.HTTPSConnection("lb-1", timeout=30, context=context)
            connection.request(method, path, body, {"Host": host})
            answer = connection.getresponse()
            answer.read()
            found = str(answer.status)
        except (OSError, http.client.HTTPException) as error:
            found = repr(error)
        finally:
            connection.close()
        if found not in ("200", "401"):
            found += f" after {time.monotonic() - began:.0f} s"
        result[f"{method} {path} {found}"] += 1
        time.sleep(0.05)

todo = [
    ("GET", "/api/v2/monitor/health", None),
    ("GET", "/dags", None),
    ("GET", "/api/v2/dags", None),
    ("POST", "/api/v2/variables", "x" * 3000),
    ("POST", "/api/v2/pools", "x" * 200000),
]
threads = [threading.Thread(target=ask, args=each) for each in todo]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
# What an unknown client gets.
EXPECTED = {
    "GET /api/v2/monitor/health 200",
    "GET /dags 200",
    "GET /api/v2/dags 401",
    "POST /api/v2/variables 401",
    "POST /api/v2/pools 401",
}
PLAIN_GET = """
import http.client
connection = http.client.HTTPConnection(address, 8080, timeout=5)
connection.request("GET", "/api/v2/version", headers={"Host": "x"})
result = connection.getresponse().status
"""


@pytest.fixture(scope="module")
def edge(fleet: Fleet, web: Machine) -> Iterator[Machine]:
    """A load balancer that knows one web machine: the second one does not run."""
    with fleet.without_address("web-2"):
        machine = fleet.converged("lb-1")
        assert failed(machine.apply("haproxy")) == []
        yield machine


@contextmanager
def asked(fleet: Fleet) -> Iterator[None]:
    """Ask for pages, and send bodies, all the time; every request is answered."""
    client = fleet.machine("redis-1")
    client.run("rm", "-f", STOP)
    values = {"ca": fleet.pillar.ca_certificate, "host": BASE_URL.removeprefix("https://")}
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(client.python, LOAD, stop=STOP, **values)
        try:
            yield
        finally:
            client.run("touch", STOP)
        answers = going.result()
    said = fleet.machine("lb-1").run("journalctl", "--unit=haproxy", "--grep=Server app", "-n20")
    assert set(answers) == EXPECTED, (answers, said.stdout)
    assert min(answers.values()) > 10, answers


def has_edges_without_tls(fleet: Fleet) -> bool:
    """Return what the orchestration asks on the master."""
    done = fleet.master.salt_run_cli().run("salt.cmd", "role.edges_without_tls", '["lb-1"]')
    assert isinstance(done.data, bool), done.stdout + done.stderr
    return done.data


def serves(edge: Machine) -> bool:
    return bool(edge.salt("edge.load")["up"])


def test_web_machine_is_asked_by_tls(fleet: Fleet, web: Machine, edge: Machine) -> None:
    until(lambda: serves(edge), "the web machine is up")
    found = edge.salt("role.status")
    assert (found["problem"], found["drift"]) == ("", [])
    assert web.salt("role.status")["problem"] == ""
    assert edge.python(PLAIN_GET, address=web.address) == 400
    assert not has_edges_without_tls(fleet)


@pytest.mark.long
def test_upgrade_from_plain_http_loses_no_request(
    fleet: Fleet, web: Machine, edge: Machine
) -> None:
    """First the web machines, then the load balancers, then the web machines are closed."""
    for command in PLAIN:
        assert edge.run("sh", "-c", command).returncode == 0
    given = {"edges_without_tls": True}
    assert failed(web.salt("state.apply", "airflow", pillar=given, seconds=300)) == []
    assert edge.python(PLAIN_GET, address=web.address) == 200
    assert web.python(PLAIN_GET, address=web.address) == 403, "of load balancers only"
    until(lambda: serves(edge), "the web machine is up")
    assert has_edges_without_tls(fleet)
    with asked(fleet):
        fleet.converge(edge)
        assert edge.salt("edge.finish_reload", seconds=100) is True
        assert not has_edges_without_tls(fleet)
        assert failed(web.salt("state.apply", "airflow", seconds=300)) == []
    assert edge.python(PLAIN_GET, address=web.address) == 400


def test_configuration_that_is_not_loaded_may_be_plain_still(fleet: Fleet, edge: Machine) -> None:
    edge.run("sh", "-c", f"cp {CONFIG} {CONFIG}.kept; echo >> {CONFIG}")
    assert has_edges_without_tls(fleet)
    edge.run("mv", f"{CONFIG}.kept", CONFIG)
    assert not has_edges_without_tls(fleet)


@pytest.mark.long
def test_rotation_of_certificates_and_of_the_ca_loses_no_request(
    fleet: Fleet, web: Machine, edge: Machine
) -> None:
    """The three phases of the CA, in the order of the orchestration; the second changes both."""
    pillar, new = fleet.pillar, Authority.new(DEPLOYMENT.name)
    machines = [fleet.converged("postgres-1"), fleet.converged("redis-1"), web, edge]

    def roll_out() -> None:
        for machine in machines:
            states = machine.salt("state.apply", TLS[machine.id], seconds=300)
            assert failed(states) == [], machine.id

    with ExitStack() as stack:
        # Also after a failure: other tests use these machines.
        stack.callback(roll_out)
        old = stack.enter_context(pillar.rotated())
        stack.enter_context(asked(fleet))
        site = pillar.secrets["edge-tls"]
        for trusted, signer in (((old, new), old), ((old, new), new), ((new,), new)):
            pillar.trust(*trusted)
            if signer is not pillar.authority:
                pillar.sign(signer)
                # The clients know the CA of the site's.
                pillar.give("edge-tls", site)
            roll_out()
            for machine in (web, edge):
                assert machine.salt("trust.told")["not_loaded"] == {}
        chain, _ = shake_hands(edge, web.address, 8080)
        assert chain[0] == pillar.secrets["web-tls"]["certificate"]
        # The way back needs both too.
        pillar.trust(old, new)
        roll_out()


# What each kind of request is asked for, how often in a row, and by how many clients.
KINDS = {
    "health": ("GET", "/api/v2/monitor/health", 300),
    "write": ("POST", "/api/v2/monitor/health", 300),  # which is refused, by Airflow
    "static": ("GET", "/static/pin_32.png", 1000),
    "dags": ("GET", "/ui/dags?limit=50", 40),
}
ASK_OFTEN = """
import http.client, json, ssl
context = ssl.create_default_context(cadata=ca)
connection = http.client.HTTPSConnection("lb-1", timeout=30, context=context)

def ask(method, path, body=None, **headers):
    connection.request(method, path, body, {"Host": host, **headers})
    answer = connection.getresponse()
    return answer.status, answer.read()

if not bearer:
    body = json.dumps({"username": "admin", "password": password})
    found = ask("POST", "/auth/token", body, **{"Content-Type": "application/json"})
    bearer = json.loads(found[1])["access_token"]
# As of a browser that has changed something: every request reaches Airflow.
cookie = f"_token={bearer}; has_changed=1"
statuses = [ask(method, path, Cookie=cookie)[0] for _ in range(count)]
result = [bearer, sorted(set(statuses))]
"""
UNENCRYPTED = (
    "sed -i -e 's/ ssl default_server/ default_server/' -e '/is_stranger) {/,+2d'"
    " /etc/nginx/nginx.conf; systemctl reload nginx"
)
UNITS = {"web-1": ("nginx", "airflow"), "lb-1": ("haproxy",)}


def used(machine: Machine) -> float:
    """Return the milliseconds of CPU that the units of a machine's requests have used."""
    total = 0
    for unit in UNITS[machine.id]:
        path = f"/sys/fs/cgroup/system.slice/{unit}.service/cpu.stat"
        total += int(machine.run("sed", "-n", "s/^usage_usec //p", path).stdout)
    return total / 1000


@pytest.mark.long
def test_tls_costs_little(fleet: Fleet, web: Machine, edge: Machine, password: str) -> None:
    """In turn, with and without it; what a request costs web machine and load balancer."""
    client = fleet.machine("redis-1")
    values = {
        "ca": fleet.pillar.ca_certificate,
        "host": BASE_URL.removeprefix("https://"),
        "password": password,
    }

    def asked(kind: str, count: int = 5, bearer: str = "") -> Any:
        method, path, _ = KINDS[kind]
        more = {"method": method, "path": path, "count": count, "bearer": bearer}
        return client.python(ASK_OFTEN, **values, **more)

    found: dict[str, list[tuple[float, float]]] = {}
    bearer = ""
    for turn in ("plain", "tls", "plain", "tls"):
        if turn == "plain":
            assert web.run("sh", "-c", UNENCRYPTED).returncode == 0
            for command in PLAIN:
                assert edge.run("sh", "-c", command).returncode == 0
        else:
            for machine in (web, edge):
                assert failed(machine.salt("state.apply", TLS[machine.id], seconds=300)) == []
        edge.salt("edge.finish_reload", seconds=100)
        # The check of files may pass before that of the web app.
        until(lambda: serves(edge) and asked("health")[1] == [200], "the web machine is up")
        for kind, (_, _, count) in KINDS.items():
            bearer, _ = asked(kind, bearer=bearer)
            before = used(web), used(edge)
            _, statuses = asked(kind, count, bearer)
            assert statuses == [405 if kind == "write" else 200]
            spent = ((used(web) - before[0]) / count, (used(edge) - before[1]) / count)
            found.setdefault(f"{turn} {kind}", []).append(spent)
    for kind in KINDS:
        for turn in ("plain", "tls"):
            turns = ", ".join(f"{web:.2f} + {edge:.2f}" for web, edge in found[f"{turn} {kind}"])
            print(f"{kind}, {turn}: {turns} ms of CPU on web + edge")
        least = {turn: min(map(sum, found[f"{turn} {kind}"])) for turn in ("plain", "tls")}
        if kind != "dags":  # what Python takes for a page differs by more from turn to turn
            assert least["tls"] - least["plain"] < 2, kind
