"""The bound before the web app: who comes in, who waits, who is refused, and who leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from plainpillar import ROOT
from saltmodules import load_file

Scope = dict[str, Any]
Message = dict[str, Any]

web_queue = load_file(ROOT / "salt/airflow/files/web_queue.py")
LIMITS = web_queue.Limits(
    requests=2, queue=3, wait_seconds=5, answer_seconds=10, health_seconds=5, streams=1
)
STREAM = "/api/v2/dags/a/dagRuns/b/wait"
TICK = 0.01
WHOLE = {"type": "http.request", "body": b"", "more_body": False}
SILENCE: Message = {}  # in place of a request whose body has not arrived


class Client:
    """A request, from the client's side."""

    def __init__(self, bound: Any, path: str, *messages: Message) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages or (WHOLE,):
            if message != SILENCE:
                self._inbox.put_nowait(message)
        self.answer: list[Message] = []
        scope = {"type": "http", "path": path, "method": "GET", "headers": []}
        self.task = asyncio.ensure_future(bound(scope, self._inbox.get, self._send))

    async def _send(self, message: Message) -> None:
        self.answer.append(message)

    def say(self, body: bytes) -> None:
        self._inbox.put_nowait({**WHOLE, "body": body})

    def leave(self) -> None:
        self._inbox.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int | None:
        return self.answer[0]["status"] if self.answer else None

    @property
    def retry_after(self) -> int:
        return int(dict(self.answer[0]["headers"])[b"retry-after"])

    @property
    def detail(self) -> str:
        return str(json.loads(self.answer[1]["body"])["detail"])


class App:
    """An app whose requests end when the test says so."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.seen: list[str] = []
        self.bodies: list[bytes] = []
        self._end: dict[str, asyncio.Event] = {}

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        path = scope["path"]
        self.inside.append(path)
        self.seen.append(path)
        end = self._end.setdefault(path, asyncio.Event())
        try:
            message = await receive()
            self.bodies.append(message.get("body", b""))
            if path == STREAM:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await end.wait()
            if path == "/broken":
                raise ValueError(path)
            if path != STREAM:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": path.encode()})
        finally:
            self.inside.remove(path)

    def finish(self, path: str) -> None:
        self._end.setdefault(path, asyncio.Event()).set()


Story = Callable[[App, Callable[..., Client]], Coroutine[Any, Any, None]]


def play(story: Story, **limits: Any) -> None:
    """Run a test's story with a bound app, and end what it leaves."""

    async def run() -> None:
        app = App()
        bound = web_queue.Bounded(app, replace(LIMITS, **limits))
        clients: list[Client] = []

        def ask(path: str, *messages: Message) -> Client:
            clients.append(Client(bound, path, *messages))
            return clients[-1]

        await story(app, ask)
        for client in clients:
            client.task.cancel()
        await asyncio.gather(*(client.task for client in clients), return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 20))


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_no_more_requests_come_in_than_the_limit_and_the_first_comes_first() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        for path in ("/a", "/b", "/c", "/d"):
            ask(path)
        await settle()
        assert app.inside == ["/a", "/b"]
        app.finish("/b")
        await settle()
        assert app.inside == ["/a", "/c"]
        app.finish("/a")
        await settle()
        assert app.inside == ["/c", "/d"]

    play(story)


def test_waiting_requests_are_answered_by_the_app() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        clients = [ask(f"/{number}") for number in range(5)]
        for number in range(5):
            app.finish(f"/{number}")
        await asyncio.gather(*(client.task for client in clients))
        assert [client.answer[1]["body"] for client in clients] == [
            b"/0",
            b"/1",
            b"/2",
            b"/3",
            b"/4",
        ]

    play(story)


def test_later_request_does_not_overtake_the_queue() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        for path in ("/a", "/b", "/c"):
            ask(path)
        await settle()
        app.finish("/a")
        ask("/d")
        await settle()
        assert app.inside == ["/b", "/c"]

    play(story)


