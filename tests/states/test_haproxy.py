"""HAProxy from outside: HTTPS, redirects, forwarded headers, a web machine that fails."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pytest
import yaml

from harness import SUBNET, Fleet, Machine, address_plan, changed, failed
from plainpillar import BASE_URL, DEPLOYMENT, DOMAIN, ROOT
from stackctl import certificates
from stackctl.certificates import Authority
from waiting import until

FAKE = (ROOT / "tests/support/fakeweb.py").read_text()
ASK = r"""
import http.client, json, socket, ssl, time
from concurrent.futures import ThreadPoolExecutor

HOST = {"Host": "airflow.example.com"}

def open_connection(tls=True, source=""):
    context = ssl.create_default_context(cadata=ca)
    cls = http.client.HTTPSConnection if tls else http.client.HTTPConnection
    more = {"context": context} if tls else {}
    return cls("lb-1", timeout=60, source_address=(source, 0), **more)

def ask(method="GET", path="/ui/dags", tls=True, headers={}, body=None, source=""):
    connection = open_connection(tls, source)
    connection.request(method, path, body, HOST | headers)
    answer = connection.getresponse()
    headers = dict(answer.getheaders())
    return {"status": answer.status, "headers": headers, "body": answer.read().decode()}

def begin_upload(size):
    connection = open_connection()
    connection.putrequest("POST", "/x", skip_host=True)
    connection.putheader("Host", HOST["Host"])
    connection.putheader("Content-Length", size)
    connection.endheaders()
    return connection

def timed(path):
    began = time.monotonic()
    return [ask(path=path)["status"], time.monotonic() - began]

def token(user, password, source="", path="/auth/token"):
    body = json.dumps({"username": user, "password": password})
    return ask("POST", path, body=body, source=source)["status"]

def login(user, password, source=""):
    body = f"csrf_token=x&username={user}&password={password}"
    return ask("POST", "/auth/login/", body=body, source=source)["status"]

def leave(user, source):
    connection = open_connection(source=source)
    body = json.dumps({"username": user, "password": "slow"})
    connection.request("POST", "/auth/token", body, HOST)
    time.sleep(0.1)
    connection.close()

def at_once(function, count):
    with ThreadPoolExecutor(count) as pool:
        return [*pool.map(function, range(count))]

def read_slowly(path, source, count, seconds):
    context, reading = ssl.create_default_context(cadata=ca), []
    for _ in range(count):
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.bind((source, 0))
        plain.connect((socket.gethostbyname("lb-1"), 443))
        reading.append(context.wrap_socket(plain, server_hostname=HOST["Host"]))
        reading[-1].sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST['Host']}\r\n\r\n".encode())
    end = time.monotonic() + seconds
    while reading and time.monotonic() < end:
        for connection in list(reading):
            try:
                connection.settimeout(0)
                if not connection.recv(100):
                    reading.remove(connection)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except OSError:
                reading.remove(connection)
        time.sleep(0.2)
"""
READ = f"{ASK}\nresult = read_slowly(path, client, count, seconds)"
SIZES = yaml.safe_load((ROOT / "salt/haproxy/defaults.yaml").read_text())["haproxy"]
LIMITS = DEPLOYMENT.base_pillar("haproxy")
PASSWORDS = LIMITS["passwords"]
# It takes the fake web machine half a second.
SLOW_PASSWORD = '{"username": "ann", "password": "right, slow"}'
_APP = yaml.safe_load((ROOT / "salt/airflow/defaults.yaml").read_text())["airflow"]
SLOTS = _APP["workers"] * _APP["requests_per_worker"] * _APP["slots_per_request"]
HEALTH = "/api/v2/monitor/health"
CONSTANT = yaml.safe_load((ROOT / "salt/nginx/constant.yaml").read_text())["constant"]
# The values precede it, where no `from __future__` may stand.
FLOOD = (ROOT / "tests/support/flood.py").read_text().partition("from __future__")[2]
FLOOD = FLOOD.partition("\n")[2]
SLOW = (ROOT / "tests/support/slowclients.py").read_text().partition("annotations\n")[2]
# Bodies of HTTP/2 that go on by a byte a second: how many streams got each answer, and after how
# long all had one.
SLOW_STREAMS = """
import time

def wait(connection, tick, enough):
    began, seen = time.monotonic(), b""
    ticked = began
    connection.settimeout(1)
    while not enough(seen) and time.monotonic() - began < 40:
        try:
            part = connection.recv(65536)
            if not part:
                break
            seen += part
        except TimeoutError:
            pass
        except OSError:
            break
        if time.monotonic() < ticked + 1:
            continue
        ticked = time.monotonic()
        try:
            tick()
        except OSError:
            break
    return seen, time.monotonic() - began

def send_bodies(method, path, headers, size, going):
    connection = connect(address, ca, name)
    numbers = [1 + 2 * n for n in range(streams)]
    for number in numbers:
        connection.sendall(request(number, name, path, method=method, end=0, headers=headers))
        for begin in range(0, size, 8000):
            connection.sendall(frame(DATA, 0, number, b"x" * min(8000, size - begin)))

    def trickle():
        for number in numbers[:going]:  # the others have their answer
            connection.sendall(frame(DATA, 0, number, b"x"))

    def counts(seen):
        return [seen.count(answer.encode()) for answer in answers]

    seen, seconds = wait(connection, trickle, lambda seen: sum(counts(seen)) >= streams)
    return counts(seen), seconds
