"""Connections and memory of every machine fit: arithmetic over the sizes of all components.

What programs hold is in MiB, rounded up from what `make bench-memory` prints, in its column `own at
peak`, and for a connection in the column `largest`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from plainpillar import DEPLOYMENT

ROOT = Path(__file__).parents[3]

MACHINE = 950  # of 1 GiB, on a t2.micro without swap
SYSTEM = 200  # systemd, journald, sshd, and Salt's minion in a highstate
KERNEL = 40  # what it cannot give back
POSTGRES = 10  # the server's own processes
POSTGRES_SHARED = 16  # beside shared_buffers
CONNECTION = 4  # of PostgreSQL, after every page of Airflow
REDIS_CONNECTION = 1 / 16  # its TLS, which maxmemory does not count
FRAGMENTATION = 1.05  # of Redis
EDGE_KERNEL = 130  # the same as KERNEL, with the buffers of 5200 connections
EDGE_CONNECTION, EDGE_STREAM = 30 / 1024, 35 / 1024  # of HAProxy
UNITS = {"kB": 1 / 1024, "MB": 1, "GB": 1024}


def sizes(component: str) -> dict[str, Any]:
    """Return the sizes of a component: its defaults, changed by `pillar/base`."""
    values: dict[str, Any] = yaml.safe_load(
        (ROOT / "salt" / component / "defaults.yaml").read_text()
    )[component]
    return values | DEPLOYMENT.base_pillar(component)


def connections(airflow: dict[str, Any], machines: int) -> int:
    """Return how many connections the web machines open at most: each worker has two pools."""
    return (
        machines
        * int(airflow["workers"])
        * 2
        * (int(airflow["pool_size"]) + int(airflow["max_overflow"]))
    )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "cloud.maps.d").glob("*.map")), ids=lambda path: path.stem
)
def test_database_allows_connections_of_every_web_worker(path: Path) -> None:
    machines = len(yaml.safe_load(path.read_text())["web"])
    assert machines > 0
    assert connections(sizes("airflow"), machines) <= sizes("postgres")["role_connections"]


def test_database_allows_a_third_web_machine() -> None:
    assert connections(sizes("airflow"), 3) <= sizes("postgres")["role_connections"]


def test_operators_have_connections_left() -> None:
    postgres = sizes("postgres")
    assert postgres["max_connections"] - postgres["role_connections"] >= 10


def test_fourth_web_machine_is_refused() -> None:
    assert connections(sizes("airflow"), 4) > sizes("postgres")["role_connections"]


def mebibytes(setting: str) -> float:
    """Return a size of PostgreSQL's."""
    return int(setting[:-2]) * UNITS[setting[-2:]]


def postgres_memory(postgres: dict[str, Any]) -> float:
    """Return what the machine needs when every connection sorts during a highstate, in MiB."""
    settings = postgres["settings"]
    # Hash tables get `hash_mem_multiplier` times the memory of a sort.
    query = mebibytes(settings["work_mem"]) * max(1, settings["hash_mem_multiplier"])
    return float(
        SYSTEM
        + KERNEL
        + POSTGRES
        + POSTGRES_SHARED
        + mebibytes(settings["shared_buffers"])
        + postgres["max_connections"] * (CONNECTION + query)
        + settings["autovacuum_max_workers"] * mebibytes(settings["autovacuum_work_mem"])
        + mebibytes(settings["maintenance_work_mem"])
    )


def test_postgres_fits_its_machine() -> None:
    assert postgres_memory(sizes("postgres")) <= MACHINE


def test_larger_buffers_of_postgres_are_refused() -> None:
    postgres = sizes("postgres")
    postgres["settings"]["shared_buffers"] = "256MB"
    assert postgres_memory(postgres) > MACHINE


def redis_memory(redis: dict[str, Any]) -> float:
    """Return what the machine needs while a fork holds a copy of all data, in MiB."""
    return float(
        SYSTEM
        + KERNEL
        + redis["maxclients"] * REDIS_CONNECTION
        + 2 * redis["maxmemory_megabytes"] * FRAGMENTATION
    )


def test_redis_fits_its_machine_beside_its_fork() -> None:
    assert redis_memory(sizes("redis")) <= MACHINE


def test_more_data_of_redis_is_refused() -> None:
    assert redis_memory(sizes("redis") | {"maxmemory_megabytes": 384}) > MACHINE


def test_haproxy_fits_its_machine_during_a_reload() -> None:
    assert SYSTEM + EDGE_KERNEL + 2 * sizes("haproxy")["memory_megabytes"] <= MACHINE


def edge_memory(haproxy: dict[str, Any]) -> float:
    """Return what one process holds: every connection, and a full queue, in MiB."""
    return float(
        haproxy["maxconn"] * EDGE_CONNECTION + haproxy["queue_connections"] * 2 * EDGE_STREAM
    )


def test_haproxy_survives_a_full_queue() -> None:
    haproxy = sizes("haproxy")
    assert edge_memory(haproxy) <= haproxy["memory_megabytes"]
    assert haproxy["requests_per_address"] < haproxy["queue_connections"]
    assert haproxy["connections_per_address"] <= haproxy["maxconn"] / 10


def test_longer_queue_of_haproxy_is_refused() -> None:
    haproxy = sizes("haproxy") | {"queue_connections": 3000}
    assert edge_memory(haproxy) > haproxy["memory_megabytes"]


def test_haproxy_takes_a_lost_machine_out_within_five_seconds() -> None:
    """Then its requests are tried elsewhere; the intervals are those of haproxy.cfg.j2."""
    assert 1 + 0.5 + 2 * sizes("haproxy")["check_milliseconds"] / 1000 <= 4.5
