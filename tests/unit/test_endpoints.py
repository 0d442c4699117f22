"""The resolver of pillar `endpoints`, and how firewall and security groups translate clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from plainpillar import DEPLOYMENT
from saltmodules import functions

ADDRESSES = {
    "web-2": "10.20.1.3",
    "web-1": "10.20.1.2",
    "lb-1": "10.20.1.4",
    "salt-1": "10.20.1.1",
}
NETWORK = "10.20.0.0/16"
OPERATOR = "192.0.2.0/24"
GROUPS = {"salt": "s", "web": "w"}
ENDPOINTS: dict[str, Any] = {
    "ssh": {"port": 22, "listeners": ["any-role"], "clients": ["salt"]},
    "ssh-operators": {"port": 22, "listeners": ["salt"], "clients": ["operators"]},
    "app": {"port": 8080, "listeners": ["web"], "clients": ["lb"]},
    "https": {"port": 443, "listeners": ["lb"], "clients": ["internet"]},
    "bus": {"port": 4505, "listeners": ["salt"], "clients": ["any-role"]},
    "store": {"port": 1, "listeners": ["cache"], "clients": ["web"]},
    "out": {"port": 80, "listeners": ["internet"], "clients": ["salt"]},
    "objects": {"port": 443, "listeners": ["s3"], "clients": ["web", "salt"]},
}

Rules = list[dict[str, Any]]


def pillar(endpoints: dict[str, Any], operators: Sequence[str]) -> dict[str, Any]:
    return {
        "aws": {"region": "eu-west-1", "vpc": {"cidr": NETWORK}, "security_groups": GROUPS},
        "endpoints": endpoints,
        "roles": {role: {} for role in ("salt", "lb", "web", "cache")},
        "settings": {"operator_cidrs": operators},
    }


def firewall(
    minion_id: str,
    endpoints: dict[str, Any] = ENDPOINTS,
    addresses: dict[str, str] = ADDRESSES,
    operators: Sequence[str] = (OPERATOR,),
) -> Rules:
    """Return the firewall rules of a minion."""
    return list(functions(minion_id, pillar(endpoints, operators), addresses)["firewall.rules"]())


def group(role: str, endpoints: dict[str, Any]) -> Rules:
    """Return the rules of a role's security group."""
    salt = functions("operator", pillar(endpoints, (OPERATOR,)), {})
    return list(salt["security_group.ingress"](role))


def test_machine_lets_in_its_own_endpoints_only() -> None:
    assert firewall("web-1") == [
        {"name": "ssh", "port": 22, "sources": ["10.20.1.1"]},
        {"name": "app", "port": 8080, "sources": ["10.20.1.4"]},
    ]


def test_firewall_opens_internet_endpoint_without_sources() -> None:
    assert {"name": "https", "port": 443, "sources": None} in firewall("lb-1")


def test_firewall_opens_any_role_endpoint_to_the_vpc() -> None:
    """Neither today's addresses nor the internet: nobody knows a new machine's address yet."""
    assert firewall("salt-1")[-1] == {"name": "bus", "port": 4505, "sources": [NETWORK]}


def test_operators_reach_ssh_of_the_master_only() -> None:
    *others, ssh, bus = firewall("salt-1")
    assert ssh == {"name": "ssh-operators", "port": 22, "outside": NETWORK}
    assert not [rule for rule in [*others, bus, *firewall("web-1")] if "outside" in rule]


@pytest.mark.parametrize("operators", [(), (OPERATOR,), ("203.0.113.9/32", OPERATOR)])
def test_operator_whose_address_has_changed_is_not_locked_out(operators: tuple[str, ...]) -> None:
    """The machine does not know who comes: the security group does, which EC2's API changes."""
    assert firewall("salt-1", operators=operators) == firewall("salt-1", operators=())


@pytest.mark.parametrize("network", ["10.20.1.1/32", "10.0.0.0/8"])
def test_operators_inside_the_vpc_are_named(network: str) -> None:
    """The local cloud's operator, and a bastion: the other machines of the VPC stay outside."""
    ssh = [rule for rule in firewall("salt-1", operators=(network,)) if "operators" in rule["name"]]
    assert ssh == [
        {"name": "ssh-operators", "port": 22, "sources": [network]},
        {"name": "ssh-operators", "port": 22, "outside": NETWORK},
    ]


def test_firewall_has_no_rule_for_endpoint_without_clients() -> None:
    endpoints = ENDPOINTS | {"app": ENDPOINTS["app"] | {"clients": []}}
    assert [rule["name"] for rule in firewall("web-1", endpoints)] == ["ssh"]


def test_networks_of_operators_are_those_that_ec2_keeps() -> None:
    operators = ("192.0.2.7/24", "192.0.2.9/24")
    salt = functions("operator", pillar(ENDPOINTS, operators), {})
    rules = [rule for rule in salt["security_group.ingress"]("salt") if "cidr_ip" in rule]
    assert [rule["cidr_ip"] for rule in rules] == ["192.0.2.0/24"]


@pytest.mark.parametrize("operators", [("::/0",), ("0.0.0.0/0",), "192.0.2.0/24"])
def test_wrong_network_of_operators_stops_the_run(operators: Any) -> None:
    with pytest.raises(CommandExecutionError, match=r"^settings:operator_cidrs "):
        firewall("salt-1", operators=operators)
    assert firewall("web-1", operators=operators), "which needs none of them"


