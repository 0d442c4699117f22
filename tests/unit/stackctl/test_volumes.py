"""Volumes get the size of their machines' profiles, where EC2 allows it."""

from __future__ import annotations

import json
from io import StringIO
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from rich.console import Console

import awsenvironment
from fakeclock import Clock
from localcloud import catalog
from memorycloud import Running
from plainpillar import ROOT
from policymutants import mutants
from stackctl import up, volumes
from stackctl.deployment import Deployment
from stackctl.errors import AwsError
from stackctl.machines import Machine, ec2_client
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.volumes import Difference

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

POLICY = json.loads((ROOT / "docs/operator-volumes.json").read_text())["Statement"]


@pytest.fixture
def deployment(deployment: Deployment) -> Deployment:
    """A deployment whose database servers have 20 GiB, and all others 10."""
    path = deployment.root / "cloud.profiles.d/machines.conf"
    path.write_text((ROOT / "cloud.profiles.d/machines.conf").read_text())
    ask(deployment, 20)
    return deployment


def ask(deployment: Deployment, gib: int) -> None:
    """Give the profile of the database servers another size."""
    path = deployment.root / "cloud.profiles.d/machines.conf"
    before, _, _ = path.read_text().partition("\npostgres:\n")
    disk = f"[{{DeviceName: /dev/xvda, Ebs: {{VolumeSize: {gib}}}}}]"
    path.write_text(f"{before}\npostgres:\n  extends: debian-13\n  block_device_mappings: {disk}\n")


OWNER = {"project": "airflow-stack", "deployment": "prod"}
"""The tags of the deployment that the policy names."""


