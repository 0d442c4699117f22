"""Run by Airflow when it starts. Managed by Salt (salt/airflow)."""

import gc
import os
import select
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

# A database machine that is gone ends a statement after 8 seconds: a dead connection would keep a
# request's place. One that stands still answers the kernel's probes; there PostgreSQL's own limits
# and web_queue.py's apply. https://www.postgresql.org/docs/current/libpq-connect.html
CONNECT_ARGS = {
    "connect_timeout": 3,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 8000,
}
# asyncpg has no keepalives, and its own limit for statements.
ASYNC_CONNECT_ARGS = {
    "timeout": 3,
    "command_timeout": 8,
    "server_settings": {"application_name": "airflow"},
}


class _Alerts:
    """What Home tells everybody. /ui/config lists those that are Airflow's class.

    Every command reads this file, and importing that class loads the API's models.
    """

    def __iter__(self) -> Iterator[Any]:
        from airflow.api_fastapi.common.types import UIAlert  # noqa: PLC0415

        yield UIAlert(
            category="info",
            text="This site has Airflow's web app alone. Its scheduler, triggerer and Dag processor"
            " show as unhealthy because none runs here: a run that you trigger stays queued.",
        )


DASHBOARD_UIALERTS = _Alerts()

# Seconds without use, after which a connection is asked before it is used.
IDLE = 10


def create_metadata_engine(
    sql_alchemy_conn: str, *, engine_args: dict[str, Any], connect_args: dict[str, Any]
) -> Engine:
    """Test pooled connections without a round trip, which pool_pre_ping takes for each use.

    A server that ends closes its connections, and the kernel finds out when a machine is gone
    (CONNECT_ARGS). Either way the socket has something to read, which a connection that nobody
    uses never has.
    """
    engine = create_engine(
        sql_alchemy_conn,
        connect_args=connect_args,
        **(engine_args | {"pool_pre_ping": False}),
    )

    @event.listens_for(engine, "checkin")
    def remember(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def test(connection: Any, record: Any, _proxy: Any) -> None:
        used = record.info.pop("used", None)
        if used is None:  # it is new
            return
        try:
            if _is_readable(connection.fileno()):
                raise DisconnectionError("The server has closed the connection.")
            if time.monotonic() - used > IDLE:
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError(str(error)) from error

    return engine


def _is_readable(file: int) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))


def create_async_metadata_engine(
    sql_alchemy_conn_async: str,
    *,
    connect_args: dict[str, Any],
    engine_args: dict[str, Any] | None = None,
) -> AsyncEngine:
    """Give the asynchronous pool its own size: Airflow has one setting for both pools."""
    sizes = {"pool_size": int(os.environ["WEB_ASYNC_POOL"]), "max_overflow": 0}
    return create_async_engine(
        sql_alchemy_conn_async,
        connect_args=connect_args,
        **((engine_args or {}) | sizes),
    )


def _freeze() -> None:
    """Exclude what was loaded before the fork from garbage collection: its pages stay shared."""
    if os.environ.get("_AIRFLOW_PROCESS_CONTEXT") == "server":
        gc.collect()
        gc.freeze()


os.register_at_fork(before=_freeze)
