"""Files and folders that only their owner may read."""

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
    scratch = private_directory(path.parent) / f".{path.name}.new"
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    return True