def launch(cloud: Running, name: str, gib: int = 10, **other: str) -> Machine:
    """Launch a machine with a volume of this size, and with the deployment's or other tags."""
    vpcs = cloud.ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": ["10.42.0.0/16"]}])["Vpcs"]
    vpc = (vpcs or [cloud.ec2.create_vpc(CidrBlock="10.42.0.0/16")["Vpc"]])[0]["VpcId"]
    found = cloud.ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    subnet = found or [cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.42.1.0/24")["Subnet"]]
    given = {"Name": name, **OWNER, **other}
    tags = [{"Key": key, "Value": value} for key, value in given.items()]
    instance = cloud.ec2.run_instances(
        ImageId=catalog.IMAGE_ID,
        InstanceType="t2.micro",
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet[0]["SubnetId"],
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": gib}}],
        TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
    )["Instances"][0]
    return Machine(name, instance["InstanceId"], "running", "10.42.1.9", "")


@pytest.fixture
def client(in_cloud: Running, deployment: Deployment) -> EC2Client:
    """A client of the account as `stackctl` makes it."""
    assert in_cloud
    return ec2_client(deployment)


def sizes(cloud: Running) -> list[int]:
    return sorted(volume["Size"] for volume in cloud.ec2.describe_volumes()["Volumes"])


def test_volumes_of_other_sizes_are_found(
    cloud: Running, client: EC2Client, deployment: Deployment
) -> None:
    names = ("web-1", "postgres-1", "postgres-9")
    machines = [launch(cloud, name) for name in names]
    (found,) = volumes.differences(deployment, client, machines)
    assert (found.machine, found.size, found.wanted) == ("postgres-1", 10, 20)
    assert str(found) == "grow the volume of postgres-1 from 10 to 20 GiB"
    assert volumes.differences(deployment, client, machines[:1]) == []
    assert volumes.differences(deployment, client, []) == []
    ask(deployment, 10)
    assert volumes.differences(deployment, client, machines) == []


def test_volume_grows_once(cloud: Running, client: EC2Client, deployment: Deployment) -> None:
    machine = launch(cloud, "postgres-1")
    found = volumes.differences(deployment, client, [machine])
    assert volumes.grow(client, found) == (["postgres-1 10 -> 20 GiB"], [])
    assert sizes(cloud) == [20]
    assert volumes.differences(deployment, client, [machine]) == []


def test_volume_does_not_shrink(cloud: Running, client: EC2Client, deployment: Deployment) -> None:
    machine = launch(cloud, "postgres-1", 30)
    (found,) = volumes.differences(deployment, client, [machine])
    assert str(found).startswith("warning: the volume of postgres-1 has 30 GiB, and its profile")
    grown, (left,) = volumes.grow(client, [found])
    assert (grown, "EC2 makes none smaller" in left, sizes(cloud)) == ([], True, [30])


def test_volume_that_rests_is_left_and_told(
    cloud: Running, client: EC2Client, deployment: Deployment
) -> None:
    machine = launch(cloud, "postgres-1")
    volumes.grow(client, volumes.differences(deployment, client, [machine]))
    ask(deployment, 30)
    (again,) = volumes.differences(deployment, client, [machine])

    class Refusing:
        def modify_volume(self, **_: object) -> None:
            reason = {"Code": "VolumeModificationRateExceeded", "Message": "Wait at least 6 hours"}
            raise ClientError({"Error": reason}, "ModifyVolume")  # type: ignore[typeddict-item]

    grown, (left,) = volumes.grow(Refusing(), [again])  # type: ignore[arg-type]
    assert grown == []
    assert left == "the volume of postgres-1 does not grow now: Wait at least 6 hours"
    with pytest.raises(ClientError, match="does not exist"):
        volumes.grow(client, [Difference("postgres-1", "vol-00000000000000000", 10, 20)])


class Slow:
    """EC2 whose modifications take a while: the states that it shows, one after the other."""

    def __init__(self, *states: str) -> None:
        self.states = [*states]

    def modify_volume(self, **_: object) -> None:
        pass

    def describe_volumes_modifications(self, **given: Any) -> dict[str, Any]:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {
            "VolumesModifications": [
                {"VolumeId": volume, "ModificationState": state} for volume in given["VolumeIds"]
            ]
        }


def test_new_size_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(volumes, "time", clock)
    wanted = [Difference("postgres-1", "vol-1", 10, 20)]
    slow: Any = Slow("modifying", "modifying", "optimizing")
    assert volumes.grow(slow, wanted)[0] == ["postgres-1 10 -> 20 GiB"]
    assert clock.naps == 2
    with pytest.raises(AwsError, match="has failed to modify vol-1"):
        volumes.grow(Slow("failed"), wanted)  # type: ignore[arg-type]
    with pytest.raises(AwsError, match="vol-1: no new size after 300 s"):
        volumes.grow(Slow("modifying"), wanted)  # type: ignore[arg-type]


def test_up_has_a_step_where_a_volume_differs(
    cloud: Running,
    client: EC2Client,
    deployment: Deployment,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = launch(cloud, "postgres-1")
    monkeypatch.setattr(up, "find_machines", lambda *_: [machine])
    screen = StringIO()
    progress = Progress(Console(file=screen, width=200), log)
    up.grow_volumes(deployment, client, progress)
    assert "volumes" in screen.getvalue()
    assert "postgres-1 10 -> 20 GiB" in screen.getvalue()
    assert progress.changes == 1
    up.grow_volumes(deployment, client, progress)
    assert (progress.changes, screen.getvalue().count("volumes")) == (1, 1)


def test_documented_policy_is_enough_and_no_part_of_it_is_superfluous(
    deployment: Deployment, cloud: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    iam = cloud.client("iam")
    iam.create_user(UserName="operator")
    key = iam.create_access_key(UserName="operator")["AccessKey"]
    machine = launch(cloud, "postgres-1")
    foreign = [
        launch(cloud, "other", project="other").instance_id,
        launch(cloud, "postgres-1", deployment="other").instance_id,
    ]
    theirs = cloud.ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": foreign}]
    )["Volumes"]
    assert len(theirs) == 2
    awsenvironment.use(monkeypatch, cloud, key["AccessKeyId"], key["SecretAccessKey"])
    gib = 10

    def allowed(statements: Any) -> bool:
        """Return whether the volume grows, and nothing more is allowed."""
        nonlocal gib
        gib += 1
        ask(deployment, gib)
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_user_policy(UserName="operator", PolicyName="one", PolicyDocument=document)
        client, abroad = ec2_client(deployment), boto3.client("ec2", region_name="us-east-1")
        for one in theirs:
            with pytest.raises(ClientError, match="Unauthorized"):
                client.modify_volume(VolumeId=one["VolumeId"], Size=100)
        with pytest.raises(ClientError, match="Unauthorized"):
            abroad.describe_volumes()
        try:
            return bool(volumes.grow(client, volumes.differences(deployment, client, [machine]))[0])
        except ClientError:
            return False

    assert allowed(POLICY)
    unnoticed = []
    for name, fewer in mutants(POLICY):
        try:
            if allowed(fewer):
                unnoticed.append(name)
        except pytest.fail.Exception:
            continue  # too much is allowed
    assert unnoticed == []
