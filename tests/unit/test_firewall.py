"""The execution module `firewall`: what a machine lets in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import functions

MINE = {
    "web-2": ["10.20.1.3"],
    "web-1": ["10.20.1.2"],
    "lb-1": ["10.20.1.4"],
    "salt-1": ["10.20.1.1"],
}
NETWORK = "10.20.0.0/16"
ENDPOINTS: dict[str, Any] = {
    "ssh": {"port": 22, "on": ["*"], "from": ["salt"]},
    "app": {"port": 8080, "on": ["web"], "from": ["lb"]},
    "https": {"port": 443, "on": ["lb"], "from": ["world"]},
    "bus": {"port": 4505, "on": ["salt"], "from": ["*"]},
    "store": {"port": 1, "on": ["cache"], "from": ["web"]},
}
Inbound = Callable[..., list[dict[str, Any]]]


def inbound(minion_id: str, mine: dict[str, list[str]] = MINE) -> Inbound:
    """Return `firewall.inbound` of a minion."""
    return functions(minion_id, {"aws": {"vpc": {"cidr": NETWORK}}}, mine)["firewall.inbound"]


def test_machine_lets_in_its_own_endpoints_only() -> None:
    assert inbound("web-1")(ENDPOINTS, NETWORK) == [
        {"name": "ssh", "port": 22, "sources": ["10.20.1.1"]},
        {"name": "app", "port": 8080, "sources": ["10.20.1.4"]},
    ]


def test_internet_has_no_sources() -> None:
    assert {"name": "https", "port": 443, "sources": None} in inbound("lb-1")(ENDPOINTS, NETWORK)


def test_any_role_is_the_machines_network() -> None:
    """Neither today's addresses nor the internet: the mine does not know a new machine yet."""
    assert inbound("salt-1")(ENDPOINTS, NETWORK)[1]["sources"] == [NETWORK]


def test_operators_reach_ssh_of_the_master_only() -> None:
    operator = "198.51.100.0/24"
    ssh, bus = inbound("salt-1")(ENDPOINTS, NETWORK, [operator])
    assert operator in ssh["sources"]
    assert operator not in bus["sources"]
    assert all(
        operator not in (rule["sources"] or [])
        for rule in inbound("web-1")(ENDPOINTS, NETWORK, [operator])
    )


def test_client_role_without_machines_stops_the_run() -> None:
    mine = {"cache-1": ["10.20.1.9"], "salt-1": ["10.20.1.1"]}
    with pytest.raises(CommandExecutionError, match="'web'"):
        inbound("cache-1", mine)(ENDPOINTS, NETWORK)


@pytest.mark.parametrize("name", ["ssh", "salt-publish", "salt-request"])
def test_moved_fixed_port_is_refused(name: str) -> None:
    endpoints = {name: {"port": 2222, "on": ["*"], "from": ["*"]}}
    with pytest.raises(
        CommandExecutionError, match=f"endpoint {name} has port 2222, .* put that back"
    ):
        inbound("web-1")(endpoints, NETWORK)