"""
# After how long a head of HTTP/2 that does not end was given up.
SLOW_HEAD = """
head = connect(address, ca, name)
whole = iter(request(1, name, "/" + "x" * 100))
head.sendall(bytes(next(whole) for _ in range(20)))
_, result = wait(head, lambda: head.sendall(bytes([next(whole)])), lambda seen: False)
"""
# Waits until the test has seen enough.
WAIT = """
import pathlib, time

def wait_for_stop():
    deadline = time.monotonic() + 60
    while not pathlib.Path(stop).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
"""
# Holds what it has opened meanwhile.
HOLD = f"""{WAIT}
opened = flood(address, ca, name, path, connections=connections, streams=streams, cancel=cancel)
pathlib.Path(ready).touch()
wait_for_stop()
result = len(opened)
"""
# Uploads whose bodies do not come: how many had no answer by then.
HOLD_UPLOADS = f"""{WAIT}
held = [begin_upload("90000") for _ in range(count)]
wait_for_stop()
for connection in held:
    connection.sock.setblocking(False)

def is_held(connection):
    try:
        connection.sock.recv(1)
        return False
    except ssl.SSLWantReadError:
        return True

result = sum(map(is_held, held))
"""
# Clients that ask again as soon as they have an answer: [status or error, seconds] of each.
LOAD = """
import threading, time
result, lock = [], threading.Lock()

def client(end, connection=None):
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            if connection is None:
                context = ssl.create_default_context(cadata=ca)
                connection = http.client.HTTPSConnection("lb-1", timeout=60, context=context)
            connection.request(method, path, body, HOST)
            answer = connection.getresponse()
            answer.read()
            found = answer.status
        except (OSError, http.client.HTTPException) as error:
            found, connection = repr(error), None
        with lock:
            result.append([found, time.monotonic() - began])

end = time.monotonic() + seconds
threads = [threading.Thread(target=client, args=[end]) for _ in range(clients)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
READY, STOP = "/run/flood-ready", "/run/flood-stop"
SECOND = SUBNET[-41]  # which no machine has
OWN, AUTHORITY = "/root/fakeweb.pem", "/root/ca.pem"
SERVICE = f"web.{DOMAIN}"
# The backends whose servers have a state of their own.
CHECKED = ("app", "static")
BACKENDS = (*CHECKED, "health", "uploads", "streams", "passwords", "static_greedy")
SECURITY = (*LIMITS["headers"], "Strict-Transport-Security", "X-Request-ID")
# Who waits so long has met a dead machine and no other. `make bench` measures the wait itself.
SERVER_SECONDS = int(SIZES["timeout_server"].removesuffix("s"))
Ask = Callable[[str], object]
Attack = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="module")
def web(fleet: Fleet) -> Iterator[Machine]:
    """A client, which also runs the web app that returns its headers."""
    machine = fleet.machine("web-2")
    assert not [s for s in machine.apply("base").values() if s["result"] is False]
    machine.put("/opt/fakeweb.py", FAKE)
    machine.put(AUTHORITY, fleet.pillar.ca_certificate)
    _give(machine, fleet.pillar.secrets["web-tls"])
    _start_fake(machine, "stub", machine.address)
    yield machine
    machine.run("systemctl", "stop", "stub")


@pytest.fixture(scope="module")
def edge(web: Machine, converged: Callable[[str], Machine]) -> Iterator[Machine]:
    """The load balancer; a reload ends what this file has set by hand."""
    machine = converged("lb-1")
    yield machine
    machine.run("systemctl", "reload", "haproxy")


@pytest.fixture(autouse=True)
def _only_web_2(edge: Machine) -> None:
    """Take web-1 out, on which another test's Airflow may run; a reload brings it back."""
    for backend in CHECKED:
        _admin(edge, f"set server {backend}/web-1 state maint")


@pytest.fixture(scope="module")
def ask(fleet: Fleet, web: Machine, edge: Machine) -> Callable[[str], object]:
    """`ask('expression')`: the value of an expression on a client machine."""

    def run(expression: str) -> object:
        return web.python(f"{ASK}\nresult = {expression}", ca=fleet.pillar.ca_certificate)

    until(lambda: run("ask()['status']") == 200, "HAProxy answers")
    return run


@pytest.fixture(scope="module")
def sources(web: Machine) -> list[str]:
    """More addresses of the client machine: to the edge, each is another client."""
    found = [str(SUBNET[number]) for number in range(-40, -20)]
    for address in found:
        web.run("ip", "address", "add", f"{address}/{SUBNET.prefixlen}", "dev", "eth0")
    return found


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


def test_threads_are_as_many_as_the_cpus_of_a_t2_micro(edge: Machine) -> None:
    """HAProxy would start one for each CPU of the host, which wait for each other on one."""
    assert "Threads:\t1\n" in str(edge.run("cat", f"/proc/{_worker(edge)}/status").stdout)


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


