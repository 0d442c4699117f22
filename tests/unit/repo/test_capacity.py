"""Connections and memory of every machine fit: arithmetic over the sizes of all components.

What programs hold is in MiB, rounded up from what `make bench-memory` prints, in its column `own at
peak`, and for a connection in the column `largest`, without its sort (work_mem).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from localcloud.sizes import memory_left
from plainpillar import DEPLOYMENT
from saltmodules import load
from stackctl.deployment import Deployment

ROOT = Path(__file__).parents[3]
web_sizes = load("_modules", "web_sizes")

MACHINE = memory_left("t2.micro", 1024)  # without swap
SYSTEM = 200  # systemd, journald, sshd, and Salt's minion in a highstate
NODE_EXPORTER = 6  # where there is a monitor machine (tests/states/test_monitor.py prints it)
LOG_SENDER = 4  # beside a monitor machine, too
KERNEL = 40  # what it cannot give back
PATRONI = 48
PGBACKREST = 28  # its server, and what archives a segment or makes a backup
POSTGRES = 10  # the server's own processes
POSTGRES_SHARED = 16  # beside shared_buffers
CONNECTION = 4  # of PostgreSQL, after every page of Airflow
REDIS_CONNECTION = 1 / 16  # its TLS, which maxmemory does not count
FRAGMENTATION = 1.05  # of Redis
SENTINEL = 8
EDGE_KERNEL = 130  # the same as KERNEL, with the buffers of 5200 connections
STORES, STORES_CONNECTION = 16, 2 * 16 / 1024  # its two processes and one that ends; buffers
EDGE_CONNECTION, EDGE_STREAM = 30 / 1024, 35 / 1024  # of HAProxy
NGINX, NGINX_HEADERS = 8, 16  # MiB of its processes; KiB of a request's headers
NGINX_GZIP = 400  # KiB: zlib's state of 264, and its output
# Of a disk, in MB.
DISK = 10_000
SYSTEM_DISK = 3000  # with Salt, and a journal that is full
RELEASE_DISK = 450  # `du -sm /opt/airflow/releases/*`
ARCHIVE = 110
# Larger than nginx's buffers, for clients that read slowly. The load balancer takes most at once.
WAITING_ANSWERS = 64
# A stranger's visit of the login page: a row of `session` with its indexes (tests/states/
# test_cleaning.py prints it), and at most so many a second from one CPU.
SESSION_ROW, LOGIN_PAGES = 400, 250
CLEANING_MINUTES = 30  # the timer's pause, and a run over what is there
DISK_OF_OTHERS = 6000  # of PostgreSQL's disk: the system, logs, the write-ahead log
MASTER, MASTER_WORKER = 130, 60  # Salt's master: its other processes, and a worker that is busy
TIMER_PROGRAM = 50  # of the master: salt/master/files/*.py
PROXY = 27  # Squid's two processes after some fetches (tests/states/test_proxy.py prints it)
MACHINES, FETCHES = 20, 8  # that update themselves at once, and connections of each
SALT_CLOUD, LAUNCH = 60, 30  # salt-cloud, and each machine that it launches at the same time
UNITS = {"kB": 1 / 1024, "MB": 1, "GB": 1024}


def sizes(component: str) -> dict[str, Any]:
    """Return the sizes of a component: its defaults, changed by `pillar/base`."""
    values: dict[str, Any] = yaml.safe_load(
        (ROOT / "salt" / component / "defaults.yaml").read_text()
    )[component]
    decided = (ROOT / "pillar/base" / f"{component}.sls").is_file()
    return values | (DEPLOYMENT.base_pillar(component) if decided else {})


def connections(airflow: dict[str, Any], machines: int) -> int:
    """Return how many connections the web machines open at most: each worker has two pools."""
    return machines * int(web_sizes.connections(airflow))


def test_no_request_of_a_worker_waits_for_a_connection() -> None:
    airflow = sizes("airflow")
    requests = airflow["requests_per_worker"]
    pool = web_sizes.pools(requests)["synchronous"]
    # What may want a connection at the same time: every request that the worker lets in, with all
    # that it holds at most, the page of health and the look-up of a token.
    assert requests * web_sizes.PER_REQUEST + 1 + 1 <= pool


def test_requests_that_wait_and_answer_in_time_end_before_the_client_gives_up() -> None:
    airflow = sizes("airflow")
    assert airflow["wait_seconds"] < airflow["answer_seconds"] < 15


def test_web_app_fits_its_machine() -> None:
    airflow = sizes("airflow")
    assert web_sizes.memory(airflow) <= airflow["memory_high_megabytes"]
    assert airflow["memory_high_megabytes"] < airflow["memory_max_megabytes"]
    beside = (
        SYSTEM
        + NODE_EXPORTER
        + LOG_SENDER
        + KERNEL
        + nginx_memory(sizes("nginx"))
        + stores_memory(sizes("stores"))
    )
    assert beside + airflow["memory_high_megabytes"] <= MACHINE


def stores_memory(stores: dict[str, Any]) -> float:
    """Return what the HAProxy of a web machine holds during a reload, with all connections."""
    return float(STORES + stores["maxconn"] * STORES_CONNECTION)


def test_connections_to_the_stores_fit_their_proxy() -> None:
    stores, airflow = sizes("stores"), sizes("airflow")
    redis = (airflow["workers"] + 1) * 2 * (airflow["requests_per_worker"] + 1)
    assert stores["maxconn"] >= 2 * (connections(airflow, 1) + redis)
    assert stores["maxconn"] * STORES_CONNECTION <= stores["memory_megabytes"] / 2
    assert stores["reload_seconds"] > airflow["answer_seconds"]


def test_web_app_at_its_heaviest_leaves_a_quarter_of_the_machine() -> None:
    system = SYSTEM + NODE_EXPORTER + LOG_SENDER
    assert system + web_sizes.memory(sizes("airflow")) <= 0.75 * MACHINE


@pytest.mark.parametrize(
    "path", sorted((ROOT / "cloud.maps.d").glob("*.map")), ids=lambda path: path.stem
)
def test_database_allows_connections_of_every_web_worker(path: Path) -> None:
    machines = len(Deployment("test", ROOT, path.stem).machines_of("web"))
    assert machines > 0
    assert connections(sizes("airflow"), machines) <= sizes("postgres")["role_connections"]


def test_database_allows_a_fourth_web_machine() -> None:
    assert connections(sizes("airflow"), 4) <= sizes("postgres")["role_connections"]


def max_connections(postgres: dict[str, Any]) -> int:
    """Return how many connections a database server has, which Patroni tells all of them."""
    return int(postgres["cluster"]["settings"]["postgresql"]["parameters"]["max_connections"])


def test_operators_have_connections_left() -> None:
    postgres = sizes("postgres")
    assert max_connections(postgres) - postgres["role_connections"] >= 10


def test_fifth_web_machine_is_refused() -> None:
    allowed = sizes("postgres")["role_connections"]
    assert connections(sizes("airflow"), 5) > allowed
    with pytest.raises(CommandExecutionError, match="5 web machines"):
        web_sizes.checked(sizes("airflow"), 5, allowed)


def mebibytes(setting: str) -> float:
    """Return a size of PostgreSQL's."""
    return int(setting[:-2]) * UNITS[setting[-2:]]


