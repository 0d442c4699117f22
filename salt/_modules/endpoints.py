"""Who may connect to which port of a role, from the pillar ``endpoints``.

The machines' firewall (``firewall``) and the security groups (``security_group``) both ask here.
They only translate clients and listeners into addresses or into groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__pillar__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

ANY_ROLE = "any-role"
INTERNET = "internet"
S3 = "s3"
OPERATORS = "operators"
KEYS = {"port", "listeners", "clients"}
# No state sets what these programs listen on, so the rules have to name their default ports.
FIXED_PORTS = {"ssh": 22, "ssh-operators": 22, "salt-publish": 4505, "salt-request": 4506}


def served_by(role: str) -> list[dict[str, Any]]:
    """Return the endpoints that the machines of a role serve, in the pillar's order.

    Args:
        role: the role; empty for a machine without one.

    Returns:
        For each endpoint its ``name``, its ``port``, and who may connect: ``roles`` (a sorted
        list), ``any_role`` (whether every role may), ``operators`` (whether operators may),
        ``networks`` (the operators' networks) and ``internet`` (whether anybody may).

    Raises:
        CommandExecutionError: an endpoint has other keys than it needs, names something that is no
            role, or has a port on which its program does not listen; or an operator's network is
            refused (``operators.networks``).
    """
    return [
        {"name": name, "port": endpoint["port"], **_resolved(endpoint["clients"])}
        for name, endpoint in _checked().items()
        if {role, ANY_ROLE} & set(endpoint["listeners"])
    ]


def used_by(role: str) -> list[dict[str, Any]]:
    """Return the endpoints to which the machines of a role connect, in the pillar's order.

    Clients that are ``internet`` are no machine of the stack: who is nobody's client here has no
    business at the edge either.

    Args:
        role: the role.

    Returns:
        For each endpoint its ``name``, its ``port``, and who listens: ``roles`` (a sorted list),
        ``any_role`` (whether every role does), ``internet`` (whether it leads to any address), and
        ``s3`` (whether it leads to the region's S3).

    Raises:
        CommandExecutionError: an endpoint is wrong; see `served_by`.
    """
    return [
        {
            "name": name,
            "port": endpoint["port"],
            "roles": sorted({*endpoint["listeners"]} - {ANY_ROLE, INTERNET, S3}),
            "any_role": ANY_ROLE in endpoint["listeners"],
            "internet": INTERNET in endpoint["listeners"],
            "s3": S3 in endpoint["listeners"],
        }
        for name, endpoint in _checked().items()
        if {role, ANY_ROLE} & set(endpoint["clients"])
    ]


def _checked() -> Mapping[str, Any]:
    """Return all endpoints; raise CommandExecutionError when one of them is wrong."""
    endpoints: Mapping[str, Any] = __pillar__["endpoints"]
    for name, endpoint in endpoints.items():
        _check(name, endpoint)
    return endpoints


def _check(name: str, endpoint: Mapping[str, Any]) -> None:
    if endpoint.keys() != KEYS:
        raise CommandExecutionError(
            f"endpoints:{name} has the keys {', '.join(sorted(endpoint))};"
            f" it needs {', '.join(sorted(KEYS))}"
        )
    port = FIXED_PORTS.get(name, endpoint["port"])
    if endpoint["port"] != port:
        raise CommandExecutionError(
            f"endpoints:{name} has port {endpoint['port']}, but its program listens on {port}:"
            " put that back; only listeners and clients can be changed"
        )
    roles = {*__pillar__["roles"], ANY_ROLE}
    for key, words in (("listeners", {INTERNET, S3}), ("clients", {INTERNET, OPERATORS})):
        for word in endpoint[key]:
            if word not in roles | words:
                raise CommandExecutionError(
                    f"endpoints:{name}:{key} names '{word}', which is no role in pillar roles"
                )
    outside = {*endpoint["listeners"]} & {INTERNET, S3}
    if outside and {*endpoint["clients"]} & {INTERNET, OPERATORS}:
        raise CommandExecutionError(
            f"endpoints:{name} leads to '{min(outside)}', so its clients can be roles only"
        )


def _resolved(clients: list[str]) -> dict[str, Any]:
    operators = OPERATORS in clients
    cidrs = __pillar__["settings"].get("operator_cidrs") or []
    return {
        "roles": sorted({*clients} - {ANY_ROLE, INTERNET, OPERATORS}),
        "any_role": ANY_ROLE in clients,
        "operators": operators,
        "networks": __salt__["operators.networks"](cidrs) if operators else [],
        "internet": INTERNET in clients,
    }
