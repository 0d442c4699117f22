"""The site's certificate from an ACME CA: on two load balancers, renewed, and whatever the CA does.

Debian's pebble is the CA. It asks the machine to which the site's name leads, at port 80.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from harness import BUILDER, Fleet, Machine, changed, failed
from plainpillar import BASE_URL
from stackctl.certificates import Authority
from waiting import until

NAME = BASE_URL.removeprefix("https://")
UNIT = "site-certificate.service"
LIVE = "/var/lib/site-certificate/live/site.pem"
KEPT = "/root/kept.pem"
ACCOUNT = "/etc/site-certificate/account.key"
STOP = "/run/asking-stop"
# Of the certificates whose end a test waits for, in seconds. lego takes some six of the third in
# which it is to be renewed.
SHORT = 36
# A connection as a browser makes it: the serial number of the certificate, and the status.
ASK = """
import http.client, socket, ssl

def ask(address, name, ca, path="/robots.txt"):
    context = ssl.create_default_context(cadata=ca)
    plain = socket.create_connection((address, 443), 10)
    with context.wrap_socket(plain, server_hostname=name) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return [connection.getpeercert()["serialNumber"], answer.status]
"""
# Asks all the time: [serial number, status] or error -> how often.
ASK_ON = f"""{ASK}
import collections, pathlib, time
found, deadline = collections.Counter(), time.monotonic() + 100
while not pathlib.Path(stop).exists() and time.monotonic() < deadline:
    try:
        found[str(ask(address, name, ca)[1])] += 1
    except OSError as error:
        found[repr(error)] += 1
    time.sleep(0.05)
result = found
"""
# The bytes of an answer at port 80.
PLAIN = """
import socket
with socket.create_connection((address, 80), 5) as connection:
    head = f"{method} {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n"
    connection.sendall(head.encode())
    result = connection.makefile("rb").read().decode("latin-1")
"""
# A CA that has had too many requests. Each order is a line of the file.
LIMITED = """
import http.server, json, ssl, sys
until, url = sys.argv[1:]

class CA(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(200, {})

    def do_GET(self):
        names = ("newNonce", "newAccount", "newOrder", "revokeCert", "keyChange")
        self.answer(200, {name: f"{url}/{name}" for name in names})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("newOrder"):
            return self.answer(201, {"status": "valid"})
        with open("/root/orders", "a") as orders:
            print(self.path, file=orders)
        detail = f"too many certificates already issued, retry after {until}: see the docs"
        self.answer(429, {"type": "urn:ietf:params:acme:error:rateLimited", "detail": detail})

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        headers = {"Replay-Nonce": "x", "Location": f"{url}/account", "Retry-After": "3600"}
        headers |= {"Content-Type": "application/problem+json" if status > 299 else "text/json"}
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else text)

server = http.server.ThreadingHTTPServer(("", 443), CA)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/root/pebble.pem", "/root/pebble.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


