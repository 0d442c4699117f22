"""The sizes of a web machine that follow from others: pools of connections, and their budget.

A request waits neither for a connection nor in a thread: the pool of a worker has as many
connections as its requests hold at most. What does not fit stops the run before anything changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

# What one request holds at most: its own, and that of a session that Airflow opens inside. Measured
# over the pages of the API and of FAB: tests/states/test_load.py.
PER_REQUEST = 2
# The page of health, and the look-ups of tokens (salt/airflow/files/web_auth.py).
BESIDE_REQUESTS = 2
# asyncpg's: only streams that wait for a run to end ask with it, and wait for it in no thread.
ASYNCHRONOUS = 1
# Airflow's default of [api] maximum_page_limit: no answer has more rows.
MOST_ROWS = 100
NUMBERS = (
    "workers",
    "requests_per_worker",
    "worker_megabytes",
    "memory_high_megabytes",
    "rows_per_page",
)


def pools(requests: int) -> dict[str, int]:
    """Return the sizes of a worker's two pools.

    Args:
        requests: how many requests the worker lets in at once.

    Returns:
        ``synchronous`` and ``asynchronous``, in connections.
    """
    return {
        "synchronous": requests * PER_REQUEST + BESIDE_REQUESTS,
        "asynchronous": ASYNCHRONOUS,
    }


def connections(airflow: Mapping[str, Any]) -> int:
    """Return how many connections a web machine opens at most: while a worker is renewed."""
    return _most_workers(airflow) * sum(pools(int(airflow["requests_per_worker"])).values())


def _most_workers(airflow: Mapping[str, Any]) -> int:
    return int(airflow["workers"]) + 1


def memory(airflow: Mapping[str, Any]) -> int:
    """Return what the web app holds at most, in MiB: while a worker is renewed."""
    workers = int(airflow["workers"]) * int(airflow["worker_megabytes"])
    return int(airflow["shared_megabytes"]) + workers + int(airflow["new_worker_megabytes"])


def checked(airflow: Mapping[str, Any], machines: int, role_connections: int) -> dict[str, int]:
    """Return ``pools`` for a web machine whose sizes fit.

    Args:
        airflow: the sizes, as in salt/airflow/defaults.yaml, and what the site decides.
        machines: how many web machines there are.
        role_connections: how many connections PostgreSQL allows the web app.

    Raises:
        CommandExecutionError: a number is no number above 0, a page has more rows than an answer
            may have, or the workers need more connections or more memory than there is.
    """
    for name in NUMBERS:
        value = airflow.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CommandExecutionError(f"airflow:{name} is {value!r}; it is a number from 1 on")
    if airflow["rows_per_page"] > MOST_ROWS:
        raise CommandExecutionError(
            f"airflow:rows_per_page is {airflow['rows_per_page']}; Airflow answers with at most"
            f" {MOST_ROWS} rows"
        )
    needed = connections(airflow) * machines
    if needed > role_connections:
        raise CommandExecutionError(
            f"{machines} web machines with {_most_workers(airflow)} workers of"
            f" {airflow['requests_per_worker']} requests, one of them being renewed, open up to"
            f" {needed} connections, and postgres:role_connections allows {role_connections}"
        )
    if memory(airflow) > airflow["memory_high_megabytes"]:
        raise CommandExecutionError(
            f"{airflow['workers']} workers of {airflow['worker_megabytes']} MiB, and a new one,"
            f" hold up to {memory(airflow)} MiB, and airflow:memory_high_megabytes is"
            f" {airflow['memory_high_megabytes']}"
        )
    return pools(airflow["requests_per_worker"])
