"""Who is in the stack and who may talk to whom: from minion ids, the mine and the pillar ``endpoints``.

A minion's id is ``<role>-<n>`` and is proved by its key. Nothing here reads a grain that a machine sets for itself.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

# Filled in by Salt's loader.
__opts__: dict[str, Any] = {}
__pillar__: dict[str, Any] = {}
__salt__: dict[str, Any] = {}

MINE_FUNCTION = "private_address"
EVERYBODY = "*"
WORLD = "world"
# What these listen on is their programs' own default: no state sets it, so a firewall must not say otherwise.
FIXED_PORTS = {"ssh": 22, "salt-publish": 4505, "salt-request": 4506}
_CURE = "Run on the master: salt '{}' mine.update"


def role() -> str:
    """Return this machine's role: its minion id without the number."""
    return _role_of(str(__opts__["id"]))


def addresses(role: str = EVERYBODY) -> dict[str, str]:
    """Return minion id -> private address of every machine of a role, sorted by id.

    Args:
        role: the role, or ``*`` for all machines.

    Raises:
        CommandExecutionError: the mine knows no machine of that role, or one that is wrong about its address. What a
            machine says of itself ends in other machines' firewalls, so it has to be an address inside the VPC, and no
            other machine's.
    """
    network = ipaddress.IPv4Network(__pillar__["aws"]["vpc"]["cidr"])
    found = __salt__["mine.get"](EVERYBODY, MINE_FUNCTION)
    owners: dict[str, str] = {}
    for minion_id in sorted(found):
        address = _address(minion_id, found[minion_id], network)
        if address in owners:
            raise CommandExecutionError(
                f"{owners[address]} and {minion_id} both say that {address} is their address"
            )
        owners[address] = minion_id
    of_role = {
        name: address for address, name in owners.items() if role in (EVERYBODY, _role_of(name))
    }
    if not of_role:
        raise CommandExecutionError(
            f"the mine holds no address of any '{role}' machine: has it been launched? {_CURE.format('*')}"
        )
    return of_role


def _role_of(minion_id: str) -> str:
    return minion_id.rpartition("-")[0]


def _address(minion_id: str, candidates: Any, network: ipaddress.IPv4Network) -> str:
    if not candidates:
        raise CommandExecutionError(
            f"the mine holds no address of {minion_id}. {_CURE.format(minion_id)}"
        )
    try:
        address = ipaddress.IPv4Address(candidates[0])
    except (ValueError, LookupError, TypeError):
        raise CommandExecutionError(
            f"{minion_id} says that {candidates!r} is its address"
        ) from None
    if address not in network:
        raise CommandExecutionError(
            f"{minion_id} says that {address} is its address, which is not in {network}"
        )
    return str(address)


def own_address() -> str:
    """Return this machine's private address, as the others know it.

    Raises:
        CommandExecutionError: the mine does not know this machine.
    """
    own_id = str(__opts__["id"])
    known = addresses(role())
    if own_id not in known:
        raise CommandExecutionError(
            f"the mine holds no address of {own_id}. {_CURE.format(own_id)}"
        )
    return known[own_id]


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
    own_role = role()
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
            sources |= set(addresses(peer).values())
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


def changed_since_start(unit: str, files: Sequence[str], *, reload: bool = False) -> list[str]:
    """Return which of the files have changed since a unit has read them; none when it does not run.

    Args:
        unit: the systemd unit.
        files: paths; of a link it counts when it was set, a path that is not there has not changed.
        reload: a reload makes the unit read them again, not only a start.
    """
    since = "StateChangeTimestampMonotonic" if reload else "ActiveEnterTimestampMonotonic"
    shown = __salt__["cmd.run_stdout"](
        ["systemctl", "show", f"--property=ActiveState,{since}", unit], python_shell=False
    )
    properties = dict(line.split("=", 1) for line in shown.splitlines())
    if properties["ActiveState"] != "active":
        return []
    began = time.time() - time.monotonic() + int(properties[since]) / 1e6
    return [path for path in files if os.path.lexists(path) and os.lstat(path).st_mtime > began]