class CA:
    """The machine with pebble.

    Attributes:
        machine: the machine.
        settings: with which load balancers ask it.
        root: what has signed the certificates, since pebble started; PEM.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        own = Authority.new("pebble")
        fields = own.server("pebble", [machine.address])
        machine.put("/root/pebble.pem", fields["certificate"])
        machine.put("/root/pebble.key", fields["private_key"])
        self.settings = {
            "directory": f"https://{machine.address}/dir",
            "email": "me@example.org",
            "ca_certificate": own.certificate_pem,
        }
        self.root = ""

    def install(self) -> None:
        """Install pebble."""
        install = "apt-get -qq update && apt-get -qq install --no-install-recommends pebble curl"
        done = self.machine.run("sh", "-c", f"{install} </dev/null")
        assert done.returncode == 0, done.stderr

    def start(self, seconds: int = 7776000) -> None:
        """Start pebble anew; its certificates last so long."""
        self.stop()
        settings = {
            "listenAddress": "0.0.0.0:443",
            "managementListenAddress": "127.0.0.1:15000",
            "certificate": "/root/pebble.pem",
            "privateKey": "/root/pebble.key",
            "httpPort": 80,
            "tlsPort": 443,
            "certificateValidityPeriod": seconds,
            "retryAfter": {"authz": 1, "order": 1},
        }
        self.machine.put("/root/pebble.json", json.dumps({"pebble": settings}))
        decided = ("VA_ALWAYS_VALID=0", "VA_NOSLEEP=1", "AUTHZREUSE=0", "WFE_NONCEREJECT=0")
        given = [f"--setenv=PEBBLE_{each}" for each in decided]
        self._run("pebble", *given, "--", "/usr/bin/pebble", "-config", "/root/pebble.json")
        get = ("curl", "--silent", "--fail", "--insecure", "https://127.0.0.1:15000/roots/0")
        until(lambda: self.machine.run(*get).returncode == 0, "pebble answers")
        self.root = self.machine.run(*get).stdout

    def start_limited(self, end: datetime) -> None:
        """Start what answers each order with 429."""
        self.stop()
        self.machine.put("/root/limited.py", LIMITED)
        self.machine.run("rm", "-f", "/root/orders")
        url = self.settings["directory"].removesuffix("/dir")
        self._run("pebble", "--", "/opt/salt/bin/python", "/root/limited.py",
                  f"{end:%Y-%m-%d %H:%M:%S} UTC", url)  # fmt: skip
        until(lambda: self.machine.can_reach(self.machine.address, 443), "it answers")

    def orders(self) -> int:
        """Return how many orders there were."""
        return len((self.machine.run("cat", "/root/orders").stdout or "").splitlines())

    def stop(self) -> None:
        """Have nothing answer."""
        self.machine.run("systemctl", "stop", "pebble")

    def _run(self, unit: str, *words: str) -> None:
        done = self.machine.run("systemd-run", "--collect", f"--unit={unit}", *words)
        assert done.returncode == 0, done.stderr

    def lead_name_to(self, edge: Machine) -> None:
        """Have the site's name lead to a load balancer, as the elastic address does."""
        script = 'sed "/ $1$/d" /etc/hosts > /root/hosts; echo "$2 $1" >> /root/hosts'
        self.machine.run("sh", "-c", f"{script}; cat /root/hosts > /etc/hosts", "sh", NAME,
                         edge.address)  # fmt: skip

    def ask(self, edge: Machine, ca: str = "") -> list[Any]:
        """Return the serial number and the status that a client gets who trusts one CA."""
        values = {"address": edge.address, "name": NAME, "ca": ca or self.root}
        found = self.machine.python(f"{ASK}\nresult = ask(address, name, ca)", **values)
        assert isinstance(found, list)
        return found

    def plain(self, edge: Machine, path: str, method: str = "GET") -> str:
        """Return an answer at port 80."""
        values = {"address": edge.address, "path": path, "method": method}
        return str(self.machine.python(PLAIN, **values))


@pytest.fixture(scope="module")
def ca(fleet: Fleet) -> Iterator[CA]:
    yield CA(fleet.machine(BUILDER))
    fleet.retire(BUILDER)


@pytest.fixture(scope="module")
def edges(fleet: Fleet, ca: CA) -> Iterator[list[Machine]]:
    """Two load balancers, which were made while the CA was down."""
    with fleet.pillar.decided(acme=ca.settings):
        found = [fleet.machine("lb-1"), fleet.machine("lb-2")]
        ca.lead_name_to(found[0])
        with ThreadPoolExecutor() as pool:
            installed = pool.submit(ca.install)
            list(pool.map(fleet.converge, found))
            installed.result()
        yield found
    fleet.retire("lb-2")
    assert failed(found[0].apply("haproxy")) == []


def obtain(edge: Machine) -> str:
    """Have a certificate that is needed asked for, and return what the machine says."""
    return str(edge.salt("site_certificate.obtain", seconds=120))


def look(edge: Machine) -> dict[str, str]:
    """Have the program look as its timer does, and return what the status says."""
    assert edge.run("systemctl", "start", UNIT).returncode == 0
    return dict(edge.salt("site_certificate.told"))


def serial(edge: Machine) -> str:
    """Return the serial number of the certificate on a machine."""
    shown = edge.run("openssl", "x509", "-in", LIVE, "-noout", "-serial").stdout
    return str(shown).strip().removeprefix("serial=")


