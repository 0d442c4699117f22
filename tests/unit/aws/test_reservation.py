"""A subnet keeps the master's address for the machine that asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts import Client
from memorycloud import Running

States = dict[str, dict[str, Any]]
Apply = Callable[..., States]
ID = "aws-salt-address"


@pytest.fixture
def subnet(founded: Running, client: Client, pillar: dict[str, Any]) -> str:
    """The subnet of a foundation without any reservation."""
    ec2 = founded.ec2
    named = [{"Name": "tag:Name", "Values": [pillar["aws"]["subnet"]["name"]]}]
    (found,) = ec2.describe_subnets(Filters=named)["Subnets"]
    for one in reservations(client, found["SubnetId"]):
        ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=one["SubnetCidrReservationId"])
    return str(found["SubnetId"])


def reservations(client: Client, subnet: str) -> list[dict[str, Any]]:
    found = client("ec2").get_subnet_cidr_reservations(SubnetId=subnet)
    return list(found["SubnetIpv4CidrReservations"])


def reserved(apply: Apply, *, test: bool = False) -> dict[str, Any]:
    (state,) = [one for one in apply(test=test).values() if one["__id__"] == ID]
    return state


def test_address_is_reserved_once(
    apply: Apply, client: Client, subnet: str, pillar: dict[str, Any]
) -> None:
    predicted = reserved(apply, test=True)
    assert predicted["result"] is None
    assert reservations(client, subnet) == []
    made = reserved(apply)
    assert (made["result"], made["changes"]) == (True, predicted["changes"])
    (one,) = reservations(client, subnet)
    assert one["Cidr"] == f"{pillar['aws']['salt_address']}/32"
    assert one["ReservationType"] == "explicit"
    for test in (False, True):
        again = reserved(apply, test=test)
        assert (again["result"], again["changes"]) == (True, {})


@pytest.mark.parametrize(
    ("network", "kind", "result"),
    [
        ("10.20.1.240/28", "explicit", True),  # a larger one is enough
        ("10.20.1.240/28", "prefix", False),
        ("10.20.1.128/28", "prefix", True),  # elsewhere
    ],
)
def test_other_reservations_of_the_subnet(
    apply: Apply, client: Client, subnet: str, network: str, kind: str, *, result: bool
) -> None:
    client("ec2").create_subnet_cidr_reservation(
        SubnetId=subnet, Cidr=network, ReservationType=kind
    )
    state = reserved(apply)
    assert state["result"] is result, state["comment"]
    if not result:
        assert "reserved" in state["comment"]
        assert "for prefixes: delete that reservation" in state["comment"]