def test_right_passwords_are_not_limited(ask: Ask) -> None:
    """Of an office, one after the other and together, by the page and by the API."""
    assert ask("[token('ann', 'right') for _ in range(50)]") == [201] * 50
    assert ask("[login('ann', 'right') for _ in range(50)]") == [302] * 50
    assert ask("at_once(lambda n: login(f'user{n}', 'right'), 50)") == [302] * 50


def test_guesses_are_limited_by_user_and_address(ask: Ask, sources: list[str]) -> None:
    """Whatever the way to write user and path. Other users, and other addresses, are served."""
    guesser, other = sources[:2]
    allowed = PASSWORDS["wrong_of_user"]
    tried = ask(f"[token('Eve', 'wrong', {guesser!r}) for _ in range({allowed + 3})]")
    assert tried == [401] * allowed + [429] * 3
    paths = [
        "/auth/%74oken",
        "/%61uth/%74%6F%6b%65n",
        "/auth%2ftoken",
        "/auth%2Ftoken/cli",
        "/auth/token?x=%",
    ]
    again = ask(f"[token('eve', 'right', {guesser!r}, path) for path in {paths}]")
    assert again == [429] * len(paths)
    for user, status in (("eve", 429), ("%45vE", 429), ("ann", 302)):
        assert ask(f"login({user!r}, 'right', {guesser!r})") == status
    assert ask(f"[token('eve', 'right', {other!r}), login('eve', 'right')]") == [201, 302]


def test_guesses_at_many_users_are_limited_by_address(ask: Ask, sources: list[str]) -> None:
    """Also those whose user cannot be read, and those whose answer nobody waits for."""
    many, unread, gone = sources[2:5]
    allowed = PASSWORDS["wrong_of_address"]
    tried = ask(f"[login(f'user{{n}}', 'wrong', {many!r}) for n in range({allowed + 10})]")
    assert tried == [302] * allowed + [429] * 10
    assert ask(f"login('ann', 'right', {many!r})") == 429
    post = f"ask('POST', '/auth/token', body='?', source={unread!r})['status']"
    assert ask(f"[{post} for _ in range(7)]") == [401] * 5 + [429] * 2
    ask(f"[leave(f'user{{n}}', {gone!r}) for n in range({allowed})]")
    assert ask(f"token('ann', 'right', {gone!r})") == 429


def test_few_passwords_are_checked_at_once(
    fleet: Fleet, web: Machine, edge: Machine, sources: list[str]
) -> None:
    """Each costs the CPU. Who comes with one does not wait for those who come with many."""
    program = f"""{ASK}
with ThreadPoolExecutor(25) as pool:
    waiting = [pool.submit(token, f"user{{n}}", "slow", client) for n in range(25)]
    time.sleep(0.5)
    result = [login("ann", "right"), sum(not one.done() for one in waiting)]
"""
    status, waiting = web.python(program, ca=fleet.pillar.ca_certificate, client=sources[5])
    assert status == 302
    assert waiting > 10
    assert int(_server(edge, "passwords/web-2")["smax"]) == SIZES["passwords_maxconn"]


def test_refused_password_says_when_to_come_back(ask: Ask, sources: list[str]) -> None:
    """A page to people, JSON to programs."""
    source = sources[6]
    ask(f"[token('ann', 'wrong', {source!r}) for _ in range(5)]")
    body = '{"username": "ann"}'
    page = ask(f"ask('POST', '/auth/login/', body='username=ann', source={source!r})")
    answer = ask(f"ask('POST', '/auth/token', body={body!r}, source={source!r})")
    assert isinstance(page, dict)
    assert isinstance(answer, dict)
    for one in (page, answer):
        assert one["status"] == 429
        assert one["headers"]["retry-after"] == str(PASSWORDS["seconds"])
    assert "<h1>Too many wrong passwords</h1>" in page["body"]
    assert answer["headers"]["content-type"] == "application/json"
    assert json.loads(answer["body"])["detail"].startswith("Too many wrong passwords.")


def test_programs_are_refused_in_json(ask: Ask) -> None:
    for path, headers in (("/api/v2/x", {}), ("/x", {"Accept": "application/json"})):
        answer = ask(f"ask('POST', {path!r}, headers={headers}, body=b'x' * 9_000_000)")
        assert isinstance(answer, dict)
        assert answer["status"] == 413
        assert "too large" in json.loads(answer["body"])["detail"]


def test_ways_that_nobody_needs_are_closed(ask: Ask) -> None:
    """Another login, without a limit, and pages that run scripts of other sites."""
    closed = ["/auth/api/v1/security/login", "/auth/%61pi/v1/security/login", "/docs", "/redoc"]
    closed += ["/docs/oauth2-redirect", "/openapi.json", "/auth/docs", "/auth/openapi.json"]
    for method in ("GET", "POST"):
        assert ask(f"[ask({method!r}, path)['status'] for path in {closed}]") == [404] * len(closed)
    assert ask("[ask(path=path)['status'] for path in ('/docsx', '/x/docs')]") == [200, 200]


