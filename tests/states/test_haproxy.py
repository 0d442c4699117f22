"""HAProxy from outside: HTTPS, redirects, forwarded headers, a web machine that fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import pytest
import yaml

from harness import Fleet, Machine, changed, failed
from plainpillar import BASE_URL, DEPLOYMENT, ROOT
from waiting import until

# A web app that answers health checks and returns the headers that it received.
STUB = """
import http.server, json, time

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(1)
        if self.path.startswith("/broken"):
            return self.send_error(500)
        body = {"metadatabase": {"status": "healthy"}, "headers": dict(self.headers)}
        data = json.dumps(body, separators=(",", ":")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_POST = do_GET
    def log_message(self, *_):
        pass

Server(("", 8080), Handler).serve_forever()
"""
ASK = r"""
import http.client, json, ssl

def ask(method="GET", path="/", tls=True, headers={}):
    context = ssl.create_default_context(cadata=ca)
    cls = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    connection = cls("lb-1", timeout=10, **({"context": context} if tls else {}))
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    headers = dict(answer.getheaders())
    return {"status": answer.status, "headers": headers, "body": answer.read().decode()}
"""
SIZES = yaml.safe_load((ROOT / "salt/haproxy/defaults.yaml").read_text())["haproxy"]
LIMITS = DEPLOYMENT.base_pillar("haproxy")
# The values precede it, where no `from __future__` may stand.
FLOOD = (ROOT / "tests/support/flood.py").read_text().partition("from __future__")[2]
FLOOD = FLOOD.partition("\n")[2]
# Holds what it has opened until the test has seen enough.
HOLD = """
import pathlib, time
ready, stop = pathlib.Path(ready), pathlib.Path(stop)
opened = flood(address, ca, name, path, connections=connections, streams=streams, cancel=cancel)
ready.touch()
deadline = time.monotonic() + 60
while not stop.exists() and time.monotonic() < deadline:
    time.sleep(0.05)
result = len(opened)
"""
READY, STOP = "/run/flood-ready", "/run/flood-stop"
Ask = Callable[[str], object]
Attack = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="module")
def web(fleet: Fleet) -> Machine:
    """A client, which also runs the web app that returns its headers."""
    machine = fleet.machine("web-2")
    assert not [s for s in machine.apply("base").values() if s["result"] is False]
    machine.put("/opt/stub.py", STUB)
    machine.run("systemd-run", "--unit=stub", "/opt/salt/bin/python", "/opt/stub.py")
    return machine


@pytest.fixture(scope="module")
def edge(web: Machine, converged: Callable[[str], Machine]) -> Machine:
    """The load balancer."""
    return converged("lb-1")


@pytest.fixture(autouse=True)
def _only_web_2(edge: Machine) -> None:
    """Take web-1 out, on which another test's Airflow may run; a reload brings it back."""
    drain = """
        import socket
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect("/run/haproxy/admin.sock")
            admin.sendall(b"set server web/web-1 state maint\\n")
            result = admin.recv(1024).decode().strip()
    """
    assert edge.python(drain) == ""


@pytest.fixture(scope="module")
def ask(fleet: Fleet, web: Machine, edge: Machine) -> Callable[[str], object]:
    """`ask('expression')`: the value of an expression on a client machine."""

    def run(expression: str) -> object:
        return web.python(f"{ASK}\nresult = {expression}", ca=fleet.pillar.ca_certificate)

    until(lambda: run("ask()['status']") == 200, "HAProxy answers")
    return run


@pytest.fixture(scope="module")
def attacker(fleet: Fleet, edge: Machine) -> Machine:
    """A machine with another address than the client; no state is applied to it."""
    return fleet.machine("redis-1")


@pytest.fixture
def attack(fleet: Fleet, edge: Machine, attacker: Machine) -> Attack:
    """A context manager: a path is flooded from the attacker meanwhile."""

    @contextmanager
    def going_on(
        path: str, *, connections: int, streams: int, cancel: bool = False
    ) -> Iterator[None]:
        attacker.run("rm", "-f", READY, STOP)
        values = {"connections": connections, "streams": streams, "cancel": cancel, "path": path}
        with ThreadPoolExecutor(1) as pool:
            going = pool.submit(
                attacker.python,
                FLOOD + HOLD,
                address=edge.address,
                ca=fleet.pillar.ca_certificate,
                name=BASE_URL.removeprefix("https://"),
                ready=READY,
                stop=STOP,
                **values,
            )
            try:
                until(
                    lambda: going.done() or not attacker.run("test", "-e", READY).returncode,
                    "the flood is on",
                )
                assert not going.done() or going.result() > 0
                yield
            finally:
                attacker.run("touch", STOP)
            assert going.result() > 0

    return going_on


def test_converges(fleet: Fleet, edge: Machine) -> None:
    fleet.assert_idempotent(edge)


def test_http_redirects_to_https(ask: Callable[[str], object]) -> None:
    assert ask("ask(path='/dags?x=1', tls=False)['status']") == 301
    assert ask("ask(path='/dags?x=1', tls=False)['headers']['location']") == f"{BASE_URL}/dags?x=1"


def test_hsts_header_is_set(ask: Callable[[str], object]) -> None:
    assert "max-age=" in str(ask("ask()['headers']['strict-transport-security']"))


def test_forged_forwarded_headers_are_removed(ask: Callable[[str], object], web: Machine) -> None:
    address = "203.0.113.9"
    forged = {"X-Forwarded-For": address, "Forwarded": f"for={address}", "X-Real-IP": address}
    received = str(ask(f"ask(path='/received', headers={forged})['body']"))
    assert f'"x-forwarded-for":"{web.address}"' in received.lower()
    assert address not in received


def test_token_endpoint_is_rate_limited(ask: Callable[[str], object]) -> None:
    tried = ask("[ask('POST', '/auth/token')['status'] for _ in range(7)]")
    assert isinstance(tried, list)
    assert tried[-1] == 429
    paths = [
        "/auth/%74oken",
        "/%61uth/%74%6F%6b%65n",
        "/auth%2ftoken",
        "/auth%2Ftoken/cli",
        "/auth/token?x=%",
    ]
    assert ask(f"[ask('POST', path)['status'] for path in {paths}]") == [429] * len(paths)
    assert ask(
        "[ask('POST', path)['status'] for path in ('/auth/login/', '/x?next=/auth/token')]"
    ) == [200, 200]


def test_execution_api_is_denied(ask: Callable[[str], object]) -> None:
    """For each way to write the path. A path that cannot be decoded is a bad request."""
    paths = ["/execution/health", "/%65xecution/health", "/execution%2Fhealth", "/%65xecution/%zz"]
    assert ask(f"[ask(path=path)['status'] for path in {paths}]") == [404, 404, 404, 400]
    assert ask("ask(path='/dags/100%25?x=%')['status']") == 200


def test_unavailable_page_is_shown_until_web_returns(
    ask: Callable[[str], object], web: Machine
) -> None:
    web.run("systemctl", "stop", "stub")
    until(
        lambda: "not available right now" in str(ask("ask()['body']")),
        "the page for an unavailable site",
    )
    web.run("systemd-run", "--unit=stub", "/opt/salt/bin/python", "/opt/stub.py")
    until(lambda: ask("ask()['status']") == 200, "the site is back")


def test_key_of_other_certificate_is_not_installed(fleet: Fleet, edge: Machine) -> None:
    before = edge.run("sha256sum", "/etc/haproxy/tls.pem").stdout
    wrong = {
        "secrets": {"edge-tls": {"private_key": fleet.pillar.secrets["redis-tls"]["private_key"]}}
    }
    states = edge.salt("state.apply", "haproxy", pillar=wrong)
    assert any("KEY_VALUES_MISMATCH" in comment for comment in failed(states))
    assert edge.run("sha256sum", "/etc/haproxy/tls.pem").stdout == before


def test_file_that_was_loaded_and_put_back_is_loaded_again(fleet: Fleet, edge: Machine) -> None:
    """The file is right again, with an old time, but HAProxy runs with the other one."""
    config = "/etc/haproxy/haproxy.cfg"
    edge.run("cp", "-a", config, f"{config}.kept")
    edge.run("sed", "-i", "s/hard-stop-after .*/hard-stop-after 59s/", config)
    assert edge.run("systemctl", "reload", "haproxy").returncode == 0
    edge.run("mv", f"{config}.kept", config)
    assert any("haproxy-reload" in tag for tag in changed(edge.apply("haproxy")))
    fleet.assert_idempotent(edge)


def test_other_users_cannot_read_the_key(edge: Machine) -> None:
    assert edge.run("cat", "/etc/haproxy/tls.pem", user="admin").returncode != 0


def test_many_streams_leave_memory_and_other_clients_alone(
    edge: Machine, ask: Ask, attack: Attack
) -> None:
    """One address asks for half a minute of the web machine: 2000 requests of a second each."""
    before = _worker(edge)
    with attack("/slow", connections=63, streams=32):
        assert ask("ask()['status']") == 200  # within its 10 seconds
        assert _held_mib(edge) < SIZES["memory_megabytes"]
    assert _worker(edge) == before


def test_rapid_resets_leave_memory_and_other_clients_alone(
    edge: Machine, ask: Ask, attack: Attack
) -> None:
    before = _worker(edge)
    with attack("/slow", connections=20, streams=1000, cancel=True):
        assert ask("ask()['status']") == 200  # within its 10 seconds
        assert _held_mib(edge) < SIZES["memory_megabytes"]
    assert _worker(edge) == before


def test_connections_of_one_address_are_limited(edge: Machine, ask: Ask, attack: Attack) -> None:
    with attack("/", connections=LIMITS["connections_per_address"] + 50, streams=0):
        found = edge.run("sh", "-c", "ss -Htn state established 'sport = :443' | wc -l")
        assert int(found.stdout) <= LIMITS["connections_per_address"] + 2
        assert ask("ask()['status']") == 200


def test_memory_has_a_hard_limit(edge: Machine) -> None:
    limits = edge.run("cat", f"/proc/{_worker(edge)}/limits").stdout
    size = str(SIZES["memory_megabytes"] * 2**20)
    assert re.search(rf"^Max data size +{size} +{size} +bytes", limits, re.MULTILINE)


def test_service_is_in_its_chroot(edge: Machine) -> None:
    root = edge.run("readlink", f"/proc/{_worker(edge)}/root")
    assert root.stdout.strip() == "/var/lib/haproxy"


def test_log_has_what_one_looks_for(edge: Machine, ask: Ask) -> None:
    """Writes, redirects, refusals, errors and what is slow; no ordinary read, and no secret."""
    secret = {"Authorization": "Bearer hush-hush", "Cookie": "_token=hush-hush"}
    for path in ("/static/app.js?hush-hush", "/api/v2/dags?hush-hush"):
        assert ask(f"ask(path='{path}', headers={secret})['status']") == 200
    assert ask(f"ask('POST', '/api/v2/written?hush-hush', headers={secret})['status']") == 200
    assert ask(f"ask(path='/execution/denied?hush-hush', headers={secret})['status']") == 404
    assert ask(f"ask(path='/broken?hush-hush', headers={secret})['status']") == 500
    assert ask("ask(path='/redirected?hush-hush', tls=False)['status']") == 301
    shown = ["/api/v2/written", "/execution/denied", "/broken", "/redirected"]
    until(lambda: all(path in _log(edge) for path in shown), "the log has these requests")
    log = _log(edge)
    assert "/static/app.js" not in log
    assert "/api/v2/dags" not in log
    assert "hush-hush" not in log


def test_log_loses_no_line_of_a_flood(edge: Machine, attack: Attack) -> None:
    """By itself journald drops what is above 10000 lines in 30 seconds."""
    with attack("/execution/flood", connections=390, streams=30):
        count = "journalctl -u haproxy --no-pager --output=cat | grep -c /execution/flood"
        until(lambda: int(edge.run("sh", "-c", count).stdout) > 11_000, "the log has the flood")


def test_service_restarts_with_a_changed_unit(fleet: Fleet, edge: Machine) -> None:
    before = _worker(edge)
    unit = "/etc/systemd/system/haproxy.service.d/stack.conf"
    edge.run("sed", "-i", "s/ -m [0-9]*//", unit)
    assert any("haproxy-service" in tag for tag in changed(edge.apply("haproxy")))
    assert _worker(edge) != before
    test_memory_has_a_hard_limit(edge)
    fleet.assert_idempotent(edge)


def _worker(edge: Machine) -> str:
    """Return the id of the process that serves."""
    return str(edge.run("pgrep", "-n", "-u", "haproxy", "-x", "haproxy").stdout).strip()


def _held_mib(edge: Machine) -> float:
    held = edge.run("grep", "Pss_Anon:", f"/proc/{_worker(edge)}/smaps_rollup")
    assert held.returncode == 0, held.stderr
    return int(held.stdout.split()[1]) / 1024


def _log(edge: Machine) -> str:
    lines = ("journalctl", "-u", "haproxy", "--no-pager", "--output=cat", "--lines=200")
    return str(edge.run(*lines).stdout)
