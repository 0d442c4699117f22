"""The rules of this machine's firewall, from the pillar ``endpoints``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Filled in by Salt's loader.
__pillar__: dict[str, Any] = {}
__salt__: dict[str, Any] = {}


def rules() -> list[dict[str, Any]]:
    """Return what this machine lets in: ``name``, ``port`` and ``sources`` of each rule.

    ``sources`` is a sorted list of addresses and networks, or None where anybody may connect. An
    endpoint without any client has no rule.

    Raises:
        CommandExecutionError: a role that may connect has no machine, or an endpoint is wrong.
    """
    endpoints = __salt__["endpoints.served_by"](__salt__["role.own"]())
    found = [
        {"name": endpoint["name"], "port": endpoint["port"], "sources": _sources(endpoint)}
        for endpoint in endpoints
    ]
    return [rule for rule in found if rule["sources"] != []]


def _sources(endpoint: Mapping[str, Any]) -> list[str] | None:
    if endpoint["internet"]:
        return None
    sources = set(endpoint["networks"])
    # All of the VPC, not today's addresses: a new machine has to reach the master before the
    # master can know its address.
    if endpoint["any_role"]:
        sources.add(__pillar__["aws"]["vpc"]["cidr"])
    for role in endpoint["roles"]:
        sources |= set(__salt__["machines.addresses"](role).values())
    return sorted(sources)
