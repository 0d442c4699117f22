"""Which of Docker's networks have addresses that a cloud is to have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from localcloud.neighbours import Neighbour, overlapping


def network(name: str, *cidrs: str, **labels: str) -> Any:
    config = [{"Subnet": cidr} for cidr in cidrs]
    named = {f"localcloud.{key}": value for key, value in labels.items()}
    return SimpleNamespace(
        name=name, attrs={"IPAM": {"Config": config or None}, "Labels": named or None}
    )


def docker(*networks: Any) -> Any:
    return SimpleNamespace(networks=SimpleNamespace(list=lambda: networks))


@pytest.mark.parametrize("cidr", ["10.20.3.0/24", "10.20.0.0/16", "10.0.0.0/8", "10.20.255.255/32"])
def test_network_that_shares_an_address_overlaps(cidr: str) -> None:
    found = overlapping(docker(network("vpn", cidr)), "10.20.0.0/16", "mine")
    assert found == [Neighbour("vpn", cidr)]


def test_network_with_other_addresses_does_not_overlap() -> None:
    others = docker(
        network("below", "10.19.255.0/24"),
        network("above", "10.21.0.0/16"),
        network("bridge", "172.17.0.0/16", "2001:db8::/64"),
        network("host"),
    )
    assert overlapping(others, "10.20.0.0/16", "mine") == []


def test_own_networks_do_not_count_and_others_name_their_folder() -> None:
    found = overlapping(
        docker(
            network("new-subnet-1", "10.20.1.0/24", cloud="new", folder="/checkout/cloud"),
            network("mine-subnet-1", "10.20.2.0/24", cloud="mine", folder="/mine/cloud"),
            network("before-subnet-1", "10.20.3.0/24", cloud="before"),
        ),
        "10.20.0.0/16",
        "mine",
    )
    assert found == [
        Neighbour("before-subnet-1", "10.20.3.0/24", "before"),
        Neighbour("new-subnet-1", "10.20.1.0/24", "new", Path("/checkout/cloud")),
    ]
