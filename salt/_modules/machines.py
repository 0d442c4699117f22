"""The private addresses of the stack's machines, from the pillar ``addresses``.

The master records them from EC2 (``machine_addresses``), and no machine can change another's.
"""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__salt__: dict[str, Any]

PROXY_ROLE = "salt"  # pillar/base/endpoints.sls has the proxy's port, and that it is there
LOOPBACK = "127.0.0.1"


def addresses(role: str | None = None) -> dict[str, str]:
    """Return minion id -> private address, sorted by id.

    Args:
        role: the role of the machines; all machines when it is None.

    Raises:
        CommandExecutionError: the master has recorded no machine of that role, which every map has.
    """
    of_role = {
        minion_id: address
        for minion_id, address in sorted(__pillar__.get("addresses", {}).items())
        if role in (None, __salt__["role.of"](minion_id))
    }
    if not of_role and not __pillar__["roles"].get(role, {}).get("optional"):
        machine = "machine" if role is None else f"'{role}' machine"
        raise CommandExecutionError(
            f"the master has recorded no address of any {machine}. {_hint()}"
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


def is_last() -> bool:
    """Return whether the orchestration changes no machine of this role after this one."""
    role, own_id = __salt__["role.own"](), str(__opts__["id"])
    return own_id == max(addresses(role), key=lambda minion_id: int(minion_id.rpartition("-")[2]))


def own_address() -> str:
    """Return this machine's private address, as the other machines know it.

    Raises:
        CommandExecutionError: the master has not recorded this machine.
    """
    own_id = str(__opts__["id"])
    known = addresses(__salt__["role.own"]())
    if own_id not in known:
        raise CommandExecutionError(f"the master has recorded no address of {own_id}. {_hint()}")
    return known[own_id]


def package_proxy() -> str:
    """Return the URL of the proxy by which this machine fetches packages; empty: it uses none.

    The Salt master's machine runs the proxy, and has a way out itself.

    Raises:
        CommandExecutionError: the master has not recorded its own address.
    """
    if not __pillar__["proxy"]["used"] or __salt__["role.own"]() == PROXY_ROLE:
        return ""
    address = next(iter(addresses(PROXY_ROLE).values()))
    return f"http://{address}:{__pillar__['endpoints']['proxy']['port']}"


def host_names() -> list[dict[str, Any]]:
    """Return the ``address`` and the ``names`` of every machine, sorted by id.

    The names are the minion id, the id below the domain, and the names of the role's service and of
    its receiver, if the machine serves it. What this machine reaches by its own proxy has the name
    of the service at ``LOOPBACK``, which comes first then.
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
        if receiver := roles.get(role, {}).get("receiver"):
            names.append(f"{receiver['name']}.{__pillar__['domain']}")
        hosts.append({"address": address, "names": names})
    return hosts


def _hint() -> str:
    return "Has it been launched? Then run on the master: salt 'salt-*' machine_addresses.record"
