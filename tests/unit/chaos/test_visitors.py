"""Visitors come at their pace whatever the site does, and note what it answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.chaos.visitors import Site, Visitors

from waiting import until


class App(BaseHTTPRequestHandler):
    """A site that keeps variables; it can stand still, and forget what it has acknowledged."""

    rows: set[str] = set()  # noqa: RUF012 - of all connections
    stands = threading.Event()
    forgets = False

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self, status: int, body: object = None, **headers: str) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        App.stands.wait(10)
        if self.path == "/auth/login/":
            self._answer(200, '<input name="csrf_token" value="t">'.replace('"', "'"))
        elif self.headers.get("Authorization") != "Bearer t0k":
            self._answer(401)
        elif self.path.startswith("/api/v2/variables/"):
            self._answer(200 if self.path.rpartition("/")[2] in App.rows else 404)
        else:
            self._answer(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        App.stands.wait(10)
        if self.path == "/auth/token":
            self._answer(201, {"access_token": "t0k"})
        elif not App.forgets:
            App.rows.add(json.loads(body)["key"])
            self._answer(201)
        else:
            self._answer(201)


@pytest.fixture
def site() -> Iterator[Site]:
    App.rows.clear()
    App.stands.set()
    App.forgets = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Site(f"http://127.0.0.1:{server.server_address[1]}", "admin", "secret")
    App.stands.set()
    server.shutdown()


def test_visitors_read_and_write(site: Site) -> None:
    visitors = Visitors(site, "t-")
    with visitors.coming():
        until(lambda: len(visitors.ledger.writes) > 1, "two have written")
        until(lambda: len(visitors.answers["reads"]) > 10, "ten have read")
    assert {one.what for one in visitors.answers["reads"]} == {"200"}
    rows = [(place, int(key.removeprefix("t-"))) for place, key in enumerate(sorted(App.rows))]
    assert visitors.ledger.verdict(rows).linear
    assert visitors.ledger.unseen == 0


def test_row_that_the_site_forgets_is_noted(site: Site) -> None:
    App.forgets = True
    visitors = Visitors(site, "t-")
    with visitors.coming():
        until(lambda: visitors.ledger.writes, "somebody has written")
    assert visitors.ledger.unseen == visitors.ledger.verdict([]).lost > 0


def test_visitors_come_while_others_wait(site: Site) -> None:
    visitors = Visitors(site, "t-")
    with visitors.coming():
        until(lambda: visitors.answers["reads"], "somebody has read")
        App.stands.clear()
        before = len(visitors.answers["reads"])
        time.sleep(1)  # in which some twenty come
        App.stands.set()
    after = visitors.answers["reads"][before:]
    assert len(after) > 10
    assert max(one.ended - one.began for one in after) > 0.5


def test_login_without_a_token_is_a_failure(site: Site) -> None:
    visitors = Visitors(site, "t-")
    with visitors.coming():
        until(lambda: visitors.answers["logins"], "somebody has tried")
    assert not any(one.good for one in visitors.answers["logins"])
