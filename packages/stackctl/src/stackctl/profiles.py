"""The instance type of each machine, as salt-cloud's profiles name it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from stackctl.deployment import Deployment
from stackctl.errors import StackError


def instance_types(deployment: Deployment, names: Iterable[str]) -> dict[str, str]:
    """Return machine -> instance type, for machines of the map.

    Raises:
        StackError: a profile does not exist or names no type.
    """
    profiles: dict[str, Mapping[str, Any]] = {}
    folder = deployment.root / "cloud.profiles.d"
    for path in sorted(folder.glob("*.conf")):
        profiles |= yaml.safe_load(path.read_text())
    machines = deployment.machines()
    return {name: _size(profiles, machines[name]) for name in names}


def _size(profiles: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Return the option `size` of a profile, or of the one that it extends."""
    profile = profiles.get(name, {})
    while "size" not in profile and profile.get("extends") in profiles:
        profile = profiles[profile["extends"]]
    if not profile.get("size"):
        raise StackError(f"The profile '{name}' in cloud.profiles.d names no size.")
    return str(profile["size"])
