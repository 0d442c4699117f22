"""Twenty visitors a second; two who write come beside them, and now and then one who logs in.

Each comes at its time, whether or not others have been answered, and opens a connection of its own:
who waits at a lost machine keeps nobody from coming to the next one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.answers import Answer
from tests.chaos.ledger import Ledger, Write

from bench import player

PACES = {"reads": 1 / 20, "writes": 1 / 2, "logins": 9.0}
"""What is asked for -> seconds between two of them. A password costs a web machine some 100 ms of
CPU."""
# All ask the database; what nginx has as a file answers without any.
PAGES = ("/api/v2/dags?limit=5", "/ui/config", "/api/v2/pools")
VARIABLES = "/api/v2/variables"
# The edge gives a request up sooner, and says so.
PATIENCE_SECONDS = 20.0
THREADS = 512


@dataclass(frozen=True)
class Site:
    """The site as its visitors know it.

    Attributes:
        url: what they type.
        username, password: of somebody who may log in.
    """

    url: str
    username: str
    password: str

    def task(self, **headers: str) -> dict[str, Any]:
        """Return what a client of `bench.player` has to know."""
        return {"base": self.url, "headers": headers, "timeout": PATIENCE_SECONDS}

    def token(self) -> str:
        """Return a token of the API; raise KeyError where the login is refused."""
        body = json.dumps({"username": self.username, "password": self.password}).encode()
        client = player.Client(self.task())
        record = client.ask("/auth/token", body=body, Content_Type="application/json")
        client.close()
        return str(json.loads(record.get("text") or b"{}")["access_token"])


@dataclass
class Visitors:
    """Those who visit the site.

    Attributes:
        site: which.
        prefix: of the rows that they write.
        answers: what they got so far, by kind.
        ledger: what those who write have noted.
    """

    site: Site
    prefix: str
    ledger: Ledger = field(default_factory=Ledger)
    answers: dict[str, list[Answer]] = field(default_factory=lambda: {kind: [] for kind in PACES})
    token: str = ""

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Let them come during the block; afterwards, wait for the last answers."""
        self.token = self.site.token()
        ways: dict[str, Callable[[int], Answer]] = {
            "reads": self._read,
            "writes": self._write,
            "logins": self._log_in,
        }
        done = threading.Event()
        with ThreadPoolExecutor(THREADS) as pool:
            doors = [
                threading.Thread(target=self._open, args=(kind, way, pool, done), daemon=True)
                for kind, way in ways.items()
            ]
            for door in doors:
                door.start()
            try:
                yield
            finally:
                done.set()
                for door in doors:
                    door.join()

    def _open(
        self,
        kind: str,
        way: Callable[[int], Answer],
        pool: ThreadPoolExecutor,
        done: threading.Event,
    ) -> None:
        """Have somebody come at each step of the pace."""
        began, number = time.monotonic(), 0
        while not done.wait(max(0.0, began + number * PACES[kind] - time.monotonic())):
            pool.submit(self._visit, kind, way, number)
            number += 1

    def _visit(self, kind: str, way: Callable[[int], Answer], number: int) -> None:
        self.answers[kind].append(way(number))

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        client = player.Client(self.site.task(authorization=f"Bearer {self.token}"))
        try:
            return client.ask(path, body=body, Content_Type="application/json")
        finally:
            client.close()

    def _read(self, number: int) -> Answer:
        record = self._ask(PAGES[number % len(PAGES)])
        return answer_of(record, good=record["status"] == 200)

    def _write(self, _: int) -> Answer:
        number = self.ledger.number()
        key = f"{self.prefix}{number}"
        record = self._ask(VARIABLES, json.dumps({"key": key, "value": "x"}).encode())
        answer = answer_of(record, good=record["status"] == 201)
        self.ledger.note(Write(number, answer.began, answer.ended, answer.what))
        if answer.good:
            self.ledger.reread(answer_of(self._ask(f"{VARIABLES}/{key}"), good=True).what)
        return answer

    def _log_in(self, _: int) -> Answer:
        task = self.site.task() | {"count": 1}
        task |= {"username": self.site.username, "password": self.site.password}
        began = time.time()
        found = player.log_in(task)
        last = found["records"][-1]
        answer = answer_of(last, good="_token=" in found["cookie"])
        return Answer(began, answer.ended, answer.what, answer.good)


def answer_of(record: dict[str, Any], *, good: bool) -> Answer:
    """Return what a record of `bench.player` says."""
    what = str(record["status"]) if record["status"] else record["error"]
    return Answer(record["began"], record["began"] + record["seconds"], what, good)
