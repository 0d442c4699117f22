"""Readers with the same permissions share an answer for a second. Managed by Salt (salt/airflow).

A list of DAGs asks two questions about each DAG that waits for assets, and every page asks for
settings and menus again. The answers depend on the database and on what the reader may see, and on
nothing else of the reader. So the first of many readers computes one, and the others get it: those
who ask at the same moment too. Nobody gets one whose token has not been looked up for this request.

- A reader who may not read all DAGs has answers of his own: Airflow compares his roles in the
  database with the DAGs, and not the permissions that are known here.
- A browser that has just changed something has its own answers: a cookie says so to every web
  machine.
- A token in a header has its own answers: a program may write, and read what it wrote.

This module knows ASGI only, and nothing of Airflow: https://asgi.readthedocs.io/
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from web_queue import READS, App, Message, Receive, Scope, Send

# What Airflow's handlers of these pages read was looked up in its code; docs/airflow.md has the
# list. The settings of a process change with its restart.
SETTINGS = re.compile(r"/ui/(config|auth/menus)|/api/v2/plugins(/importErrors)?")
SETTINGS_SECONDS = 60.0
LISTS = re.compile(
    r"/ui/(dags|dashboard/dag_stats|next_run_assets/[^/]+|dags/~/dagRuns/~/deadlines)"
    r"|/api/v2/(dags|dagTags|importErrors|pools"
    r"|dags/[^/]+/assets/queuedEvents|dags/~/dagRuns(/~/hitlDetails)?)"
)
LISTS_SECONDS = 1.0
# Lists that mark the reader's favourites, or have nothing else.
FAVOURITES = ("/ui/dags", "/api/v2/dags")
# A time of the browser's clock, in milliseconds: nobody else asks the same.
OWN_TIME = re.compile(rb"[0-9](:|%3A)[0-9]{2}\.(?!000)[0-9]{3}Z")
SEE_ALL = ("can_read", "DAGs")
BYTES = 128 * 1024
ALL_BYTES = 4 * 1024 * 1024

TOKEN = b"_token="
# A login changes nothing that is shared.
LOGIN = re.compile(r"/auth/(login|token)\b.*")
COOKIE = b"has_changed="
# Longer than an answer may be computed and shared (salt/airflow/defaults.yaml).
SET_COOKIE = COOKIE + b"1; Max-Age=20; Path=/; HttpOnly; Secure; SameSite=Lax"


@dataclass(frozen=True)
class Reader:
    """What an answer depends on.

    Attributes:
        permissions: pairs of an action and a resource.
        favourites: the DAGs that the reader has marked.
    """

    permissions: frozenset[tuple[str, str]]
    favourites: tuple[str, ...]


# From a token; an error, or None: the app has to say what is wrong with it.
Look = Callable[[str], Awaitable[Reader | None]]


@dataclass
class Answer:
    """An answer that may be shared, once it is complete.

    Attributes:
        messages: the answer; None: it is not for others.
        fresh_until: by the clock of the event loop.
    """

    messages: asyncio.Future[list[Message] | None]
    fresh_until: float = 0.0
    size: int = 0


class SharedAnswers:
    """An ASGI app that asks another one once for all who may see the same answer."""

    def __init__(self, app: App, look: Look, seconds: float | None = None) -> None:
        """Wrap an app.

        Args:
            app: the app that answers.
            look: looks up who a token belongs to, for each request.
            seconds: how long an answer is shared, in place of what its page says.
        """
        self._app = app
        self._look = look
        self._seconds = seconds
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()
        self._size = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] not in READS:
            is_change = not LOGIN.fullmatch(scope["path"])
            await self._app(scope, receive, _marking(send) if is_change else send)
        elif (key := await self._key(scope)) is None:
            await self._app(scope, receive, send)
        else:
            await self._share(key, scope, receive, send)

    async def _key(self, scope: Scope) -> Hashable | None:
        """Return what readers of the same answer have in common; None: it is not shared."""
        path, query = scope["path"], scope["query_string"]
        if scope["method"] != "GET" or not _seconds(path) or OWN_TIME.search(query):
            return None
        headers = dict(scope["headers"])
        token = _token(scope["headers"])
        if token is None:
            return None
        try:
            reader = await self._look(token)
        except Exception:  # noqa: BLE001 (whatever it is, the app meets it too, and answers)
            return None
        if reader is None or SEE_ALL not in reader.permissions:
            return None
        favourites = reader.favourites if path in FAVOURITES else ()
        encoding = headers.get(b"accept-encoding", b"")
        return path, query, encoding, reader.permissions, favourites

    async def _share(self, key: Hashable, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        answer = self._answers.get(key)
        if answer is not None and (not answer.messages.done() or loop.time() < answer.fresh_until):
            messages = await asyncio.shield(answer.messages)
            if messages is not None:
                for message in messages:
                    await send(dict(message))
                return
        mine = Answer(loop.create_future())
        self._remember(key, mine)
        messages = []

        async def keep(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, receive, keep)
        finally:
            self._complete(key, mine, messages if _is_shareable(messages) else None)
        for message in messages:
            await send(dict(message))

    def _remember(self, key: Hashable, answer: Answer) -> None:
        self._forget(key)
        self._answers[key] = answer

    def _forget(self, key: Hashable) -> None:
        if (old := self._answers.pop(key, None)) is not None:
            self._size -= old.size

    def _complete(self, key: Hashable, answer: Answer, messages: list[Message] | None) -> None:
        """Give an answer to those who wait, and keep it for those who come."""
        answer.messages.set_result(messages)
        if self._answers.get(key) is not answer:
            return
        if messages is None:
            self._forget(key)
            return
        seconds = _seconds(key[0]) if self._seconds is None else self._seconds  # type: ignore[index]
        answer.fresh_until = asyncio.get_running_loop().time() + seconds
        answer.size = _size(messages)
        self._size += answer.size
        self._answers.move_to_end(key)
        while self._size > ALL_BYTES:
            self._forget(next(iter(self._answers)))


def _seconds(path: str) -> float:
    """Return how long answers of a page are shared; 0: they are not."""
    if SETTINGS.fullmatch(path):
        return SETTINGS_SECONDS
    return LISTS_SECONDS if LISTS.fullmatch(path) else 0.0


def _token(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Return the token of a request that may get a shared answer."""
    tokens = []
    for name, value in headers:
        if name == b"authorization":
            return None
        if name == b"cookie":
            for cookie in value.split(b";"):
                if cookie.strip().startswith(COOKIE):
                    return None
                if cookie.strip().startswith(TOKEN):
                    tokens.append(cookie.strip().removeprefix(TOKEN))
    return tokens[0].decode("latin-1") if len(tokens) == 1 else None


def _marking(send: Send) -> Send:
    """Tell a browser that has changed something to say so for some seconds."""

    async def mark(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"set-cookie", SET_COOKIE)]
            message = {**message, "headers": headers}
        await send(message)

    return mark


def _size(messages: list[Message]) -> int:
    return sum(len(message.get("body", b"")) for message in messages)


def _is_shareable(messages: list[Message]) -> bool:
    """Return whether an answer is complete, good, small and for nobody in particular."""
    if not messages or messages[0].get("status") != 200 or messages[-1].get("more_body"):
        return False
    for name, value in messages[0].get("headers", []):
        if name.lower() == b"set-cookie":
            return False
        if name.lower() == b"vary" and value.lower() != b"accept-encoding":
            return False
    return len(messages) > 1 and _size(messages) <= BYTES
