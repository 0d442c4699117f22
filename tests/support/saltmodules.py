"""The tree's own Salt modules, as Salt's loader hands them to a minion."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from plainpillar import ROOT

TREE = ROOT / "salt"
# The execution modules that need nothing but the pillar, the mine and each other.
OF_THE_STACK = ("role", "machines", "operators", "endpoints", "firewall", "security_group")

Functions = dict[str, Callable[..., Any]]


def load(kind: str, name: str, **dunders: Any) -> ModuleType:
    """Load a module from the tree.

    Args:
        kind: the folder, `_modules` or `_states`.
        name: the module's name.
        dunders: what Salt's loader would fill in, such as `__salt__`.
    """
    path = TREE / kind / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"stack{kind}_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(dunders)
    return module


def load_file(path: Path) -> ModuleType:
    """Load a file of the repository that no package and no loader of Salt's has."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def functions(
    minion_id: str,
    pillar: Mapping[str, Any],
    addresses: Mapping[str, str],
    of_salt: Mapping[str, Callable[..., Any]] | None = None,
) -> Functions:
    """Return `module.function` -> the stack's execution functions, as `__salt__` of a minion.

    Args:
        minion_id: the minion.
        pillar: its pillar.
        addresses: its pillar `addresses`.
        of_salt: what stands in for Salt's own functions.
    """
    loaded: Functions = dict(of_salt or {})
    pillar = {**pillar, "addresses": addresses}
    opts = {"id": minion_id, "test": False}
    for name in OF_THE_STACK:
        module = load("_modules", name, __opts__=opts, __pillar__=pillar, __salt__=loaded)
        for attribute, value in list(vars(module).items()):
            if isinstance(value, FunctionType) and not attribute.startswith("_"):
                loaded[f"{name}.{attribute}"] = value
    return loaded
