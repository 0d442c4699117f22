"""The rules of this machine's firewall, from the pillar ``endpoints``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

# Filled in by Salt's loader.
__salt__: dict[str, Any] = {}

EVERYBODY = "*"
WORLD = "world"
# What these listen on is their programs' own default: no state sets it, so a firewall must not say otherwise.
FIXED_PORTS = {"ssh": 22, "salt-publish": 4505, "salt-request": 4506}


def inbound(
    endpoints: Mapping[str, Mapping[str, Any]], network: str, operator_cidrs: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return what this machine's firewall lets in: ``name``, ``port`` and ``sources`` of each endpoint it serves.

    ``sources`` is a sorted list of addresses and networks, or None where the whole world may connect.

    Args:
        endpoints: name -> ``port``, ``on`` (roles that listen) and ``from`` (roles that may connect, or ``world``);
            ``*`` stands for every role.
        network: the machines' network. ``from: ['*']`` opens a port to all of it, not to today's addresses: a new
            machine has to reach the master before the master can know it.
        operator_cidrs: networks from which the Salt master is reached by SSH.

    Raises:
        CommandExecutionError: a role that may connect has no machine, or a port would shut everybody out.
    """
    own_role = __salt__["role.own"]()
    rules: list[dict[str, Any]] = []
    for name, endpoint in endpoints.items():
        if endpoint["port"] != FIXED_PORTS.get(name, endpoint["port"]):
            raise CommandExecutionError(
                f"endpoint {name} has port {endpoint['port']}, but its program listens on {FIXED_PORTS[name]}:"
                " put that back; only who may connect can be changed"
            )
        if not {own_role, EVERYBODY} & set(endpoint["on"]):
            continue
        peers = set(endpoint["from"])
        sources = {network} if EVERYBODY in peers else set()
        for peer in peers - {EVERYBODY, WORLD}:
            sources |= set(__salt__["machines.addresses"](peer).values())
        if name == "ssh" and own_role == "salt":
            sources |= set(operator_cidrs)
        rules.append(
            {
                "name": name,
                "port": endpoint["port"],
                "sources": None if WORLD in peers else sorted(sources),
            }
        )
    return rules