def test_full_queue_refuses_with_a_time_to_try_again() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        clients = [ask(f"/{number}") for number in range(6)]
        await settle()
        assert [client.status for client in clients] == [None] * 5 + [503]
        assert clients[5].detail == "Too many requests wait."
        assert clients[5].retry_after == 2
        assert "/5" not in app.seen

    play(story)


def test_request_that_waits_too_long_is_refused_and_its_place_goes_to_the_next() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        ask("/a"), ask("/b")
        late = ask("/late")
        await late.task
        assert (late.status, late.detail) == (503, "The request has waited too long.")
        assert late.retry_after == 1
        ask("/next")
        app.finish("/a")
        await settle()
        assert app.inside == ["/b", "/next"]

    play(story, wait_seconds=5 * TICK)


def test_request_of_a_client_who_left_never_comes_in() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        ask("/a"), ask("/b")
        gone, stays = ask("/gone"), ask("/stays")
        await settle()
        gone.leave()
        await gone.task
        assert gone.answer == []
        app.finish("/a")
        await settle()
        assert app.inside == ["/b", "/stays"]
        assert not stays.answer

    play(story)


def test_body_that_was_read_in_the_queue_reaches_the_app() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        ask("/a"), ask("/b")
        ask("/c", {"type": "http.request", "body": b"half", "more_body": True})
        await settle()
        app.finish("/a")
        await settle()
        assert app.bodies == [b"", b"", b"half"]

    play(story)


def test_body_that_arrives_after_the_queue_reaches_the_app() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        ask("/a"), ask("/b")
        slow = ask("/c", SILENCE)
        await settle()
        app.finish("/a")
        await settle()
        slow.say(b"late")
        await settle()
        assert app.bodies == [b"", b"", b"late"]

    play(story)


def test_request_that_ends_as_it_gets_its_place_gives_it_back() -> None:
    async def story() -> None:
        lane = web_queue.Lane(1, 1, 5)
        silent: asyncio.Queue[Message] = asyncio.Queue()
        await lane.enter(web_queue.Inbox(silent.get))
        second = asyncio.ensure_future(lane.enter(web_queue.Inbox(silent.get)))
        await settle()
        lane.leave()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await asyncio.wait_for(lane.enter(web_queue.Inbox(silent.get)), 1)

    asyncio.run(story())


def test_failing_request_gives_its_place_back() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        broken, _ = ask("/broken"), ask("/b")
        ask("/c")
        app.finish("/broken")
        with pytest.raises(ValueError, match="/broken"):
            await broken.task
        await settle()
        assert app.inside == ["/b", "/c"]

    play(story)


@pytest.mark.parametrize(
    ("method", "connected", "status"),
    [
        ("GET", None, 500),
        ("GET", False, 503),
        ("GET", True, 503),
        ("POST", False, 503),
        ("POST", True, 500),
    ],
)
def test_error_of_a_database_that_could_not_be_asked_may_be_tried_again(
    method: str, connected: bool | None, status: int
) -> None:
    """Not a write that was connected: it may have been done. `None`: it was no such error."""
    answer: list[Message] = []

    async def app(*arguments: Any) -> None:
        *_, send = arguments
        if connected is not None:
            ask = web_queue.database.get().fail
            await asyncio.to_thread(ask, connected=connected)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"an error"})
        raise ValueError(method)

    async def receive() -> Message:
        return WHOLE

    async def send(message: Message) -> None:
        answer.append(message)

    async def ask() -> None:
        await web_queue.Bounded(app, LIMITS)(
            {"type": "http", "path": "/a", "method": method, "headers": []}, receive, send
        )

    with pytest.raises(ValueError, match=method):
        asyncio.run(ask())
    assert [message.get("status") for message in answer] == [status, None]
    if status == 503:
        assert dict(answer[0]["headers"])[b"retry-after"] == b"5"
        assert b"The database does not answer." in answer[1]["body"]


def test_late_answer_is_replaced_and_keeps_its_place_until_it_ends() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        late = ask("/late")
        ask("/b")
        await asyncio.sleep(10 * TICK)
        assert (late.status, late.detail) == (504, "The app has not answered in time.")
        ask("/c")
        await settle()
        assert app.inside == ["/late", "/b"]
        app.finish("/late")
        await late.task
        assert len(late.answer) == 2
        await settle()
        assert app.inside == ["/b", "/c"]

    play(story, answer_seconds=5 * TICK)


