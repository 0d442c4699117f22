"""Files and directories that only their owner can use."""

from __future__ import annotations

import stat
from pathlib import Path

from localcloud.config import private_directory, write_private


def test_write_private_replaces_file_only_when_needed(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "key"
    assert write_private(path, "one")
    assert not write_private(path, "one")
    path.chmod(0o644)
    assert write_private(path, "one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert write_private(path, "two")
    assert path.read_text() == "two"
    assert not write_private(path, b"two")
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]


def test_private_directory_closes_open_directory(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert stat.S_IMODE(private_directory(tmp_path / "open").stat().st_mode) == 0o700
