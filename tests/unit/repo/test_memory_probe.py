"""What the probe of `make bench-memory` counts."""

from __future__ import annotations

from pathlib import Path

import pytest

import memory_probe
from memory_probe import REST, group_of, report, sample


@pytest.mark.parametrize(
    ("command_line", "group"),
    [
        ("postgres: 17/main: airflow airflow 10.20.1.5(49166) idle", "postgres backend"),
        ("postgres: 17/main: postgres postgres [local] SELECT", "postgres backend"),
        ("postgres: 17/main: autovacuum worker airflow", "postgres autovacuum"),
        ("postgres: 17/main: autovacuum launcher ", "postgres"),
        ("/usr/lib/postgresql/17/bin/postgres -D /var/lib/postgresql/17/main", "postgres"),
        ("/usr/bin/redis-server 10.20.1.4:6379", "redis"),
        ("/usr/bin/redis-sentinel 10.20.1.4:26379 [sentinel]", "sentinel"),
        ("redis-aof-rewrite 10.20.1.4:6379", "redis fork"),
        ("/opt/salt/bin/python3 /opt/salt/bin/salt-minion", "salt"),
        ("gunicorn: worker [airflow api-server]", "airflow"),
        ("/usr/sbin/haproxy -Ws -f /etc/haproxy/haproxy.cfg", "haproxy"),
        ("/usr/lib/systemd/systemd-journald", REST),
    ],
)
def test_process_belongs_to_group(command_line: str, group: str) -> None:
    assert group_of(command_line) == group


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with one process of Redis and one thread of the kernel."""
    for pid, command_line in ((7, b"/usr/bin/redis-server\0*:6379\0"), (8, b"")):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "cmdline").write_bytes(command_line)
        (folder / "smaps_rollup").write_text(
            "5-7 ---p 0 00:00 0 [rollup]\nPss_Anon: 100 kB\nPss_File: 900 kB\nPss_Shmem: 30 kB\n"
        )
        (folder / "status").write_text("Name:\tredis\nVmPTE:\t      20 kB\nThreads:\t5\n")
    return tmp_path


def test_sample_leaves_files_and_the_kernel_out(proc: Path) -> None:
    assert sample(proc) == {"redis": [{"anonymous": 100, "shared": 30, "tables": 20}]}


def test_report_has_last_sample_and_peak() -> None:
    small, large = (
        {"redis": [{"anonymous": size, "shared": 4, "tables": 1} for size in sizes]}
        for sizes in ((10, 20), (500,))
    )
    assert report([small, large, small])["redis"] == {
        "processes": 2,
        "own_kib": 32,
        "each_kib": 21,
        "shared_kib": 8,
        "peak_kib": 501,
    }


def test_program_that_ended_has_a_peak_only() -> None:
    figures = report([{"salt": [{"anonymous": 9, "shared": 0, "tables": 0}]}, {}])["salt"]
    assert (figures["processes"], figures["own_kib"], figures["peak_kib"]) == (0, 0, 9)


def test_probe_needs_the_standard_library_only() -> None:
    """It runs on machines that have no package of this repository."""
    source = Path(memory_probe.__file__).read_text()
    names = {
        line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))
    }
    assert names <= set(__import__("sys").stdlib_module_names) | {"__future__"}