def test_site_is_up_before_the_ca_has_signed(fleet: Fleet, ca: CA, edges: list[Machine]) -> None:
    for edge in edges:
        assert "refused" in look(edge)["problem"]
        assert ca.ask(edge, fleet.pillar.ca_certificate)[1] == 200
        found = edge.salt("role.status")
        assert f"the site has no certificate of {ca.machine.address} yet" in found["problem"]
        assert "connection refused; look at what the CA says of its own state" in found["problem"]
        assert not [line for line in found["drift"] if "certificate" in line]


def test_each_edge_gets_a_certificate_wherever_the_name_leads(ca: CA, edges: list[Machine]) -> None:
    """The first one has the site's address, and answers the challenges of both."""
    ca.start()
    for edge in edges:
        assert re.match(rf"certificate of {ca.machine.address} until ", obtain(edge))
    found = [ca.ask(edge) for edge in edges]
    assert [status for _, status in found] == [200, 200]
    assert found[0][0] != found[1][0]
    assert [number for number, _ in found] == [serial(edge) for edge in edges]
    for edge in edges:
        shown = edge.run("stat", "--format=%a %U %G", LIVE, ACCOUNT).stdout
        assert shown.splitlines() == ["640 root haproxy", "600 root root"]
        status = edge.salt("role.status")
        assert "certificate" not in status["problem"]
        assert status["renewal"].startswith(f"certificate of {ca.machine.address} until 20")
    # One account for both.
    log = ca.machine.run("journalctl", "--unit=pebble", "--grep=accounts in").stdout
    assert "There are now 1 accounts" in log
    assert "There are now 2 accounts" not in log


def test_key_of_another_account_gets_nothing(ca: CA, edges: list[Machine], fleet: Fleet) -> None:
    """Nor does a machine whose account HAProxy does not know; the highstate mends it."""
    edge, before = edges[1], serial(edges[1])
    other = "openssl ecparam -name prime256v1 -genkey -noout -out "
    edge.run("sh", "-c", f"{other}{ACCOUNT}; mv {LIVE} {KEPT}")
    told = obtain(edge)
    assert "all load balancers there to have one account" in told
    assert "error:unauthorized" in told
    edge.run("mv", KEPT, LIVE)
    assert ca.ask(edge) == [before, 200]
    assert [tag for tag in changed(fleet.converge(edge)) if "site-certificate-account" in tag]
    assert edge.run("test", "-e", "/var/lib/site-certificate/live/.site.pem.new").returncode == 1


def test_stranger_gets_no_answer_but_to_a_challenge(ca: CA, edges: list[Machine]) -> None:
    token, folder = "x" * 43, "/.well-known/acme-challenge/"
    for edge in edges:
        answer = ca.plain(edge, folder + token)
        assert answer.startswith("HTTP/1.1 200 ")
        assert re.search(rf"\r\n\r\n{token}\.[A-Za-z0-9_-]{{43}}$", answer)
        assert "content-type: text/plain" in answer.lower()
    assert ca.plain(edges[0], folder + token).endswith(ca.plain(edges[1], folder + token)[-87:])
    # What follows a question mark is no part of the path.
    odd = ca.plain(edges[1], f"{folder}{token}?<b>{token}=")
    assert odd.endswith(answer[-87:])
    for path in (
        *("", "short", "x" * 129, f"{token}/{token}", f"../../{token}", f"<b>{token}</b>"),
        *(f"{token}%0d%0aX-Evil:1", f"{token}é", f"{token}%[path]", f"{token}\t<b>", f"{token}="),
    ):
        answer = ca.plain(edges[0], folder + path)
        assert answer.startswith(("HTTP/1.1 404 ", "HTTP/1.1 400 ")), path
        assert not path or path not in answer
    assert ca.plain(edges[0], folder + token, "POST").startswith("HTTP/1.1 404 ")
    assert ca.plain(edges[0], "/.well-known/other").startswith("HTTP/1.1 301 ")


def test_second_run_changes_nothing(fleet: Fleet, edges: list[Machine]) -> None:
    before = [serial(edge) for edge in edges]
    fleet.assert_idempotent(edges[0])
    assert [serial(edge) for edge in edges] == before


