"""A bound on the requests inside a web app. Managed by Salt (salt/airflow).

Each request inside Airflow holds a thread and connections of the database pool. A request too many
waits for a connection while it holds what the others need: the worker stands still. So a worker
lets in as many requests as its pool can serve, and all others wait here, first come, first served.
A request that waits costs a few kilobytes, and neither a thread nor a connection.

The page of health goes past the queue, so that a worker that is busy is not taken for a dead one. A
stream that waits for a run to finish is a request like any other until its answer begins, and then
holds no place: it may last for hours.

A request whose answer is an error because the database could not be asked is answered 503: it may
be tried again, which nobody does after a 500.

This module knows ASGI only, and nothing of Airflow: https://asgi.readthedocs.io/
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH = "/api/v2/monitor/health"
STREAM = re.compile(r"/api/v2/dags/[^/]+/dagRuns/[^/]+/wait")
READS = ("GET", "HEAD", "OPTIONS")
# After which an answer that the database could not give is asked for again, in seconds.
DATABASE_SECONDS = 5


@dataclass(frozen=True)
class Limits:
    """What one worker takes.

    Attributes:
        requests: how many requests are inside the app at once.
        queue: how many others wait at most.
        wait_seconds: how long a request waits at most.
        answer_seconds: how long a client waits at most for the beginning of an answer, with the
            time in the queue.
        health_seconds: the same for the page of health.
        streams: how many streams last at once.
    """

    requests: int
    queue: int
    wait_seconds: float
    answer_seconds: float
    health_seconds: float
    streams: int


class RefusedError(Exception):
    """A request does not come in.

    Attributes:
        retry_after: the seconds after which another try makes sense.
    """

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class GoneError(Exception):
    """The client has left."""


class Lane:
    """So many places, and a queue before them."""

    def __init__(self, places: int, queue: int, seconds: float) -> None:
        """Take the number of places and of waiting requests, and how long those wait at most."""
        self._free = places
        self._queue = queue
        self._seconds = seconds
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self, inbox: Inbox) -> None:
        """Wait for a place.

        Args:
            inbox: what comes from the client, who may leave meanwhile.

        Raises:
            RefusedError: the queue is full, or the request has waited too long.
            GoneError: the client has left.
        """
        if self._free and not self._waiting:
            self._free -= 1
            return
        if len(self._waiting) >= self._queue:
            raise RefusedError("Too many requests wait.", max(1, round(self._seconds / 2)))
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        gone = asyncio.ensure_future(inbox.gone())
        try:
            await asyncio.wait(
                {place, gone}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
        except asyncio.CancelledError:
            if place.done():
                self.leave()
            raise
        finally:
            gone.cancel()
            if not place.done():
                place.cancel()
                self._waiting.remove(place)
        if not place.cancelled():
            return
        if gone.done() and not gone.cancelled():
            raise GoneError
        raise RefusedError("The request has waited too long.", max(1, round(self._seconds / 2)))

    def leave(self) -> None:
        """Give the place to the request that has waited longest."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1


class Inbox:
    """What comes from the client. It keeps what it has read to notice that the client leaves."""

    def __init__(self, receive: Receive) -> None:
        """Read from `receive` of the request."""
        self._receive = receive
        self._read: deque[Message] = deque()

    async def gone(self) -> None:
        """Return when the client has left; never while parts of a large body are still to come."""
        while True:
            message = await self._receive()
            self._read.append(message)
            if message["type"] == "http.disconnect":
                return
            if message.get("more_body"):
                # The server reads no further until the app takes this part.
                await asyncio.get_running_loop().create_future()

    async def receive(self) -> Message:
        """Return the next message, for the app."""
        return self._read.popleft() if self._read else await self._receive()


class Database:
    """What a request has met when it asked the database."""

    def __init__(self, *, reads: bool) -> None:
        """Take whether the request only reads."""
        self._reads = reads
        self.failed = False

    def fail(self, *, connected: bool) -> None:
        """Note that the database could not be asked, or has ended a statement.

        A write that was connected may have been done: its error stays an error.
        """
        self.failed = self.failed or self._reads or not connected


# Of the request that is being served, in its tasks and threads.
database: ContextVar[Database | None] = ContextVar("database", default=None)


