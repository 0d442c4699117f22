"""The table: which fault hits whom, and what has to be reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.chaos.faults import FAULTS, Fault

TARGETS = {
    "web": "a web machine",
    "edge": "the load balancer with the address",
    "redis-master": "the master of Redis",
    "primary": "the primary of PostgreSQL",
    "replica": "a replica of PostgreSQL",
    "etcd": "a member of etcd, not on the primary's machine",
    "salt": "`salt-1`",
    "zone": "the primary's zone",
    "api": "the EC2 API",
}
TTL_SECONDS = 24.0  # in which a silent primary is replaced: `ttl` of Patroni, and its next look
MINUTES = 0.9  # of a row, on a quiet host


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        targets: keys of `TARGETS` that are hit at the same time.
        fault: key of `FAULTS`.
        limits: what has to be reached: `reads`, `writes` or `logins` -> seconds away at most.
        hold: seconds for which a fault lasts at least, so that its effect shows.
        pigsty: the number of its class in `tests.chaos.model`.
    """

    targets: tuple[str, ...]
    fault: str
    limits: Mapping[str, float] = field(default_factory=dict)
    hold: float = 8.0
    pigsty: int = 0

    @property
    def name(self) -> str:
        """As the command line and the results have it."""
        fault = self.fault.removeprefix(f"{self.targets[-1]}-")
        return f"{'-and-'.join(self.targets)}-{fault}"

    @property
    def of(self) -> Fault:
        """The fault."""
        return FAULTS[self.fault]

    @property
    def what(self) -> str:
        """Who is hit, in words."""
        return " and ".join(TARGETS[target] for target in self.targets)

    @property
    def minutes(self) -> float:
        """How long a run takes, about."""
        return MINUTES + self.hold / 60 + self.of.minutes


def _rows() -> Iterator[Row]:
    for fault in ("killed", "frozen", "cut", "deaf", "slow", "full"):
        yield Row(("web",), fault)
    yield Row(("web",), "restarted", {"reads": 0, "writes": 0})
    yield Row(("web",), "gone", {"reads": 5, "writes": 5})

    edge = {"reads": 10.0, "writes": 10.0}
    for fault in ("killed", "frozen", "cut", "mute", "slow"):
        yield Row(("edge",), fault, {} if fault == "slow" else edge)
    yield Row(("edge",), "restarted", {"reads": 0, "writes": 0})
    yield Row(("edge",), "gone", edge)

    redis = {"reads": 0.0, "writes": 0.0, "logins": 15.0}
    for fault in ("killed", "frozen", "cut", "mute", "slow", "restarted", "gone"):
        yield Row(("redis-master",), fault, {} if fault == "slow" else redis, hold=12)

    yield Row(("primary",), "crash", {"writes": 5}, pigsty=1)
    yield Row(("primary",), "refused", hold=12, pigsty=2)
    yield Row(("primary",), "zombie", hold=TTL_SECONDS, pigsty=3)
    yield Row(("primary",), "patroni-killed", {"writes": 0, "reads": 0})
    yield Row(("primary",), "patroni-gone", hold=TTL_SECONDS, pigsty=4)
    yield Row(("primary",), "patroni-zombie", hold=TTL_SECONDS, pigsty=5)
    yield Row(("primary",), "frozen", {"writes": 30}, hold=TTL_SECONDS, pigsty=7)
    yield Row(("primary",), "cut", {"writes": 30}, hold=TTL_SECONDS)
    yield Row(("primary",), "mute", {"writes": 30}, hold=TTL_SECONDS)
    yield Row(("primary",), "etcd-cut", hold=TTL_SECONDS, pigsty=8)
    yield Row(("primary",), "full", hold=TTL_SECONDS, pigsty=9)
    yield Row(("primary",), "slow", hold=12)
    yield Row(("primary",), "switchover", {"writes": 3}, pigsty=10)
    yield Row(("primary",), "restarted", {"writes": 5})
    yield Row(("primary",), "gone", {"writes": 15}, pigsty=6)

    for fault in ("frozen", "gone"):
        yield Row(("replica",), fault, {"reads": 0}, hold=12)
    for fault in ("etcd-killed", "etcd-stopped"):
        yield Row(("etcd",), fault, {"reads": 0, "writes": 0}, hold=12)

    for fault in ("frozen", "cut", "restarted", "gone"):
        yield Row(("salt",), fault, {"reads": 0, "writes": 0, "logins": 0})
    for fault in ("api-stopped", "api-killed"):
        yield Row(("api",), fault, {"reads": 0, "writes": 0, "logins": 0})

    yield Row(("web", "edge"), "gone", edge)
    yield Row(("edge", "redis-master"), "gone", {"reads": 10, "writes": 10})
    yield Row(("primary", "redis-master"), "gone", {"writes": 30})
    yield Row(("zone",), "cut", {"reads": 15}, hold=TTL_SECONDS)
    yield Row(("zone",), "gone", {"reads": 15})
    yield Row(("web",), "lost")
    yield Row(("primary",), "lost", {"writes": 30})


ROWS = tuple(_rows())
BY_NAME = {row.name: row for row in ROWS}
NOT_DONE = {
    "any machine: the clock jumps": (
        "all containers have the clock of this host, and the kernel has no namespace for it"
    ),
    "Redis and etcd: the disk is full": (
        "the machines share this host's disk; a limit on the size of files, which stands for it"
        " elsewhere, ends these two by a signal, as `kill -9` does"
    ),
    "the load balancer: the disk is full": "HAProxy writes no file",
}
"""What the issue names and a rehearsal in containers cannot do -> why."""


def number(run: Mapping[str, Any], *path: str) -> float:
    """Return a number of a run."""
    found: Any = run
    for key in path:
        found = found[key]
    return float(found)


def middle(runs: list[dict[str, Any]], *path: str) -> float:
    """Return the median of a number of the runs."""
    return float(median(number(run, *path) for run in runs))


def misses(row: Row, runs: list[dict[str, Any]]) -> list[str]:
    """Return what a row does not reach, a line each.

    A write that is lost in any run is a miss; times count by their median.
    """
    found = []
    if not runs:
        return [f"{row.name}: not measured"]
    for key in ("lost", "doubled", "disordered", "unseen", "unknown"):
        wrong = sum(int(run["ledger"][key]) for run in runs)
        found += [f"{row.name}: {wrong} writes {key}"] if wrong else []
    for kind, limit in row.limits.items():
        seconds = middle(runs, kind, "away_s")
        if seconds > limit:
            found.append(f"{row.name}: {kind} away for {seconds:g} s, to reach {limit:g}")
    if any(not run["well"] for run in runs):
        found.append(f"{row.name}: not well again, even after `stackctl up`")
    return found
