"""EC2 deletes no security group that something needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from memorycloud import Running


def test_group_is_kept_while_a_machine_or_a_rule_needs_it(
    local: Running, subnet: str, launch: Callable[..., Any]
) -> None:
    ec2 = local.ec2
    vpc = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
    one, two = (
        ec2.create_security_group(VpcId=vpc, GroupName=name, Description=name)["GroupId"]
        for name in ("one", "two")
    )
    rule = {
        "IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "UserIdGroupPairs": [{"GroupId": two}],
    }  # fmt: skip
    ec2.authorize_security_group_ingress(GroupId=one, IpPermissions=[rule])
    machine = launch(SecurityGroupIds=[one])["InstanceId"]
    local.settle()
    for group in (one, two):
        with pytest.raises(ClientError, match="DependencyViolation"):
            ec2.delete_security_group(GroupId=group)
    ec2.terminate_instances(InstanceIds=[machine])
    local.settle()
    ec2.delete_security_group(GroupId=one)
    ec2.delete_security_group(GroupId=two)
    with pytest.raises(ClientError, match=r"InvalidGroup\.NotFound"):
        ec2.delete_security_group(GroupId=two)