class Outbox:
    """What goes to the client: the app's answer, or one in its place."""

    def __init__(self, send: Send, asked: Database, started: Callable[[], None]) -> None:
        """Send with `send`, and call `started` once an answer of the app begins."""
        self._send = send
        self._asked = asked
        self._started = started
        self._begun = False
        self._instead: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        """Pass on a message of the app. What follows another answer is dropped."""
        if not self._begun and message.get("status") == 500 and self._asked.failed:
            self._replace(503, "The database does not answer.", DATABASE_SECONDS)
        if self._instead is not None:
            return
        if not self._begun:
            self._begun = True
            self._started()
        await self._send(message)

    def give_up(self) -> None:
        """Answer in place of the app, unless its answer has begun.

        The app goes on with the request, which holds its place meanwhile: a thread that waits for
        the database cannot be stopped. So nobody knows whether a change was made: 504, not 503.
        """
        if not self._begun:
            self._replace(504, "The app has not answered in time.")

    def _replace(self, status: int, reason: str, retry_after: int | None = None) -> None:
        if self._instead is None:
            answer = refuse(self._send, status, reason, retry_after)
            self._instead = asyncio.ensure_future(answer)

    async def finish(self) -> None:
        """Wait until an answer in place of the app's has gone out."""
        if self._instead is not None:
            with suppress(OSError):
                await self._instead


class Place:
    """A place in a lane, which is given back once."""

    def __init__(self, lane: Lane) -> None:
        """Hold a place that `lane.enter` has given."""
        self._lane: Lane | None = lane

    def leave(self) -> None:
        """Give the place back, unless that was done."""
        if self._lane is not None:
            self._lane.leave()
            self._lane = None


class Shared:
    """One answer for all who ask within a second: the page of health is the same for everybody.

    A check must neither wait behind people nor, in a flood of checks, hold more than one place.
    """

    def __init__(self, app: App, path: str, seconds: float) -> None:
        """Ask `app` for `path`, and let nobody wait longer than `seconds`."""
        self._app = app
        self._path = path
        self._seconds = seconds
        self._answer: asyncio.Task[list[Message]] | None = None
        self._fresh_until = 0.0

    async def serve(self, send: Send) -> None:
        """Send the answer, or 503 when there is none in time."""
        now = asyncio.get_running_loop().time()
        if self._answer is None or (self._answer.done() and now >= self._fresh_until):
            self._answer = asyncio.ensure_future(self._ask())
        answer = self._answer
        await asyncio.wait({answer}, timeout=self._seconds)
        if not answer.done() or answer.exception() is not None:
            await refuse(send, 503, "The app has not answered in time.", 1)
            return
        for message in answer.result():
            await send(message)

    async def _ask(self) -> list[Message]:
        # Without the headers of a client: a token could change the answer.
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost")],
            "client": None,
            "server": None,
            "state": {},
        }
        answer: list[Message] = []
        request: deque[Message] = deque([{"type": "http.request", "body": b""}])

        async def receive() -> Message:
            if not request:
                await asyncio.get_running_loop().create_future()
            return request.popleft()

        async def send(message: Message) -> None:
            answer.append(message)

        await self._app(scope, receive, send)
        self._fresh_until = asyncio.get_running_loop().time() + 1
        return answer


class Bounded:
    """An ASGI app in which no more than so many requests are at once."""

    def __init__(self, app: App, limits: Limits) -> None:
        """Wrap an app."""
        self._app = app
        self._seconds = limits.answer_seconds
        self._lane = Lane(limits.requests, limits.queue, limits.wait_seconds)
        self._health = Shared(app, HEALTH, limits.health_seconds)
        self._streams = limits.streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the app's start and end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == HEALTH and scope["method"] == "GET":
            await self._health.serve(send)
        elif STREAM.fullmatch(scope["path"]):
            await self._stream(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._streams:
            await refuse(send, 503, "Too many streams are open.", 10)
            return
        self._streams -= 1
        try:
            await self._serve(scope, receive, send, stream=True)
        finally:
            self._streams += 1

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, *, stream: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        inbox = Inbox(receive)
        try:
            await self._lane.enter(inbox)
        except GoneError:
            return
        except RefusedError as error:
            await refuse(send, 503, str(error), error.retry_after)
            return
        place = Place(self._lane)
        asked = Database(reads=scope["method"] in READS)
        database.set(asked)
        outbox = Outbox(send, asked, place.leave if stream else lambda: None)
        late = loop.call_at(arrived + self._seconds, outbox.give_up)
        try:
            await self._app(scope, inbox.receive, outbox.send)
        finally:
            late.cancel()
            place.leave()
            await outbox.finish()


async def refuse(send: Send, status: int, reason: str, retry_after: int | None = None) -> None:
    """Answer without the app, in the form of Airflow's errors."""
    body = json.dumps({"detail": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
