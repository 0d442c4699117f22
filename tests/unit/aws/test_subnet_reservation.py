"""A subnet keeps an address for the machine that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws
from salt.exceptions import CommandExecutionError

from saltmodules import load

REGION = "eu-west-1"
ADDRESS = "10.20.1.250"


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an account with the subnet `a`."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with mock_aws():
        made = boto3.client("ec2", region_name=REGION)
        add_subnet(made)
        yield made


def add_subnet(ec2: Any) -> str:
    vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    named = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "a"}]}]
    answer = ec2.create_subnet(VpcId=vpc, CidrBlock="10.20.1.0/24", TagSpecifications=named)
    return str(answer["Subnet"]["SubnetId"])


def subnet_id(ec2: Any) -> str:
    filters = [{"Name": "tag:Name", "Values": ["a"]}]
    return str(ec2.describe_subnets(Filters=filters)["Subnets"][0]["SubnetId"])


def reservations(ec2: Any) -> list[tuple[str, str]]:
    found = ec2.get_subnet_cidr_reservations(SubnetId=subnet_id(ec2))
    kept = found["SubnetIpv4CidrReservations"]
    return [(one["Cidr"], one["ReservationType"]) for one in kept]


def present(subnet: str = "a", *, test: bool = False) -> dict[str, Any]:
    call = load("_modules", "ec2").call
    module = load("_modules", "subnet_reservation", __salt__={"ec2.call": call})
    functions = {
        f"subnet_reservation.{name}": getattr(module, name)
        for name in ("subnet", "holds", "reserve")
    }
    state = load("_states", "subnet_reservation", __salt__=functions, __opts__={"test": test})
    result: dict[str, Any] = state.present(ADDRESS, subnet, {"project": "p"}, REGION)
    return result


def test_address_is_reserved_once(ec2: Any) -> None:
    predicted = present(test=True)
    assert (predicted["result"], predicted["changes"]["new"]) == (None, ADDRESS)
    assert reservations(ec2) == []
    made = present()
    assert (made["result"], made["changes"]) == (True, predicted["changes"])
    assert reservations(ec2) == [(f"{ADDRESS}/32", "explicit")]
    for test in (False, True):
        again = present(test=test)
        assert (again["result"], again["changes"]) == (True, {})
    assert len(reservations(ec2)) == 1


def test_reservation_of_a_larger_network_is_enough(ec2: Any) -> None:
    ec2.create_subnet_cidr_reservation(
        SubnetId=subnet_id(ec2), Cidr="10.20.1.240/28", ReservationType="explicit"
    )
    assert present()["changes"] == {}


def test_reservation_elsewhere_is_none(ec2: Any) -> None:
    ec2.create_subnet_cidr_reservation(
        SubnetId=subnet_id(ec2), Cidr="10.20.1.128/28", ReservationType="prefix"
    )
    assert present()["changes"]


def test_reservation_for_prefixes_is_an_error(ec2: Any) -> None:
    ec2.create_subnet_cidr_reservation(
        SubnetId=subnet_id(ec2), Cidr="10.20.1.240/28", ReservationType="prefix"
    )
    with pytest.raises(
        CommandExecutionError, match=rf"^{ADDRESS} is in 10\.20\.1\.240/28, .*prefix"
    ):
        present()


def test_without_subnet_it_fails_and_predicts_that_it_will_not(ec2: Any) -> None:
    assert present("b", test=True)["result"] is None
    failed = present("b")
    assert failed["result"] is False
    assert "there is no subnet b" in failed["comment"]
    assert reservations(ec2) == []


def test_two_subnets_of_one_name_are_an_error(ec2: Any) -> None:
    add_subnet(ec2)
    with pytest.raises(CommandExecutionError, match="2 subnets are called a"):
        present()
