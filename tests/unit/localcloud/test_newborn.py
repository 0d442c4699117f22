"""What was just made is known to nobody for a while, as in AWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from localcloud import faults
from localcloud.newborn import KINDS, Newborn
from memorycloud import Running

Launch = Callable[..., Any]
TRUST = '{"Version": "2012-10-17", "Statement": []}'


def code_of(call: Callable[..., object], **arguments: Any) -> str:
    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "no error"


def age(local: Running) -> None:
    """Have everything be old enough to be known."""
    local.api.api.newborn.forget()


def test_new_vpc_is_unknown_to_its_maker(local: Running) -> None:
    ec2 = local.ec2
    old = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    with local.faults.inject(faults.unknown("CreateVpc", 600)):
        new = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    listed = {vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]}
    assert old in listed
    assert new not in listed
    assert code_of(ec2.describe_vpcs, VpcIds=[old]) == "no error"
    for call, arguments in (
        (ec2.describe_vpcs, {"VpcIds": [new]}),
        (ec2.describe_vpc_attribute, {"VpcId": new, "Attribute": "enableDnsSupport"}),
        (ec2.create_subnet, {"VpcId": new, "CidrBlock": "10.8.1.0/24"}),
        (ec2.create_tags, {"Resources": [old, new], "Tags": [{"Key": "a", "Value": "b"}]}),
    ):
        assert code_of(call, **arguments) == "InvalidVpcID.NotFound"
    # A question about it is no mistake, and has no answer.
    wanted = [{"Name": "vpc-id", "Values": [new]}]
    assert ec2.describe_vpcs(Filters=wanted)["Vpcs"] == []
    age(local)
    assert [vpc["VpcId"] for vpc in ec2.describe_vpcs(Filters=wanted)["Vpcs"]] == [new]
    assert code_of(ec2.create_subnet, VpcId=new, CidrBlock="10.8.1.0/24") == "no error"


def test_every_kind_is_unknown_by_its_code(local: Running, launch: Launch) -> None:
    ec2, iam = local.ec2, local.client("iam")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    with local.faults.inject(faults.unknown("*", 600)):
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        group = ec2.create_security_group(VpcId=vpc, GroupName="g", Description="g")["GroupId"]
        address = ec2.allocate_address(Domain="vpc")["AllocationId"]
        ec2.create_key_pair(KeyName="k")
        instance = launch()["InstanceId"]
        iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)
        iam.create_instance_profile(InstanceProfileName="p")
    port = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1}
    assert [
        code_of(ec2.associate_route_table, RouteTableId=table, SubnetId=subnet),
        code_of(ec2.attach_internet_gateway, InternetGatewayId=gateway, VpcId=vpc),
        code_of(ec2.create_route, RouteTableId=table, DestinationCidrBlock="0.0.0.0/0"),
        code_of(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[port]),
        code_of(ec2.describe_addresses, AllocationIds=[address]),
        code_of(ec2.describe_key_pairs, KeyNames=["k"]),
        code_of(ec2.describe_instances, InstanceIds=[instance]),
        code_of(iam.get_role, RoleName="r"),
        code_of(iam.get_instance_profile, InstanceProfileName="p"),
    ] == [
        "InvalidSubnetID.NotFound", "InvalidInternetGatewayID.NotFound",
        "InvalidRouteTableID.NotFound", "InvalidGroup.NotFound", "InvalidAllocationID.NotFound",
        "InvalidKeyPair.NotFound", "InvalidInstanceID.NotFound", "NoSuchEntity", "NoSuchEntity",
    ]  # fmt: skip
    assert ec2.describe_addresses()["Addresses"] == []
    assert iam.list_roles()["Roles"] == []
    # Who makes it again is told that it is there.
    assert code_of(ec2.create_key_pair, KeyName="k") == "InvalidKeyPair.Duplicate"
    again = {"RoleName": "r", "AssumeRolePolicyDocument": TRUST}
    assert code_of(iam.create_role, **again) == "EntityAlreadyExists"
    age(local)
    assert code_of(iam.get_role, RoleName="r") == "no error"
    assert len(ec2.describe_addresses()["Addresses"]) == 1


def test_new_instance_profile_is_unknown_to_a_launch(local: Running, launch: Launch) -> None:
    with local.faults.inject(faults.unknown("CreateInstanceProfile", 600)):
        local.client("iam").create_instance_profile(InstanceProfileName="p")
    with pytest.raises(ClientError, match="Invalid IAM Instance Profile name") as caught:
        launch(IamInstanceProfile={"Name": "p"})
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValue"


def test_answer_is_lost_and_the_thing_unknown(local: Running) -> None:
    before = len(local.ec2.describe_vpcs()["Vpcs"])
    with (
        local.faults.inject(faults.lost("CreateVpc", seconds=600)),
        pytest.raises(ConnectionClosedError),
    ):
        local.ec2.create_vpc(CidrBlock="10.9.0.0/16")
    assert len(local.ec2.describe_vpcs()["Vpcs"]) == before
    age(local)
    assert len(local.ec2.describe_vpcs()["Vpcs"]) == before + 1


def test_failed_call_makes_nothing_unknown(local: Running) -> None:
    with local.faults.inject(faults.unknown("CreateVpc", 600)):
        assert code_of(local.ec2.create_vpc, CidrBlock="nonsense") != "no error"
    assert local.ec2.describe_vpcs()["Vpcs"]


def test_thing_is_known_after_its_time() -> None:
    now = [0.0]
    newborn = Newborn(lambda: now[0])
    newborn.add("CreateVpc", b"<a><vpc><vpcId>vpc-1</vpcId></vpc></a>", 5)
    listed = b"<a><set><item><vpcId>vpc-1</vpcId></item><item><vpcId>vpc-2</vpcId></item></set></a>"
    assert b"vpc-1" not in newborn.without(listed)
    assert b"vpc-2" in newborn.without(listed)
    assert newborn.refusal("CreateSubnet", {"VpcId": "vpc-1"})
    assert not newborn.refusal("CreateSubnet", {"VpcId": "vpc-2"})
    now[0] = 5.1
    assert newborn.without(listed) == listed
    assert newborn.refusal("CreateSubnet", {"VpcId": "vpc-1"}) is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.key)
def test_each_kind_has_makers_and_words(kind: Any) -> None:
    assert kind.makes
    assert "{}" in kind.message