def etcd_memory() -> int:
    """Return what etcd holds before Go gives memory back, in MiB."""
    unit = (ROOT / "salt/etcd/files/etcd.service.conf").read_text()
    (limit,) = re.findall(r"^Environment=GOMEMLIMIT=(\d+)MiB$", unit, re.MULTILINE)
    return int(limit)


def postgres_memory(postgres: dict[str, Any]) -> float:
    """Return what the machine needs when every connection sorts during a highstate, in MiB."""
    settings = postgres["settings"]
    # Hash tables get `hash_mem_multiplier` times the memory of a sort.
    query = mebibytes(settings["work_mem"]) * max(1, settings["hash_mem_multiplier"])
    return float(
        SYSTEM
        + NODE_EXPORTER
        + LOG_SENDER
        + KERNEL
        + etcd_memory()
        + PATRONI
        + PGBACKREST
        + POSTGRES
        + POSTGRES_SHARED
        + mebibytes(settings["shared_buffers"])
        + max_connections(postgres) * (CONNECTION + query)
        + settings["autovacuum_max_workers"] * mebibytes(settings["autovacuum_work_mem"])
        + mebibytes(settings["maintenance_work_mem"])
    )


def test_postgres_fits_its_machine() -> None:
    assert postgres_memory(sizes("postgres")) <= MACHINE


@pytest.mark.parametrize(("setting", "size"), [("shared_buffers", "192MB"), ("work_mem", "2MB")])
def test_larger_buffers_of_postgres_are_refused(setting: str, size: str) -> None:
    postgres = sizes("postgres")
    postgres["settings"][setting] = size
    assert postgres_memory(postgres) > MACHINE


def test_sum_of_postgres_is_the_one_that_is_written_beside_the_sizes() -> None:
    comment = (ROOT / "salt/postgres/defaults.yaml").read_text().partition("\npostgres:")[0]
    *parts, total = (int(part) for part in re.findall(r"^# +(\d+)\b", comment, re.MULTILINE))
    assert sum(parts) == total == postgres_memory(sizes("postgres"))


