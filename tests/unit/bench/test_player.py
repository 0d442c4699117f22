"""The player counts what a server does to it: errors, silence, redirects and cookies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench import player


class Site(BaseHTTPRequestHandler):
    """A site that closes its connection silently after an error, as Airflow does."""

    protocol_version = "HTTP/1.1"
    errors = 0
    hosts: list[list[str]] = []  # noqa: RUF012 - as above
    bodies: list[int] = []  # noqa: RUF012 - of all connections

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self, status: int, text: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        Site.hosts.append(self.headers.get_all("Host") or [])
        if self.path == "/fail":
            self._answer(500)
            self.close_connection = True
        elif self.path == "/auth/login/":
            text = b'<input name="csrf_token" type="hidden" value="t0k">'
            self._answer(200, text, Set_Cookie="session=a; Path=/")
        elif self.headers.get("If-None-Match"):
            self.send_response(304)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
        else:
            self._answer(200, b"ok", ETag='"e"')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Site.bodies.append(len(body))
        if b"csrf_token=t0k" in body and "session=a" in self.headers["Cookie"]:
            self._answer(302, Set_Cookie="_token=x; Secure")
        else:
            self._answer(401)


@pytest.fixture
def base() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_visitors_log_in(base: str) -> None:
    task = {"base": base, "count": 2, "username": "admin", "password": "p", "forwarded": True}
    found = player.log_in(task)
    assert found["cookie"] == "session=a; _token=x"
    assert [one["status"] for one in found["records"]] == [200, 302, 200, 302]


def test_request_after_a_silent_close_is_lost(base: str) -> None:
    task = {"base": base, "count": 4, "provoke": "/fail", "get": "/", "post": "/"}
    found = player.after_errors(task)
    assert [one["status"] for one in found["provoked"]] == [500] * 4
    records = [(one["method"], one["status"]) for one in found["records"]]
    assert records == [("GET", 0), ("POST", 0)] * 2


def test_cached_page_has_no_body_whatever_its_headers_say(base: str) -> None:
    asked = [["/a", {}], ["/b", {"If-None-Match": '"e"'}], ["/c", {}]]
    found = player.replay({"base": base, "count": 1, "requests": asked, "timeout": 5})
    assert [one["status"] for one in found["records"]] == [200, 304, 200]
    assert found["etags"]["/a"] == '"e"'
    assert found["bytes"] == 4


def test_header_of_a_request_replaces_the_common_one(base: str) -> None:
    Site.hosts.clear()
    asked = [["/a", {"Host": "other"}], ["/b", {}]]
    player.replay({"base": base, "headers": {"host": "site"}, "count": 1, "requests": asked})
    assert Site.hosts == [["other"], ["site"]]


def test_steady_clients_keep_every_answer(base: str) -> None:
    task = {"base": base, "clients": 3, "seconds": 0.3, "paths": ["/", "/fail"], "pause": 0.01}
    records = player.steady(task)["records"]
    assert {one["status"] for one in records} >= {200, 500}


def test_each_client_asks_at_least_once(base: str) -> None:
    task = {"base": base, "clients": 2, "seconds": 0, "paths": ["/"]}
    assert [one["status"] for one in player.steady(task)["records"]] == [200, 200]


def test_bodies_are_sent_whole(base: str) -> None:
    Site.bodies.clear()
    found = player.bodies({"base": base, "clients": 2, "megabytes": 1, "path": "/"})
    assert [one["status"] for one in found["records"]] == [401, 401]
    assert Site.bodies == [1 << 20, 1 << 20]


def test_nobody_answers() -> None:
    task = {"base": "http://127.0.0.1:1", "clients": 1, "seconds": 0.05, "paths": ["/"]}
    records = player.steady(task | {"pause": 0.02})["records"]
    assert {(one["status"], one["error"]) for one in records} == {(0, "ConnectionRefusedError")}
