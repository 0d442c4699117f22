"""What each machine is, as salt-cloud's profiles name it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stackctl import tree_files
from stackctl.deployment import Deployment
from stackctl.errors import StackError


def instance_types(deployment: Deployment, names: Iterable[str]) -> dict[str, str]:
    """Return machine -> instance type, for machines of the map.

    Raises:
        StackError: a profile does not exist or names no type.
    """
    machines, given = deployment.machines(), deployment.map_options()
    found = {profile: resolve(deployment, profile) for profile in set(machines.values())}
    return {
        name: instance_type({**found[machines[name]], **given[name]}, machines[name])
        for name in names
    }


def resolve(deployment: Deployment, name: str) -> Mapping[str, Any]:
    """Return the options of a profile, with those of the profiles that it extends.

    An option of its own takes the place of an inherited one as a whole, as in salt-cloud. A profile
    that does not exist has none.
    """
    profiles: dict[str, Mapping[str, Any]] = {}
    for path in sorted((deployment.root / "cloud.profiles.d").glob("*.conf")):
        profiles |= tree_files.read(deployment.root, path)
    profile, seen = dict(profiles.get(name, {})), {name}
    while (parent := profile.pop("extends", None)) not in {None, *seen}:
        profile = {**profiles.get(parent, {}), **profile}
        seen.add(parent)
    return profile


def instance_type(profile: Mapping[str, Any], name: str) -> str:
    """Return the instance type of a profile; raise StackError if it names none."""
    if not profile.get("size"):
        raise StackError(f"The profile '{name}' in cloud.profiles.d names no size.")
    return str(profile["size"])
