"""How many machines a role may have: what its map and the database's connections allow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stackctl import tree_files
from stackctl.counts import Bounds
from stackctl.deployment import Deployment
from stackctl.errors import ScaleError
from stackctl.tree_modules import load


def sizes(deployment: Deployment, component: str) -> dict[str, Any]:
    """Return the sizes of a component: its defaults, changed by `pillar/base`."""
    path = Path(deployment.root, "salt", component, "defaults.yaml")
    defaults = tree_files.section(deployment.root, path, component)
    return defaults | deployment.base_pillar(component)


def connections(deployment: Deployment) -> int:
    """Return how many connections to the database one web machine opens at most.

    The tree has the arithmetic, which the machines' states use too.
    """
    module = load(deployment, "web_sizes")
    return int(module.connections(sizes(deployment, "airflow")))


def refusal(deployment: Deployment, role: str, machines: int) -> str:
    """Return why the database does not allow so many machines of a role; empty: it does."""
    postgres = sizes(deployment, "postgres")
    if postgres["clients"] != role:
        return ""
    one, allowed = connections(deployment), int(postgres["role_connections"])
    if machines * one <= allowed:
        return ""
    return (
        f"{machines} machines of the role '{role}' may open {machines * one} connections to the"
        f" database, which allows {allowed}: enough for {allowed // one}"
    )


def check(deployment: Deployment, bounds: Mapping[str, Bounds]) -> None:
    """Raise ScaleError for numbers of machines that the stack cannot have; changes nothing.

    Args:
        deployment: which one.
        bounds: role -> number.
    """
    roles = deployment.role_table().roles
    for role, wanted in bounds.items():
        if role not in roles:
            raise ScaleError(f"There is no role '{role}'.", f"Roles: {', '.join(roles)}.")
        minimum = deployment.minimum(role)
        if not deployment.scales(role):
            can = ", ".join(name for name in roles if deployment.scales(name))
            raise ScaleError(
                f"The role '{role}' cannot be scaled:"
                f" its machines are named in {deployment.map_path.name}, and hold data or an"
                " address of their own.",
                f"These can: {can or 'none'}. If settings:machines of the deployment has the role,"
                " remove it there.",
            )
        if wanted.minimum < minimum:
            raise ScaleError(
                f"{wanted.minimum} is below the minimum:"
                f" {deployment.map_path.name} has {minimum} machines of the role '{role}'."
            )
        if reason := refusal(deployment, role, wanted.maximum):
            raise ScaleError(
                f"{reason}.", "More connections need more memory: salt/postgres/defaults.yaml."
            )
