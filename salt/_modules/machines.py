"""The private addresses of the stack's machines, from the Salt mine.

A machine writes its own address into the mine, and the address ends in other machines' firewalls.
So an address counts only when it lies inside the VPC and no other machine claims it.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__salt__: dict[str, Any]

PROXY_ROLE = "salt"  # pillar/base/endpoints.sls has the proxy's port, and that it is there
MINE_FUNCTION = "private_address"
LOOPBACK = "127.0.0.1"
_HINT = "Run on the master: salt '{}' mine.update"


def addresses(role: str | None = None) -> dict[str, str]:
    """Return minion id -> private address, sorted by id.

    Args:
        role: the role of the machines; all machines when it is None.

    Raises:
        CommandExecutionError: the mine has no machine of that role, a machine has an address that
            is not in the VPC, or two machines have the same address.
    """
    network = ipaddress.IPv4Network(__pillar__["aws"]["vpc"]["cidr"])
    found = __salt__["mine.get"]("*", MINE_FUNCTION)
    owners: dict[str, str] = {}
    for minion_id in sorted(found):
        address = _address(minion_id, found[minion_id], network)
        if address in owners:
            raise CommandExecutionError(
                f"{owners[address]} and {minion_id} both say that {address} is their address"
            )
        owners[address] = minion_id
    of_role = {
        minion_id: address
        for address, minion_id in owners.items()
        if role in (None, __salt__["role.of"](minion_id))
    }
    if not of_role:
        machine = "machine" if role is None else f"'{role}' machine"
        raise CommandExecutionError(
            f"the mine holds no address of any {machine}: has it been launched? {_HINT.format('*')}"
        )
    return of_role


def serving(role: str) -> dict[str, str]:
    """Return minion id -> private address of the machines that serve a role, sorted by id.

    Raises:
        CommandExecutionError: as for ``addresses``.
    """
    return {
        minion_id: address
        for minion_id, address in addresses(role).items()
        if __salt__["role.serves"](minion_id)
    }


def own_address() -> str:
    """Return this machine's private address, as the other machines know it.

    Raises:
        CommandExecutionError: the mine does not know this machine.
    """
    own_id = str(__opts__["id"])
    known = addresses(__salt__["role.own"]())
    if own_id not in known:
        raise CommandExecutionError(
            f"the mine holds no address of {own_id}. {_HINT.format(own_id)}"
        )
    return known[own_id]


def package_proxy() -> str:
    """Return the URL of the proxy by which this machine fetches packages; empty: it uses none.

    The Salt master's machine runs the proxy, and has a way out itself.

    Raises:
        CommandExecutionError: the mine has no Salt master.
    """
    if not __pillar__["proxy"]["used"] or __salt__["role.own"]() == PROXY_ROLE:
        return ""
    address = next(iter(addresses(PROXY_ROLE).values()))
    return f"http://{address}:{__pillar__['endpoints']['proxy']['port']}"


def host_names() -> list[dict[str, Any]]:
    """Return the ``address`` and the ``names`` of every machine, sorted by id.

    The names are the minion id, the id below the domain, and the name of the role's service if the
    machine serves it. What this machine reaches by its own proxy has the name of the service at
    ``LOOPBACK``, which comes first then.
    """
    roles = __pillar__["roles"]
    own = __salt__["role.serving"]()
    proxied = [role for role, entry in roles.items() if own in entry.get("proxied", ())]
    names = [__salt__["role.service_name"](role) for role in proxied]
    hosts = [{"address": LOOPBACK, "names": names}] if names else []
    for minion_id, address in addresses().items():
        names = [minion_id, f"{minion_id}.{__pillar__['domain']}"]
        role = __salt__["role.of"](minion_id)
        has_name = "service" in roles.get(role, {}) and role not in proxied
        # A client that asks the service must not reach a machine that does not serve.
        if has_name and __salt__["role.serves"](minion_id):
            names.append(__salt__["role.service_name"](role))
        hosts.append({"address": address, "names": names})
    return hosts


def _address(minion_id: str, candidates: Any, network: ipaddress.IPv4Network) -> str:
    if not candidates:
        raise CommandExecutionError(
            f"the mine holds no address of {minion_id}. {_HINT.format(minion_id)}"
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
