"""The state `setuid.absent`: programs lose the rights that dpkg would give them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saltmodules import load


class Dpkg:
    """Changes the mode of the file that it is told of, unless it is broken."""

    def __init__(self, *, broken: bool = False) -> None:
        self.asked: list[list[str]] = []
        self._broken = broken

    def run(self, command: list[str], *, python_shell: bool) -> dict[str, Any]:
        assert not python_shell
        self.asked.append(command)
        if self._broken:
            return {"retcode": 2, "stdout": "", "stderr": "dpkg is broken"}
        *_, owner, group, mode, path = command
        assert (owner, group) == ("root", "root")
        Path(path).chmod(int(mode, 8))
        return {"retcode": 0, "stdout": "", "stderr": ""}

    def state(self, *paths: Path, test: bool = False) -> dict[str, Any]:
        """Apply the state."""
        module = load(
            "_states", "setuid", __opts__={"test": test}, __salt__={"cmd.run_all": self.run}
        )
        found: dict[str, Any] = module.absent("base-setuid", [str(path) for path in paths])
        return found


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, Path]:
    """Name -> a program; it is named for its special right."""
    found = {}
    for name, mode in {"setuid": 0o4755, "setgid": 0o2755, "none": 0o755}.items():
        found[name] = tmp_path / name
        found[name].touch()
        found[name].chmod(mode)
    return found


def modes(programs: dict[str, Path]) -> set[int]:
    return {path.stat().st_mode & 0o7777 for path in programs.values()}


def test_rights_are_taken_once(programs: dict[str, Path], tmp_path: Path) -> None:
    dpkg = Dpkg()
    absent = tmp_path / "absent"
    found = dpkg.state(*programs.values(), absent)
    assert found["result"] is True
    assert set(found["changes"]) == {str(programs["setuid"]), str(programs["setgid"])}
    assert modes(programs) == {0o755}
    assert [command[:4] for command in dpkg.asked] == 2 * [
        ["dpkg-statoverride", "--force-statoverride-add", "--update", "--add"]
    ]
    again = dpkg.state(*programs.values(), absent)
    assert (again["result"], again["changes"], len(dpkg.asked)) == (True, {}, 2)


def test_prediction_changes_nothing(programs: dict[str, Path]) -> None:
    dpkg = Dpkg()
    found = dpkg.state(*programs.values(), test=True)
    assert (found["result"], len(found["changes"]), dpkg.asked) == (None, 2, [])
    assert modes(programs) == {0o4755, 0o2755, 0o755}


def test_error_of_dpkg_is_told(programs: dict[str, Path]) -> None:
    found = Dpkg(broken=True).state(*programs.values())
    assert (found["result"], found["changes"]) == (False, {})
    assert "setuid keeps its rights: dpkg is broken" in found["comment"]
