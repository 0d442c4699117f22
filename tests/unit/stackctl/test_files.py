"""Files with secrets: whole, private, and written only when they change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stackctl.files import private_directory, write_private


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_file_is_private_in_a_private_folder(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "key"
    assert write_private(file, "é") is True
    assert file.read_bytes() == "é".encode()
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    assert [path.name for path in file.parent.iterdir()] == ["key"], "no other file is left"


@pytest.mark.parametrize(
    ("text", "before", "changed"),
    [("same", 0o600, False), ("same", 0o640, True), ("same", 0o604, True), ("other", 0o600, True)],
)
def test_file_is_written_only_if_its_text_or_its_mode_differs(
    tmp_path: Path, text: str, before: int, *, changed: bool
) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(before)
    inode = file.stat().st_ino
    assert write_private(file, "same") is changed
    assert (file.read_text(), mode(file)) == ("same", 0o600)
    assert (file.stat().st_ino != inode) is changed


def test_what_an_interrupted_run_left_is_replaced(tmp_path: Path) -> None:
    scratch = tmp_path / ".key.new"
    scratch.write_text("half")
    scratch.chmod(0o644)
    write_private(tmp_path / "key", "whole")
    assert ((tmp_path / "key").read_text(), mode(tmp_path / "key")) == ("whole", 0o600)
    assert not scratch.exists()


def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(file: int) -> None:
        assert os.fstat(file).st_size == len("new"), "all of it is to be on the disk"
        raise KeyboardInterrupt

    write_private(tmp_path / "key", "old")
    monkeypatch.setattr("stackctl.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_private(tmp_path / "key", "new")
    assert (tmp_path / "key").read_text() == "old"


def test_folder_that_exists_becomes_private(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    assert private_directory(folder) == folder
    assert mode(private_directory(folder)) == 0o700
