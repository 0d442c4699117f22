"""Whether this machine is out of CPU credits, as far as a machine can see that by itself.

EC2 gives a type such as t2.micro a tenth of a core once its credits are spent, and tells CloudWatch
alone what is left, every five minutes. The machine sees the time in which it could have run and did
not: ``steal`` of /proc/stat, see proc_stat(5). A container has no hypervisor; its control group
counts the periods in which it was throttled.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-credits-baseline-concepts.html
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Set by Salt's loader.
__grains__: dict[str, Any]

# Of a core, in the time that is looked at. Without credits a t2.micro gets 0.1, a t3.micro 0.2. A
# neighbour may take some time from an idle machine, and a busy machine that shares its core still
# gets more than this.
MOST_USED, LEAST_WITHHELD = 0.3, 0.3
PERIOD = 0.1  # seconds, of the control group's quota: the kernel's default, and Docker's
BEGINNING = "out of CPU credits"  # of the sentence; packages/stackctl looks for it


def sample(root: str = "/") -> dict[str, float]:
    """Return what this machine has used and what was withheld from it, to compare with later.

    Args:
        root: the machine's root folder.

    Returns:
        ``at``: now; ``used`` and ``withheld``: of a core since some moment; all in seconds.
    """
    counted = _of_control_group if __grains__.get("virtual") == "container" else _of_hypervisor
    used, withheld = counted(Path(root))
    return {"at": time.monotonic(), "used": used, "withheld": withheld}


def since(before: Mapping[str, float], root: str = "/") -> str:
    """Return a sentence when this machine was without credits since a ``sample``, or "".

    The caller has to have worked in between: who asks for nothing is refused nothing.

    Args:
        before: the sample.
        root: the machine's root folder.
    """
    now = sample(root)
    seconds = now["at"] - before["at"]
    if seconds <= 0:
        return ""
    used, withheld = ((now[key] - before[key]) / seconds for key in ("used", "withheld"))
    if used > MOST_USED or withheld < LEAST_WITHHELD:
        return ""
    return f"{BEGINNING}: it got {used:.0%} of a core in the last {seconds:.1f} s, and wanted more"


def told(seconds: float = 0.5) -> str:
    """Return the sentence of ``since`` for the next moments, in which this works as it can.

    Args:
        seconds: how long.
    """
    before = sample()
    while time.monotonic() < before["at"] + seconds:
        pass
    return since(before)


def _of_hypervisor(root: Path) -> tuple[float, float]:
    """Return the seconds of a core that a virtual machine has used, and those stolen from it."""
    with (root / "proc/stat").open() as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(
            int, stat.readline().split()[1:9]
        )
    core_second = os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
    return (user + nice + system + irq + softirq) / core_second, steal / core_second


def _of_control_group(root: Path) -> tuple[float, float]:
    """Return the same of a container, whose /proc/stat is its host's.

    With version 1 of control groups, the CPU has a hierarchy of its own. Its counter of throttled
    time leaves out what a busy host takes, so the periods count.
    """
    unified = separate = _counters(root / "sys/fs/cgroup/cpu.stat")
    mounts = (root / "proc/self/mounts").read_text()
    if found := re.search(r"^\S+ (\S+) cgroup \S*\bcpu\b", mounts, re.MULTILINE):
        separate = _counters(root / found[1].lstrip("/") / "cpu.stat")
    return unified["usage_usec"] / 1e6, separate.get("nr_throttled", 0) * PERIOD


def _counters(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, path.read_text().splitlines())}
