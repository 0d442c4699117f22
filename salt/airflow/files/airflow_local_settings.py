"""Run by Airflow when it starts. Managed by Salt (salt/airflow)."""

import gc
import os
from typing import Any

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
