"""The module and the state `root_disk`: a disk that has grown is used."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load

GIB = 2**30


class Disk:
    """A disk with one partition and an ext4, as the programs show it.

    Attributes:
        sizes: bytes of the disk, the partition and the file system.
        kind: of the file system.
        partitioned: whether there is a partition; otherwise the file system is on the disk.
        fails: programs that fail, with what they say.
        ran: the programs that change something.
    """

    def __init__(self, disk: int, partition: int, filesystem: int) -> None:
        self.sizes = [disk, partition, filesystem]
        self.kind = "ext4"
        self.source = "/dev/xvda1"
        self.partitioned = True
        self.fails: dict[str, str] = {}
        self.ran: list[str] = []

    def run(self, command: list[str], **_: object) -> dict[str, Any]:
        program, *arguments = command
        if program in self.fails:
            return {"retcode": 2, "stdout": "", "stderr": self.fails[program]}
        retcode, text = 0, ""
        match program:
            case "findmnt":
                text = f"{self.source} {self.kind}\n"
            case "growpart":
                retcode, text = self._growpart(arguments)
            case "blockdev":
                assert arguments == ["--getsize64", self.source]
                text = f"{self.sizes[1 if self.partitioned else 0]}\n"
            case "dumpe2fs":
                assert arguments == ["-h", self.source]
                text = (
                    f"Inode count:  1\nBlock count:    {self.sizes[2] // 4096}\nBlock size: 4096\n"
                )
            case "resize2fs":
                self.ran.append(" ".join(command))
                self.sizes[2] = self.sizes[1 if self.partitioned else 0]
        return {"retcode": retcode, "stdout": text, "stderr": ""}

    def _growpart(self, arguments: list[str]) -> tuple[int, str]:
        assert arguments[-2:] == ["/dev/xvda", "1"]
        if self.sizes[1] == self.sizes[0]:
            return 1, "NOCHANGE: partition 1 could only be grown by 2015\n"
        if "--dry-run" not in arguments:
            self.ran.append("growpart /dev/xvda 1")
            self.sizes[1] = self.sizes[0]
        return 0, "CHANGED: partition=1\n"

    def module(self) -> ModuleType:
        return load("_modules", "root_disk", __salt__={"cmd.run_all": self.run})


@pytest.fixture
def blocks(tmp_path: Path) -> str:
    """The kernel's list of disks and partitions."""
    partition = tmp_path / "devices/xvda/xvda1"
    partition.mkdir(parents=True)
    (partition / "partition").write_text("1\n")
    folder = tmp_path / "block"
    folder.mkdir()
    (folder / "xvda1").symlink_to(partition)
    (folder / "xvda").symlink_to(partition.parent)
    return str(folder)


def test_disk_that_has_grown_is_used(blocks: str) -> None:
    disk = Disk(20 * GIB, 10 * GIB, 10 * GIB)
    assert disk.module().room("/", blocks) == "/dev/xvda has room behind /dev/xvda1"
    disk.module().grow("/", blocks)
    assert disk.ran == ["growpart /dev/xvda 1", "resize2fs /dev/xvda1"]
    assert disk.module().room("/", blocks) == ""


def test_run_that_was_interrupted_goes_on(blocks: str) -> None:
    disk = Disk(20 * GIB, 20 * GIB, 10 * GIB)
    assert disk.module().room("/", blocks) == "/dev/xvda1 has 10240 MiB without a file system"
    disk.module().grow("/", blocks)
    assert disk.ran == ["resize2fs /dev/xvda1"]
    assert disk.sizes[2] == 20 * GIB


def test_disk_without_a_partition_is_used(blocks: str) -> None:
    disk = Disk(20 * GIB, 0, 10 * GIB)
    disk.source, disk.partitioned = "/dev/xvda", False
    assert disk.module().room("/", blocks).startswith("/dev/xvda has 10240 MiB")
    disk.module().grow("/", blocks)
    assert disk.ran == ["resize2fs /dev/xvda"]


@pytest.mark.parametrize("left", [0, 64 * 2**20])
def test_what_is_left_over_is_no_room(blocks: str, left: int) -> None:
    assert Disk(GIB, GIB, GIB - left).module().room("/", blocks) == ""
    assert Disk(GIB, GIB, GIB - left - 4096).module().room("/", blocks) == (
        "/dev/xvda1 has 64 MiB without a file system" if left else ""
    )


@pytest.mark.parametrize(("source", "kind"), [("overlay", "overlay"), ("/dev/xvda1", "xfs")])
def test_machine_without_a_disk_of_its_own_has_no_room(blocks: str, source: str, kind: str) -> None:
    disk = Disk(20 * GIB, 10 * GIB, 10 * GIB)
    disk.source, disk.kind = source, kind
    assert disk.module().room("/", blocks) == ""


@pytest.mark.parametrize("program", ["findmnt", "growpart", "resize2fs"])
def test_program_that_fails_is_told(blocks: str, program: str) -> None:
    disk = Disk(20 * GIB, 10 * GIB, 10 * GIB)
    disk.fails = {program: "no such thing"}
    with pytest.raises(CommandExecutionError, match=f"^{program}: no such thing"):
        disk.module().grow("/", blocks)


# -- the state -------------------------------------------------------------------------------------


def state(rooms: list[str], *, test: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Return the state's answer, and what it did, where the disk has one room after the other."""
    did: list[str] = []

    def room(_: str) -> str:
        found = rooms.pop(0)
        if found == "error":
            raise CommandExecutionError("growpart: no such thing")
        return found

    functions = {"root_disk.room": room, "root_disk.grow": did.append}
    module = load("_states", "root_disk", __opts__={"test": test}, __salt__=functions)
    return module.grown("/"), did


@pytest.mark.parametrize(
    ("rooms", "test", "result", "changes", "did"),
    [
        ([""], False, True, {}, []),
        (["10 MiB", ""], False, True, {"room": "10 MiB"}, ["/"]),
        (["10 MiB"], True, None, {"room": "10 MiB"}, []),
        (["10 MiB", "10 MiB"], False, False, {}, ["/"]),
        (["error"], False, False, {}, []),
        (["error"], True, False, {}, []),
    ],
)
def test_state_grows_what_has_room(
    rooms: list[str], test: bool, result: bool | None, changes: dict[str, str], did: list[str]
) -> None:
    found, done = state(list(rooms), test=test)
    assert (found["result"], found["changes"], done) == (result, changes, did)
    assert found["name"] == "/"
