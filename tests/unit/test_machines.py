"""The execution module `machines`: addresses from the mine, and which of them are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
PILLAR = {
    "aws": {"vpc": {"cidr": "10.20.0.0/16"}},
    "domain": "example.internal",
    "roles": {"lb": {"service": "site"}, "web": {}},
}


def addresses(minion_id: str, mine: Mapping[str, Any] = MINE) -> Callable[..., dict[str, str]]:
    """Return `machines.addresses` of a minion."""
    return functions(minion_id, PILLAR, mine)["machines.addresses"]


def test_addresses_are_sorted_and_of_one_role() -> None:
    assert list(addresses("lb-1")("web").items()) == [
        ("web-1", "10.20.1.2"),
        ("web-2", "10.20.1.3"),
    ]
    assert list(addresses("lb-1")()) == ["lb-1", "salt-1", "web-1", "web-2"]


def test_missing_role_raises_error_with_hint() -> None:
    with pytest.raises(CommandExecutionError, match=r"'redis'.*mine\.update"):
        addresses("web-1")("redis")


def test_missing_address_raises_error_with_minion_id() -> None:
    with pytest.raises(CommandExecutionError, match=r"web-1.*mine\.update"):
        addresses("lb-1", {"web-1": []})("web")


@pytest.mark.parametrize(
    "address",
    [
        "10.20.1.2 } accept; tcp dport { 22",
        "0.0.0.0/0",
        "198.51.100.7",
        "10.21.0.1",
        "::ffff:10.20.1.2",
        7.5,
    ],
)
def test_value_that_is_no_vpc_address_is_refused(address: Any) -> None:
    with pytest.raises(CommandExecutionError, match="web-1 says"):
        addresses("lb-1", {"web-1": [address]})("web")


def test_value_that_is_no_list_is_refused() -> None:
    with pytest.raises(CommandExecutionError, match="web-1 says"):
        addresses("lb-1", {"web-1": {"address": "10.20.1.2"}})("web")


def test_address_of_two_machines_is_refused() -> None:
    """A web machine that takes the master's address would be let in where the master is."""
    with pytest.raises(
        CommandExecutionError, match=r"salt-1 and web-2 both say that 10\.20\.1\.1 "
    ):
        addresses("lb-1", MINE | {"web-2": ["10.20.1.1"]})("web")


def test_own_address_comes_from_the_mine() -> None:
    assert functions("web-2", PILLAR, MINE)["machines.own_address"]() == "10.20.1.3"
    with pytest.raises(CommandExecutionError, match="web-3"):
        functions("web-3", PILLAR, MINE)["machines.own_address"]()


def test_hosts_have_names_below_the_domain() -> None:
    """Only a role with a service has a name of its own; an id without a role is no obstacle."""
    hosts = functions("web-1", PILLAR, MINE | {"web-x": ["10.20.1.9"]})["machines.host_names"]()
    assert {host["address"]: host["names"] for host in hosts} == {
        "10.20.1.4": ["lb-1", "lb-1.example.internal", "site.example.internal"],
        "10.20.1.1": ["salt-1", "salt-1.example.internal"],
        "10.20.1.2": ["web-1", "web-1.example.internal"],
        "10.20.1.3": ["web-2", "web-2.example.internal"],
        "10.20.1.9": ["web-x", "web-x.example.internal"],
    }


def test_proxied_service_leads_to_the_machine_itself() -> None:
    roles = {"lb": {"service": "site", "proxied": ["web"]}, "web": {}, "db": {"service": "db"}}
    pillar = PILLAR | {"roles": roles}
    mine = MINE | {"db-1": ["10.20.1.5"]}

    def named(minion_id: str) -> dict[str, list[str]]:
        hosts = functions(minion_id, pillar, mine)["machines.host_names"]()
        return {
            name: [host["address"] for host in hosts if name in host["names"]]
            for name in ("site.example.internal", "db.example.internal", "lb-1")
        }

    assert named("web-1") == {
        "site.example.internal": ["127.0.0.1"],
        "db.example.internal": ["10.20.1.5"],
        "lb-1": ["10.20.1.4"],
    }
    assert named("salt-1")["site.example.internal"] == ["10.20.1.4"]


def test_serving_machines_of_a_role() -> None:
    pillar = PILLAR | {"roles": {"web": {"serving": 1}}}
    assert functions("lb-1", pillar, MINE)["machines.serving"]("web") == {"web-1": "10.20.1.2"}


def proxy_of(minion_id: str, *, used: bool = True, mine: dict[str, Any] = MINE) -> str:
    pillar = PILLAR | {
        "proxy": {"used": used},
        "endpoints": {"proxy": {"port": 3128}},
    }
    return str(functions(minion_id, pillar, mine)["machines.package_proxy"]())


def test_packages_come_by_the_proxy_on_the_masters_machine() -> None:
    mine = MINE | {"salt-1": ["10.20.1.250"]}
    assert proxy_of("web-1", mine=mine) == "http://10.20.1.250:3128"
    assert proxy_of("salt-1", mine=mine) == "", "which has a way out itself"
    assert proxy_of("web-1", used=False, mine={}) == ""
    with pytest.raises(CommandExecutionError, match="'salt'"):
        proxy_of("web-1", mine={"web-1": ["10.20.1.2"]})
