"""Files that are replaced as a whole, and folders that only their owner may read."""

from __future__ import annotations

import os
from pathlib import Path


def private_directory(path: Path) -> Path:
    """Make a folder that only its owner may enter, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, content: str) -> bool:
    """Replace a file atomically, with mode 0600, and return whether that changed anything.

    A run that is interrupted leaves the old file or the new one, never half of one.
    """
    data = content.encode()
    if path.is_file() and path.read_bytes() == data and path.stat().st_mode & 0o077 == 0:
        return False
    private_directory(path.parent)
    _replace(path, data, 0o600)
    return True


def write_atomically(path: Path, content: str) -> None:
    """Replace a file that others may read; one that exists keeps its mode.

    A run that is interrupted, or a full disk, leaves the old file or the new one.
    """
    _replace(path, content.encode(), path.stat().st_mode & 0o777 if path.is_file() else 0o644)


def _replace(path: Path, data: bytes, mode: int) -> None:
    scratch = path.parent / f".{path.name}.new"
    scratch.unlink(missing_ok=True)
    try:
        scratch.touch(mode=0o600)
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.chmod(mode)
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
