"""Rules out of endpoints: who is let in, and what stops the run."""

from __future__ import annotations

from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load

GROUPS = {"salt": "s", "web": "w"}


@pytest.fixture(scope="module")
def security_group() -> ModuleType:
    """The execution module, loaded from the tree as Salt does."""
    return load("_modules", "security_group")


def test_an_endpoint_elsewhere_opens_nothing(security_group: ModuleType) -> None:
    endpoints = {"app": {"port": 8080, "on": ["web"], "from": ["world"]}}
    assert security_group.ingress("salt", endpoints, GROUPS) == []


def test_everybody_means_every_group_and_not_the_world(security_group: ModuleType) -> None:
    endpoints = {"publish": {"port": 4505, "on": ["salt"], "from": ["*"]}}
    rules = security_group.ingress("salt", endpoints, GROUPS)
    assert {rule["source_group_name"] for rule in rules} == {"s", "w"}
    assert not [rule for rule in rules if "cidr_ip" in rule]


def test_operators_reach_ssh_of_the_master_only(security_group: ModuleType) -> None:
    endpoints = {
        "ssh": {"port": 22, "on": ["*"], "from": ["salt"]},
        "x": {"port": 1, "on": ["salt"], "from": []},
    }
    of_salt = security_group.ingress("salt", endpoints, GROUPS, ["192.0.2.0/24"])
    assert [(rule["from_port"], rule["cidr_ip"]) for rule in of_salt if "cidr_ip" in rule] == [
        (22, "192.0.2.0/24")
    ]
    assert not [
        rule
        for rule in security_group.ingress("web", endpoints, GROUPS, ["192.0.2.0/24"])
        if "cidr_ip" in rule
    ]


def test_an_unknown_peer_stops_the_run_and_is_named(security_group: ModuleType) -> None:
    endpoints = {"app": {"port": 8080, "on": ["web"], "from": ["webb"]}}
    with pytest.raises(CommandExecutionError, match=r"endpoints:app .*'webb'"):
        security_group.ingress("web", endpoints, GROUPS)
