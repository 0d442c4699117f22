"""What Salt's loader asks of the tree's modules."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from plainpillar import ROOT

MODULES = sorted((ROOT / "salt").glob("_*/*.py"))


def assigned(path: Path) -> list[str]:
    """Return the names of the loader to which a module assigns a value."""
    found = []
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                found.append(name)
            case ast.Assign(targets=targets):
                found += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in found if name.startswith("__") and name.endswith("__")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_names_of_the_loader_are_declared_and_not_assigned(path: Path) -> None:
    """Salt compares what is assigned with its own, and for that it loads all its 460 modules.

    That takes a second of CPU in each process that uses the module: salt/loader/lazy.py.
    """
    assert assigned(path) == []


def test_assignment_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("__salt__: dict = {}\n__opts__ = {}\n__pillar__: dict\nNAME = 1\n")
    assert assigned(module) == ["__salt__", "__opts__"]
