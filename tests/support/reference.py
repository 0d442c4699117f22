"""AWS's Service Authorization Reference, and its linter, as the package parliament has them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any


@lru_cache(maxsize=1)
def parliament() -> ModuleType:
    """Return the package parliament.

    It asks pkg_resources for the paths of two of its own files, and for nothing else; setuptools no
    longer has pkg_resources.
    """
    spec = importlib.util.find_spec("parliament")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    stand_in = ModuleType("pkg_resources")
    vars(stand_in)["resource_filename"] = lambda _, name: str(folder / name)
    before = sys.modules.get("pkg_resources")
    sys.modules["pkg_resources"] = stand_in
    try:
        return importlib.import_module("parliament")
    finally:
        del sys.modules["pkg_resources"]
        if before:
            sys.modules["pkg_resources"] = before


@lru_cache(maxsize=1)
def _privileges() -> dict[str, dict[str, Any]]:
    return {
        f"{service['prefix']}:{privilege['privilege']}": privilege
        for service in parliament().iam_definition
        for privilege in service["privileges"]
    }


def keys_by_kind(action: str) -> dict[str, set[str]]:
    """Return the kinds of resources of an action, and the condition keys that each has.

    The keys that do not depend on a resource are those of the kind "", and of every other. A key
    with a tag's name ends in a slash.
    """
    found = {
        entry["resource_type"].rstrip("*"): {
            key.partition("$")[0] for key in entry["condition_keys"]
        }
        for entry in _privileges()[action]["resource_types"]
    }
    always = found.setdefault("", set())
    return {kind: keys | always for kind, keys in found.items()}


def findings(document: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return what parliament finds in a policy: the name of a fault, and where it is."""
    found = parliament().analyze_policy_string(json.dumps(document), ignore_private_auditors=True)
    return {(finding.issue, str(finding.detail)) for finding in found.findings}


def actions() -> frozenset[str]:
    """Return all actions of all services that the reference has."""
    return frozenset(_privileges())
