"""A client that plays what h2load cannot: logins, one wait per request, faults, large bodies.

Run as a program it reads a task from its input as JSON and prints what came of it as JSON, so that
it can run on a core and in a network of its own. The standard library is all that it needs.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

Task = dict[str, Any]
Record = dict[str, Any]
CSRF = re.compile(r'name="csrf_token"[^>]*value="([^"]+)')


class Client:
    """A connection to the site; it is opened again after it has closed."""

    def __init__(self, task: Task) -> None:
        self.url = urlsplit(task["base"])
        self.headers = {name.lower(): text for name, text in task.get("headers", {}).items()}
        self.timeout = float(task.get("timeout", 100))
        self.connection: http.client.HTTPConnection | None = None
        self.received = 0

    def _open(self) -> http.client.HTTPConnection:
        host, port = self.url.hostname or "", self.url.port
        if self.url.scheme == "https":
            # The load is measured, and not whom it reaches: that is tested elsewhere.
            trust = ssl._create_unverified_context()  # noqa: S323, SLF001
            return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=trust)
        return http.client.HTTPConnection(host, port, timeout=self.timeout)

    def ask(self, path: str, *, body: bytes | None = None, **headers: str) -> Record:
        """Ask once, without a retry.

        Returns:
            `began`, `seconds`, `status` (0: no answer), `error`, `headers`, `cookies`, `text`.
        """
        began = time.time()
        record: Record = {"began": began, "status": 0, "error": "", "path": path, "headers": {}}
        method = "GET" if body is None else "POST"
        names = dict(self.headers)
        for name, value in headers.items():  # "Host" replaces "host"
            names[name.replace("_", "-").lower()] = value
        try:
            if self.connection is None:
                self.connection = self._open()
            self.connection.request(method, path, body, names)
            answer = self.connection.getresponse()
            if answer.status == http.client.NOT_MODIFIED:
                # It has no body, but http.client waits for one where its header names chunks.
                content = b""
                answer.close()
            else:
                content = answer.read()
            self.received += len(content)
            record["status"] = answer.status
            record["headers"] = {name.lower(): value for name, value in answer.getheaders()}
            record["cookies"] = answer.headers.get_all("set-cookie") or []
            record["text"] = content
            if answer.will_close:
                self.close()
        except (OSError, http.client.HTTPException) as error:
            record["error"] = type(error).__name__
            self.close()
        record["seconds"] = time.time() - began
        return record

    def close(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def _public(record: Record) -> Record:
    return {
        "began": record["began"],
        "seconds": record["seconds"],
        "status": record["status"],
        "error": record["error"],
        "retry_after": "retry-after" in record["headers"],
    }


def log_in(task: Task) -> Record:
    """Log in `count` times as different visitors; return the cookies of the last login."""
    records, cookies, received = [], {}, 0
    for number in range(task["count"]):
        client = Client(task)
        if "forwarded" in task:  # the first of the addresses, for a machine that trusts them
            client.headers["x-forwarded-for"] = f"198.18.{number // 250}.{number % 250 + 1}"
        page = client.ask("/auth/login/")
        token = CSRF.search(page.get("text", b"").decode(errors="replace"))
        cookies = _cookies(page)
        records.append(_public(page))
        if token:
            form = {"csrf_token": token[1], "username": task["username"]}
            body = urllib.parse.urlencode(form | {"password": task["password"]}).encode()
            answer = client.ask(
                "/auth/login/",
                body=body,
                Cookie=_header(cookies),
                Referer=_site(task) + "/auth/login/",
                Content_Type="application/x-www-form-urlencoded",
            )
            cookies |= _cookies(answer)
            records.append(_public(answer))
        received += client.received
        client.close()
    return {"records": records, "cookie": _header(cookies), "bytes": received}


def _site(task: Task) -> str:
    """Return the address that a browser shows, which the login's check of the sender compares."""
    host = task.get("headers", {}).get("host")
    return f"https://{host}" if host else str(task["base"])


def _cookies(record: Record) -> dict[str, str]:
    pairs = [text.split(";")[0].partition("=") for text in record.get("cookies", [])]
    return {name: value for name, _, value in pairs if value}


def _header(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


def steady(task: Task) -> Record:
    """Ask for the paths in turn, with `clients` clients for `seconds`; wait for every answer.

    Each client asks at least once.
    """
    ends = time.time() + task["seconds"]
    pause = float(task.get("pause", 0))

    def visit(found: list[Record]) -> None:
        client, number = Client(task), 0
        while not found or time.time() < ends:
            found.append(_public(client.ask(task["paths"][number % len(task["paths"])])))
            number += 1
            if pause:
                time.sleep(pause)

    return {"records": list(_in_threads(visit, task["clients"]))}


def replay(task: Task) -> Record:
    """Ask for each path once, with its own headers, on one connection, `count` times."""
    records, tags, received = [], {}, 0
    for _ in range(task["count"]):
        client = Client(task)
        for path, headers in task["requests"]:
            record = client.ask(path, **headers)
            tags[path] = record["headers"].get("etag", "")
            records.append(_public(record))
        received += client.received
        client.close()
    return {"records": records, "etags": tags, "bytes": received}


def after_errors(task: Task) -> Record:
    """Provoke `count` errors, and on the same connection ask for a page or send a form."""
    client, provoked, found = Client(task), [], []
    for number in range(task["count"]):
        provoked.append(_public(client.ask(task["provoke"])))
        post = number % 2 == 1
        next_one = (
            client.ask(task["post"], body=b"{}", Content_Type="application/json")
            if post
            else client.ask(task["get"])
        )
        found.append(_public(next_one) | {"method": "POST" if post else "GET"})
    return {"provoked": provoked, "records": found}


def bodies(task: Task) -> Record:
    """Send `clients` bodies of `megabytes` at once, as a stranger."""
    body = b"x" * (task["megabytes"] << 20)

    def send(found: list[Record]) -> None:
        answer = Client(task).ask(task["path"], body=body, Content_Type="application/json")
        found.append(_public(answer))

    return {"records": list(_in_threads(send, task["clients"]))}


def _in_threads(work: Callable[[list[Record]], None], count: int) -> Iterator[Record]:
    found: list[list[Record]] = [[] for _ in range(count)]
    threads = [threading.Thread(target=work, args=(one,), daemon=True) for one in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (record for one in found for record in one)


TASKS = {
    "log_in": log_in,
    "steady": steady,
    "replay": replay,
    "after_errors": after_errors,
    "bodies": bodies,
}

if __name__ == "__main__":
    todo = json.load(sys.stdin)
    json.dump(TASKS[todo["task"]](todo), sys.stdout)