def test_renewal_fails_no_request(ca: CA, edges: list[Machine]) -> None:
    """And comes in time. The site's address is at the other load balancer meanwhile."""
    edge = edges[0]
    ca.lead_name_to(edges[1])
    ca.start(SHORT)
    edge.run("rm", LIVE)
    obtain(edge)
    first = serial(edge)
    look(edge)
    assert serial(edge) == first, "most of its life is left"
    ca.machine.run("rm", "-f", STOP)
    values = {"address": edge.address, "name": NAME, "ca": ca.root, "stop": STOP}
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(ca.machine.python, ASK_ON, **values)
        try:
            until(lambda: bool(look(edge)) and serial(edge) != first, "it is renewed", SHORT)
            until(lambda: ca.ask(edge)[0] == serial(edge), "HAProxy has it")
        finally:
            ca.machine.run("touch", STOP)
        answers: Mapping[str, int] = going.result()
    assert answers.keys() == {"200"}, answers
    assert answers["200"] > 20


def test_certificate_stays_when_the_ca_is_down(ca: CA, edges: list[Machine]) -> None:
    """First that is a notice, and near the end a problem."""
    edge, before = edges[0], serial(edges[0])
    ca.stop()
    until(lambda: "it is not renewed: " in look(edge)["renewal"], "it tries to renew", SHORT)
    assert edge.salt("site_certificate.told")["problem"] == ""
    until(lambda: bool(edge.salt("site_certificate.told")["problem"]), "that is red", SHORT)
    problem = edge.salt("role.status")["problem"]
    assert "connection refused; look at what the CA says of its own state" in problem
    assert re.search(r"UTC (ends soon|has ended): ", problem)
    assert serial(edge) == before


def test_ca_that_has_had_too_many_requests_is_left_alone(ca: CA, edges: list[Machine]) -> None:
    edge = edges[1]
    before, end = serial(edge), datetime.now(UTC) + timedelta(hours=30)
    ca.start_limited(end)
    edge.run("mv", LIVE, KEPT)
    told = obtain(edge)
    assert "it has had too many requests" in told
    assert f"the next try is after {end:%Y-%m-%dT%H:%M:%SZ}" in told
    assert ca.orders() == 1
    for _ in range(3):
        assert "too many requests" in look(edge)["problem"]
        obtain(edge)
    assert ca.orders() == 1
    edge.run("mv", KEPT, LIVE)
    assert look(edge)["problem"] == ""
    assert serial(edge) == before


def test_no_secret_leaves_its_file(fleet: Fleet, edges: list[Machine]) -> None:
    account = fleet.pillar.secrets["acme-account"]["private_key"].splitlines()[1]
    for edge in edges:
        own = edge.run("sed", "-n", "/PRIVATE KEY/{n;p;q}", LIVE).stdout.strip()
        assert len(own) > 40
        journal = edge.run("journalctl", "--no-pager", "--output=cat").stdout
        assert "a certificate of" in journal
        assert account not in journal
        assert own not in journal
        holders = edge.run("grep", "--devices=skip", "-rlFsa", f"--regexp={account}",
                           f"--regexp={own}", "/etc", "/run", "/tmp", "/var")  # fmt: skip
        assert {*holders.stdout.split()} == {ACCOUNT, LIVE}
    rated = edges[0].run("systemd-analyze", "security", "--threshold=25", UNIT)
    assert rated.returncode == 0, rated.stdout


@pytest.mark.long
def test_without_acme_the_certificate_of_the_secret_is_back(
    fleet: Fleet, ca: CA, edges: list[Machine]
) -> None:
    edge = edges[0]
    with fleet.pillar.decided(acme=None):
        assert failed(edge.apply("haproxy")) == []
        assert changed(edge.apply("haproxy")) == []
        assert changed(edge.apply("haproxy", test=True)) == []
    assert ca.ask(edge, fleet.pillar.ca_certificate)[1] == 200
    assert ca.plain(edge, "/.well-known/acme-challenge/" + "x" * 43).startswith("HTTP/1.1 301 ")
    for path in (LIVE, ACCOUNT, f"/etc/systemd/system/{UNIT}", "/usr/bin/lego"):
        assert edge.run("test", "-e", path).returncode == 1, path
    assert not [line for line in edge.salt("drift.found") if "certificate" in line]
    assert edge.salt("site_certificate.told") == {"renewal": "", "problem": ""}