def redis_memory(redis: dict[str, Any]) -> float:
    """Return what the machine needs while a fork holds a copy of all data, in MiB."""
    return float(
        SYSTEM
        + NODE_EXPORTER
        + LOG_SENDER
        + KERNEL
        + redis["maxclients"] * REDIS_CONNECTION
        + SENTINEL
        + max(redis["replica_buffer_megabytes"], redis["backlog_megabytes"])
        + 2 * redis["maxmemory_megabytes"] * FRAGMENTATION
    )


def test_redis_fits_its_machine_beside_its_fork() -> None:
    assert redis_memory(sizes("redis")) <= MACHINE


def test_larger_buffers_of_replicas_are_refused() -> None:
    assert redis_memory(sizes("redis") | {"replica_buffer_megabytes": 64}) > MACHINE


def test_more_data_of_redis_is_refused() -> None:
    assert redis_memory(sizes("redis") | {"maxmemory_megabytes": 384}) > MACHINE


def test_haproxy_fits_its_machine_during_a_reload() -> None:
    assert (
        SYSTEM + NODE_EXPORTER + LOG_SENDER + EDGE_KERNEL + 2 * sizes("haproxy")["memory_megabytes"]
        <= MACHINE
    )


def edge_memory(haproxy: dict[str, Any]) -> float:
    """Return what one process holds: every connection, and a full queue, in MiB."""
    return float(
        haproxy["maxconn"] * EDGE_CONNECTION
        + (haproxy["queue_reads"] + haproxy["queue_writes"]) * 2 * EDGE_STREAM
    )


def test_haproxy_survives_a_full_queue() -> None:
    haproxy = sizes("haproxy")
    assert edge_memory(haproxy) <= haproxy["memory_megabytes"]
    assert haproxy["requests_per_address"] < haproxy["queue_reads"]
    assert haproxy["connections_per_address"] <= haproxy["maxconn"] / 10


def nginx_memory(nginx: dict[str, Any]) -> float:
    """Return what nginx holds when every request fills its buffers, in MiB."""
    answer = (int(nginx["answer_buffers"]) + 1) * kibibytes(nginx["answer_buffer"])
    request = NGINX_HEADERS + kibibytes(nginx["body_buffer"]) + answer
    return NGINX + (compressed() * NGINX_GZIP + int(nginx["connections"]) / 2 * request) / 1024


def compressed() -> int:
    """Return how many answers of the web app the load balancer asks for at once."""
    airflow, haproxy = sizes("airflow"), sizes("haproxy")
    slots = airflow["workers"] * airflow["requests_per_worker"] * airflow["slots_per_request"]
    return int(slots + sum(haproxy[name] for name in ("uploads", "health", "passwords_maxconn")))


def test_nginx_has_connections_for_all_that_the_edge_asks() -> None:
    haproxy = sizes("haproxy")
    files = haproxy["static_maxconn"] + haproxy["static_greedy_maxconn"]
    # Those that go on to the web app take two.
    assert files + 2 * (compressed() + haproxy["streams"]) < sizes("nginx")["connections"]


def kibibytes(setting: str) -> int:
    """Return a size of nginx's."""
    assert setting.endswith("k")
    return int(setting[:-1])


def test_nginx_stays_below_its_limit() -> None:
    nginx = sizes("nginx")
    # The rest is cache, which the kernel takes back.
    assert nginx_memory(nginx) <= 0.6 * nginx["memory_max_megabytes"]


def test_more_connections_of_nginx_are_refused() -> None:
    nginx = sizes("nginx") | {"connections": 2048}
    assert nginx_memory(nginx) > nginx["memory_max_megabytes"]


def test_bodies_and_answers_fit_the_disk_of_a_web_machine() -> None:
    nginx = sizes("nginx")
    bodies = nginx["bodies"] * nginx["body_megabytes"]
    answers = WAITING_ANSWERS * nginx["answer_file_megabytes"]
    assert SYSTEM_DISK + 2 * RELEASE_DISK + ARCHIVE + bodies + answers <= DISK


def test_archives_and_a_build_fit_the_disk_of_the_master() -> None:
    assert SYSTEM_DISK + 2 * RELEASE_DISK + 4 * ARCHIVE <= DISK


def session_gigabytes(machines: int, anonymous_minutes: int) -> float:
    """Return what strangers can add to the database until their rows are removed."""
    seconds = (anonymous_minutes + CLEANING_MINUTES) * 60
    return machines * LOGIN_PAGES * seconds * SESSION_ROW / 1e9


