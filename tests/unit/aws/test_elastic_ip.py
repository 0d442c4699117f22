"""The site's address is given to the machine that has lost it, and taken from no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts import Client, specification
from localcloud import catalog
from memorycloud import Running

States = dict[str, dict[str, Any]]
Apply = Callable[..., States]
OWNER = {"project": "airflow-stack", "deployment": "test"}
ID = "aws-address-associated"


pytestmark = pytest.mark.usefixtures("founded")


def launch(cloud: Running, name: str = "lb-1", **tags: str) -> tuple[str, str]:
    """Launch an instance, and return its id and the id of its interface."""
    (subnet,) = cloud.ec2.describe_subnets(
        Filters=[{"Name": "tag:Name", "Values": ["airflow-stack-test-a"]}]
    )["Subnets"]
    answer = cloud.ec2.run_instances(
        ImageId=catalog.IMAGE_ID, InstanceType="t2.micro", MinCount=1, MaxCount=1,
        SubnetId=subnet["SubnetId"],
        TagSpecifications=specification("instance", Name=name, **{**OWNER, **tags}),
    )  # fmt: skip
    cloud.settle()
    (instance,) = answer["Instances"]
    return instance["InstanceId"], instance["NetworkInterfaces"][0]["NetworkInterfaceId"]


def associated(apply: Apply, *, test: bool = False) -> dict[str, Any]:
    (state,) = [one for one in apply(test=test).values() if one["__id__"] == ID]
    return state


def address(client: Client) -> dict[str, Any]:
    (found,) = client("ec2").describe_addresses()["Addresses"]
    return dict(found)


@pytest.mark.parametrize("case", ["no machine", "project", "deployment", "terminated"])
def test_nothing_is_done_before_the_machine_is_there(
    cloud: Running, apply: Apply, client: Client, case: str
) -> None:
    if case in OWNER:
        launch(cloud, **{case: "other"})
    if case == "terminated":
        cloud.ec2.terminate_instances(InstanceIds=[launch(cloud)[0]])
        cloud.settle()
    for test in (False, True):
        state = associated(apply, test=test)
        assert (state["result"], state["changes"]) == (True, {})
    assert not address(client).get("NetworkInterfaceId")


@pytest.mark.parametrize("stopped", [False, True])
def test_machine_gets_the_address(
    cloud: Running, apply: Apply, client: Client, *, stopped: bool
) -> None:
    instance, interface = launch(cloud)
    launch(cloud, "web-1")
    if stopped:
        cloud.ec2.stop_instances(InstanceIds=[instance])
        cloud.settle()
    given = {"new": [f"give {address(client)['PublicIp']} to lb-1"]}
    predicted = associated(apply, test=True)
    assert (predicted["result"], predicted["changes"]) == (None, given)
    assert not address(client).get("NetworkInterfaceId")
    made = associated(apply)
    assert (made["result"], made["changes"]) == (True, given)
    assert address(client)["NetworkInterfaceId"] == interface
    for test in (False, True):
        again = associated(apply, test=test)
        assert (again["result"], again["changes"]) == (True, {})


@pytest.mark.parametrize("test", [False, True])
def test_address_is_not_taken_from_another(
    cloud: Running, apply: Apply, client: Client, *, test: bool
) -> None:
    launch(cloud)
    _, other = launch(cloud, "web-1")
    cloud.ec2.associate_address(
        AllocationId=address(client)["AllocationId"], NetworkInterfaceId=other
    )
    state = associated(apply, test=test)
    assert (state["result"], state["changes"]) == (False, {})
    assert f"{other} has {address(client)['PublicIp']}, and lb-1 does not" in state["comment"]
    assert address(client)["NetworkInterfaceId"] == other


def test_two_machines_of_one_name_are_an_error(cloud: Running, apply: Apply) -> None:
    launch(cloud)
    launch(cloud)
    state = associated(apply)
    assert (state["result"], state["comment"]) == (False, "2 machines are called lb-1")


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
