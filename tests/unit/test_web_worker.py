"""When a web worker leaves, what it finishes first, and where tokens are looked up.

Airflow, gunicorn and uvicorn are not installed here: what the files derive from is replaced.
`tests/states/test_load.py` runs the real ones.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, Self

import pytest

from plainpillar import ROOT

Load = Callable[..., ModuleType]


class Server:
    """Uvicorn's, as far as the worker changes it."""

    def __init__(self, *connections: Any) -> None:
        self.closed = 0
        self.ended_with: list[Any] = []
        self.servers = [SimpleNamespace(close=self._close)]
        self.server_state = SimpleNamespace(connections=list(connections))

    def _close(self) -> None:
        self.closed += 1

    async def shutdown(self, _: object = None) -> None:
        self.ended_with = [connection.cycle for connection in self.server_state.connections]


class User(NamedTuple):
    """FAB's, and the thread that found it."""

    subject: str
    thread: int
    perms: frozenset[tuple[str, str]] = frozenset({("can_read", "DAGs")})


class FabAuthManager:
    """FAB's, as far as ours changes it."""

    log = SimpleNamespace(error=lambda *_: None)

    valid_seconds = 600.0

    def __init__(self) -> None:
        self.checked: list[str] = []

    def _get_token_validator(self) -> Any:
        def claims(token: str) -> dict[str, Any]:
            if token == "forged":
                raise InvalidTokenError(token)
            self.checked.append(token)
            found = {"jti": token, "sub": "1", "exp": time.time() + self.valid_seconds}
            return found | ({"session": "of " + token} if token == "good" else {})

        async def avalidated(token: str) -> dict[str, Any]:
            return claims(token)

        return SimpleNamespace(avalidated_claims=avalidated, validated_claims=claims)

    def serialize_user(self, user: User) -> dict[str, Any]:
        return {"sub": user.subject}

    def get_fastapi_app(self) -> Any:
        """Return an app with FAB's own logout."""
        self.flask_app = SimpleNamespace(test_request_context=self._opened)
        return SimpleNamespace(router=SimpleNamespace(routes=[("/logout", fab_logout)]))

    @staticmethod
    @contextmanager
    def _opened(headers: dict[str, str]) -> Iterator[None]:
        _, found, sid = headers["Cookie"].rpartition("session=signed ")
        flask_session.sid = sid if found else "new"
        yield

    def deserialize_user(self, claims: dict[str, Any]) -> User:
        if claims["jti"] == "orphan":
            raise ValueError("no such user")
        return User(claims["sub"], threading.get_ident())


class Session(dict[str, Any]):
    """Flask-Session's."""

    sid = ""


flask_session = Session()


def fab_logout(request: Any) -> str:
    """FAB's, which has the browser forget its cookies."""
    return f"see you, {request.headers['user-agent']}"


class InvalidTokenError(Exception):
    """PyJWT's."""


class OperationalError(Exception):
    """SQLAlchemy's."""


