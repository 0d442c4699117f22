"""The clients of `bench_app.py`: it asks apps on its machine in turns, and reads their CPU time.

It runs with the machine's Python, and needs nothing else.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CLIENTS = 2
VISITORS = 6
HEALTH = "/api/v2/monitor/health"
PORT = 8099  # of the app that has no socket
TICK = 1000 / os.sysconf("SC_CLK_TCK")  # milliseconds
START_SECONDS = 120


class Connection(http.client.HTTPConnection):
    """A connection to an app's socket, or to its port."""

    def __init__(self, path: str | None) -> None:
        super().__init__("localhost", PORT, timeout=60)
        self._path = path

    def connect(self) -> None:
        """Open the connection."""
        if self._path is None:
            super().connect()
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)


class App:
    """An app, and how to ask it."""

    def __init__(self, unit: str, path: str | None, client: str, token: str) -> None:
        self._group = Path(f"/sys/fs/cgroup/system.slice/bench-{unit}.service/cgroup.procs")
        self._path = path
        self._kept = client == "kept"
        self._headers = {"X-Forwarded-Proto": "https"}
        self._visitor = {"Cookie": f"_token={token}"}
        # As of a browser that has changed something: every request reaches Airflow.
        self._reader = {"Cookie": f"_token={token}; has_changed=1"}
        if client != "plain":
            self._headers["Accept-Encoding"] = "gzip"
        if not self._kept:
            self._headers["Connection"] = "close"

    def wait(self, page: str) -> None:
        """Wait until the app answers."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if self._once(Connection(self._path), page, self._reader) == 200:
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def ask(self, page: str, seconds: float) -> Counter[int]:
        """Ask for a page as often as the clients can; return status -> answers."""
        end = time.monotonic() + seconds

        def client(_: int) -> Counter[int]:
            found: Counter[int] = Counter()
            connection = Connection(self._path)
            while time.monotonic() < end:
                if not self._kept:
                    connection = Connection(self._path)
                found[self._once(connection, page, self._reader)] += 1
            connection.close()
            return found

        with ThreadPoolExecutor(CLIENTS) as pool:
            return sum(pool.map(client, range(CLIENTS)), Counter())

    def visit(self, pages: list[str]) -> Counter[int]:
        """Let several visitors at once ask for each page, one after the other; as `ask`."""

        def visitor(_: int) -> Counter[int]:
            return Counter(
                self._once(Connection(self._path), page, self._visitor) for page in pages
            )

        with ThreadPoolExecutor(VISITORS) as pool:
            return sum(pool.map(visitor, range(VISITORS)), Counter())

    def _once(self, connection: Connection, page: str, who: dict[str, str]) -> int:
        connection.request("GET", page, headers=self._headers | who)
        answer = connection.getresponse()
        answer.read()
        if not self._kept:
            connection.close()
        return answer.status

    def cpu(self) -> float:
        """Return the CPU time of the app's processes, in milliseconds."""
        ticks = 0
        for fields in self._each("stat", lambda text: text.rpartition(")")[2].split()):
            ticks += sum(int(number) for number in fields[11:15])
        return ticks * TICK

    def memory(self) -> float:
        """Return the proportional memory of the app's processes, in MiB."""
        found = self._each("smaps_rollup", lambda text: text.partition("\nPss:")[2].split()[:1])
        return sum(int(size[0]) for size in found) / 1024

    def _each(self, name: str, read: Callable[[str], list[str]]) -> list[list[str]]:
        pids = self._group.read_text().split()
        return [read(Path(f"/proc/{pid}/{name}").read_text()) for pid in pids]


def compare(question: dict[str, Any]) -> dict[str, Any]:
    """Return, for each app, `cpu` (milliseconds by request, a turn each) and `memory`; `errors`.

    A request is a page, asked for again and again, or the list of pages of a visit.
    """
    token = Path(question["token"]).read_text().strip()
    apps = {
        unit: App(unit, app["socket"], app["client"], token)
        for unit, app in question["apps"].items()
    }
    requests = question["requests"]
    report: dict[str, Any] = {unit: {"cpu": {name: [] for name in requests}} for unit in apps}
    errors: Counter[int] = Counter()
    for app in apps.values():
        app.wait(HEALTH)
        for asked in requests.values():
            app.visit(asked) if isinstance(asked, list) else app.ask(asked, 2)
    in_turn = list(apps.items())
    for _ in range(question["rounds"]):
        in_turn.reverse()
        for name, asked in requests.items():
            for unit, app in in_turn:
                before = app.cpu()
                if isinstance(asked, list):
                    answers, count = app.visit(asked), VISITORS
                else:
                    answers = app.ask(asked, question["seconds"])
                    count = answers.total()
                report[unit]["cpu"][name].append((app.cpu() - before) / count)
                errors += answers
    for unit, app in apps.items():
        report[unit]["memory"] = app.memory()
    report["errors"] = {status: number for status, number in errors.items() if status != 200}
    return report


def log_in(question: dict[str, Any]) -> str:
    """Return a token of the user admin."""
    App("usual", question["socket"], "", "").wait(HEALTH)
    connection = Connection(question["socket"])
    body = json.dumps({"username": "admin", "password": question["password"]})
    connection.request("POST", "/auth/token", body, {"Content-Type": "application/json"})
    return str(json.load(connection.getresponse())["access_token"])


def main(text: str) -> None:
    """Print the answer to one question."""
    question = json.loads(text)
    print(json.dumps(log_in(question["login"]) if "login" in question else compare(question)))
