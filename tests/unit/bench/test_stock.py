"""The place of the stock machine in the account."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench import stock
from localcloud import catalog
from localcloud.machines import INSTANCE_LABEL
from memorycloud import MemoryHost, running


def test_stock_machine_reaches_the_database_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path, MemoryHost()) as cloud:
        ec2 = cloud.ec2
        vpc = ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/24")["Subnet"]["SubnetId"]
        group = ec2.create_security_group(VpcId=vpc, GroupName="db", Description="db")["GroupId"]
        made = ec2.run_instances(
            ImageId=catalog.IMAGE_ID,
            InstanceType="t2.micro",
            MinCount=1,
            MaxCount=1,
            SubnetId=subnet,
            SecurityGroupIds=[group],
        )["Instances"][0]
        cloud.settle()
        before = cloud.host.policy
        labels = {INSTANCE_LABEL: made["InstanceId"]}
        postgres: Any = SimpleNamespace(container=SimpleNamespace(labels=labels))
        machine: Any = SimpleNamespace(address="10.40.1.200")
        stock._join(ec2, machine, postgres)
        (rule,) = cloud.host.policy.groups[group].ingress
        assert (rule.first, cloud.host.policy.members(rule.group)) == (5432, ["10.40.1.200"])
        stock._leave(ec2)
        assert cloud.host.policy == before
