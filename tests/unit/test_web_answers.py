"""Answers that readers share: who may, who may not, for how long, and what a failure does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import ModuleType
from typing import Any

import pytest

from plainpillar import ROOT
from saltmodules import load_file

PATH = "/ui/next_run_assets/a"
ALL = ("can_read", "DAGs")
Scope = dict[str, Any]
Message = dict[str, Any]


@pytest.fixture(scope="module")
def answers() -> ModuleType:
    load_file(ROOT / "salt/airflow/files/web_queue.py")
    return load_file(ROOT / "salt/airflow/files/web_answers.py")


class App:
    """An app that counts the requests inside, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b"x"
        self.ends = True
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, _scope: Scope, _receive: Any, send: Any) -> None:
        self.asked += 1
        number = self.asked
        await self.gate.wait()
        if self.error:
            raise self.error
        headers = [(b"x-number", str(number).encode()), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": not self.ends})


class Readers:
    """Who the tokens belong to: permissions and favourites by token; the others are refused."""

    def __init__(self, module: ModuleType) -> None:
        self._reader = module.Reader
        self.known: dict[str, tuple[set[tuple[str, str]], tuple[str, ...]]] = {
            "one": ({ALL, ("menu_access", "Pools")}, ()),
            "other": ({("menu_access", "Pools"), ALL}, ("a",)),
            "more": ({ALL, ("menu_access", "Pools"), ("can_edit", "DAGs")}, ()),
            "some": ({("can_read", "DAG:a")}, ()),
            "none": (set(), ()),
        }
        self.looked = 0

    async def __call__(self, token: str) -> Any:
        self.looked += 1
        if token == "unknown":
            return None
        permissions, favourites = self.known[token]
        return self._reader(frozenset(permissions), favourites)


@pytest.fixture
def readers(answers: ModuleType) -> Readers:
    return Readers(answers)


def reader(token: str = "one", **changed: Any) -> Scope:
    """Return a request of the owner of a token."""
    headers = [(b"host", b"a"), (b"cookie", f"a=b; _token={token}".encode())]
    scope = {"type": "http", "method": "GET", "path": PATH, "query_string": b""}
    return scope | {"headers": headers} | changed


async def ask(shared: Any, scope: Scope) -> list[Message]:
    """Return the answer to a request."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await shared(scope, None, send)
    return messages


def number(answer: list[Message]) -> int:
    """Return which request of the app an answer is from."""
    return int(dict(answer[0]["headers"])[b"x-number"])


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_readers_with_the_same_permissions_share_an_answer(
    answers: ModuleType, readers: Readers
) -> None:
    async def scenario() -> None:
        shared = answers.SharedAnswers(App(), readers, seconds=60)
        first, second = await ask(shared, reader("one")), await ask(shared, reader("other"))
        assert (number(first), number(second)) == (1, 1)
        assert [m.get("body") for m in second] == [None, b"x", b""]

    run(scenario())


COOKIE = b"_token=one"


@pytest.mark.parametrize(
    "changed",
    [
        {"headers": reader("more")["headers"]},
        {"headers": reader("some")["headers"]},
        {"headers": reader("none")["headers"]},
        {"headers": reader("revoked")["headers"]},
        {"headers": reader("unknown")["headers"]},
        {"headers": []},
        {"headers": [(b"cookie", COOKIE), (b"authorization", b"Bearer other")]},
        {"headers": [(b"cookie", COOKIE + b"; _token=other")]},
        {"headers": [(b"cookie", COOKIE), (b"cookie", COOKIE)]},
        {"headers": [(b"cookie", COOKIE + b"; has_changed=1")]},
        {"headers": [(b"cookie", b"x_token=one")]},
        {"headers": [(b"cookie", COOKIE), (b"accept-encoding", b"gzip")]},
        {"query_string": b"before=2026"},
        {"query_string": b"before=2026-11-26T07%3A51%3A38.132Z"},
        {"path": "/ui/next_run_assets/b"},
        {"path": "/ui/next_run_assets/a/b"},
        {"path": "/ui/auth/me"},
        {"path": "/ui/dashboard/historical_metrics_data"},
        {"path": "/api/v2/dags/a/dagRuns"},
        {"method": "HEAD"},
    ],
    ids=lambda changed: "-".join(map(str, changed)),
)
def test_others_do_not_share_it(answers: ModuleType, readers: Readers, changed: Scope) -> None:
    async def scenario() -> None:
        app = App()
        shared = answers.SharedAnswers(app, readers, seconds=60)
        assert number(await ask(shared, reader())) == 1
        assert number(await ask(shared, reader() | changed)) == 2
        assert number(await ask(shared, reader())) == 1 or "dagRuns" in changed.get("path", "")

    run(scenario())


@pytest.mark.parametrize("path", ["/ui/dags", "/api/v2/dags"])
def test_list_with_favourites_is_shared_by_who_has_the_same(
    answers: ModuleType, readers: Readers, path: str
) -> None:
    async def scenario() -> None:
        shared = answers.SharedAnswers(App(), readers, seconds=60)
        tokens = ("one", "other", "one", "other")
        numbers = [number(await ask(shared, reader(token, path=path))) for token in tokens]
        assert numbers == [1, 2, 1, 2]

    run(scenario())


def test_token_is_looked_up_for_each_request(answers: ModuleType, readers: Readers) -> None:
    async def scenario() -> None:
        shared = answers.SharedAnswers(App(), readers, seconds=60)
        assert [number(await ask(shared, reader())) for _ in range(2)] == [1, 1]
        assert readers.looked == 2
        del readers.known["one"]
        assert number(await ask(shared, reader())) == 2

    run(scenario())


def test_answer_is_shared_for_its_time_only(answers: ModuleType, readers: Readers) -> None:
    async def scenario() -> None:
        shared = answers.SharedAnswers(App(), readers, seconds=0)
        assert [number(await ask(shared, reader())) for _ in range(2)] == [1, 2]

    run(scenario())


@pytest.mark.parametrize(
    ("path", "seconds"), [("/ui/config", 60), (PATH, 1), ("/ui/dags", 1), ("/api/v2/pools/a", 0)]
)
def test_settings_are_shared_for_longer(answers: ModuleType, path: str, seconds: int) -> None:
    assert answers._seconds(path) == seconds


def test_readers_at_the_same_moment_wait_for_one_answer(
    answers: ModuleType, readers: Readers
) -> None:
    async def scenario() -> None:
        app = App()
        shared = answers.SharedAnswers(app, readers, seconds=0)
        app.gate.clear()
        asking = [asyncio.ensure_future(ask(shared, reader())) for _ in range(5)]
        await asyncio.sleep(0)
        app.gate.set()
        assert [number(answer) for answer in await asyncio.gather(*asking)] == [1] * 5

    run(scenario())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", 404),
        ("headers", [(b"Set-Cookie", b"a=b")]),
        ("headers", [(b"Vary", b"Origin")]),
        ("body", b"x" * 140_000),
        ("ends", False),
    ],
)
def test_answer_that_is_for_one_reader_is_not_kept(
    answers: ModuleType, readers: Readers, name: str, value: Any
) -> None:
    async def scenario() -> None:
        app = App()
        setattr(app, name, value)
        shared = answers.SharedAnswers(app, readers, seconds=60)
        assert [number(await ask(shared, reader())) for _ in range(2)] == [1, 2]

    run(scenario())


def test_compressed_answer_is_shared_by_who_accepts_it(
    answers: ModuleType, readers: Readers
) -> None:
    async def scenario() -> None:
        app = App()
        app.headers = [(b"Vary", b"Accept-Encoding")]
        shared = answers.SharedAnswers(app, readers, seconds=60)
        assert [number(await ask(shared, reader())) for _ in range(2)] == [1, 1]

    run(scenario())


def test_failure_is_the_first_readers_own(answers: ModuleType, readers: Readers) -> None:
    async def scenario() -> None:
        app = App()
        shared = answers.SharedAnswers(app, readers, seconds=60)
        app.gate.clear()
        app.error = RuntimeError("no answer")
        first = asyncio.ensure_future(ask(shared, reader()))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(ask(shared, reader()))
        await asyncio.sleep(0)
        app.gate.set()
        with pytest.raises(RuntimeError, match="no answer"):
            await first
        app.error = None
        assert number(await second) == 2

    run(scenario())


def test_reader_that_leaves_keeps_nobody_waiting(answers: ModuleType, readers: Readers) -> None:
    async def scenario() -> None:
        app = App()
        shared = answers.SharedAnswers(app, readers, seconds=60)
        app.gate.clear()
        first, second = (asyncio.ensure_future(ask(shared, reader())) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        app.gate.set()
        assert number(await second) == 2

    run(scenario())


def test_slow_client_keeps_nobody_waiting(answers: ModuleType, readers: Readers) -> None:
    async def scenario() -> None:
        shared = answers.SharedAnswers(App(), readers, seconds=60)
        sent = asyncio.Event()

        async def send(_: Message) -> None:
            await sent.wait()

        slow = asyncio.ensure_future(shared(reader(), None, send))
        await asyncio.sleep(0)
        assert number(await asyncio.wait_for(ask(shared, reader()), 5)) == 1
        sent.set()
        await slow

    run(scenario())


@pytest.mark.parametrize(
    ("path", "marks"),
    [
        ("/api/v2/dags/a", True),
        (PATH, True),
        ("/auth/users/edit/1", True),
        ("/auth/login/", False),
        ("/auth/token", False),
        ("/auth/tokens", True),
    ],
)
def test_who_changes_something_reads_his_own_answers(
    answers: ModuleType, readers: Readers, path: str, marks: bool
) -> None:
    async def scenario() -> None:
        shared = answers.SharedAnswers(App(), readers, seconds=60)
        answer = await ask(shared, reader(method="POST", path=path))
        cookie = dict(answer[0]["headers"]).get(b"set-cookie", b"").decode()
        assert cookie.startswith("has_changed=1; Max-Age=20; Path=/; HttpOnly; Secure") is marks
        assert number(answer) == 1

    run(scenario())


def test_answers_have_a_bound(answers: ModuleType, readers: Readers) -> None:
    async def scenario() -> None:
        app = App()
        app.body = b"x" * 100_000
        shared = answers.SharedAnswers(app, readers, seconds=60)
        for index in range(50):
            await ask(shared, reader(path=f"/ui/next_run_assets/{index}"))
        assert len(shared._answers) == answers.ALL_BYTES // 100_000
        assert shared._size == sum(answer.size for answer in shared._answers.values())
        newest = await ask(shared, reader(path="/ui/next_run_assets/49"))
        assert number(newest) == 50
        oldest = await ask(shared, reader(path="/ui/next_run_assets/0"))
        assert number(oldest) == 51

    run(scenario())