class Connection:
    """The driver's, in a pool that counts what happens to it."""

    def __init__(self) -> None:
        self.autocommit = False
        self.states: list[str] = []
        self.looked_up: list[str] = []
        self.sessions: list[str | None] = []
        self.ended: list[tuple[list[str], list[str]]] = []
        self.description: list[str] | None = None
        self.driver_connection = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.jti = ""

    def cursor(self) -> Connection:
        return self

    def execute(self, query: str, values: dict[str, Any]) -> None:
        assert self.autocommit, "it opens a transaction"
        is_of_session = "%(session)s" in query
        assert is_of_session != ("revoked_token" in query)
        self.description = None if "INSERT" in query else ["revoked", "favourites"]
        if self.description is None:
            assert all(seconds > time.time() for seconds in values["exps"])
            self.ended.append((values["sessions"], values["jtis"]))
            return
        self.jti, self.user = values["jti"], values["user"]
        self.sessions.append(values["session"] if is_of_session else None)
        if self.jti == "cut off":
            raise OSError("server closed the connection unexpectedly")

    def fetchone(self) -> tuple[bool, list[str]]:
        time.sleep(0.2 if self.jti == "slow" else 0)
        self.looked_up.append(self.jti)
        return self.jti == "revoked", [f"dag of {self.user}"]

    def invalidate(self) -> None:
        self.states.append("invalid")

    def close(self) -> None:
        self.states.append("autocommit" if self.autocommit else "as it was")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load(name, **modules)`: a file of salt/airflow/files, with these modules' contents."""

    def load(name: str, **contents: dict[str, Any]) -> ModuleType:
        made: dict[str, ModuleType] = {}
        for path, content in contents.items():
            parts = path.split("__")
            for end in range(1, len(parts) + 1):
                whole = ".".join(parts[:end])
                made[whole] = made.get(whole) or ModuleType(whole)
                monkeypatch.setitem(sys.modules, whole, made[whole])
            vars(sys.modules[".".join(parts)]).update(content)
        spec = importlib.util.spec_from_file_location(name, ROOT / f"salt/airflow/files/{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def worker(load: Load) -> ModuleType:
    return load(
        "web_worker",
        airflow__api_fastapi__gunicorn_app={
            "AirflowUvicornWorker": type("AirflowUvicornWorker", (), {"CONFIG_KWARGS": {"a": 1}})
        },
        airflow__api_fastapi__app={"get_auth_manager": object},
        gunicorn__arbiter={"Arbiter": object},
        sqlalchemy__event={"listen": object},
        sqlalchemy__engine={"Dialect": object, "Engine": object, "ExceptionContext": object},
        sqlalchemy__exc={"OperationalError": OperationalError},
        uvicorn__server={"Server": Server},
        web_answers={"SharedAnswers": object},
        web_queue={"Bounded": object, "Limits": object, "database": ContextVar("d", default=None)},
    )


@pytest.mark.parametrize(
    ("error", "connection", "told"),
    [
        (OperationalError("no route"), None, [{"connected": False}]),
        (OperationalError("timeout"), "a connection", [{"connected": True}]),
        (ValueError("a bug"), None, []),
    ],
    ids=["no connection", "in a statement", "another error"],
)
def test_request_is_told_that_the_database_could_not_be_asked(
    worker: ModuleType, error: Exception, connection: object, told: list[dict[str, bool]]
) -> None:
    context = SimpleNamespace(sqlalchemy_exception=error, connection=connection)
    worker.note(context)  # outside of a request
    noted: list[dict[str, bool]] = []
    worker.database.set(SimpleNamespace(fail=lambda **what: noted.append(what)))
    worker.note(context)
    assert noted == told


class Dialect:
    """SQLAlchemy's of a driver, whose server is there or not."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def connect(self, *args: str, **options: str) -> tuple[Any, ...]:
        if self._error:
            raise self._error
        return (args, options)


def test_connection_that_cannot_be_opened_is_told_whatever_the_driver_raises(
    worker: ModuleType,
) -> None:
    """SQLAlchemy passes on what asyncpg raises there: it is no OperationalError."""
    refused = Dialect(ConnectionRefusedError("[Errno 111] Connect call failed"))
    with pytest.raises(ConnectionRefusedError):
        worker.connect(refused, None, (), {})  # outside of a request
    noted: list[dict[str, bool]] = []
    worker.database.set(SimpleNamespace(fail=lambda **what: noted.append(what)))
    found = worker.connect(Dialect(None), None, ("db",), {"ssl": "verify-full"})
    assert found == (("db",), {"ssl": "verify-full"})
    assert noted == []
    with pytest.raises(ConnectionRefusedError):
        worker.connect(refused, None, (), {})
    assert noted == [{"connected": False}]


class Gunicorn:
    """Its master, whose workers are processes with these numbers."""

    def __init__(self, *workers: str) -> None:
        self.workers = list(workers)
        self.signals: list[signal.Signals] = []

    def kill(self, process: int, number: signal.Signals) -> None:
        assert process == os.getppid()
        self.signals.append(number)


@pytest.fixture
def gunicorn(monkeypatch: pytest.MonkeyPatch) -> Gunicorn:
    made = Gunicorn("7")
    monkeypatch.setattr(os, "kill", made.kill)
    return made


def renewal(worker: ModuleType, folder: Path, gunicorn: Gunicorn, own: float = 99) -> Any:
    made = worker.Renewal(folder / "lock", 100, 1000, 1)
    made.own = lambda: own
    made.siblings = lambda: gunicorn.workers
    return made


def later(worker: ModuleType, folder: Path) -> None:
    """Let the pause between two renewals pass."""
    earlier = time.time() - worker.PAUSE - 1
    os.utime(folder / "lock", (earlier, earlier))


@pytest.mark.parametrize(
    ("own", "requests", "due"), [(100, 1000, False), (101, 0, True), (0, 1001, True)]
)
def test_worker_is_renewed_that_has_grown_or_served_enough(
    worker: ModuleType,
    tmp_path: Path,
    gunicorn: Gunicorn,
    own: float,
    requests: int,
    due: bool,
) -> None:
    assert renewal(worker, tmp_path, gunicorn, own).due(requests) is due


def test_own_memory_is_what_the_process_shares_with_no_other(
    worker: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollup = "Rss: 9000 kB\nPrivate_Clean: 1024 kB\nPrivate_Dirty: 2048 kB\nShared_Clean: 7 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda _: rollup)
    assert worker.Renewal.own() == 3


def test_siblings_are_the_processes_of_the_same_parent(worker: ModuleType) -> None:
    assert str(os.getpid()) in worker.Renewal.siblings()


def test_one_worker_is_renewed_at_a_time(
    worker: ModuleType, tmp_path: Path, gunicorn: Gunicorn
) -> None:
    assert renewal(worker, tmp_path, gunicorn).begin()
    assert not renewal(worker, tmp_path, gunicorn).begin()
    assert gunicorn.signals == [signal.SIGTTIN]


def test_next_worker_is_renewed_when_the_new_one_has_had_time(
    worker: ModuleType, tmp_path: Path, gunicorn: Gunicorn
) -> None:
    assert renewal(worker, tmp_path, gunicorn).begin()
    assert not renewal(worker, tmp_path, gunicorn).begin()
    later(worker, tmp_path)
    assert renewal(worker, tmp_path, gunicorn).begin()


def test_worker_that_may_not_be_renewed_yet_stops_nobody_else(
    worker: ModuleType, tmp_path: Path, gunicorn: Gunicorn
) -> None:
    (tmp_path / "lock").write_text(".")
    first = renewal(worker, tmp_path, gunicorn)
    assert not first.begin()
    later(worker, tmp_path)
    assert renewal(worker, tmp_path, gunicorn).begin()


def test_workers_that_ask_at_once_are_one(
    worker: ModuleType, tmp_path: Path, gunicorn: Gunicorn
) -> None:
    with (tmp_path / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not renewal(worker, tmp_path, gunicorn).begin()
    assert renewal(worker, tmp_path, gunicorn).begin()
    assert gunicorn.signals == [signal.SIGTTIN]


def test_new_worker_that_has_not_come_is_asked_for_again(
    worker: ModuleType, tmp_path: Path, gunicorn: Gunicorn
) -> None:
    old = renewal(worker, tmp_path, gunicorn)
    assert old.begin()
    assert not old.begin()
    later(worker, tmp_path)
    assert old.begin()
    assert gunicorn.signals == [signal.SIGTTIN] * 2


def test_new_worker_has_the_oldest_one_leave_once_it_serves(
    worker: ModuleType, tmp_path: Path, gunicorn: Gunicorn
) -> None:
    old, new = (renewal(worker, tmp_path, gunicorn) for _ in range(2))
    old.finish()
    assert gunicorn.signals == [], "it is the only one"
    assert old.begin()
    gunicorn.workers.append("8")
    later(worker, tmp_path)
    assert not old.begin(), "the new one is there"
    new.finish()
    assert gunicorn.signals == [signal.SIGTTIN, signal.SIGTTOU]


def test_leaving_worker_waits_for_requests_of_connections_that_it_took(worker: ModuleType) -> None:
    late = SimpleNamespace(cycle=None)
    server = worker.DrainingServer(late, SimpleNamespace(cycle="first"))

    async def story() -> None:
        asyncio.get_running_loop().call_later(0.05, setattr, late, "cycle", "second")
        await server.shutdown()

    asyncio.run(story())
    assert server.closed == 1
    assert sorted(server.ended_with) == ["first", "second"]


def test_leaving_worker_does_not_wait_long_for_a_silent_connection(worker: ModuleType) -> None:
    start = time.monotonic()
    asyncio.run(worker.DrainingServer(SimpleNamespace(cycle=None)).shutdown())
    assert 0.9 < time.monotonic() - start < 3


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def auth(load: Load, connection: Connection) -> Any:
    engine = SimpleNamespace(raw_connection=lambda: connection)
    flask_session.clear()
    module = load(
        "web_auth",
        jwt={"InvalidTokenError": InvalidTokenError},
        fastapi={"FastAPI": object, "Request": object},
        flask={"has_request_context": lambda: True, "session": flask_session},
        starlette__responses={"Response": object},
        starlette__routing={"Route": lambda *parts: parts},
        airflow__api_fastapi__auth__managers__base_auth_manager={"COOKIE_NAME_JWT_TOKEN": "_token"},
        airflow__providers__fab__auth_manager__api_fastapi__routes__login={"logout": fab_logout},
        cachetools={"TTLCache": lambda *_: {}},
        web_answers={"Reader": lambda *fields: fields},
        web_queue={"database": ContextVar("d", default=None)},
        airflow__settings={"get_engine": lambda: engine},
        airflow__providers__fab__auth_manager__fab_auth_manager={"FabAuthManager": FabAuthManager},
        airflow__providers__fab__auth_manager__models={"User": object},
    )
    return module.OffLoopFabAuthManager()


def test_token_is_looked_up_outside_the_loop(auth: Any) -> None:
    user = asyncio.run(auth.get_user_from_token("good"))
    assert user.subject == "1"
    assert user.thread != threading.get_ident()


def test_loop_goes_on_while_the_database_does_not_answer(auth: Any) -> None:
    async def story() -> int:
        slow = asyncio.ensure_future(auth.get_user_from_token("slow"))
        turns = 0
        while not slow.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns

    assert asyncio.run(story()) > 5


def test_tokens_are_looked_up_one_after_the_other(auth: Any) -> None:
    async def story() -> set[int]:
        found = await asyncio.gather(*(auth.get_user_from_token("slow") for _ in range(3)))
        return {user.thread for user in found}

    assert len(asyncio.run(story())) == 1


@pytest.mark.parametrize("token", ["forged", "revoked", "orphan"])
def test_token_that_is_not_valid_is_refused(auth: Any, token: str) -> None:
    with pytest.raises(InvalidTokenError):
        asyncio.run(auth.get_user_from_token(token))


def test_connection_returns_to_the_pool_as_it_was(auth: Any, connection: Connection) -> None:
    asyncio.run(auth.get_user_from_token("good"))
    assert connection.states == ["as it was"]


def test_connection_that_fails_is_not_used_again(auth: Any, connection: Connection) -> None:
    with pytest.raises(OSError, match="closed"):
        asyncio.run(auth.get_user_from_token("cut off"))
    assert connection.states[0] == "invalid"


def test_request_whose_token_cannot_be_looked_up_may_be_tried_again(auth: Any) -> None:
    noted: list[dict[str, bool]] = []

    async def ask() -> None:
        sys.modules["web_queue"].database.set(
            SimpleNamespace(fail=lambda **what: noted.append(what))
        )
        await auth.get_user_from_token("cut off")

    with pytest.raises(OSError, match="closed"):
        asyncio.run(ask())
    assert noted == [{"connected": False}]


def test_signature_is_checked_once_and_revocation_each_time(
    auth: Any, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        asyncio.run(auth.get_user_from_token("good"))
    assert auth.checked == ["good"]
    monkeypatch.setattr(Connection, "fetchone", lambda _: (True, []))
    with pytest.raises(InvalidTokenError, match="revoked"):
        asyncio.run(auth.get_user_from_token("good"))


def test_token_ends_with_its_time(auth: Any) -> None:
    """The validator allows for clocks that differ."""
    auth.valid_seconds = -1
    for _ in range(2):
        with pytest.raises(InvalidTokenError, match="expired"):
            asyncio.run(auth.get_user_from_token("good"))


def test_session_that_a_token_names_is_looked_up(auth: Any, connection: Connection) -> None:
    for token in ("good", "of a program"):
        asyncio.run(auth.get_user_from_token(token))
    assert connection.sessions == ["of good", None]


def test_login_page_names_its_session_in_the_token(auth: Any, load: Load) -> None:
    user = User("7", 0)
    flask_session.sid = "abc"
    assert auth.serialize_user(user) == {"sub": "7"}, "nobody has logged in there"
    flask_session["_user_id"] = "7"
    assert auth.serialize_user(user) == {"sub": "7", "session": "abc"}


def test_token_of_a_program_names_no_session(auth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flask_session["_user_id"] = "7"
    serialize = type(auth).serialize_user
    monkeypatch.setitem(serialize.__globals__, "has_request_context", lambda: False)
    assert auth.serialize_user(User("7", 0)) == {"sub": "7"}


@pytest.mark.parametrize(
    ("token", "ended"),
    [
        ("good", (["of good"], ["good"])),
        ("of a program", ([], ["of a program"])),
        ("forged", ([], [])),
    ],
)
def test_revoked_token_ends_its_login(
    auth: Any, connection: Connection, token: str, ended: tuple[list[str], list[str]]
) -> None:
    auth.revoke_token(token)
    assert connection.ended == [ended]
    assert connection.states == ["as it was"]


@pytest.mark.parametrize(
    ("headers", "sessions", "tokens"),
    [
        ({"cookie": "session=signed own"}, ["own"], []),
        ({"cookie": "_token=good; session=signed own"}, ["of good", "own"], ["good"]),
        ({"cookie": "_token=forged; session=signed own"}, ["own"], []),
        ({"authorization": "Bearer good"}, ["of good"], ["good"]),
        (
            {"authorization": "bearer good", "cookie": "_token=other"},
            ["of good"],
            ["good", "other"],
        ),
        ({"authorization": "Basic good"}, [], []),
        ({}, [], []),
    ],
)
def test_logout_ends_what_the_request_brings(
    auth: Any,
    connection: Connection,
    headers: dict[str, str],
    sessions: list[str],
    tokens: list[str],
) -> None:
    ours, fabs = auth.get_fastapi_app().router.routes
    assert (ours[0], fabs) == ("/logout", ("/logout", fab_logout))
    pairs = [one.split("=", 1) for one in headers.get("cookie", "").split("; ") if one]
    request = SimpleNamespace(headers={"user-agent": "curl", **headers}, cookies=dict(pairs))
    assert ours[1](request) == "see you, curl"
    ((ended, revoked),) = connection.ended
    assert (sorted({*ended} - {"new"}), sorted(revoked)) == (sessions, tokens)


def test_reader_is_looked_up_once_for_one_request(auth: Any, connection: Connection) -> None:
    async def story() -> tuple[Any, User]:
        return await auth.read_as("good"), await auth.get_user_from_token("good")

    (permissions, favourites), user = asyncio.run(story())
    assert (permissions, favourites) == (user.perms, ("dag of 1",))
    assert connection.looked_up == ["good"]


def test_other_token_of_the_same_request_is_looked_up(auth: Any, connection: Connection) -> None:
    async def story() -> None:
        await auth.read_as("good")
        await auth.get_user_from_token("other")
        with pytest.raises(InvalidTokenError):
            await auth.get_user_from_token("revoked")

    asyncio.run(story())
    assert connection.looked_up == ["good", "other", "revoked"]


def test_other_request_is_looked_up_again(auth: Any, connection: Connection) -> None:
    async def story() -> None:
        await asyncio.create_task(auth.read_as("good"))
        await asyncio.create_task(auth.get_user_from_token("good"))

    asyncio.run(story())
    assert connection.looked_up == ["good", "good"]


@pytest.mark.parametrize("token", ["forged", "revoked", "orphan"])
def test_reader_with_a_token_that_is_not_valid_is_refused(auth: Any, token: str) -> None:
    with pytest.raises(InvalidTokenError):
        asyncio.run(auth.read_as(token))
