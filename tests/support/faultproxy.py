"""A proxy in front of an AWS API that refuses, delays and loses what it is told to."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

EVER = 1_000_000


@dataclass
class Fault:
    """What happens to some calls.

    Attributes:
        action: the calls' name, such as `RunInstances`.
        times: to how many of them.
        skip: how many pass before.
        code: refuse them with this code; empty: forward them.
        status: with this HTTP status.
        lost: forward them, and hang up without an answer.
        seconds: wait before.
    """

    action: str
    times: int = EVER
    skip: int = 0
    code: str = ""
    status: int = 400
    lost: bool = False
    seconds: float = 0


@dataclass
class FaultProxy:
    """A running proxy.

    Attributes:
        url: where it listens.
        faults: in force from now on; the first that fits a call counts.
        calls: how often each action was asked for.
        latency: seconds that every call takes on its way.
    """

    url: str
    faults: list[Fault] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    latency: float = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, action: str) -> Fault | None:
        """Count a call and return what happens to it."""
        with self.lock:
            self.calls[action] += 1
            for fault in self.faults:
                if fault.action != action or fault.times <= 0:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                return fault
        return None


@contextmanager
def faulty(upstream: str) -> Iterator[FaultProxy]:
    """Serve a proxy before an API until the block ends."""
    target = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet: the second of two would wait for the first to be acknowledged

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            action = (self.headers.get("X-Amz-Target") or "").rpartition(".")[2] or parse_qs(body.decode())["Action"][0]
            fault = proxy.meet(action)
            time.sleep(proxy.latency)
            if fault and fault.seconds:
                time.sleep(fault.seconds)
            if fault and fault.code:
                self._answer(fault.status, "text/xml", _refusal(fault.code))
                return
            connection = http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=60)
            connection.request("POST", self.path, body, dict(self.headers))  # with the Host that was signed
            response = connection.getresponse()
            content = response.read()
            connection.close()
            if fault and fault.lost:
                self.close_connection = True
                return
            self._answer(response.status, response.headers.get("Content-Type", ""), content)

        def _answer(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who asked has given up waiting
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # a map in parallel comes all at once

    server = Server(("127.0.0.1", 0), Handler)
    proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def _refusal(code: str) -> bytes:
    error = f"<Error><Code>{code}</Code><Message>as the test says</Message></Error>"
    return f"<Response><Errors>{error}</Errors><RequestID>0</RequestID></Response>".encode()
