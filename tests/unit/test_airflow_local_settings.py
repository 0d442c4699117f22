"""The web app's engine: which pooled connections are used again, and what a test costs."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from plainpillar import ROOT


class DisconnectionError(Exception):
    """SQLAlchemy's, which makes the pool connect again."""


class DriverError(Exception):
    """The driver's."""


class Engine:
    """SQLAlchemy's, as far as the settings use it."""

    def __init__(self, _url: str, **options: Any) -> None:
        self.options = options
        self.heard: dict[str, Callable[..., None]] = {}
        self.pings = 0
        self.error: Exception | None = None
        self.dialect = SimpleNamespace(
            do_ping=self._ping, loaded_dbapi=SimpleNamespace(Error=DriverError)
        )

    def _ping(self, _connection: object) -> None:
        self.pings += 1
        if self.error is not None:
            raise self.error


class Pooled:
    """A connection of the pool, with the other end of its socket."""

    def __init__(self) -> None:
        self._file, self.server = os.pipe()
        self.record = SimpleNamespace(info={})
        self.closed = False

    def fileno(self) -> int:
        if self.closed:
            raise DriverError("connection already closed")
        return self._file


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    def listens_for(engine: Engine, name: str) -> Callable[..., Any]:
        return lambda function: engine.heard.__setitem__(name, function)

    contents: dict[str, dict[str, Any]] = {
        "sqlalchemy": {
            "Engine": Engine,
            "create_engine": Engine,
            "event": SimpleNamespace(listens_for=listens_for),
        },
        "sqlalchemy.exc": {"DisconnectionError": DisconnectionError},
        "sqlalchemy.ext": {},
        "sqlalchemy.ext.asyncio": {"AsyncEngine": object, "create_async_engine": None},
    }
    for name, content in contents.items():
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(content)
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    path = ROOT / "salt/airflow/files/airflow_local_settings.py"
    spec = importlib.util.spec_from_file_location("airflow_local_settings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def engine(settings: ModuleType) -> Any:
    arguments = {"pool_pre_ping": True, "pool_size": 8}
    return settings.create_metadata_engine("url", engine_args=arguments, connect_args={"a": 1})


@pytest.fixture
def pooled(engine: Engine) -> Iterator[Pooled]:
    connection = Pooled()
    take(engine, connection)
    engine.heard["checkin"](connection, connection.record)
    yield connection
    os.close(connection._file)


def take(engine: Engine, connection: Pooled) -> None:
    engine.heard["checkout"](connection, connection.record, None)


def test_connections_are_not_asked_before_each_use(engine: Engine, pooled: Pooled) -> None:
    take(engine, pooled)
    assert engine.pings == 0
    assert engine.options == {"pool_pre_ping": False, "pool_size": 8, "connect_args": {"a": 1}}


def test_connection_that_the_server_has_closed_is_not_used(engine: Engine, pooled: Pooled) -> None:
    os.close(pooled.server)
    with pytest.raises(DisconnectionError):
        take(engine, pooled)


def test_connection_with_an_unasked_message_is_not_used(engine: Engine, pooled: Pooled) -> None:
    os.write(pooled.server, b"terminating connection due to administrator command")
    with pytest.raises(DisconnectionError):
        take(engine, pooled)


def test_connection_that_the_driver_has_closed_is_not_used(engine: Engine, pooled: Pooled) -> None:
    pooled.closed = True
    with pytest.raises(DisconnectionError, match="already closed"):
        take(engine, pooled)


def test_connection_that_was_idle_for_long_is_asked(
    engine: Engine, pooled: Pooled, settings: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.monotonic() + settings.IDLE + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    take(engine, pooled)
    assert engine.pings == 1
    engine.heard["checkin"](pooled, pooled.record)
    take(engine, pooled)
    assert engine.pings == 1


def test_connection_that_does_not_answer_is_not_used(
    engine: Engine, pooled: Pooled, settings: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.error = DriverError("timeout expired")
    monkeypatch.setattr(settings, "IDLE", -1)
    with pytest.raises(DisconnectionError, match="timeout expired"):
        take(engine, pooled)


def test_home_says_what_this_site_does_not_run(
    settings: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Airflow's own class, which nothing but a page of the UI needs."""
    assert not [name for name in sys.modules if name.startswith("airflow.api_fastapi")]
    types = ModuleType("airflow.api_fastapi.common.types")
    vars(types)["UIAlert"] = SimpleNamespace
    for name in ("airflow", "airflow.api_fastapi", "airflow.api_fastapi.common"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, types.__name__, types)
    for _ in range(2):
        (alert,) = settings.DASHBOARD_UIALERTS
        assert alert.category == "info"
        assert "a run that you trigger stays queued" in alert.text
