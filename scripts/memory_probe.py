"""Print what the programs of this machine hold, as JSON; `bench_memory.py` runs this on machines.

With a command as args, the command runs meanwhile, and `peak_kib` is the highest sum of a group.
Only memory counts that the kernel cannot take back on a machine without swap: anonymous pages,
shared memory (in proportion, so that it counts once) and page tables. The fields are those of
proc_pid_smaps(5) and of proc_pid_status(5).
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

# The first that matches the command line of a process names its group.
GROUPS = {
    # Debian puts the cluster's name before user, database and the client's address.
    "postgres backend": r"^postgres: [^:]+: \S+ \S+ (\S+\(\d+\)|\[local\])",
    "postgres autovacuum": r"^postgres: [^:]+: autovacuum worker",
    "postgres": r"^postgres: |^/usr/lib/postgresql/",
    "redis fork": r"^redis-(aof-rewrite|rdb-bgsave)",
    "redis": r"^/usr/bin/redis-server",
    "sentinel": r"^/usr/bin/redis-sentinel",
    "haproxy": r"^/usr/sbin/haproxy",
    "airflow": r"^(gunicorn|/opt/airflow/)|airflow api-server|/opt/airflow/current/",
    "salt": r"/opt/salt/",
}
REST = "rest of the system"
INTERVAL = 0.2  # seconds between two samples
Sample = dict[str, list[dict[str, int]]]


def group_of(command_line: str) -> str:
    """Return the group that a process belongs to."""
    for name, pattern in GROUPS.items():
        if re.search(pattern, command_line):
            return name
    return REST


def sample(proc: Path = Path("/proc")) -> Sample:
    """Return group -> what each of its processes holds, in KiB: `anonymous`, `shared`, `tables`."""
    found: Sample = defaultdict(list)
    for folder in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has ended, or is one of the kernel's
            command_line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            rollup = _fields((folder / "smaps_rollup").read_text())
            status = _fields((folder / "status").read_text())
            if command_line:
                found[group_of(command_line)].append(
                    {
                        "anonymous": rollup["Pss_Anon"],
                        "shared": rollup["Pss_Shmem"],
                        "tables": status.get("VmPTE", 0),
                    }
                )
    return dict(found)


def report(samples: list[Sample]) -> dict[str, dict[str, int]]:
    """Return group -> its figures: of the last sample, and the peak of all.

    Returns:
        `processes`; `own_kib`: anonymous pages and page tables of all; `each_kib`: the largest of
        one process; `shared_kib`: shared memory; `peak_kib`: the highest own_kib of a sample.
    """
    names = {name for found in samples for name in found}
    return {name: _figures(name, samples) for name in sorted(names)}


def _figures(name: str, samples: list[Sample]) -> dict[str, int]:
    own = [[_own(one) for one in found.get(name, [])] for found in samples]
    last = samples[-1].get(name, [])
    return {
        "processes": len(last),
        "own_kib": sum(own[-1]),
        "each_kib": max(own[-1], default=0),
        "shared_kib": sum(one["shared"] for one in last),
        "peak_kib": max(map(sum, own)),
    }


def _own(process: dict[str, int]) -> int:
    return process["anonymous"] + process["tables"]


def _fields(text: str) -> dict[str, int]:
    return {
        name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    }


def main(command: list[str]) -> None:
    """Sample while `command` runs and once after it; print the report."""
    samples: list[Sample] = []
    if command:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            while running.poll() is None:
                samples.append(sample())
                time.sleep(INTERVAL)
    samples.append(sample())
    print(json.dumps(report(samples)))


if __name__ == "__main__":
    main(sys.argv[1:])
