"""Use all of a disk that has grown: its partition and its file system, while the machine runs.

A container has no disk of its own, and nothing to grow.

https://docs.aws.amazon.com/ebs/latest/userguide/recognize-expanded-volume-linux.html
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__salt__: dict[str, Any]

BLOCKS = "/sys/class/block"
# Less than that is what partition tables and groups of blocks leave over.
LEFT_OVER = 64 * 2**20
_NO_CHANGE = 1  # exit code of growpart


def room(mount: str = "/", blocks: str = BLOCKS) -> str:
    """Return what of a disk is not used, in words; empty: nothing, or there is no disk.

    Args:
        mount: where its file system is mounted.
        blocks: the folder in which the kernel lists disks and partitions.

    Raises:
        CommandExecutionError: that cannot be found out.
    """
    device = _device(mount)
    if not device:
        return ""
    disk, number = _disk(device, blocks)
    if number and _growpart("--dry-run", disk, number):
        return f"{disk} has room behind {device}"
    left = int(_run("blockdev", "--getsize64", device)) - _size(device)
    return f"{device} has {left // 2**20} MiB without a file system" if left > LEFT_OVER else ""


def grow(mount: str = "/", blocks: str = BLOCKS) -> None:
    """Give the last partition and its ext4 all of the disk.

    Args:
        mount: where the file system is mounted.
        blocks: the folder in which the kernel lists disks and partitions.

    Raises:
        CommandExecutionError: it fails.
    """
    device = _device(mount)
    disk, number = _disk(device, blocks)
    if number:
        _growpart(disk, number)
    _run("resize2fs", device)


def _device(mount: str) -> str:
    """Return the device of an ext4; empty: something else is mounted there."""
    source, kind = _run("findmnt", "--noheadings", "--output=SOURCE,FSTYPE", mount).split()[:2]
    return source if source.startswith("/dev/") and kind == "ext4" else ""


def _disk(device: str, blocks: str) -> tuple[str, str]:
    """Return the disk of a partition and its number; the device itself and "" for a disk."""
    entry = Path(blocks, Path(device).resolve().name)
    try:
        return f"/dev/{entry.resolve().parent.name}", (entry / "partition").read_text().strip()
    except FileNotFoundError:
        return device, ""


def _growpart(*arguments: str) -> bool:
    """Return whether the partition grows."""
    done = _done("growpart", *arguments)
    if done["retcode"] not in (0, _NO_CHANGE) or "FAILED" in done["stdout"] + done["stderr"]:
        raise CommandExecutionError(f"growpart: {done['stderr'] or done['stdout']}")
    return bool(done["retcode"] == 0)


def _size(device: str) -> int:
    """Return the size of an ext4, in bytes."""
    header = _run("dumpe2fs", "-h", device)
    numbers = dict(re.findall(r"^(Block count|Block size): +(\d+)$", header, re.MULTILINE))
    return int(numbers["Block count"]) * int(numbers["Block size"])


def _run(*command: str) -> str:
    done = _done(*command)
    if done["retcode"] != 0:
        raise CommandExecutionError(f"{command[0]}: {done['stderr'] or done['stdout']}")
    return str(done["stdout"])


def _done(*command: str) -> dict[str, Any]:
    done: dict[str, Any] = __salt__["cmd.run_all"](
        list(command), python_shell=False, ignore_retcode=True
    )
    return done