def test_client_role_without_machines_stops_the_run() -> None:
    with pytest.raises(CommandExecutionError, match="'web'"):
        firewall("cache-1", addresses={"cache-1": "10.20.1.9", "salt-1": "10.20.1.1"})


def test_machine_without_role_serves_any_role_endpoints_only() -> None:
    assert [rule["name"] for rule in firewall("operator")] == ["ssh"]


@pytest.mark.parametrize("name", ["ssh", "ssh-operators", "salt-publish", "salt-request"])
def test_moved_fixed_port_is_refused(name: str) -> None:
    endpoints = {name: {"port": 2222, "listeners": ["any-role"], "clients": ["any-role"]}}
    with pytest.raises(
        CommandExecutionError, match=f"endpoints:{name} has port 2222, .* put that back"
    ):
        firewall("web-1", endpoints)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clients": ["webb"]}, r"endpoints:app:clients names 'webb'"),
        ({"listeners": ["operators"]}, r"endpoints:app:listeners names 'operators'"),
        ({"clients": ["s3"]}, r"endpoints:app:clients names 's3'"),
        (
            {"listeners": ["internet"], "clients": ["internet"]},
            r"endpoints:app leads to 'internet', so its clients can be roles only",
        ),
        ({"listeners": ["web", "s3"], "clients": ["operators"]}, "leads to 's3'"),
        ({"from": ["lb"]}, r"endpoints:app has the keys clients, from, listeners, port"),
    ],
)
def test_wrong_endpoint_stops_the_run(change: dict[str, Any], message: str) -> None:
    """Also on a machine that does not serve it."""
    with pytest.raises(CommandExecutionError, match=message):
        firewall("lb-1", ENDPOINTS | {"app": ENDPOINTS["app"] | change})


def test_group_opens_nothing_for_endpoints_of_other_roles() -> None:
    endpoints = {"app": {"port": 8080, "listeners": ["web"], "clients": ["internet"]}}
    assert group("salt", endpoints) == []


def test_group_opens_any_role_endpoint_to_every_group() -> None:
    rules = group("salt", {"bus": ENDPOINTS["bus"]})
    assert {rule["group_name"] for rule in rules} == {"s", "w"}
    assert not [rule for rule in rules if "cidr_ip" in rule]


def test_group_opens_ssh_of_the_master_to_operators_only() -> None:
    endpoints = {
        "ssh": ENDPOINTS["ssh"],
        "ssh-operators": ENDPOINTS["ssh-operators"],
        "x": {"port": 1, "listeners": ["salt"], "clients": []},
    }
    of_salt = group("salt", endpoints)
    assert [(rule["from_port"], rule["cidr_ip"]) for rule in of_salt if "cidr_ip" in rule] == [
        (22, OPERATOR)
    ]
    assert not [rule for rule in group("web", endpoints) if "cidr_ip" in rule]


def test_client_role_without_group_stops_the_run() -> None:
    endpoints = {"app": ENDPOINTS["app"]}
    with pytest.raises(CommandExecutionError, match=r"endpoints:app .*'lb'"):
        group("web", endpoints)


def test_every_endpoint_of_the_stack_resolves() -> None:
    endpoints = DEPLOYMENT.base_pillar("endpoints")
    everything = pillar(endpoints, ()) | {"roles": DEPLOYMENT.base_pillar("roles")}
    salt = functions("operator", everything, {})
    named = {
        endpoint["name"]
        for role in everything["roles"]
        for question in ("endpoints.served_by", "endpoints.used_by")
        for endpoint in salt[question](role)
    }
    assert named == endpoints.keys()


# -- what leaves a machine


def egress(role: str, endpoints: dict[str, Any] = ENDPOINTS) -> list[tuple[int, str]]:
    """Return port and destination of what a role's security group lets out."""
    full = pillar(endpoints, (OPERATOR,))
    full["aws"] |= {"security_groups": {"salt": "s", "lb": "l", "web": "w", "cache": "c"}}
    rules = functions("operator", full, {})["security_group.egress"](role)
    assert {rule["ip_protocol"] for rule in rules} <= {"tcp"}
    assert all(rule["from_port"] == rule["to_port"] for rule in rules)
    return [
        (rule["from_port"], rule[key])
        for rule in rules
        for key in ("group_name", "cidr_ip", "prefix_list")
        if key in rule
    ]


def test_group_lets_out_to_the_endpoints_whose_client_the_role_is() -> None:
    assert egress("lb") == [(8080, "w"), (4505, "s")], "and not to the edge, which is for strangers"
    assert egress("web") == [(4505, "s"), (1, "c"), (443, "com.amazonaws.eu-west-1.s3")]
    assert egress("cache") == [(4505, "s")]
    assert egress("salt") == [
        *((22, group) for group in "clsw"),
        (4505, "s"),
        (80, "0.0.0.0/0"),
        (443, "com.amazonaws.eu-west-1.s3"),
    ]


def test_listening_role_without_group_stops_the_run() -> None:
    endpoints = {"store": ENDPOINTS["store"]}
    salt = functions("operator", pillar(endpoints, ()), {})
    with pytest.raises(CommandExecutionError, match=r"endpoints:store leads to 'cache'"):
        salt["security_group.egress"]("web")


def test_wrong_endpoint_stops_the_run_also_on_the_way_out() -> None:
    with pytest.raises(CommandExecutionError, match="names 'webb'"):
        egress("lb", ENDPOINTS | {"app": ENDPOINTS["app"] | {"clients": ["webb"]}})
