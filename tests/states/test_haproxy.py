"""HAProxy from outside: HTTPS, redirects, forwarded headers, a web machine that fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import Fleet, Machine, changed, failed
from plainpillar import BASE_URL
from waiting import until

# A web app that answers health checks and returns the headers that it received.
STUB = """
import http.server, json

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = {"metadatabase": {"status": "healthy"}, "headers": dict(self.headers)}
        data = json.dumps(body, separators=(",", ":")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_POST = do_GET
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
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
    """The load balancer with web-2 only: another test's Airflow may run on web-1."""
    machine = converged("lb-1")
    drain = """
        import socket
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect("/run/haproxy/admin.sock")
            admin.sendall(b"set server web/web-1 state maint\\n")
            result = admin.recv(1024).decode().strip()
    """
    assert machine.python(drain) == ""
    return machine


@pytest.fixture(scope="module")
def ask(fleet: Fleet, web: Machine, edge: Machine) -> Callable[[str], object]:
    """`ask('expression')`: the value of an expression on a client machine."""

    def run(expression: str) -> object:
        return web.python(f"{ASK}\nresult = {expression}", ca=fleet.pillar.ca_certificate)

    until(lambda: run("ask()['status']") == 200, "HAProxy answers")
    return run


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
    assert any("haproxy-service" in tag for tag in changed(edge.apply("haproxy")))
    fleet.assert_idempotent(edge)


def test_other_users_cannot_read_the_key(edge: Machine) -> None:
    assert edge.run("cat", "/etc/haproxy/tls.pem", user="admin").returncode != 0
