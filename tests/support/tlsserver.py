"""A web server on loopback, under a certificate of the test's choice."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


class Page(BaseHTTPRequestHandler):
    """The base of a test's page, which defines how to `answer` a request."""

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def question(self) -> Any:
        """Return what the request's body says in JSON."""
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(
    page: type[Page], fields: Mapping[str, str], folder: Path, clients: str = ""
) -> Iterator[int]:
    """Serve a page over TLS while the block runs.

    Args:
        page: the handler of requests.
        fields: the server's `certificate` and `private_key`, PEM.
        folder: where to write them.
        clients: the certificate of the authority whose clients may connect; empty: all may.

    Yields:
        The port, on 127.0.0.1.
    """
    pem = folder / "server.pem"
    pem.write_text(fields["certificate"] + fields["private_key"])
    server = HTTPServer(("127.0.0.1", 0), page)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(pem)
    if clients:
        trust.load_verify_locations(cadata=clients)
        trust.verify_mode = ssl.CERT_REQUIRED
    server.socket = trust.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