def test_what_every_site_is_asked_takes_no_slot(ask: Ask, edge: Machine) -> None:
    before = _server(edge, "app/web-2")["stot"]
    assert ask("ask(path='/robots.txt')['body']") == "User-agent: *\nDisallow: /\n"
    icon = ask("ask(path='/favicon.ico')")
    assert isinstance(icon, dict)
    assert (icon["status"], icon["headers"]["location"]) == (301, "/static/pin_32.png")
    assert _server(edge, "app/web-2")["stot"] == before


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
    _start_fake(web, "stub", web.address)
    until(lambda: ask("ask()['status']") == 200, "the site is back")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("of another machine", "Hostname mismatch"),
        ("of another CA", "certificate verify failed"),
        ("expired", "certificate has expired"),
        # The fake one ends what it does not understand, without a word.
        ("of no TLS", "EOF occurred"),
        ("of TLS 1.2", "EOF occurred"),
    ],
)
def test_web_machine_that_cannot_prove_itself_gets_no_request(
    fleet: Fleet,
    web: Machine,
    edge: Machine,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    reason: str,
) -> None:
    """And the machine's status says why."""
    own, program = fleet.pillar.secrets["web-tls"], FAKE
    if fault == "of another machine":
        own = fleet.pillar.secrets["redis-tls"]
    elif fault == "of another CA":
        own = Authority.new("test").server("web", [SERVICE])
    elif fault == "expired":
        monkeypatch.setattr(certificates, "CERTIFICATE_DAYS", -0.01)
        own = fleet.pillar.authority.server("web", [SERVICE])
    elif fault == "of no TLS":
        program = FAKE.replace(", ssl=tls", "")
    else:
        program = FAKE.replace(
            "minimum_version = ssl.TLSVersion.TLSv1_3", "maximum_version = ssl.TLSVersion.TLSv1_2"
        )
    _give(web, own)
    web.put("/opt/fakeweb.py", program)
    web.run("systemctl", "stop", "stub")
    _start_fake(web, "stub", web.address)
    try:
        until(lambda: _server(edge, "app/web-2")["check_status"] == "L6RSP", "a check by TLS")
        until(lambda: _state(edge, "app/web-2").startswith("DOWN"), "it is out")
        assert ask("ask(path='/static/x.js')['status']") == 503
        problem = edge.salt("role.status")["problem"]
        assert re.search(f"HAProxy refuses web-2: .*({reason})", problem, re.IGNORECASE), problem
    finally:
        _give(web, fleet.pillar.secrets["web-tls"])
        web.put("/opt/fakeweb.py", FAKE)
        web.run("systemctl", "stop", "stub")
        _start_fake(web, "stub", web.address)
        until(lambda: ask("ask()['status']") == 200, "the site is back")


def test_connections_to_web_machines_are_resumed(ask: Ask) -> None:
    """Each write has a connection of its own; few of them cost a signature."""
    found = str(ask("[ask('POST', '/received')['body'] for _ in range(20)]"))
    assert found.count('"requests":1}') == 20
    # Each thread of HAProxy has a session of its own.
    assert found.count('"resumed":true') > 10


def test_reads_share_connections_to_web_machines(ask: Ask) -> None:
    found = str(ask("[ask(path='/received')['body'] for _ in range(20)]"))
    assert found.count('"requests":') == 20
    assert found.count('"requests":1}') < 10


def test_key_of_other_certificate_is_not_installed(fleet: Fleet, edge: Machine) -> None:
    before = edge.run("sha256sum", "/etc/haproxy/tls.pem").stdout
    wrong = {
        "secrets": {"edge-tls": {"private_key": fleet.pillar.secrets["redis-tls"]["private_key"]}}
    }
    states = edge.salt("state.apply", "haproxy", pillar=wrong)
    assert any("KEY_VALUES_MISMATCH" in comment for comment in failed(states))
    assert edge.run("sha256sum", "/etc/haproxy/tls.pem").stdout == before


@pytest.mark.long
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
    with attack("/sleep/1000", connections=63, streams=32):
        assert ask("ask()['status']") == 200  # within its 10 seconds
        assert _held_mib(edge) < SIZES["memory_megabytes"]
    assert _worker(edge) == before


def test_rapid_resets_leave_memory_and_other_clients_alone(
    edge: Machine, ask: Ask, attack: Attack
) -> None:
    before = _worker(edge)
    with attack("/sleep/1000", connections=20, streams=1000, cancel=True):
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


def test_service_may_bind_its_ports_and_no_more(edge: Machine) -> None:
    def privileges() -> dict[str, str]:  # the process of an earlier reload may end meanwhile
        lines = edge.run("cat", f"/proc/{_worker(edge)}/status").stdout.splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    found = until(privileges, "the process runs")
    own = edge.run("id", "-u", "haproxy").stdout.strip()
    assert found["Uid"].split() == [own] * 4
    bind = 1 << 10  # CAP_NET_BIND_SERVICE of capabilities(7)
    assert {int(found[name], 16) for name in ("CapEff", "CapBnd", "CapAmb")} == {bind}
    assert found["NoNewPrivs"] == "1"


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


@pytest.mark.long
def test_service_restarts_with_a_changed_unit(fleet: Fleet, edge: Machine) -> None:
    before = _worker(edge)
    unit = "/etc/systemd/system/haproxy.service.d/stack.conf"
    edge.run("sed", "-i", "s/ -m [0-9]*//", unit)
    assert any("haproxy-service" in tag for tag in changed(edge.apply("haproxy")))
    assert _worker(edge) != before
    test_memory_has_a_hard_limit(edge)
    fleet.assert_idempotent(edge)


