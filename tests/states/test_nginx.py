"""nginx on the web machine: static files without Python, bounded bodies, and an honest 503."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from handshake import shake_hands
from harness import Fleet, Machine, changed, failed
from plainpillar import DEPLOYMENT, ROOT
from stackctl.certificates import Authority
from waiting import until
from webrequests import AUTHORITY, CLIENT, CONNECT
from webrequests import LOGIN as ASK_AS_CLIENT

OWN = "/mnt/own.pem"
# Requests to a web machine, written byte for byte: a client library would tidy up the paths.
ASK = (
    CONNECT
    + r"""
import json, time

def by_socket(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection

def exchange(raw, seconds=20, where=None):
    with by_socket(where) if where else connect() as connection:
        connection.settimeout(seconds)
        if isinstance(raw, str):
            raw = [raw]
        try:
            for piece in raw:
                connection.sendall(piece if isinstance(piece, bytes) else piece.encode("latin1"))
        except OSError:
            pass  # it has answered already
        answer = b""
        try:
            while piece := connection.recv(1 << 16):
                answer += piece
        except OSError:
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    status = int(lines[0].split()[1]) if lines[0] else 0
    return {"status": status, "headers": headers, "body": body}

def get(path, where=None, method="GET", host="x", **headers):
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return exchange(
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n", where=where
    )

def post(pieces, *more):
    head = "\r\n".join(["POST /api/v2/variables HTTP/1.1", "Host: x", "Connection: close", *more])
    return exchange([f"{head}\r\n\r\n", *pieces])

def brief(answer):
    body = answer["body"]
    return {**answer, "body": body[:2000].decode("latin1"), "bytes": len(body)}
"""
)
SOCKET = "/run/airflow/web.sock"
CONSTANT = yaml.safe_load((ROOT / "salt/nginx/constant.yaml").read_text())["constant"]
# Each page of the list, with what may follow.
PAGES = ["/", "/?a=b"] + [
    f"/{page}{more}"
    for page in CONSTANT["pages"]
    for more in ("", "/", "?a=/api", "/x%2Fy%20z/runs/~?a=b&c")
]


# The status of an answer to a client with a certificate, or without one.
BY_CERTIFICATE = """
import http.client, ssl
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False
if own:
    context.load_cert_chain(own)
connection = http.client.HTTPSConnection(address, 8080, timeout=10, context=context)
connection.request("GET", "/api/v2/version", headers={"Host": "x"})
result = connection.getresponse().status
"""


class Site:
    """Requests from the edge to a web machine."""

    def __init__(self, edge: Machine, web: Machine) -> None:
        self._edge = edge
        self._web = web

    def python(self, program: str, **values: Any) -> Any:
        """Run a program with `get` and `exchange`, which assigns `result`."""
        return self._edge.python(ASK + program, address=self._web.address, **values)

    def get(self, path: str, **options: Any) -> dict[str, Any]:
        """Ask for a path, written as it is."""
        answer = self.python("result = brief(get(path, **options))", path=path, options=options)
        assert isinstance(answer, dict)
        return answer


@pytest.fixture(scope="module")
def site(edge: Machine, web: Machine) -> Iterator[Site]:
    """The web machine, of which no load balancer asks anything that a test does not."""
    has_haproxy = edge.run("systemctl", "is-active", "haproxy").returncode == 0
    if has_haproxy:  # another file has made it one
        edge.run("systemctl", "stop", "haproxy")
    yield Site(edge, web)
    if has_haproxy:
        edge.run("systemctl", "start", "haproxy")


@pytest.fixture(scope="module")
def bundle(web: Machine) -> str:
    """The path of the main script."""
    found = web.run("sh", "-c", "cd /opt/airflow/current/static && ls static/assets/index-*.js")
    return f"/{found.stdout.strip()}"


@pytest.fixture
def without_python(web: Machine) -> Iterator[None]:
    """The web app is out of nginx's reach meanwhile: who needs it gets 502."""
    assert web.run("mv", SOCKET, f"{SOCKET}.app").returncode == 0
    yield
    assert web.run("mv", f"{SOCKET}.app", SOCKET).returncode == 0


@pytest.fixture
def dead_app(web: Machine) -> Iterator[None]:
    """The web app is stopped meanwhile."""
    web.run("systemctl", "stop", "airflow")
    yield
    web.run("systemctl", "start", "airflow")
    until(lambda: not web.salt("role.status")["problem"], "the web machine serves")


def test_every_file_is_what_the_web_app_would_serve(web: Machine) -> None:
    compare = f"""
import os
os.chdir("/opt/airflow/current/static")
paths = [
    os.path.join(folder, name)[1:]
    for folder, _, names in os.walk(".")
    for name in names
    if not name.endswith((".br", ".gz"))
]
result = [len(paths), [
    path
    for path in sorted(paths)
    if (ours := get(path))["status"] != 200
    or ours["body"] != get(path, where="{SOCKET}")["body"]
]]
"""
    count, different = web.python(ASK + compare, address="127.0.0.1")
    assert different == []
    assert count > 250


def test_static_never_reaches_the_web_app(site: Site, bundle: str, without_python: None) -> None:
    del without_python
    for path, status in {
        bundle: 200,
        f"{bundle}?x=1": 200,
        f"/{bundle}": 200,
        bundle.replace("/static/", "/%73tatic/"): 200,
        f"/x/..{bundle}": 200,
        "/static/i18n/locales/en/common.json": 200,
        "/auth/static/appbuilder/css/bootstrap.min.css": 200,
        "/static/assets/absent-1a2b.js": 404,
        "/static/absent": 404,
        "/auth/static/absent": 404,
        "/static/": 404,
        "/static": 404,
        "/auth/static": 404,
        "/static/index.html": 404,
        "/static/assets": 404,
        "/static/.vite/manifest.json": 404,
    }.items():
        found = site.get(path)
        assert (path, found["status"]) == (path, status)
    for headers in ({"host": "another.example"}, {"Authorization": "Bearer x"}, {"Cookie": "a=b"}):
        assert site.get(bundle, **headers)["status"] == 200
    assert site.get(bundle, method="POST")["status"] == 405


def test_path_with_dots_leaks_no_file_and_never_reaches_the_web_app(
    site: Site, without_python: None
) -> None:
    del without_python
    for path in (
        "/static/../release.json",
        "/static/../../release.json",
        "/static/../venv/bin/python",
        "/static/%2e%2e/release.json",
        "/static/..%2frelease.json",
        "/static%2f..%2f..%2frelease.json",
        "/static/assets/../../../release.json",
        "/auth/static/../../../release.json",
        "//static/..//release.json",
        "/static/....//release.json",
        "/static/%00",
        "/static/assets/%252e%252e/%252e%252e/release.json",
    ):
        found = site.get(path)
        assert found["status"] in {400, 404}, path
        assert "heads" not in found["body"]


def test_smallest_form_is_sent_and_may_be_kept(site: Site, bundle: str) -> None:
    forms = {coding: site.get(bundle, Accept_Encoding=coding) for coding in ("br", "gzip", "x")}
    assert forms["br"]["bytes"] < forms["gzip"]["bytes"] < forms["x"]["bytes"]
    assert [form["headers"].get("content-encoding") for form in forms.values()] == [
        "br",
        "gzip",
        None,
    ]
    assert len({form["headers"]["etag"] for form in forms.values()}) == 3
    for form in forms.values():
        headers = form["headers"]
        assert headers["vary"] == "Accept-Encoding"
        assert headers["cache-control"] == "public, max-age=31536000, immutable"
        assert "last-modified" not in headers
        assert headers["x-content-type-options"] == "nosniff"
    assert site.get(bundle, Accept_Encoding="gzip, br")["headers"]["content-encoding"] == "br"


def test_file_without_hash_is_revalidated_by_its_content(site: Site, web: Machine) -> None:
    path = "/static/i18n/locales/en/common.json"
    first = site.get(path, Accept_Encoding="br")
    assert first["headers"]["cache-control"] == "public, max-age=300"
    tag = first["headers"]["etag"]
    again = site.get(path, Accept_Encoding="br", If_None_Match=tag)
    assert (again["status"], again["bytes"], again["headers"]["etag"]) == (304, 0, tag)
    # The tag is made of the content and of nothing else.
    expected = web.python(
        """
        import hashlib
        content = open(path, "rb").read()
        time = 0x40000000 + int(hashlib.sha256(content).hexdigest()[:7], 16)
        result = f'"{time:x}-{len(content):x}"'
        """,
        path=f"/opt/airflow/current/static{path}.br",
    )
    assert tag == expected


def test_page_and_version_are_what_the_web_app_answers(web: Machine) -> None:
    compare = f"""
def seen(answer):
    return answer["status"], answer["headers"].get("content-type"), answer["body"]

result = [
    path
    for path in paths
    if seen(ours := get(path)) != seen(get(path, where="{SOCKET}")) or ours["status"] != 200
]
"""
    paths = [*PAGES, CONSTANT["version"], f"{CONSTANT['version']}?a=b"]
    assert web.python(ASK + compare, address="127.0.0.1", paths=paths) == []


def test_page_and_version_never_reach_the_web_app(site: Site, without_python: None) -> None:
    del without_python
    ask = "result = [path for path in paths if get(path)['status'] != 200]"
    assert site.python(ask, paths=[*PAGES, CONSTANT["version"]]) == []
    # Neither the list nor the path as it was sent says more than that.
    others = ["/health", "/docs", "/dagsx", "//dags", "/%64ags", "/api/v2/version/", "/ui/dags"]
    for path in (*others, "/auth/login/", "/pluginsv2/x", "/api/v1/x", "/api/v2/versions"):
        assert (path, site.get(path)["status"]) == (path, 502)
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        assert site.get("/dags", method=method)["status"] == 502


# Where a browser without a token begins.
LOGIN = "/api/v2/auth/login?next="
NOBODY = ["/ui/config", "/ui/config?a=b", *(LOGIN + to for to in ("%2F", "%2Fdags", "%2Fdags%2F"))]
NOBODY += [f"{LOGIN}%2Fdags%2Fa-b_c%2Fruns"]
ALIKE = """
def seen(answer):
    body = answer["body"].decode() if answer["status"] == 401 else ""
    names = "location", "set-cookie", "www-authenticate"
    headers = [answer["headers"].get(name) for name in names]
    return answer["status"], *headers, body
"""


def test_sender_without_token_is_answered_as_by_the_web_app(web: Machine) -> None:
    compare = f"""
result = [[path, ours, theirs] for path in paths
    if (ours := seen(get(path, X_Forwarded_Proto="https")))
    != (theirs := seen(get(path, where="{SOCKET}", X_Forwarded_Proto="https")))]
"""
    unsafe = ("%2F%2Fevil.example", "%2F..%2Fx", "https%3A%2F%2Fevil.example", "%5C%5Cevil", "%2f")
    more = [LOGIN + to for to in (*unsafe, "", "%2Fdags%3Fa%3Db", "/dags", "%2Fa&next=%2F%2Fevil")]
    paths = [*NOBODY, *more]
    assert web.python(ASK + ALIKE + compare, address="127.0.0.1", paths=paths) == []


def test_sender_without_token_never_reaches_the_web_app(site: Site, without_python: None) -> None:
    del without_python
    for path in NOBODY:
        assert site.get(path)["status"] in {401, 307}
        assert site.get(path, Cookie="session=a; b=c")["status"] in {401, 307}
        for shown in (
            {"Cookie": "_token=x"},
            {"Cookie": "a=b;\t_TOKEN=x"},
            {"Authorization": "Bearer x"},
        ):
            assert (path, shown, site.get(path, **shown)["status"]) == (path, shown, 502)
    for to in ("", "%2F%2Fevil.example", "%2F..", "%2Fa%3Fb", "/dags", "%2Fa&next=%2F%2Fevil"):
        assert (to, site.get(LOGIN + to)["status"]) == (to, 502)


def test_page_is_revalidated_by_its_content(site: Site, web: Machine) -> None:
    for coding, name in (("br", "page.html.br"), ("gzip", "page.html.gz"), ("x", "page.html")):
        first = site.get("/dags", Accept_Encoding=coding)
        headers = first["headers"]
        assert headers.get("content-encoding") == (None if coding == "x" else coding)
        assert (headers["vary"], headers["cache-control"]) == ("Accept-Encoding", "no-cache")
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert "last-modified" not in headers
        again = site.get("/pools", Accept_Encoding=coding, If_None_Match=headers["etag"])
        assert (again["status"], again["bytes"]) == (304, 0)
        time = web.run("stat", "-c", "%Y", f"/opt/airflow/current/answers/{name}").stdout
        assert headers["etag"].startswith(f'"{int(time):x}-')
    assert site.get("/dags", Range="bytes=0-9")["status"] == 200


def test_pages_are_routes_of_the_ui(web: Machine, bundle: str) -> None:
    look = """
import re
scripts = open(path).read()
result = [page for page in pages if not re.search(f"path:.{page}[^a-z_]", scripts)]
"""
    path = f"/opt/airflow/current/static{bundle}"
    assert web.python(look, path=path, pages=CONSTANT["pages"]) == []


def test_release_without_the_page_answers_itself(site: Site, web: Machine) -> None:
    """One that was built before there was a folder for it, while it is replaced."""
    answers = "/opt/airflow/current/answers"
    expected = site.get("/dags")["body"]
    web.run("mv", f"{answers}/", "/opt/airflow/answers")
    try:
        found = site.get("/dags")
    finally:
        web.run("mv", "/opt/airflow/answers", f"{answers}/")
    assert (found["status"], found["body"]) == (200, expected)
    assert "etag" not in found["headers"]


def test_body_is_limited_before_the_web_app_reads_it(site: Site, web: Machine) -> None:
    send = """
megabyte = b"x" * (1 << 20)
chunk = b"100000\\r\\n" + megabyte + b"\\r\\n"
result = [
    post([megabyte] * 9, f"Content-Length: {9 << 20}")["status"],
    post([chunk] * 9, "Transfer-Encoding: chunked")["status"],
    # The web app has seen these: it knows nobody.
    post([megabyte] * 5, f"Content-Length: {5 << 20}")["status"],
    post([chunk] * 5 + [b"0\\r\\n\\r\\n"], "Transfer-Encoding: chunked")["status"],
]
"""
    assert site.python(send) == [413, 413, 401, 401]
    journal = web.run("journalctl", "--no-pager", "--unit=nginx").stdout
    assert "POST /api/v2/variables 413" in journal
    assert "POST /api/v2/variables 401" in journal
    # What changes nothing and succeeds is not logged.
    assert not [line for line in journal.splitlines() if " GET " in line and " 200 " in line]


def test_bodies_at_the_same_time_are_bounded(site: Site) -> None:
    flood = """
def until(status):
    deadline = time.monotonic() + 10
    while (answer := post("x", "Content-Length: 1"))["status"] != status:
        assert time.monotonic() < deadline, answer["status"]
    return answer

head = "POST /api/v2/variables HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 1000\\r\\n\\r\\n"
held = []
for _ in range(32):
    connection = connect()
    connection.sendall(head.encode())
    held.append(connection)
refused = until(503)
allowed = get("/api/v2/version")["status"]
for connection in held:
    connection.close()
until(401)
result = [refused["headers"].get("retry-after"), allowed]
"""
    assert site.python(flood) == ["10", 200]


# A program that takes the place of the web app; the socket's own name comes back with `os.rename`.
INSTEAD_OF_APP = """
import os, socket, time
path = "/run/airflow/web.sock"
os.rename(path, path + ".app")
server = socket.socket(socket.AF_UNIX)
server.bind(path)
os.chmod(path, 0o666)
server.listen()
"""


def test_web_app_is_told_the_client_by_the_edge_only(site: Site, web: Machine) -> None:
    """Of what another program of the machine says, nothing is passed on."""
    web.put(
        "/root/listen.py",
        INSTEAD_OF_APP
        + """
print("ready", flush=True)
for _ in range(2):
    connection, _ = server.accept()
    data = b""
    while b"\\r\\n\\r\\n" not in data:
        data += connection.recv(65536)
    body = data.split(b"\\r\\n\\r\\n")[0]
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    connection.close()
os.rename(path + ".app", path)
""",
    )
    web.run("systemd-run", "--unit=listen", "/opt/salt/bin/python", "/root/listen.py")
    until(lambda: web.run("test", "-e", f"{SOCKET}.app").returncode == 0, "the listener")
    said = {
        "X_Forwarded_For": "192.0.2.9",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Host": "airflow.example.com",
        "X_Forwarded_Port": "443",
        "X_Request_ID": "abc",
        "X_Real_IP": "192.0.2.8",
    }
    asked = "result = brief(get('/x?token=1', **said))"
    by_edge = site.python(asked, said=said)["body"]
    by_other = web.python(ASK + asked, address="127.0.0.1", said=said)["body"]
    until(lambda: web.run("test", "-e", f"{SOCKET}.app").returncode != 0, "the web app's socket")

    def headers(text: str) -> dict[str, str]:
        pairs = (line.partition(": ") for line in text.split("\r\n")[1:])
        return {name.lower(): value for name, _, value in pairs}

    found = headers(by_edge)
    assert (found["x-forwarded-for"], found["x-forwarded-proto"]) == ("192.0.2.9", "https")
    assert (found["x-forwarded-host"], found["x-forwarded-port"]) == ("airflow.example.com", "443")
    assert (found["x-request-id"], found["connection"]) == ("abc", "close")
    assert "x-real-ip" not in found
    other = headers(by_other)
    assert other["x-forwarded-for"] == "127.0.0.1"
    assert not other.keys() & {"x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"}


def test_answers_of_the_web_app_are_compressed_by_nginx(site: Site, web: Machine) -> None:
    web.put(
        "/root/compress.py",
        INSTEAD_OF_APP
        + """
large = b'{"a": "' + b"x" * 5000 + b'"}'
json_type = b"Content-Type: application/json\\r\\n"
answers = {
    b"/large": (json_type + b'ETag: "a"\\r\\nVary: Cookie\\r\\n', large),
    b"/small": (json_type, b"{}" * 400),
    b"/packed": (json_type + b"Content-Encoding: gzip\\r\\n", large),
    b"/image": (b"Content-Type: image/png\\r\\n", large),
}
for _ in range(5):
    connection, _ = server.accept()
    data = b""
    while b"\\r\\n\\r\\n" not in data:
        data += connection.recv(65536)
    assert b"encoding" not in data.lower()
    headers, body = answers[data.split()[1]]
    head = b"HTTP/1.1 200 OK\\r\\n%sContent-Length: %d\\r\\n\\r\\n" % (headers, len(body))
    connection.sendall(head + body)
    connection.close()
os.rename(path + ".app", path)
""",
    )
    web.run("systemd-run", "--unit=compress", "/opt/salt/bin/python", "/root/compress.py")
    until(lambda: web.run("test", "-e", f"{SOCKET}.app").returncode == 0, "the listener")
    codings = "gzip, deflate, br"
    found = {
        path: site.get(f"/{path}", Accept_Encoding=codings)
        for path in ("large", "small", "packed", "image")
    }
    plain = site.get("/large")
    until(lambda: web.run("test", "-e", f"{SOCKET}.app").returncode != 0, "the web app's socket")
    assert {
        path: (answer["headers"].get("content-encoding"), answer["bytes"] > 2000)
        for path, answer in found.items()
    } == {
        "large": ("gzip", False),
        "small": (None, False),
        "packed": ("gzip", True),
        "image": (None, True),
    }
    assert found["large"]["headers"]["etag"] == 'W/"a"'
    assert plain["headers"]["etag"] == '"a"'
    assert (plain["bytes"], plain["headers"].get("content-encoding")) == (5009, None)


def test_compressed_answer_is_that_of_the_web_app(web: Machine) -> None:
    compare = f"""
import gzip
ours = get("/openapi.json", Accept_Encoding="gzip, br", Connection="close")
chunks, body = ours["body"], b""
while chunks:
    size, _, chunks = chunks.partition(b"\\r\\n")
    body, chunks = body + chunks[: int(size, 16)], chunks[int(size, 16) + 2 :]
result = [
    ours["headers"]["content-encoding"],
    gzip.decompress(body) == get("/openapi.json", where="{SOCKET}")["body"],
    "Accept-Encoding" in ours["headers"]["vary"],
]
"""
    assert web.python(ASK + compare, address="127.0.0.1") == ["gzip", True, True]


def test_stream_arrives_as_it_is_written(site: Site, web: Machine) -> None:
    web.put(
        "/root/stream.py",
        INSTEAD_OF_APP
        + """
connection, _ = server.accept()
connection.recv(65536)
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/x-ndjson\\r\\n\\r\\n")
for _ in range(3):
    connection.sendall(b"{}\\n")
    time.sleep(1)
connection.close()
os.rename(path + ".app", path)
""",
    )
    web.run("systemd-run", "--unit=stream", "/opt/salt/bin/python", "/root/stream.py")
    until(lambda: web.run("test", "-e", f"{SOCKET}.app").returncode == 0, "the stream")
    read = """
path = "/api/v2/dags/a/dagRuns/b/wait?interval=1"
began = time.monotonic()
with connect() as connection:
    connection.settimeout(10)
    head = f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n"
    connection.sendall(head.encode())
    result = []
    while piece := connection.recv(1 << 16):
        result += [round(time.monotonic() - began)] * piece.count(b"{}")
"""
    first, _, last = site.python(read)
    assert last - first >= 1, "they arrive together"
    until(lambda: web.run("test", "-e", f"{SOCKET}.app").returncode != 0, "the web app's socket")


RESTARTED = """
import time
result, end = [], time.time() + 90
while time.time() < end:
    began = time.time()
    check = ask("/api/v2/monitor/health").status
    result.append([began, check, ask("/api/v2/monitor/health", **proxied).status])
    if check == 200 and {row[1] for row in result} > {200}:
        break
    time.sleep(0.1)
"""


def test_web_app_that_is_about_to_stop_is_asked_by_nobody_and_still_answers(
    edge: Machine, web: Machine
) -> None:
    """The load balancers' checks, which come without a client, know it a second before."""
    restart = threading.Thread(target=web.run, args=("systemctl", "restart", "airflow"))
    restart.start()
    values = {"address": web.address, "client": "192.0.2.7"}
    rows = edge.python(ASK_AS_CLIENT + RESTARTED, **values)
    restart.join()
    leaves = next(began for began, check, _ in rows if check == 404)
    before = [row for row in rows if row[0] < leaves]
    # Each load balancer asks once a second.
    meanwhile = [row for row in rows if leaves <= row[0] < leaves + 1.2]
    print([(round(began - leaves, 1), check, client) for began, check, client in rows])
    assert {(check, client) for _, check, client in before} <= {(200, 200)}
    assert {(check, client) for _, check, client in meanwhile} == {(404, 200)}
    assert len(meanwhile) >= 3
    assert rows[-1][1:] == [200, 200]


def test_dead_web_app_is_told_and_nginx_goes_on(
    site: Site, web: Machine, bundle: str, dead_app: None
) -> None:
    del dead_app
    found = site.get("/ui/dags?secret=not-to-log")
    assert (found["status"], found["headers"]["retry-after"]) == (502, "10")
    assert found["headers"]["cache-control"] == "no-store"
    assert found["headers"]["x-frame-options"] == "SAMEORIGIN"
    assert "Airflow is not available" in found["body"]
    status = web.salt("role.status")
    assert (status["state"], status["problem"]) == (
        "inactive",
        "/api/v2/monitor/health answers 502",
    )
    # It starts without the web app too.
    assert web.run("systemctl", "restart", "nginx").returncode == 0
    assert site.get(bundle)["status"] == 200
    journal = web.run("journalctl", "--no-pager", "--unit=nginx").stdout
    assert "GET /ui/dags 502" in journal
    assert "not-to-log" not in journal


def test_certificate_in_the_name_of_another_machine_is_told(fleet: Fleet, web: Machine) -> None:
    other, folder = fleet.pillar.secrets["redis-tls"], "/etc/nginx/tls"
    web.put(f"{folder}/certificate.pem", other["certificate"])
    web.put(f"{folder}/key.pem", other["private_key"], mode=0o644)
    assert web.run("systemctl", "reload", "nginx").returncode == 0
    until(lambda: "Hostname mismatch" in web.salt("role.status")["problem"], "the wrong name")
    assert failed(web.apply("airflow")) == []
    until(lambda: not web.salt("role.status")["problem"], "the right name")
    assert web.run("stat", "-c", "%a %U:%G", f"{folder}/key.pem").stdout.split() == [
        "640", "root:www-data"
    ]  # fmt: skip


def test_load_balancers_alone_are_answered(fleet: Fleet, edge: Machine, web: Machine) -> None:
    """A certificate of the deployment's CA is not enough, whatever it is for."""
    secrets = fleet.pillar.secrets
    foreign = Authority.new(DEPLOYMENT.name).client("edge")
    other = fleet.pillar.authority.client("monitor")
    found = {}
    for name, own in {
        "nothing": None,
        "the web machine's": secrets["web-tls"],
        "the site's": secrets["edge-tls"],
        "a store's": secrets["redis-tls"],
        "a store's, which is a client too": secrets["postgres-cluster-tls"],
        "another client's": other,
        "another CA's": foreign,
        "the load balancer's": secrets["edge-client-tls"],
    }.items():
        if own:
            edge.put(OWN, own["certificate"] + own["private_key"], mode=0o600)
        values = {
            "address": web.address,
            "own": OWN if own else "",
            "ca": AUTHORITY,
        }
        found[name] = edge.python(BY_CERTIFICATE, **values)
    assert found == {
        "nothing": 400,
        "the web machine's": 400,
        "the site's": 400,
        "a store's": 400,
        "a store's, which is a client too": 403,
        "another client's": 403,
        "another CA's": 400,
        "the load balancer's": 200,
    }
    chain, _ = shake_hands(edge, web.address, 8080)
    assert chain[0] == secrets["web-tls"]["certificate"]
    chain, refusal = shake_hands(edge, web.address, 8080, CLIENT, ciphers="ECDHE+AESGCM")
    assert (chain, "protocol version" in refusal.lower()) == ([], True), refusal
    plain = "result = exchange('GET /api/v2/version HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')['status']"
    in_plain = ASK.replace('if address == "127.0.0.1":', "if True:")
    assert edge.python(in_plain + plain, address=web.address) == 400


def test_dead_nginx_is_told(web: Machine) -> None:
    web.run("systemctl", "stop", "nginx")
    try:
        found = web.salt("role.status")
    finally:
        web.run("systemctl", "start", "nginx")
    assert found["problem"] == "port 8080: [Errno 111] Connection refused"


def test_nginx_has_no_rights_of_its_own(web: Machine) -> None:
    pid = web.run("systemctl", "show", "-P", "MainPID", "nginx").stdout.strip()
    status = web.run("cat", f"/proc/{pid}/status").stdout
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"] == fields["CapBnd"] == "0000000000000000"
    assert fields["Uid"].split()[0] != "0"
    groups = web.run("id", "-nG", "www-data").stdout.split()
    assert groups == ["www-data"]
    secrets = web.run("cat", "/etc/airflow/secrets.env", user="www-data")
    assert "Permission denied" in secrets.stderr


def test_changed_configuration_is_loaded_without_a_restart(web: Machine) -> None:
    def master() -> str:
        return str(web.run("systemctl", "show", "-P", "MainPID", "nginx").stdout).strip()

    before = master()
    web.run("sh", "-c", "echo '# by hand' >> /etc/nginx/nginx.conf")
    assert web.run("systemctl", "reload", "nginx").returncode == 0
    states = web.apply("nginx,airflow")
    assert failed(states) == []
    assert [tag.split("_|-")[1] for tag in changed(states)] == [
        "nginx-config",
        "nginx-config-loaded",
        "nginx-reload",
    ]
    assert master() == before


def test_assets_of_old_and_new_release_are_served_during_a_switch(
    site: Site, web: Machine, bundle: str
) -> None:
    """A release with another page: each page finds its script at any moment of the switch."""
    current = web.run("readlink", "-f", "/opt/airflow/current").stdout.strip()
    old = "/opt/airflow/releases/old"
    script = "static/assets/index-0ld0ld.js"
    make = [
        f"mkdir -p {old}/static/static/assets {old}/static/auth/static/dist",
        f"ln -s {current}/venv {old}/venv",
        f"echo 'old()' > {old}/static/{script}",
        f"echo old > {old}/static/static/only-old.txt",
        f"echo old > {old}/static/auth/static/dist/main.0123456789abcdef0123.css",
        f"""echo '{{"name": "old", "heads": {{}}}}' > {old}/release.json""",
    ]
    assert web.run("sh", "-ec", "\n".join(make)).returncode == 0
    # Before: the new release is unpacked, but the old one runs.
    web.run("ln", "-sfn", "releases/old", "/opt/airflow/current")
    states = web.apply("airflow.release")
    assert failed(states) == []
    assert json.dumps(states).count("assets") > 0
    paths = [
        bundle,
        f"/{script}",
        "/static/only-old.txt",
        "/auth/static/dist/main.0123456789abcdef0123.css",
        "/static/i18n/locales/en/common.json",
    ]
    web.run("rm", "-f", "/run/asked")
    loop = f"""
import os
counts = {{}}
while not os.path.exists("/run/asked"):
    for path in {paths!r}:
        status = get(path)["status"]
        key = f"{{status}} {{path if status != 200 else ''}}".strip()
        counts[key] = counts.get(key, 0) + 1
result = counts
"""
    web.put("/root/loop.py", f"address = '127.0.0.1'\n{ASK}{loop}\nprint(json.dumps(result))")
    web.run(
        "systemd-run",
        "--unit=asking",
        "--property=StandardOutput=file:/run/counts",
        "/opt/salt/bin/python",
        "/root/loop.py",
    )
    assert failed(web.apply("airflow")) == []
    assert web.run("readlink", "-f", "/opt/airflow/current").stdout.strip() == current
    web.run("touch", "/run/asked")
    until(lambda: web.run("systemctl", "is-active", "asking").returncode != 0, "the requests end")
    counts = json.loads(web.run("cat", "/run/counts").stdout)
    assert list(counts) == ["200"]
    assert counts["200"] > 100
    # The assets go with their release.
    web.run("rm", "-r", old)
    assert failed(web.apply("airflow.release")) == []
    assert [site.get(path)["status"] for path in paths] == [200, 404, 404, 404, 200]


def test_lost_asset_is_repaired(site: Site, web: Machine, bundle: str) -> None:
    web.run("rm", f"/opt/airflow/assets{bundle}")
    assert site.get(bundle)["status"] == 404
    assert [tag.split("_|-")[1] for tag in changed(web.apply("airflow.release", test=True))] == [
        "airflow-installed"
    ]
    assert failed(web.apply("airflow.release")) == []
    assert site.get(bundle)["status"] == 200


@pytest.mark.long
def test_static_costs_a_two_hundredth_of_what_stock_takes(web: Machine, bundle: str) -> None:
    """The same file of the same release from `airflow api-server` alone, in CPU time."""
    web.run("systemctl", "stop", "airflow")
    stock = (
        "set -a; . /etc/airflow/environment; . /etc/airflow/secrets.env; unset GUNICORN_CMD_ARGS; "
        "export AIRFLOW__API__SERVER_TYPE=uvicorn; exec /opt/airflow/current/venv/bin/airflow "
        "api-server --apps core --host 127.0.0.1 --port 8081 --workers 1"
    )
    web.run("systemd-run", "--unit=stock", "--property=User=airflow", "/bin/sh", "-c", stock)
    measure = """
def ask(port, count):
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall((f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
                                "Accept-Encoding: gzip, deflate, br\\r\\n\\r\\n").encode())
            start = connection.recv(1 << 20)
            assert start.startswith(b"HTTP/1.1 200"), start[:200]
            while connection.recv(1 << 20):
                pass

def used(unit):
    with open(f"/sys/fs/cgroup/system.slice/{unit}.service/cpu.stat") as stat:
        return int(dict(line.split() for line in stat)["usage_usec"])

def cost(unit, port, count):
    ask(port, 3)
    before = used(unit)
    ask(port, count)
    return (used(unit) - before) / count / 1000

result = [cost("stock", 8081, 10), cost("nginx", 8080, 2000)]
"""
    try:
        until(
            lambda: (
                web.run(
                    "/opt/salt/bin/python",
                    "-c",
                    "import socket; socket.create_connection(('127.0.0.1', 8081))",
                ).returncode
                == 0
            ),
            "stock serves",
            seconds=120,
        )
        theirs, ours = web.python(f"import socket\n{measure}", path=bundle)
    finally:
        web.run("systemctl", "stop", "stock")
        web.run("systemctl", "start", "airflow")
    print(f"{bundle}: stock {theirs:.1f} ms of CPU, nginx {ours:.3f} ms: {theirs / ours:.0f}x")
    assert theirs / ours >= 200