def test_answer_in_time_is_left_alone() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        client = ask("/a")
        app.finish("/a")
        await client.task
        await asyncio.sleep(10 * TICK)
        assert [client.status, len(client.answer)] == [200, 2]

    play(story, answer_seconds=5 * TICK)


def test_answer_that_has_begun_in_time_is_left_alone() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        stream = ask(STREAM)
        await asyncio.sleep(10 * TICK)
        assert [stream.status, len(stream.answer)] == [200, 1]
        app.finish(STREAM)
        await stream.task
        assert len(stream.answer) == 2

    play(story, answer_seconds=5 * TICK)


def test_time_in_the_queue_counts_for_the_answer() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        ask("/a"), ask("/b")
        waited = ask("/c")
        await asyncio.sleep(3 * TICK)
        app.finish("/a")
        await asyncio.sleep(5 * TICK)
        assert waited.status == 504

    play(story, answer_seconds=6 * TICK)


def test_health_is_answered_while_the_app_is_full() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        for number in range(6):
            ask(f"/{number}")
        app.finish(web_queue.HEALTH)
        health = ask(web_queue.HEALTH)
        await health.task
        assert health.status == 200

    play(story)


def test_one_answer_of_health_is_for_all_who_ask_at_the_same_time() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        first = [ask(web_queue.HEALTH) for _ in range(50)]
        await settle()
        assert app.inside == [web_queue.HEALTH]
        app.finish(web_queue.HEALTH)
        await asyncio.gather(*(client.task for client in first))
        await ask(web_queue.HEALTH).task
        assert {client.status for client in first} == {200}
        assert app.seen == [web_queue.HEALTH]

    play(story)


def test_answer_of_health_is_not_remembered_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        app.finish(web_queue.HEALTH)
        await ask(web_queue.HEALTH).task
        loop = asyncio.get_running_loop()
        later = loop.time() + 1.1
        monkeypatch.setattr(loop, "time", lambda: later)
        await ask(web_queue.HEALTH).task
        assert app.seen == [web_queue.HEALTH] * 2

    play(story)


def test_health_that_does_not_answer_is_refused_and_asked_once() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        first = ask(web_queue.HEALTH)
        await first.task
        second = ask(web_queue.HEALTH)
        await second.task
        assert [first.status, second.status] == [503, 503]
        assert first.retry_after == 1
        assert app.inside == [web_queue.HEALTH]

    play(story, health_seconds=2 * TICK)


def test_stream_holds_no_place_once_its_answer_has_begun() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        stream = ask(STREAM)
        await settle()
        assert stream.status == 200
        ask("/a"), ask("/b"), ask("/c")
        await settle()
        assert app.inside == [STREAM, "/a", "/b"]
        app.finish(STREAM)
        await stream.task
        await settle()
        assert app.inside == ["/a", "/b"]

    play(story)


def test_stream_waits_like_any_request_until_its_answer_begins() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        ask("/a"), ask("/b"), ask(STREAM)
        await settle()
        assert app.inside == ["/a", "/b"]

    play(story)


def test_one_stream_too_many_is_refused() -> None:
    async def story(app: App, ask: Callable[..., Client]) -> None:
        first = ask(STREAM)
        await settle()
        second = ask(STREAM)
        await settle()
        assert (second.status, second.detail) == (503, "Too many streams are open.")
        app.finish(STREAM)
        await first.task
        third = ask(STREAM)
        await third.task
        assert third.status == 200

    play(story)


def test_start_and_end_of_the_app_pass() -> None:
    async def story() -> list[str]:
        seen: list[str] = []

        async def app(scope: Scope, *_: Any) -> None:
            seen.append(scope["type"])

        await web_queue.Bounded(app, LIMITS)({"type": "lifespan"}, None, None)
        return seen

    assert asyncio.run(story()) == ["lifespan"]
