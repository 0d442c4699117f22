"""Networks lose their host bits, and what differs in nothing else is the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud import cidrs
from memorycloud import Running

GIVEN, KEPT = "100.68.0.18/18", "100.68.0.0/18"


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as error:
        call()
    return str(error.value.response["Error"]["Code"])


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("IpPermissions.1.IpRanges.1.CidrIp", GIVEN, KEPT),
        ("CidrIp", GIVEN, KEPT),
        ("CidrIp", KEPT, KEPT),
        ("CidrIp", "0.0.0.0/0", "0.0.0.0/0"),
        ("CidrIp", "198.51.100.7/33", "198.51.100.7/33"),
        ("CidrIp", "office", "office"),
        ("CidrIp", "198.51.100.7", "198.51.100.7"),
        ("DestinationCidrBlock", GIVEN, KEPT),
        ("IpPermissions.1.Ipv6Ranges.1.CidrIpv6", "2001:DB8::7/64", "2001:db8::/64"),
        ("Tag.1.Value", GIVEN, GIVEN),
        ("Description", GIVEN, GIVEN),
    ],
)
def test_networks_of_a_request(name: str, given: str, kept: str) -> None:
    assert cidrs.canonical({name: given, "Version": "1"}) == {name: kept, "Version": "1"}


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_rule_is_kept_without_host_bits_once(local: Running, direction: str) -> None:
    ec2 = local.ec2
    vpc = ec2.create_vpc(CidrBlock="10.40.7.9/16")["Vpc"]
    assert vpc["CidrBlock"] == "10.40.0.0/16"
    group = ec2.create_security_group(GroupName="a", Description="a", VpcId=vpc["VpcId"])["GroupId"]

    def rule(cidr: str) -> dict[str, Any]:
        ports = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
        return {"GroupId": group, "IpPermissions": [ports | {"IpRanges": [{"CidrIp": cidr}]}]}

    def rules() -> list[str]:
        found = ec2.describe_security_group_rules(
            Filters=[{"Name": "group-id", "Values": [group]}]
        )["SecurityGroupRules"]
        egress = direction == "egress"
        return [one["CidrIpv4"] for one in found if one["IsEgress"] is egress and "FromPort" in one
                and one["FromPort"] == 22]  # fmt: skip

    authorize = getattr(ec2, f"authorize_security_group_{direction}")
    authorize(**rule(GIVEN))
    assert rules() == [KEPT]
    for cidr in (GIVEN, KEPT):
        assert refused(partial(authorize, **rule(cidr))) == "InvalidPermission.Duplicate"
    getattr(ec2, f"revoke_security_group_{direction}")(**rule("100.68.1.1/18"))
    assert rules() == []


def test_subnet_and_route_are_kept_without_host_bits(local: Running) -> None:
    ec2 = local.ec2
    vpc = ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.7/24")["Subnet"]
    assert subnet["CidrBlock"] == "10.40.1.0/24"
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(VpcId=vpc, InternetGatewayId=gateway)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock=GIVEN, GatewayId=gateway)
    (found,) = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
    assert KEPT in {route["DestinationCidrBlock"] for route in found["Routes"]}
