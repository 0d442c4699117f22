"""A web machine that is about to go: the load balancer waits for its requests and sends no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from harness import Fleet, Machine
from plainpillar import BASE_URL
from waiting import until

GO, OWN = "/run/drain-go", "/root/drain-stub.pem"
# Answers health checks at once, and what is slow once the file GO exists.
STUB = f"""
import http.server, os, ssl, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/slow"):
            deadline = time.monotonic() + 120
            while not os.path.exists("{GO}") and time.monotonic() < deadline:
                time.sleep(0.05)
        data = b'{{"metadatabase":{{"status":"healthy"}}}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("", 8080), Handler)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("{OWN}")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
# Beside Salt, whose command is busy with the drain.
LOAD = """
import importlib.util
path = "/var/cache/salt/minion/extmods/modules/edge.py"
spec = importlib.util.spec_from_file_location("edge", path)
edge = importlib.util.module_from_spec(spec)
spec.loader.exec_module(edge)
result = edge.load()
"""
NAMES = json.dumps(["web-2"])
GET = """
import http.client, ssl
context = ssl.create_default_context(cadata=ca)
connection = http.client.HTTPSConnection("lb-1", timeout=150, context=context)
connection.request("GET", path, headers={"Host": host})
result = connection.getresponse().status
"""


MAINT = """
import socket
with socket.socket(socket.AF_UNIX) as admin:
    admin.connect("/run/haproxy/admin.sock")
    admin.sendall(f"set server {server} state maint\\n".encode())
    result = admin.recv(4096).decode()
"""


@pytest.fixture(scope="module")
def web(fleet: Fleet) -> Iterator[Machine]:
    """A client, which is also the web machine."""
    machine = fleet.machine("web-2")
    assert not [s for s in machine.apply("base").values() if s["result"] is False]
    machine.put("/opt/drain-stub.py", STUB)
    own = fleet.pillar.secrets["web-tls"]
    machine.put(OWN, own["certificate"] + own["private_key"], mode=0o600)
    machine.run("systemd-run", "--unit=drain-stub", "/opt/salt/bin/python", "/opt/drain-stub.py")
    yield machine
    machine.run("systemctl", "stop", "drain-stub")


@pytest.fixture(scope="module")
def edge(web: Machine, converged: Callable[[str], Machine]) -> Iterator[Machine]:
    """The load balancer; a reload ends what this file has drained."""
    machine = converged("lb-1")
    for backend in ("app", "static"):  # another test's Airflow may run there
        machine.python(MAINT, server=f"{backend}/web-1")
    yield machine
    machine.run("systemctl", "reload", "haproxy")


@pytest.fixture(scope="module")
def get(fleet: Fleet, web: Machine, edge: Machine) -> Callable[[str], Any]:
    """`get('/path')`: the status that the site answers."""

    def ask(path: str) -> Any:
        values = {"ca": fleet.pillar.ca_certificate, "host": urlsplit(BASE_URL).hostname}
        return web.python(GET, path=path, **values)

    until(lambda: edge.salt("edge.load")["up"] == 1, "the web machine is up")
    return ask


def bring_back(web: Machine, edge: Machine, get: Callable[[str], Any]) -> None:
    """Undo what an earlier test has drained."""
    web.run("rm", "-f", GO)
    edge.run("systemctl", "reload", "haproxy")
    until(lambda: get("/x") == 200, "a reload brings the machine back")


def test_request_in_flight_is_answered_and_no_other_arrives(
    web: Machine, edge: Machine, get: Callable[[str], Any]
) -> None:
    assert get("/x") == 200
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(get, "/slow")
        until(lambda: edge.python(LOAD)["active"] > 0, "the request is in flight")
        drained = pool.submit(edge.salt, "edge.drain", NAMES, "seconds=60", seconds=90)
        until(lambda: edge.python(LOAD)["up"] == 0, "no other request arrives")
        assert not drained.done()
        web.run("touch", GO)
        assert drained.result() == {"web-2": 0}
        assert slow.result() == 200
    assert get("/x") == 503


def test_drain_without_end_is_bounded(
    web: Machine, edge: Machine, get: Callable[[str], Any]
) -> None:
    bring_back(web, edge, get)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(get, "/slow")
        until(lambda: edge.python(LOAD)["active"] > 0, "the request is in flight")
        left = edge.salt("edge.drain", NAMES, "seconds=0.2", seconds=60)
        assert left == {"web-2": 1}
        web.run("touch", GO)
        slow.result()


def test_load_balancer_that_leaves_answers_what_it_has_and_accepts_nothing(
    web: Machine, edge: Machine, get: Callable[[str], Any]
) -> None:
    bring_back(web, edge, get)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(get, "/slow")
        until(lambda: edge.python(LOAD)["active"] > 0, "the request is in flight")
        leaving = pool.submit(edge.salt, "edge.leave", "seconds=60", seconds=90)
        until(lambda: not web.can_reach(edge.address, 443), "it accepts no connection")
        assert not leaving.done()
        web.run("touch", GO)
        assert slow.result() == 200
        assert leaving.result() == 0
    edge.run("systemctl", "restart", "haproxy")
