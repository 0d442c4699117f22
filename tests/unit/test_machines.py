"""The execution module `machines`: the addresses of a role, their names, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import functions

ADDRESSES = {
    "web-2": "10.20.1.3",
    "web-1": "10.20.1.2",
    "lb-1": "10.20.1.4",
    "salt-1": "10.20.1.1",
}
PILLAR = {
    "aws": {"vpc": {"cidr": "10.20.0.0/16"}},
    "domain": "example.internal",
    "roles": {"lb": {"service": "site"}, "web": {}},
}


def addresses(
    minion_id: str, known: Mapping[str, str] = ADDRESSES
) -> Callable[..., dict[str, str]]:
    """Return `machines.addresses` of a minion."""
    return functions(minion_id, PILLAR, known)["machines.addresses"]


def test_addresses_are_sorted_and_of_one_role() -> None:
    assert list(addresses("lb-1")("web").items()) == [
        ("web-1", "10.20.1.2"),
        ("web-2", "10.20.1.3"),
    ]
    assert list(addresses("lb-1")()) == ["lb-1", "salt-1", "web-1", "web-2"]


@pytest.mark.parametrize(("known", "role"), [(ADDRESSES, "redis"), ({}, "web"), ({}, None)])
def test_missing_role_raises_error_with_hint(known: Mapping[str, str], role: str | None) -> None:
    kind = f"'{role}' " if role else ""
    what = rf"of any {kind}machine\. .*machine_addresses\.record"
    with pytest.raises(CommandExecutionError, match=what):
        addresses("web-1", known)(role)


def test_role_that_a_map_may_lack_has_no_addresses() -> None:
    pillar = PILLAR | {"roles": {"watch": {"optional": True}, "web": {}}}
    assert functions("web-1", pillar, ADDRESSES)["machines.addresses"]("watch") == {}


def test_pillar_without_addresses_is_no_traceback() -> None:
    """As on a machine whose master has never recorded them."""
    own_address = functions("web-1", PILLAR, {})["machines.own_address"]
    with pytest.raises(CommandExecutionError, match="recorded no address"):
        own_address()


def test_own_address_is_what_the_master_has_recorded() -> None:
    assert functions("web-2", PILLAR, ADDRESSES)["machines.own_address"]() == "10.20.1.3"
    with pytest.raises(CommandExecutionError, match="web-3"):
        functions("web-3", PILLAR, ADDRESSES)["machines.own_address"]()


@pytest.mark.parametrize("minion_id", ["web-1", "web-2", "web-10", "lb-1"])
def test_last_machine_of_a_role_has_the_highest_number(minion_id: str) -> None:
    known = ADDRESSES | {"web-10": "10.20.1.10"}
    is_last = functions(minion_id, PILLAR, known)["machines.is_last"]()
    assert is_last is (minion_id in ("web-10", "lb-1"))


def test_hosts_have_names_below_the_domain() -> None:
    """Only a role with a service has a name of its own; an id without a role is no obstacle."""
    hosts = functions("web-1", PILLAR, ADDRESSES | {"web-x": "10.20.1.9"})["machines.host_names"]()
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
    known = ADDRESSES | {"db-1": "10.20.1.5"}

    def named(minion_id: str) -> dict[str, list[str]]:
        hosts = functions(minion_id, pillar, known)["machines.host_names"]()
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


def test_receiver_of_logs_has_a_name_of_its_own() -> None:
    roles = {"lb": {}, "web": {}, "watch": {"receiver": {"name": "logs"}}}
    known = ADDRESSES | {"watch-1": "10.20.1.6"}
    hosts = functions("web-1", PILLAR | {"roles": roles}, known)["machines.host_names"]()
    (found,) = (host for host in hosts if "logs.example.internal" in host["names"])
    assert found["address"] == "10.20.1.6"


def test_serving_machines_of_a_role() -> None:
    pillar = PILLAR | {"roles": {"web": {"serving": 1}}}
    assert functions("lb-1", pillar, ADDRESSES)["machines.serving"]("web") == {"web-1": "10.20.1.2"}


def proxy_of(minion_id: str, *, used: bool = True, known: dict[str, str] = ADDRESSES) -> str:
    pillar = PILLAR | {
        "proxy": {"used": used},
        "endpoints": {"proxy": {"port": 3128}},
    }
    return str(functions(minion_id, pillar, known)["machines.package_proxy"]())


def test_packages_come_by_the_proxy_on_the_masters_machine() -> None:
    known = ADDRESSES | {"salt-1": "10.20.1.250"}
    assert proxy_of("web-1", known=known) == "http://10.20.1.250:3128"
    assert proxy_of("salt-1", known=known) == "", "which has a way out itself"
    assert proxy_of("web-1", used=False, known={}) == ""
    with pytest.raises(CommandExecutionError, match="'salt'"):
        proxy_of("web-1", known={"web-1": "10.20.1.2"})
