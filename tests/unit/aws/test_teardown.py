"""`down` of a real deployment: everything that is its own goes, nothing else, and that is proven.

The foundation is made by the production states, on an EC2 in memory.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from localcloud import catalog
from localcloud.faults import Fault, lost, throttled
from memorycloud import Running
from plainpillar import ROOT
from stackctl import inventory, locks, teardown
from stackctl.account_lock import AccountLock
from stackctl.deployment import Deployment
from stackctl.errors import BusyError, LaunchError, StackError
from stackctl.inventory import Clients
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.ssh import Shell

OWN = {"project": "airflow-stack", "deployment": "test"}
OTHER = {"project": "airflow-stack", "deployment": "test-2"}
LAUNCH = "launch-template"
BUCKET = "airflow-stack-test-123456789012-eu-west-1"
KEPT = ["volume", "bucket"]
ROLES = ("salt", "lb", "web", "postgres", "redis")


@pytest.fixture
def test(tmp_path: Path, cloud: Running, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The deployment `test` in a checkout of its own, whose account is the one in memory."""
    for part in ("cloud.maps.d", "cloud.profiles.d", "pillar"):
        (tmp_path / part).symlink_to(ROOT / part)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(teardown, "enter", lambda _: nullcontext())
    monkeypatch.setattr(Shell, "trust", _nobody_answers)
    monkeypatch.setattr(teardown, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(teardown, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(teardown, "END_SECONDS", 5)
    return Deployment("test", tmp_path)


def _nobody_answers(*_: object, **__: object) -> None:
    raise LaunchError("It does not answer.")


@pytest.fixture
def stack(founded: Running, test: Deployment) -> Iterator[Running]:
    """The account with the foundation and a machine of each role; afterwards empty again."""
    cloud = founded
    machines = {role: launch(cloud, role) for role in ROLES}
    cloud.settle()
    (address,) = cloud.ec2.describe_addresses()["Addresses"]
    cloud.ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=machines["lb"])
    yield cloud
    clear(cloud)


def tags(kind: str, name: str, owner: Mapping[str, str] = OWN) -> list[dict[str, Any]]:
    given = {"Name": name, **owner}
    return [{"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in given.items()]}]


def one(cloud: Running, operation: str, key: str, **filters: str) -> dict[str, Any]:
    """Return the only thing that meets filters."""
    given = [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in filters.items()]
    (found,) = getattr(cloud.ec2, operation)(Filters=given)[key]
    return dict(found)


def launch(cloud: Running, role: str, owner: Mapping[str, str] = OWN, **more: Any) -> str:
    """Launch a machine of the deployment as its profile has it, and return its id."""
    subnet = one(cloud, "describe_subnets", "Subnets", cidr_block="10.20.1.0/24")["SubnetId"]
    group = one(cloud, "describe_security_groups", "SecurityGroups", group_name=f"airflow-{role}")[
        "GroupId"
    ]
    kept = role == "postgres"
    disk = {"VolumeSize": 10, "VolumeType": "gp3", "DeleteOnTermination": not kept}
    options: dict[str, Any] = {
        "ImageId": catalog.IMAGE_ID, "InstanceType": "t2.micro", "MinCount": 1, "MaxCount": 1,
        "SubnetId": subnet, "SecurityGroupIds": [group], "DisableApiTermination": kept,
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": disk}],
        "TagSpecifications": [
            *tags("instance", f"{role}-1", owner), *tags("volume", f"{role}-1", owner),
            *tags("network-interface", f"{role}-1", owner),
        ],
    }  # fmt: skip
    return str(cloud.ec2.run_instances(**options | more)["Instances"][0]["InstanceId"])


def down(test: Deployment, tmp_path: Path, *, with_data: bool = False) -> tuple[Any, str]:
    """Destroy the deployment; return what went, and what was printed."""
    screen = io.StringIO()
    log = Log(tmp_path / "log", "down")
    progress = Progress(Console(file=screen, width=200), log)
    return teardown.destroy(test, progress, log, with_data=with_data), screen.getvalue()


def left(cloud: Running, owner: Mapping[str, str] = OWN) -> list[str]:
    """Return what EC2 and IAM still have with an owner's tags; moto keeps tags of what is gone."""
    clients = Clients(cloud.ec2, cloud.client("iam"), cloud.client("s3"), None)
    found = [
        str(thing) for kind in inventory.KINDS for thing in inventory.own(clients.ec2, owner, kind)
    ]
    found += [
        f"{kind} {thing}" for kind, thing in inventory.tagged(clients.ec2, owner) if kind == LAUNCH
    ]
    roles = clients.iam.list_roles()["Roles"]
    profiles = clients.iam.list_instance_profiles()["InstanceProfiles"]
    names = [role["RoleName"] for role in roles] + [p["InstanceProfileName"] for p in profiles]
    buckets = [one["Name"] for one in clients.s3.list_buckets()["Buckets"]]
    ours = tuple(f"airflow-stack-test-{role}" for role in ("salt", "lb", "postgres"))
    found += [f"bucket {name}" for name in buckets if name == BUCKET]
    return found + [name for name in names if name.startswith(ours)]


def clear(cloud: Running) -> None:
    """Remove whatever a failed test has left."""
    from memorycloud import emptied

    emptied(cloud)


def test_everything_goes_and_data_stays(test: Deployment, stack: Running, tmp_path: Path) -> None:
    lines = [*teardown.doomed(test, with_data=False).lines("test")]
    assert [line for line in lines if "salt-1" in line and "instance" in line], lines
    assert lines[4].startswith("destroy instance"), "machines go first"
    assert lines[4].endswith("salt-1"), "the master is the last of them"
    volume, bucket = lines[-2:]
    assert volume.startswith("keep volume"), lines
    assert volume.endswith(
        "postgres-1 of 10 GB: it holds data and costs 0.88 USD a month (--with-data destroys it)"
    )
    assert bucket == (
        f"keep bucket {BUCKET}: it holds data and costs 0.023 USD a month for each GB"
        " (--with-data destroys it)"
    )
    going, printed = down(test, tmp_path)
    assert [thing.kind for thing in going.kept] == KEPT
    assert [line.partition(" ")[0] for line in left(stack)] == KEPT
    assert "nothing else is left" in printed
    # Again: nothing but the data is there, and that is no failure.
    again, printed = down(test, tmp_path)
    assert not again.things
    assert again.kept
    last, _ = down(test, tmp_path, with_data=True)
    assert [thing.kind for thing in last.things] == KEPT
    assert left(stack) == []
    empty, _ = down(test, tmp_path, with_data=True)
    assert [*empty.lines("test")] == []


def test_what_is_of_others_stays(test: Deployment, stack: Running, tmp_path: Path) -> None:
    ec2, iam = stack.ec2, stack.client("iam")
    foreign = [
        ec2.create_vpc(CidrBlock="10.20.0.0/16", TagSpecifications=tags("vpc", "x", OTHER))["Vpc"][
            "VpcId"
        ],
        ec2.allocate_address(
            Domain="vpc",
            TagSpecifications=tags(
                "elastic-ip", "airflow-stack-test-edge", {"project": "airflow-stack"}
            ),
        )["AllocationId"],
        ec2.create_volume(
            AvailabilityZone="eu-west-1a", Size=1, TagSpecifications=tags("volume", "y", OTHER)
        )["VolumeId"],
        ec2.create_internet_gateway(
            TagSpecifications=tags("internet-gateway", "z", {"deployment": "test"})
        )["InternetGateway"]["InternetGatewayId"],
    ]
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    iam.create_role(
        RoleName="airflow-stack-test-2-salt", AssumeRolePolicyDocument=trust,
        Tags=[{"Key": key, "Value": value} for key, value in OTHER.items()],
    )  # fmt: skip
    iam.create_role(RoleName="airflow-stack-test-other", AssumeRolePolicyDocument=trust)
    down(test, tmp_path, with_data=True)
    assert left(stack) == []
    everything = {
        *(vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]),
        *(address["AllocationId"] for address in ec2.describe_addresses()["Addresses"]),
        *(volume["VolumeId"] for volume in ec2.describe_volumes()["Volumes"]),
        *(g["InternetGatewayId"] for g in ec2.describe_internet_gateways()["InternetGateways"]),
    }
    assert everything >= set(foreign)
    names = {role["RoleName"] for role in iam.list_roles()["Roles"]}
    assert names >= {"airflow-stack-test-2-salt", "airflow-stack-test-other"}


def test_machine_of_others_in_the_vpc_stops_everything(
    test: Deployment, stack: Running, tmp_path: Path
) -> None:
    for owner in ({}, {"project": "airflow-stack"}, OTHER):
        foreign = launch(stack, "web", owner)
        before = left(stack)
        with pytest.raises(StackError) as caught:
            down(test, tmp_path)
        assert "Nothing was destroyed" in caught.value.what
        assert f"instance {foreign} web-1" in caught.value.what
        assert left(stack) == before
        stack.settle()
        stack.ec2.terminate_instances(InstanceIds=[foreign])
        stack.settle()


def test_order_holds_and_refusals_are_waited_for(
    test: Deployment, stack: Running, tmp_path: Path
) -> None:
    """EC2 frees what a machine held some time after it has ended, and throttles."""
    busy: dict[str, Any] = {"code": "DependencyViolation", "status": 400, "times": 2}
    faults = [
        *(Fault("error", action, **busy) for action in
          ("DeleteSubnet", "DeleteSecurityGroup", "DetachInternetGateway", "DeleteVpc")),
        Fault("error", "ReleaseAddress", code="InvalidIPAddress.InUse", status=400, times=1),
        Fault("error", "DeleteRole", code="DeleteConflict", status=409, times=1),
        throttled("TerminateInstances", times=1),
        throttled("DescribeVolumes", times=1),
    ]  # fmt: skip
    with stack.faults.inject(*faults) as client:
        down(test, tmp_path, with_data=True)
        assert all(client.seen().met), "a fault was not met"
    assert left(stack) == []


def test_lost_answers_do_no_harm(test: Deployment, stack: Running, tmp_path: Path) -> None:
    actions = ("TerminateInstances", "DeleteSubnet", "DeleteVpc", "DeleteKeyPair", "DeleteRole")
    with stack.faults.inject(*map(lost, actions)) as client:
        down(test, tmp_path, with_data=True)
        assert all(client.seen().met)
    assert left(stack) == []


@pytest.mark.long
def test_interrupted_run_is_repeated(test: Deployment, stack: Running, tmp_path: Path) -> None:
    """Whatever call it ends at, the next run goes on from there."""
    for action in (
        "ModifyInstanceAttribute", "TerminateInstances", "DeleteVpcEndpoints", "ReleaseAddress",
        "DeleteSubnetCidrReservation", "DeleteSubnet", "DeleteRouteTable",
        "RevokeSecurityGroupIngress", "DeleteSecurityGroup", "DetachInternetGateway",
        "DeleteInternetGateway", "DeleteVpc", "DeleteKeyPair", "RemoveRoleFromInstanceProfile",
        "DeleteInstanceProfile", "DeleteRolePolicy", "DeleteRole", "DeleteVolume",
        "DeleteBucket",
    ):  # fmt: skip
        denied = Fault("error", action, code="UnauthorizedOperation", status=403)
        with (
            stack.faults.inject(denied),
            pytest.raises(StackError, match=f"when calling the {action} "),
        ):
            down(test, tmp_path, with_data=True)
    assert [line.partition(" ")[0] for line in left(stack)] == ["bucket"]
    down(test, tmp_path, with_data=True)
    assert left(stack) == []


def test_what_never_comes_free_is_named(
    test: Deployment, stack: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teardown, "END_SECONDS", 0.5)
    busy = Fault("error", "DeleteSubnet", code="DependencyViolation", status=400)
    with stack.faults.inject(busy), pytest.raises(StackError) as caught:
        down(test, tmp_path)
    assert "subnet subnet-" in caught.value.what
    assert "airflow-stack-test-a" in caught.value.what
    assert "still needs it" in caught.value.hint


def test_kind_that_stackctl_does_not_make_is_left_and_named(
    test: Deployment, stack: Running, tmp_path: Path
) -> None:
    template = stack.ec2.create_launch_template(
        LaunchTemplateName="mine",
        LaunchTemplateData={"InstanceType": "t2.micro"},
        TagSpecifications=tags("launch-template", "mine"),
    )["LaunchTemplate"]["LaunchTemplateId"]
    with pytest.raises(StackError, match=rf"1 things .*: launch-template {template}"):
        down(test, tmp_path, with_data=True)
    assert left(stack) == [f"launch-template {template}"]


def test_bucket_with_versions_is_data(test: Deployment, stack: Running, tmp_path: Path) -> None:
    s3, name = stack.client("s3"), "airflow-stack-test-backups"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    tagging = {"TagSet": [{"Key": key, "Value": value} for key, value in OWN.items()]}
    s3.put_bucket_tagging(Bucket=name, Tagging=tagging)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket=name, Key="dump", Body=body)
    s3.delete_object(Bucket=name, Key="dump")
    going, _ = down(test, tmp_path)
    assert f"bucket {name}" in map(str, going.kept)
    assert name in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    down(test, tmp_path, with_data=True)
    assert s3.list_buckets()["Buckets"] == []


def test_second_operator_is_told_who_and_since_when(
    test: Deployment, stack: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = locks.Holder("ann@desk", 42, "up", "2026-11-26 10:00:00 UTC")
    monkeypatch.setattr(Shell, "trust", lambda *_, **__: None)
    monkeypatch.setattr(locks.Session, "_try", lambda *_: other)
    before = left(stack)
    with pytest.raises(BusyError, match=r"`stackctl up` of ann@desk .*since 2026-11-26 10:00:00"):
        down(test, tmp_path)
    assert left(stack) == before


def test_run_without_a_master_keeps_a_second_one_from_destroying(
    test: Deployment, stack: Running, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path, tmp_path / "other", symlinks=True, ignore=lambda *_: ["other"])
    other = Deployment("test", tmp_path / "other")
    locks.path_on_this_host(other).touch()
    before = left(stack)
    ann = locks.Holder("ann@desk", 42, "up", "2026-11-26 10:00:00 UTC")
    with (
        AccountLock(other, ann, print),
        pytest.raises(BusyError, match=r"`stackctl up` of ann@desk .*, 0 min ago\."),
    ):
        down(test, tmp_path)
    assert left(stack) == before
    down(test, tmp_path, with_data=True)
    assert left(stack) == []


def test_orphans_are_what_no_machine_has(test: Deployment, stack: Running, tmp_path: Path) -> None:
    found = [thing.kind for thing in inventory.orphans(test, stack.ec2)]
    assert found == [], "every volume has a machine, and lb-1 has the address"
    down(test, tmp_path)
    assert [thing.kind for thing in inventory.orphans(test, stack.ec2)] == ["volume"]
    assert [str(thing) for thing in inventory.left_buckets(test)] == [f"bucket {BUCKET}"]
