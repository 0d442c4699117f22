"""The containers of machines: their size, their core, their counters, and commands in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import docker
from docker.models.containers import Container

from localcloud.machines import CLOUD_LABEL, CPU_PERIOD, NAME_LABEL

MACHINES_CORE = 0
LOAD_CORE = 1
# Processes of the web app, by their command lines; Salt and the system are none.
APP = re.compile(r"gunicorn|airflow|uvicorn")
TICK = os.sysconf("SC_CLK_TCK")
CUT_TABLE = "inet bench"


class CommandFailed(Exception):
    """A command in a machine ended with an error; the text has its output."""


@dataclass(frozen=True)
class Usage:
    """The counters of a machine.

    Attributes:
        cpu: seconds since its start.
        memory: bytes of its programs: anonymous pages and shared memory. Caches are not in it,
            nor is the kernel's own memory, most of which it gives back when programs need it.
    """

    cpu: float
    memory: int


class Machine:
    """A running machine of the local cloud, or the stock machine.

    Attributes:
        name: its name.
        container: of Docker.
        rest: the share of a core that it uses while nobody asks it anything, once that is known.
    """

    def __init__(self, name: str, container: Container) -> None:
        self.name = name
        self.container = container
        self.rest = 0.0

    @property
    def address(self) -> str:
        """The address in the only network that it has."""
        self.container.reload()
        networks = self.container.attrs["NetworkSettings"]["Networks"]
        (network,) = networks.values()
        return str(network["IPAddress"])

    @property
    def network(self) -> str:
        """The name of that network."""
        (name,) = self.container.attrs["NetworkSettings"]["Networks"]
        return str(name)

    @property
    def pid(self) -> int:
        """The process of this host that is the machine's init; 0: it does not run."""
        self.container.reload()
        return int(self.container.attrs["State"]["Pid"])

    def created(self) -> float:
        """Return when RunInstances made the machine, in seconds since 1970."""
        moment = re.sub(r"\.\d+", "", str(self.container.attrs["Created"]))
        return datetime.fromisoformat(moment).timestamp()

    @property
    def memory_limit(self) -> int:
        """The size of its memory in bytes."""
        return int(self.container.attrs["HostConfig"]["Memory"])

    def pin(self, core: int) -> None:
        """Keep the machine on a core."""
        self.container.update(cpuset_cpus=str(core))

    def limit(self, cpus: float) -> None:
        """Give the machine this share of a core, as credits do."""
        self.container.update(cpu_period=CPU_PERIOD, cpu_quota=int(CPU_PERIOD * cpus))

    def restore(self) -> None:
        """Let it run on every core, with one CPU, as `localcloud` has made it."""
        self.container.update(
            cpuset_cpus=f"0-{(os.cpu_count() or 1) - 1}",
            cpu_period=CPU_PERIOD,
            cpu_quota=CPU_PERIOD,
        )

    def usage(self) -> Usage:
        """Return its counters."""
        return usage_of(cast(dict[str, Any], self.container.stats(stream=False, one_shot=True)))

    def app_cpu(self) -> float:
        """Return the CPU seconds of the web app's processes, and of those that have ended.

        The kernel adds a process to its parent when the parent has waited for it, so a worker that
        gunicorn has replaced counts.
        """
        return sum(_ticks(pid) for pid in self._app_processes()) / TICK

    def app_threads(self) -> list[Path]:
        """Return the files with the exact times of the web app's threads, for `thread_seconds`."""
        return [
            path
            for pid in self._app_processes()
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat")
        ]

    def _app_processes(self) -> Iterator[int]:
        found = self.container.top(ps_args="-eo pid,args")["Processes"]
        return (int(row[0]) for row in found if APP.search(row[1]))

    def run(self, command: Sequence[str] | str, stdin: str = "") -> str:
        """Run a command as root and return its output.

        Raises:
            CommandFailed: it ended with an error.
        """
        line = ["sh", "-c", command] if isinstance(command, str) else list(command)
        if stdin:
            line = ["sh", "-c", f"{command} <<'END_OF_INPUT'\n{stdin}\nEND_OF_INPUT"]
        code, output = self.container.exec_run(line)
        text = cast(bytes, output or b"").decode(errors="replace")
        if code:
            raise CommandFailed(f"{self.name}: {command}: {text}")
        return text

    def cut(self, ports: Sequence[int] = (), *, ways: Sequence[str] = ("in", "out")) -> None:
        """Drop packets from and to other machines, until `mend`; commands still reach it.

        Args:
            ports: drops TCP from or to these ports only; all packets when there are none.
            ways: `in`, `out` or both.
        """
        self.run(["nft", cut_rules(ports, ways)])

    def mend(self) -> None:
        """End `cut`; nothing happens where there was none."""
        self.run(f"nft delete table {CUT_TABLE} 2>/dev/null || true")

    def kills(self, since: float) -> int:
        """Return how many workers were killed or given up since a moment (seconds since 1970)."""
        pattern = r"was sent SIG(KILL|ABRT)|killed by the OOM killer|WORKER TIMEOUT"
        return int(
            self.run(
                f"journalctl -u airflow --since=@{since:.0f} -o cat --no-pager"
                f" | grep -cE '{pattern}' || true"
            )
        )


def cut_rules(ports: Sequence[int], ways: Sequence[str]) -> str:
    """Return the rules of `Machine.cut` in the language of nft."""
    rules = [f"add table {CUT_TABLE}"]
    for way, hook, interface in (("in", "input", "iif"), ("out", "output", "oif")):
        if way in ways:
            chain = f"{CUT_TABLE} {way}"
            rules.append(f"add chain {chain} {{ type filter hook {hook} priority -300; }}")
            many = ", ".join(map(str, ports))
            matches = [f"tcp {end} {{ {many} }}" for end in ("sport", "dport")] if ports else [""]
            rules += [f"add rule {chain} {interface} != lo {match} drop" for match in matches]
    return "; ".join(rules)


def usage_of(stats: dict[str, Any]) -> Usage:
    """Return the counters that Docker's statistics hold, of cgroups of version 1 or 2."""
    detail = stats["memory_stats"]["stats"]
    if "anon" in detail:  # cgroups of version 2
        memory = detail["anon"] + detail["shmem"]
    else:
        files = detail["total_active_file"] + detail["total_inactive_file"]
        memory = detail["total_rss"] + detail["total_cache"] - files
    return Usage(
        cpu=stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        memory=memory,
    )


def _ticks(pid: int) -> int:
    """Return the ticks of a process and of its ended children: proc_pid_stat(5), fields 14-17."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it has just ended
        return 0
    return sum(map(int, text.rpartition(")")[2].split()[11:15]))


def thread_seconds(paths: Sequence[Path]) -> float:
    """Return the CPU seconds of threads, to the nanosecond; those that have ended count as 0."""
    total = 0
    for path in paths:
        with suppress(OSError):
            total += int(path.read_text().split()[0])
    return total / 1e9


def of_cloud(client: docker.DockerClient, cloud: str) -> dict[str, Machine]:
    """Return the running machines of a cloud by name."""
    found = client.containers.list(filters={"label": f"{CLOUD_LABEL}={cloud}"})
    machines = [Machine(container.labels[NAME_LABEL], container) for container in found]
    return {machine.name: machine for machine in sorted(machines, key=lambda one: one.name)}