def test_other_name_is_sent_to_the_site(ask: Ask) -> None:
    """The machine's health alone is told under any name."""
    for name in ("evil.example", "evil.example:443", "airflow.example.com.evil.example", ""):
        answer = ask(f"ask(path='/dags?x=1', headers={{'Host': {name!r}}})")
        assert isinstance(answer, dict)
        assert (answer["status"], answer["headers"]["location"]) == (308, f"{BASE_URL}/dags?x=1")
        assert "evil" not in str(answer)
        assert ask(f"ask(path={HEALTH!r}, headers={{'Host': {name!r}}})['status']") == 200
    answer = str(ask("ask(path='/x', headers={'Host': 'AIRFLOW.example.com:8443'})['body']"))
    assert '"host":"airflow.example.com","' in answer
    assert "8443" not in answer


def test_own_answers_have_all_headers(ask: Ask) -> None:
    """The page of the site, redirects, and refusals."""
    asked = {
        200: "ask()",
        301: "ask(tls=False)",
        308: "ask(headers={'Host': 'x'})",
        400: "ask(path='/%zz')",
        404: "ask(path='/execution')",
        413: "ask('POST', '/x', body=b'x' * 9_000_000)",
        429: "[ask('POST', '/auth/login/') for _ in range(7)][-1]",
        502: "ask('POST', '/vanish')",
    }
    seen = set()
    for status, expression in asked.items():
        answer = ask(expression)
        assert isinstance(answer, dict)
        headers = {name.lower(): value for name, value in answer["headers"].items()}
        assert answer["status"] == status
        assert {name.lower() for name in SECURITY} <= set(headers), status
        assert "server" not in headers
        seen.add(headers["x-request-id"])
        if status >= 400:
            assert "<h1>" in answer["body"], status
    assert len(seen) == len(asked)


def test_bodies_have_a_limit(ask: Ask, web: Machine) -> None:
    """An import of 5 MB passes, more than 8 MB does not, and a refusal by the app arrives."""
    assert ask("ask('POST', '/x', body=b'x' * 5_000_000)['status']") == 200
    assert ask("ask('POST', '/x', body=b'x' * 9_000_000)['status']") == 413
    assert ask("ask('POST', '/x', body=iter([b'x' * 9_000] * 3))['status']") == 200  # chunked
    web.run("truncate", "-s", "9000000", "/run/large")
    for version in ("--http1.1", "--http2"):
        # From standard input curl sends chunks.
        for upload in ("-T /run/large -X POST https://lb-1/x", "-T - -X POST https://lb-1/early"):
            command = (
                f"curl -sk {version} -o /dev/null -w '%{{http_code}}' -H 'Expect:'"
                f" -H 'Host: airflow.example.com' {upload} </run/large"
            )
            assert web.run("sh", "-c", command).stdout == "413", (version, upload)


def test_slow_senders_hold_no_slot(ask: Ask) -> None:
    """More requests than the web machine takes, whose bodies do not come; a read is answered."""
    hold = """(
        lambda held: (ask()["status"], [c.send(b"x") for c in held] and None)
    )([begin_upload(size) for size in ["90"] * 30 + ["900000"] * UPLOADS])[0]""".replace(
        "UPLOADS", str(SIZES["uploads_per_address"])
    )
    assert ask(hold.strip()) == 200
    until(lambda: ask("ask('POST', body=b'x' * 90_000)['status']") == 200, "uploads are free again")


def test_slow_senders_are_bounded_in_time(
    fleet: Fleet, web: Machine, ask: Ask, sources: list[str]
) -> None:
    """500 of one address. Nobody else waits for them, whatever their way to be slow."""
    slow = SLOW + "result = send_slowly('lb-1', ca, name, source=client, clients=500, seconds=50)"
    paths = ["/x", "/static/x.js", "/auth/login/", HEALTH]
    others: list[tuple[int, float]] = []
    with ThreadPoolExecutor(1) as pool:
        values = {"name": BASE_URL.removeprefix("https://"), "client": sources[7]}
        going = pool.submit(web.python, slow, ca=fleet.pillar.ca_certificate, **values)
        while not going.done():
            answers = ask(f"[timed(path) for path in {paths}]")
            assert isinstance(answers, list)
            others += answers
        ended = going.result()
    assert {status for status, _ in others} == {200}
    assert len(others) >= 20
    assert max(seconds for _, seconds in others) < 3
    found = {(way, status) for way, status, _ in ended}
    assert {("head", "408"), ("small", "408"), ("login", "408")} <= found
    assert {status for _, status in found} == {"408", "429"}
    assert max(seconds for _, _, seconds in ended) < SIZES["body_seconds"] + 8


