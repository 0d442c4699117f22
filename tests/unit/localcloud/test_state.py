"""The saved state: what is in it, and what a restart of the API process makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from localcloud import catalog
from localcloud.cloud import backend
from localcloud.config import HEALTH
from localcloud.errors import StateUnreadable
from localcloud.machines import Observed
from memorycloud import MemoryHost, Running, running
from waiting import until

ROLE = '{"Version": "2012-10-17", "Statement": []}'


def launch(local: Running, **more: Any) -> Any:
    options = {
        "ImageId": catalog.IMAGE_ID,
        "InstanceType": "t2.micro",
        "MinCount": 1,
        "MaxCount": 1,
    }
    instance = local.ec2.run_instances(**options | more)["Instances"][0]
    local.settle()
    return instance


def test_restart_keeps_everything(tmp_path: Path) -> None:
    host = MemoryHost()
    with running(tmp_path, host) as local:
        instance = launch(
            local,
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web-1"}]}
            ],
        )
        local.client("iam").create_role(RoleName="salt", AssumeRolePolicyDocument=ROLE)
        local.client("ssm").put_parameter(Name="/a/b", Value="c", Type="String")
        s3 = local.client("s3")
        s3.create_bucket(
            Bucket="backup", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        s3.put_object(Bucket="backup", Key="base", Body=b"x" * 10_000, Metadata={"kind": "full"})
        keys = local.credentials
    with running(tmp_path, host) as local:
        assert local.credentials == keys
        found = local.ec2.describe_instances()["Reservations"][0]["Instances"][0]
        assert (found["InstanceId"], found["PrivateIpAddress"]) == (
            instance["InstanceId"],
            instance["PrivateIpAddress"],
        )
        assert found["Tags"] == [{"Key": "Name", "Value": "web-1"}]
        assert found["State"]["Name"] == "running"
        assert local.client("iam").get_role(RoleName="salt")["Role"]["RoleName"] == "salt"
        assert local.client("ssm").get_parameter(Name="/a/b")["Parameter"]["Value"] == "c"
        stored = local.client("s3").get_object(Bucket="backup", Key="base")
        assert (stored["Body"].read(), stored["Metadata"]) == (b"x" * 10_000, {"kind": "full"})
        assert launch(local)["PrivateIpAddress"] != instance["PrivateIpAddress"]
    assert host.log[0] == f"create {instance['InstanceId']}"
    assert f"start {instance['InstanceId']}" not in host.log


def test_image_of_an_older_cloud_gets_its_alias(tmp_path: Path) -> None:
    with running(tmp_path, MemoryHost()) as local:
        backend().amis[catalog.IMAGE_ID].owner_alias = None
        local.ec2.create_vpc(CidrBlock="10.99.0.0/16")
    with running(tmp_path, MemoryHost()) as local:
        (image,) = local.ec2.describe_images(Owners=["amazon"])["Images"]
        assert image["ImageId"] == catalog.IMAGE_ID


def test_change_is_on_disk_when_call_is_answered(tmp_path: Path) -> None:
    with running(tmp_path, MemoryHost()) as local:
        before = (
            (tmp_path / "moto.pickle").stat().st_mtime_ns
            if (tmp_path / "moto.pickle").exists()
            else 0
        )
        local.ec2.create_vpc(CidrBlock="10.99.0.0/16")
        content = (tmp_path / "moto.pickle").read_bytes()
        assert (tmp_path / "moto.pickle").stat().st_mtime_ns > before
        assert b"10.99.0.0/16" in content
        written = (tmp_path / "moto.pickle").stat().st_mtime_ns
        local.ec2.describe_vpcs()
        assert (tmp_path / "moto.pickle").stat().st_mtime_ns == written


def test_restart_starts_ended_machines_and_terminates_lost_instances(
    tmp_path: Path,
) -> None:
    host = MemoryHost()
    with running(tmp_path, host) as local:
        stopped, lost, resting = (launch(local)["InstanceId"] for _ in range(3))
        local.ec2.stop_instances(InstanceIds=[resting])
        local.settle()
    host.observed[stopped] = Observed(running=False, exit_code=137)
    del host.observed[lost]
    with running(tmp_path, host) as local:
        until(lambda: f"start {stopped}" in host.log, "the machine is started")
        local.settle()
        assert [local.state(name) for name in (stopped, lost, resting)] == [
            "running",
            "terminated",
            "stopped",
        ]
        assert f"start {resting}" not in host.log


@pytest.mark.parametrize(
    ("verb", "expected"),
    [("launch", "running"), ("stop_instances", "stopped"), ("terminate_instances", "terminated")],
)
def test_restart_finishes_transitions(
    tmp_path: Path, verb: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = MemoryHost()
    with running(tmp_path, host) as local:
        if verb == "launch":
            monkeypatch.setattr(local.cloud, "follow", lambda _instance: None)
            arguments = {
                "ImageId": catalog.IMAGE_ID,
                "InstanceType": "t2.micro",
                "MinCount": 1,
                "MaxCount": 1,
            }
            instance_id = local.ec2.run_instances(**arguments)["Instances"][0]["InstanceId"]
        else:
            instance_id = launch(local)["InstanceId"]
            monkeypatch.setattr(local.cloud, "follow", lambda _instance: None)
            getattr(local.ec2, verb)(InstanceIds=[instance_id])
        assert local.state(instance_id) != expected
    with running(tmp_path, host) as local:
        until(lambda: local.state(instance_id) == expected, f"the instance is {expected}")
    assert (instance_id in host.machines) == (expected != "terminated")


def test_object_bodies_are_files_deleted_with_objects(tmp_path: Path) -> None:
    with running(tmp_path, MemoryHost()) as local:
        s3 = local.client("s3")
        s3.create_bucket(
            Bucket="backup", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        s3.put_object(Bucket="backup", Key="one", Body=b"first" * 1000)
        s3.put_object(Bucket="backup", Key="two", Body=b"first" * 1000)
        assert len(list((tmp_path / "objects").iterdir())) == 1
        assert b"firstfirst" not in (tmp_path / "moto.pickle").read_bytes()
        s3.put_object(Bucket="backup", Key="one", Body=b"second" * 1000)
        s3.delete_object(Bucket="backup", Key="two")
        assert len(list((tmp_path / "objects").iterdir())) == 1
    with running(tmp_path, MemoryHost()) as local:
        assert (
            local.client("s3").get_object(Bucket="backup", Key="one")["Body"].read()
            == b"second" * 1000
        )


@pytest.mark.parametrize("damage", ["version", "bytes"])
def test_unreadable_state_gives_hint(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, MemoryHost()) as local:
        local.ec2.create_vpc(CidrBlock="10.99.0.0/16")
    if damage == "bytes":
        (tmp_path / "moto.pickle").write_bytes(b"\x80\x05rubbish")
    else:
        monkeypatch.setattr("moto.__version__", "0.0.1")
    with (
        pytest.raises(StateUnreadable, match="localcloud destroy"),
        running(tmp_path, MemoryHost()),
    ):
        pass


def test_state_files_are_private(tmp_path: Path) -> None:
    with running(tmp_path, MemoryHost()) as local:
        local.ec2.create_vpc(CidrBlock="10.99.0.0/16")
    for name in ("moto.pickle", "credentials.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_encrypted_volume_survives_restart(tmp_path: Path) -> None:
    host = MemoryHost()
    with running(tmp_path, host) as local:
        volume = local.ec2.create_volume(AvailabilityZone="eu-west-1a", Size=1, Encrypted=True)
    with running(tmp_path, host) as local:
        (found,) = local.ec2.describe_volumes(VolumeIds=[volume["VolumeId"]])["Volumes"]
        assert found["Encrypted"]


def test_process_tells_the_code_that_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` restarts a process whose code has changed since it started."""
    with running(tmp_path, MemoryHost()) as local:
        with urlopen(local.url + HEALTH) as answer:
            before = json.load(answer)["fingerprint"]
        monkeypatch.setattr("localcloud.server.fingerprint", lambda _: "of changed files")
        with urlopen(local.url + HEALTH) as answer:
            assert json.load(answer)["fingerprint"] == before


