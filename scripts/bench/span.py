"""What happened on machines between two moments: CPU, memory, killed workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import docker.errors

from bench.machines import MACHINES_CORE, TICK, CommandFailed, Machine

SAMPLE_SECONDS = 1.0


class Span:
    """Counts while its block runs.

    Attributes:
        seconds: how long the block took.
        cpu: machine -> CPU seconds of the whole machine.
        app_cpu: machine -> CPU seconds of the web app's processes, of web machines.
        peak: machine -> the most memory of its programs in bytes.
        kills: workers that were killed or given up.
        others: of the machines' core, the share that other programs of this host used.
    """

    def __init__(self, machines: Iterable[Machine]) -> None:
        self.machines = list(machines)
        self.web = [machine for machine in self.machines if machine.name.startswith("web-")]
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}
        self.app_cpu: dict[str, float] = {}
        self.peak: dict[str, int] = {}
        self.kills = 0
        self.others = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._began = time.time()
        self._busy = busy_seconds(MACHINES_CORE)
        self._app_before = {machine.name: machine.app_cpu() for machine in self.web}
        self._before = {machine.name: machine.usage().cpu for machine in self.machines}
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        if kind is not None:
            return
        self.seconds = time.time() - self._began
        busy = busy_seconds(MACHINES_CORE) - self._busy
        for machine in self.machines:
            with suppress(docker.errors.DockerException, KeyError):  # it was killed meanwhile
                usage = machine.usage()
                self.cpu[machine.name] = max(0.0, usage.cpu - self._before[machine.name])
                self._keep(machine.name, usage.memory)
        for machine in self.web:
            with suppress(docker.errors.DockerException, CommandFailed):
                self.app_cpu[machine.name] = machine.app_cpu() - self._app_before[machine.name]
                self.kills += machine.kills(self._began)
        self.others = max(0.0, busy - sum(self.cpu.values())) / self.seconds

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            for machine in self.machines:
                with suppress(docker.errors.DockerException, KeyError):
                    self._keep(machine.name, machine.usage().memory)

    def _keep(self, name: str, memory: int) -> None:
        self.peak[name] = max(memory, self.peak.get(name, 0))

    def figures(self, requests: int) -> dict[str, object]:
        """Return what the results keep: CPU in ms for each of `requests`, memory in MiB.

        What a machine uses at rest is no part of a request. It is kept apart, in ms a second.
        """
        each = max(1, requests)
        rest = {machine.name: machine.rest for machine in self.machines}
        return {
            "cpu_ms": {
                name: round(1000 * max(0.0, cpu - rest[name] * self.seconds) / each, 3)
                for name, cpu in self.cpu.items()
            },
            "rest_ms": {name: round(1000 * rest[name], 3) for name in self.cpu},
            "app_cpu_ms": round(1000 * sum(self.app_cpu.values()) / each, 3),
            "peak_mib": {name: round(peak / (1 << 20), 1) for name, peak in self.peak.items()},
            "kills": self.kills,
            "others": round(self.others, 3),
        }


def busy_seconds(core: int) -> float:
    """Return the seconds that a core of this host was busy: proc_stat(5)."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, irq, soft, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + soft + steal) / TICK
    return 0.0