@pytest.mark.parametrize(
    ("method", "size", "path", "headers"),
    [
        ("POST", 0, "/x", [["content-length", "100"]]),
        ("POST", 0, "/x", []),
        ("GET", 100, "/x", []),
        ("POST", 20_000, "/x", []),
        ("GET", 20_000, "/dags/x", []),
        ("GET", 9_000, f"/{'x' * 6_000}", []),
        ("DELETE", 9_000, "/x", [["x-long", "x" * 6_000]]),
    ],
)
def test_slow_streams_take_no_slot_of_the_web_app(
    fleet: Fleet,
    web: Machine,
    edge: Machine,
    *,
    method: str,
    size: int,
    path: str,
    headers: list[list[str]],
) -> None:
    """HTTP/2 needs no header for a body, whose size may be unknown, whatever the method.

    One that fits a buffer is waited for; a larger one, path and headers included, is an upload.
    """
    streams, uploads = 30, int(SIZES["uploads_per_address"])
    taken = uploads if size > SIZES["small_body_bytes"] / 2 else 0
    before = _server(edge, "app/web-2")["stot"]
    late, slow, excess, seconds = web.python(
        f"{FLOOD}{SLOW_STREAMS}"
        "counts, seconds = send_bodies(method, path, headers, size, going)\n"
        "result = [*counts, seconds]",
        ca=fleet.pillar.ca_certificate,
        address="lb-1",
        name=BASE_URL.removeprefix("https://"),
        streams=streams,
        answers=["The request took too long to arrive</h1>", "Too slow", "Too many requests</h1>"],
        method=method,
        size=size,
        path=path,
        headers=headers,
        going=taken or streams,
    )
    # What the connection lets through late is waited for, as a small body is; where the machine is
    # busy, that is twice.
    assert slow == taken
    assert late + slow + excess == streams
    assert seconds < 3 * SIZES["body_seconds"] + 8
    assert _server(edge, "app/web-2")["stot"] == before


def test_slow_head_of_http_2_is_given_up(fleet: Fleet, web: Machine) -> None:
    values = {"address": "lb-1", "name": BASE_URL.removeprefix("https://")}
    program = FLOOD + SLOW_STREAMS + SLOW_HEAD
    assert web.python(program, ca=fleet.pillar.ca_certificate, **values) < 15


def test_slow_readers_keep_no_slot_for_long(
    fleet: Fleet, web: Machine, edge: Machine, ask: Ask, sources: list[str]
) -> None:
    """Large answers, read by some bytes a second. Ordinary answers fit the buffers before."""
    values = {"client": sources[8], "count": 2 * SLOTS, "ca": fleet.pillar.ca_certificate}
    with ThreadPoolExecutor(1) as pool:
        for times, seconds in ((2, 3), (100, 32)):
            going = pool.submit(web.python, READ, path=f"/large/{times}", seconds=seconds, **values)
            if seconds > 3:
                until(lambda: _server(edge, "app/web-2")["scur"] == str(SLOTS), "slots are taken")
            until(lambda: _server(edge, "app/web-2")["scur"] == "0", "slots are free", 40)
            assert ask("ask()['status']") == 200
            going.result()


def test_slow_readers_of_files_have_slots_of_their_own(
    fleet: Fleet, web: Machine, edge: Machine, ask: Ask, sources: list[str]
) -> None:
    """Above a browser's number of requests. Files of other addresses are sent meanwhile."""
    values = {"client": sources[9], "count": 300, "ca": fleet.pillar.ca_certificate}
    path = "/static/large/100"
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(web.python, READ, path=path, seconds=8, **values)
        full = str(SIZES["static_greedy_maxconn"])
        until(lambda: _server(edge, "static_greedy/web-2")["scur"] == full, "they have their slots")
        assert ask("[ask(path='/static/x.js')['status'] for _ in range(20)]") == [200] * 20
        going.result()


def test_uploads_of_one_address_are_limited(
    fleet: Fleet, web: Machine, edge: Machine, ask: Ask
) -> None:
    """They leave slots for others, and other requests of the address are answered."""
    count = SIZES["uploads_per_address"]
    assert count < SIZES["uploads"]
    web.run("rm", "-f", STOP)
    with ThreadPoolExecutor(1) as pool:
        values = {"count": count, "stop": STOP, "ca": fleet.pillar.ca_certificate}
        going = pool.submit(web.python, ASK + HOLD_UPLOADS, **values)
        try:
            held = str(count)
            until(lambda: _server(edge, "uploads/web-2")["scur"] == held, "they have their slots")
            assert ask("[ask('POST', body=b'x' * 90_000)['status'], ask()['status']]") == [429, 200]
        finally:
            web.run("touch", STOP)
        assert going.result() == count


def test_page_and_version_take_no_slot_of_the_web_app(edge: Machine, ask: Ask) -> None:
    """Files of nginx, by the same list. Other methods and other paths are the web app's."""

    def lanes(*paths: str, method: str = "GET") -> list[int]:
        before = [int(_server(edge, f"{name}/web-2")["stot"]) for name in ("static", "app")]
        assert ask(f"{{ask({method!r}, path)['status'] for path in {paths!r}}} == {{200}}")
        after = [int(_server(edge, f"{name}/web-2")["stot"]) for name in ("static", "app")]
        return [new - old for old, new in zip(before, after, strict=True)]

    pages = [f"/{page}{more}" for page in CONSTANT["pages"] for more in ("", "/x%2Fy/z?a=/api")]
    ours = ["/", "/?a=b", CONSTANT["version"], f"{CONSTANT['version']}?a=b", *pages]
    assert lanes(*ours) == [len(ours), 0]
    theirs = ["/dagsx", "//dags", "/%64ags", "/api/v2/version/", "/api/v2/dags", "/ui/dags", "/x"]
    assert lanes(*theirs) == [0, len(theirs)]
    assert lanes("/dags", method="HEAD") == [0, 1]


