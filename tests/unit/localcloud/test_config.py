"""Files that only their owner may read."""

from __future__ import annotations

import stat
from pathlib import Path

from localcloud.config import private_directory, write_private


def test_private_files_are_replaced_whole_and_only_when_needed(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "key"
    assert write_private(path, "one")
    assert not write_private(path, "one")
    path.chmod(0o644)
    assert write_private(path, "one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert write_private(path, "two")
    assert path.read_text() == "two"
    assert not write_private(path, b"two")
    assert [one.name for one in path.parent.iterdir()] == ["key"]


def test_a_private_directory_is_closed_even_when_it_was_open(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    assert stat.S_IMODE(private_directory(tmp_path / "open").stat().st_mode) == 0o700