def retention(key: str) -> int:
    """Return a number of pillar/base/retention.sls, which is a template."""
    text = (ROOT / "pillar/base/retention.sls").read_text()
    (found,) = re.findall(rf"^  {key}: (\d+)$", text, re.MULTILINE)
    return int(found)


def test_strangers_do_not_fill_the_disk() -> None:
    postgres, airflow = sizes("postgres"), sizes("airflow")
    machines = postgres["role_connections"] // connections(airflow, 1)
    room = (DISK - DISK_OF_OTHERS) / 1000
    assert session_gigabytes(machines, retention("anonymous_session_minutes")) <= room


def test_sessions_that_last_for_days_are_refused() -> None:
    assert session_gigabytes(4, 12 * 60) > (DISK - DISK_OF_OTHERS) / 1000


def test_pause_of_the_timer_is_the_one_of_the_arithmetic() -> None:
    timer = (ROOT / "salt/postgres/files/postgres-clean.timer").read_text()
    (seconds,) = re.findall(r"^OnUnitInactiveSec=(\d+)$", timer, re.MULTILINE)
    assert int(seconds) / 60 <= CLEANING_MINUTES / 2


def test_form_of_the_login_page_outlives_its_session() -> None:
    # The form's own limit is Flask-WTF's default, an hour: a session that ends sooner would
    # refuse people who have read for a while before they log in.
    assert retention("anonymous_session_minutes") >= 60


def master_memory(master: dict[str, Any]) -> float:
    """Return what the Salt master's machine needs while a map launches many machines, in MiB."""
    return float(
        SYSTEM
        + NODE_EXPORTER
        + LOG_SENDER
        + KERNEL
        + MASTER
        + master["worker_threads"] * MASTER_WORKER
        + TIMER_PROGRAM
        + SALT_CLOUD
        + master["pool_size"] * LAUNCH
        + sizes("proxy")["memory_max_megabytes"]
    )


def master_sizes() -> dict[str, Any]:
    sizes: dict[str, Any] = yaml.safe_load((ROOT / "salt/master/defaults.yaml").read_text())
    return dict(sizes["master"])


def test_master_launches_many_machines_within_its_memory() -> None:
    assert master_memory(master_sizes()) <= MACHINE


def test_proxy_has_room_above_what_it_holds_at_rest() -> None:
    proxy = sizes("proxy")
    assert proxy["memory_max_megabytes"] >= 1.4 * PROXY
    # Each machine that fetches packages is two connections, and squid keeps a hundred for itself.
    assert proxy["descriptors"] >= 2 * MACHINES * FETCHES + 100


def test_twenty_launches_at_once_are_refused() -> None:
    assert master_memory(master_sizes() | {"pool_size": 20}) > MACHINE


def monitor_memory(prometheus: dict[str, Any]) -> float:
    """Return what the monitor machine needs when each program is at its limit, in MiB."""
    beside = ("alertmanager", "postgres_exporter", "redis_exporter")
    programs = [prometheus, *(prometheus[name] for name in beside)]
    limits = [program["memory_max_megabytes"] for program in programs]
    limits += [sizes("journal_remote")["memory_max_megabytes"], STORES]
    return float(SYSTEM + NODE_EXPORTER + LOG_SENDER + KERNEL + sum(limits))


def test_prometheus_leaves_a_quarter_of_its_machine() -> None:
    assert monitor_memory(sizes("prometheus")) <= 0.75 * 1024


def test_sum_of_the_monitor_is_the_one_that_is_written_beside_the_sizes() -> None:
    comment = (ROOT / "salt/prometheus/defaults.yaml").read_text().partition("\nprometheus:")[0]
    *parts, total = (int(part) for part in re.findall(r"^# +(\d+)\b", comment, re.MULTILINE))
    assert sum(parts) == total == monitor_memory(sizes("prometheus"))


def test_metrics_of_a_month_and_the_logs_of_all_fit_the_disk() -> None:
    metrics = sizes("prometheus")["retention_gigabytes"] * 1.25 * 1000
    logs = sizes("journal_remote")
    most = (logs["max_use_megabytes"] + MACHINES * logs["file_megabytes"]) * 1.049  # of 2^20 bytes
    assert SYSTEM_DISK + metrics + most <= DISK


def test_longer_queue_of_haproxy_is_refused() -> None:
    haproxy = sizes("haproxy") | {"queue_reads": 3000}
    assert edge_memory(haproxy) > haproxy["memory_megabytes"]


def test_haproxy_takes_a_lost_machine_out_within_five_seconds() -> None:
    """Then its requests are tried elsewhere; the intervals are those of haproxy.cfg.j2."""
    assert 1 + 0.5 + 2 * sizes("haproxy")["check_milliseconds"] / 1000 <= 4.5
