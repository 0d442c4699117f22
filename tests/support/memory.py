"""The kernel's counters of a container's memory."""

from __future__ import annotations

from pathlib import Path


def oom_kills(container_id: str) -> int:
    """Return how many processes of a container the kernel has killed for lack of memory.

    A container has no kernel log, and Docker's flag is set when the container ends.

    Args:
        container_id: Docker's, in full.
    """
    ours = f"*{container_id}*"
    groups = Path("/sys/fs/cgroup")
    (counters,) = [
        *groups.rglob(f"{ours}/memory.oom_control"),
        *groups.rglob(f"{ours}/memory.events"),
    ]
    return int(dict(line.split() for line in counters.read_text().splitlines())["oom_kill"])
