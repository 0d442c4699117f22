"""The deployment has one address of the site's, and asks for no more than it may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts import Client, specification
from memorycloud import Running

States = dict[str, dict[str, Any]]
Apply = Callable[..., States]
OWNER = {"project": "airflow-stack", "deployment": "test"}


pytestmark = pytest.mark.usefixtures("founded")


def address(client: Client) -> dict[str, Any]:
    (found,) = client("ec2").describe_addresses()["Addresses"]
    return dict(found)


def test_two_addresses_of_one_name_are_an_error(cloud: Running, apply: Apply) -> None:
    named = specification("elastic-ip", Name="airflow-stack-test-edge", **OWNER)
    cloud.ec2.allocate_address(Domain="vpc", TagSpecifications=named)
    failed = [one["comment"] for one in apply().values() if one["__id__"] == "aws-names"]
    assert "2 of the kind elastic-ip are called airflow-stack-test-edge" in failed[0]


def test_address_beyond_the_quota_says_what_to_do(
    cloud: Running, apply: Apply, client: Client
) -> None:
    ec2 = client("ec2")
    own = address(client)["AllocationId"]
    others = [ec2.allocate_address(Domain="vpc")["AllocationId"] for _ in range(4)]
    ec2.release_address(AllocationId=own)
    others.append(ec2.allocate_address(Domain="vpc")["AllocationId"])
    try:
        states = apply()
        (failed,) = [one for one in states.values() if one["__id__"] == "aws-address"]
        assert failed["result"] is False
        assert "as many elastic addresses in eu-west-1 as it may" in failed["comment"]
        assert len(ec2.describe_addresses()["Addresses"]) == len(others)
    finally:
        for allocation in others:
            ec2.release_address(AllocationId=allocation)