def test_versions_and_unfinished_uploads_survive(tmp_path: Path) -> None:
    with running(tmp_path, MemoryHost()) as local:
        s3 = local.client("s3")
        s3.create_bucket(
            Bucket="backup", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        s3.put_bucket_versioning(Bucket="backup", VersioningConfiguration={"Status": "Enabled"})
        rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""},
                "NoncurrentVersionExpiration": {"NoncurrentDays": 30}}  # fmt: skip
        s3.put_bucket_lifecycle_configuration(
            Bucket="backup", LifecycleConfiguration={"Rules": [rule]}
        )
        s3.put_public_access_block(
            Bucket="backup", PublicAccessBlockConfiguration={"BlockPublicPolicy": True}
        )
        s3.put_bucket_encryption(
            Bucket="backup",
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        )
        versions = [
            s3.put_object(Bucket="backup", Key="base", Body=body)["VersionId"]
            for body in (b"first", b"second")
        ]
        s3.delete_object(Bucket="backup", Key="base")
        upload = s3.create_multipart_upload(Bucket="backup", Key="large")["UploadId"]
        part = s3.upload_part(
            Bucket="backup", Key="large", UploadId=upload, PartNumber=1, Body=b"x" * 6_000_000
        )["ETag"]
    with running(tmp_path, MemoryHost()) as local:
        s3 = local.client("s3")
        found = [
            s3.get_object(Bucket="backup", Key="base", VersionId=version)["Body"].read()
            for version in versions
        ]
        assert found == [b"first", b"second"]
        listed = s3.list_object_versions(Bucket="backup")
        assert len(listed["DeleteMarkers"]) == 1
        s3.complete_multipart_upload(
            Bucket="backup",
            Key="large",
            UploadId=upload,
            MultipartUpload={"Parts": [{"ETag": part, "PartNumber": 1}]},
        )
        assert s3.head_object(Bucket="backup", Key="large")["ContentLength"] == 6_000_000
        (kept,) = s3.get_bucket_lifecycle_configuration(Bucket="backup")["Rules"]
        assert kept["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
        blocked = s3.get_public_access_block(Bucket="backup")["PublicAccessBlockConfiguration"]
        assert blocked["BlockPublicPolicy"]
        assert s3.get_bucket_encryption(Bucket="backup")["ServerSideEncryptionConfiguration"]
