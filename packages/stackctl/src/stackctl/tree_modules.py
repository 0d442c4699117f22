"""Modules of the checkout that stackctl calls too, so that a rule has one home."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from stackctl.deployment import Deployment
from stackctl.errors import StackError


def load(deployment: Deployment, name: str) -> ModuleType:
    """Return the execution module of this name; it needs nothing of what Salt's loader sets.

    Raises:
        StackError: there is no such file.
    """
    return load_file(deployment, f"_modules/{name}.py")


def load_file(deployment: Deployment, place: str) -> ModuleType:
    """Return a program of the tree as a module.

    Args:
        deployment: whose checkout.
        place: the file, below `salt/`.

    Raises:
        StackError: there is no such file.
    """
    path = deployment.root / "salt" / place
    name = f"tree_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise StackError(f"{path} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