def test_page_is_the_one_of_an_unavailable_site_without_a_web_app(edge: Machine, ask: Ask) -> None:
    """The files are there, and the scripts of a page would find nobody to ask."""
    _admin(edge, "set server app/web-2 state maint")
    try:
        assert ask("ask(path='/static/x.js')['status']") == 200
        assert "not available right now" in str(ask("ask(path='/dags')"))
    finally:
        _admin(edge, "set server app/web-2 state ready")
    until(lambda: ask("ask(path='/dags')['status']") == 200, "the site is back")


def test_long_queue_of_one_address_delays_nobody_else(ask: Ask, attack: Attack) -> None:
    """Only its first ones are before others. When it gives up, its requests leave the queue."""
    with attack("/sleep/500", connections=20, streams=25):
        for path in ("/", HEALTH, "/static/x.js", "/auth/login/"):
            assert ask(f"ask(path={path!r})['status']") == 200, path
    assert ask("ask(path='/sleep/1')['status']") == 200


def test_long_queue_is_refused_honestly(fleet: Fleet, web: Machine, ask: Ask) -> None:
    """Who would wait longer than people do is told so soon, and the others are answered."""
    values = {"method": "GET", "path": "/sleep/1000", "body": None, "seconds": 6, "clients": 200}
    answers = web.python(ASK + LOAD, ca=fleet.pillar.ca_certificate, **values)
    assert {status for status, _ in answers} == {200, 503}
    slowest = max(seconds for status, seconds in answers if status == 200)
    assert min(seconds for status, seconds in answers if status == 503) < slowest
    assert max(seconds for _, seconds in answers) < 2 * SIZES["queue_seconds"]


@pytest.fixture
def pair(web: Machine, edge: Machine) -> Iterator[str]:
    """A second web machine, with an address of its own on the first one; its systemd unit."""
    address = str(SECOND)
    web.run("ip", "address", "add", f"{address}/{SUBNET.prefixlen}", "dev", "eth0")
    _start_fake(web, "second", address)
    for backend in BACKENDS:
        _admin(edge, f"set server {backend}/web-1 addr {address} port 8080")
        if backend in CHECKED:
            _admin(edge, f"set server {backend}/web-1 state ready")
    until(lambda: _state(edge, "app/web-1") == "UP", "the second machine serves")
    yield "second"
    edge.run("nft", "delete", "table", "ip", "cut")
    web.run("systemctl", "kill", "-s", "KILL", "second")
    for backend in BACKENDS:
        _admin(edge, f"set server {backend}/web-1 addr {address_plan()['web-1']} port 8080")
        if backend in CHECKED:
            _admin(edge, f"set server {backend}/web-1 state maint")


def _harm(harm: str, web: Machine, edge: Machine) -> None:
    """Lose the second web machine in one of these ways."""
    if harm == "cut off":
        chain = "add table ip cut; add chain ip cut out { type filter hook output priority 0; }"
        edge.run("nft", chain)
        edge.run("nft", f"add rule ip cut out ip daddr {SECOND} drop")
    else:
        web.run("systemctl", "kill", "-s", {"killed": "KILL", "frozen": "STOP"}[harm], "second")


@pytest.mark.parametrize("harm", ["killed", "frozen", "cut off"])
@pytest.mark.parametrize(
    ("method", "path", "body", "clients", "expected"),
    [
        ("GET", "/sleep/50", None, 16, {200}),
        ("GET", "/static/sleep/50", None, 16, {200}),
        ("POST", "/sleep/50", "x", 16, {200, 502}),
        ("POST", "/auth/token", SLOW_PASSWORD, PASSWORDS["at_once_of_user"], {201, 502}),
    ],
    ids=["page", "file", "write", "password"],
)
def test_machine_is_lost_under_load(
    fleet: Fleet,
    web: Machine,
    edge: Machine,
    *,
    pair: str,
    harm: str,
    method: str,
    path: str,
    body: str | None,
    clients: int,
    expected: set[int],
) -> None:
    """Every read is answered in time by the other machine. A write is never done twice."""
    values = {"method": method, "path": path, "body": body, "seconds": 10, "clients": clients}
    web.run("sh", "-c", "truncate -s 0 /run/stub.seen /run/second.seen")
    with ThreadPoolExecutor(1) as pool:
        ca = fleet.pillar.ca_certificate
        load = pool.submit(web.python, ASK + LOAD, ca=ca, **values)
        seen = f"grep -c {path} /run/second.seen"
        until(lambda: int(web.run("sh", "-c", seen).stdout or 0) > 20, "both machines serve")
        _harm(harm, web, edge)
        answers = load.result()
    found = {status for status, _ in answers}
    assert found <= expected, found
    assert max(seconds for _, seconds in answers) < SERVER_SECONDS
    assert _state(edge, "app/web-1").startswith("DOWN")
    if method == "POST":
        lines = web.run("sh", "-c", "cat /run/stub.seen /run/second.seen").stdout.splitlines()
        writes = [line for line in lines if line.startswith("POST")]
        assert len(writes) == len(set(writes))


