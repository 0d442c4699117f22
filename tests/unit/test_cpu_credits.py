"""The execution module `cpu_credits`: what a machine sees of its CPU credits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from saltmodules import load

TICKS = os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
V1 = "none /run/cgroup-cpu cgroup rw,relatime,cpu 0 0\n"
V2 = "none /sys/fs/cgroup cgroup2 rw,relatime 0 0\n"


class Counters:
    """The files of a machine, and its clock."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, virtual: str) -> None:
        self.now = 100.0
        self.module = load("_modules", "cpu_credits")
        monkeypatch.setattr(self.module, "__grains__", {"virtual": virtual}, raising=False)
        monkeypatch.setattr(self.module.time, "monotonic", lambda: self.now)
        self.root = root

    def put(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def stat(self, used: float, stolen: float) -> None:
        """Have a hypervisor tell these seconds of a core, a third of them each of three kinds."""
        part, rest = divmod(round(used * TICKS), 3)
        fields = [part, part, part + rest, 7_000_000, 80, 0, 0, round(stolen * TICKS), 0, 0]
        self.put("proc/stat", f"cpu  {' '.join(map(str, fields))}\ncpu0 1 2 3\n")

    def since(self, before: dict[str, float]) -> str:
        return str(self.module.since(before, str(self.root)))

    def sample(self) -> dict[str, float]:
        found: dict[str, float] = self.module.sample(str(self.root))
        return found


@pytest.mark.parametrize(
    ("used", "stolen", "told"),
    [
        (0.4, 3.6, "out of CPU credits: it got 10% of a core in the last 4.0 s, and wanted more"),
        (0.8, 3.0, "out of CPU credits: it got 20% of a core in the last 4.0 s, and wanted more"),
        (4.0, 0.0, ""),  # it has all that it wants
        (0.1, 0.0, ""),  # it waits for something else
        (0.05, 0.7, ""),  # idle beside busy neighbours
        (2.0, 2.0, ""),  # busy, on a shared core
    ],
)
def test_stolen_time_tells_a_virtual_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: float, stolen: float, told: str
) -> None:
    machine = Counters(tmp_path, monkeypatch, "xen")
    machine.stat(1000, 500)
    before = machine.sample()
    machine.stat(1000 + used, 500 + stolen)
    machine.now += 4
    assert machine.since(before) == told


@pytest.mark.parametrize(
    "mounts", [V2, V2 + V1, V2 + V1.replace("rw,relatime,cpu", "rw,cpu,cpuacct")]
)
def test_throttled_time_tells_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str
) -> None:
    machine = Counters(tmp_path, monkeypatch, "container")
    machine.put("proc/self/mounts", mounts)

    def put(used: int, periods: int) -> None:
        throttled = f"nr_periods 7000\nnr_throttled {periods}\n"
        both = throttled if mounts == V2 else ""
        machine.put("sys/fs/cgroup/cpu.stat", f"usage_usec {used * 1000}\n{both}")
        machine.put("run/cgroup-cpu/cpu.stat", throttled)

    put(50_000, 90)
    before = machine.sample()
    put(50_090, 99)
    machine.now += 1
    assert machine.since(before).startswith("out of CPU credits: it got 9%")
    before = machine.sample()
    put(51_000, 109)  # two processes want two cores, and one core is all that there is
    machine.now += 1
    assert machine.since(before) == ""
    before = machine.sample()
    put(51_100, 110)  # it waits for something else
    machine.now += 1
    assert machine.since(before) == ""


def test_no_time_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Counters(tmp_path, monkeypatch, "xen")
    machine.stat(0, 0)
    assert machine.since(machine.sample()) == ""


def test_who_is_asked_works_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("_modules", "cpu_credits")
    taken = iter(
        [{"at": 0.0, "used": 0.0, "withheld": 0.0}, {"at": 2.0, "used": 0.2, "withheld": 1.8}]
    )
    monkeypatch.setattr(module, "sample", lambda *_: next(taken))
    assert module.told(0) == (
        "out of CPU credits: it got 10% of a core in the last 2.0 s, and wanted more"
    )