def test_request_of_a_machine_that_is_marked_down_is_not_answered_here(edge: Machine) -> None:
    """HAProxy would answer it 500, if it is about to end then, and 500 is not tried again."""
    lines = edge.run("cat", "/etc/haproxy/haproxy.cfg").stdout.splitlines()
    begins = [number for number, line in enumerate(lines) if line and not line[0].isspace()]
    sections = [
        "\n".join(lines[begin:end]) for begin, end in itertools.pairwise([*begins, len(lines)])
    ]
    ended = [section for section in sections if "shutdown-sessions" in section]
    assert ended
    assert ended == [section for section in sections if "errorfile 500 /dev/null" in section]


def test_connections_that_close_silently_lose_no_request(
    fleet: Fleet, web: Machine, ask: Ask
) -> None:
    """The app's side ends after each answer and does not say so before."""
    for method in ("GET", "POST"):
        for path in ("/closing", "/static/closing"):
            body = "x" if method == "POST" else None
            values = {"method": method, "path": path, "body": body, "seconds": 2, "clients": 16}
            answers = web.python(ASK + LOAD, ca=fleet.pillar.ca_certificate, **values)
            assert {status for status, _ in answers} == {200}, (method, path)
    assert ask("[ask('POST', '/vanish')['status'] for _ in range(3)]") == [502] * 3


def test_quiet_answers(web: Machine, ask: Ask) -> None:
    """The end of a DAG's run is waited for; another late answer is given up after one try."""
    with ThreadPoolExecutor(1) as pool:
        path = "/api/v2/dags/a/dagRuns/b/wait?interval=70"
        quiet = pool.submit(ask, f"ask(path={path!r})['status']")
        assert ask("ask(path='/sleep/20000')['status']") == 504
        assert quiet.result() == 200
    assert web.run("grep", "-c", "/sleep/20000", "/run/stub.seen").stdout.strip() == "1"


def test_stopped_site_serves_at_once_when_it_goes_on(
    fleet: Fleet, web: Machine, edge: Machine, pair: str
) -> None:
    """As with a database that stands still; nobody waits for long."""
    values = {"method": "GET", "path": "/sleep/50", "body": None, "seconds": 16, "clients": 16}
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(web.python, ASK + LOAD, ca=fleet.pillar.ca_certificate, **values)
        for signal, state, seconds in (("STOP", "DOWN", 60), ("CONT", "UP", 10)):
            for unit in ("stub", pair):
                web.run("systemctl", "kill", "-s", signal, unit)
            until(partial(_are, edge, state), f"both are {state}", seconds)
        answers = load.result()
    assert {status for status, _ in answers} <= {200, 503}
    assert max(seconds for _, seconds in answers) < 15


def test_slow_check_takes_no_machine_out(web: Machine, edge: Machine, ask: Ask) -> None:
    """A machine that is short of CPU answers after a second."""
    web.run("sh", "-c", "echo 1 > /run/stub.delay")
    before = _log(edge).count("is DOWN")
    try:
        until(lambda: _duration(edge, "app/web-2") >= 900, "a check took long")
        assert ask("ask()['status']") == 200
    finally:
        web.run("rm", "/run/stub.delay")
    assert _log(edge).count("is DOWN") == before


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_tls_sessions_are_resumed(web: Machine, ask: Ask, version: str) -> None:
    command = (
        f"connect='openssl s_client {version} -connect lb-1:443';"
        " (sleep 1; echo) | $connect -sess_out /run/tls >/dev/null 2>&1;"
        " $connect -sess_in /run/tls </dev/null 2>&1"
    )
    assert "Reused, TLS" in web.run("sh", "-c", command).stdout


def _start_fake(machine: Machine, unit: str, address: str) -> None:
    """Start a fake web machine as a systemd unit of this name."""
    fake = ("/opt/salt/bin/python", "/opt/fakeweb.py", address, f"/run/{unit}.seen")
    started = machine.run("systemd-run", "--collect", f"--unit={unit}", *fake, OWN, AUTHORITY)
    assert started.returncode == 0, started.stderr


def _give(machine: Machine, fields: Mapping[str, str]) -> None:
    """Give the fake web machines that start from now on a certificate and its key."""
    machine.put(OWN, fields["certificate"] + fields["private_key"], mode=0o600)


def _admin(edge: Machine, command: str) -> str:
    """Send a command to HAProxy's socket; return the answer."""
    send = """
        import socket
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect("/run/haproxy/admin.sock")
            admin.sendall(command.encode() + b"\\n")
            with admin.makefile() as answer:
                result = answer.read().strip()
    """
    return str(edge.python(send, command=command))


def _server(edge: Machine, name: str) -> dict[str, str]:
    """Return the statistics of `backend/server`."""
    backend, _, server = name.partition("/")
    rows = csv.DictReader(_admin(edge, "show stat").removeprefix("# ").splitlines())
    return next(row for row in rows if (row["pxname"], row["svname"]) == (backend, server))


def _state(edge: Machine, name: str) -> str:
    return _server(edge, name)["status"]


def _are(edge: Machine, state: str) -> bool:
    """Return whether both web machines are in this state."""
    return {_state(edge, f"app/{name}").split()[0] for name in ("web-1", "web-2")} == {state}


def _duration(edge: Machine, name: str) -> int:
    return int(_server(edge, name)["check_duration"] or 0)


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
