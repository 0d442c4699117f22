"""Volumes have types, sizes and zones of EC2's, and stay with the machine that boots from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from memorycloud import Running

Launch = Callable[..., Any]
ROOT, DATA = "/dev/xvda", "/dev/xvdf"


def refusal(call: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


def volumes(local: Running, instance: str) -> dict[str, dict[str, Any]]:
    """Return device -> volume of a machine."""
    wanted = [{"Name": "attachment.instance-id", "Values": [instance]}]
    found = local.ec2.describe_volumes(Filters=wanted)["Volumes"]
    return {volume["Attachments"][0]["Device"]: volume for volume in found}


@pytest.mark.parametrize(
    ("ebs", "code"),
    [
        ({"VolumeType": "gp33"}, "UnknownVolumeType"),
        ({"VolumeType": "st1", "VolumeSize": 10}, "InvalidParameterValue"),
        ({"VolumeType": "st1", "VolumeSize": 200}, "InvalidBlockDeviceMapping"),
        ({"VolumeType": "gp3", "VolumeSize": 65537}, "InvalidParameterValue"),
        ({"VolumeType": "gp2", "VolumeSize": 16385}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Iops": 2999}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Iops": 80001, "VolumeSize": 500}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Iops": 5001}, "InvalidParameterValue"),
        ({"VolumeType": "gp2", "Iops": 3000}, "InvalidParameterCombination"),
        ({"VolumeType": "gp3", "Throughput": 124}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Throughput": 751}, "InvalidParameterValue"),
        ({"VolumeType": "gp2", "Throughput": 200}, "InvalidParameterCombination"),
    ],
)
def test_volume_that_ec2_does_not_have_is_refused(
    local: Running, launch: Launch, ebs: dict[str, Any], code: str
) -> None:
    asked = {"VolumeSize": 10, **ebs}
    assert refusal(launch, BlockDeviceMappings=[{"DeviceName": ROOT, "Ebs": asked}]) == code
    assert local.ec2.describe_instances()["Reservations"] == []
    if code != "InvalidBlockDeviceMapping":
        asked["Size"] = asked.pop("VolumeSize")
        zone = {"AvailabilityZone": "eu-west-1a"}
        assert refusal(local.ec2.create_volume, **zone, **asked) == code
        made = local.ec2.create_volume(**zone, Size=10, VolumeType="gp3")["VolumeId"]
        assert refusal(local.ec2.modify_volume, VolumeId=made, **asked) == code


@pytest.mark.parametrize(
    ("ebs", "made"),
    [
        ({"VolumeSize": 10}, (10, "gp3")),
        ({"VolumeType": "gp2"}, (8, "gp2")),
        ({"VolumeType": "gp3", "VolumeSize": 8, "Iops": 4000, "Throughput": 1000}, (8, "gp3")),
        ({"VolumeSize": 65536, "VolumeType": "gp3"}, (65536, "gp3")),
    ],
)
def test_volume_is_made_as_asked_for_or_as_the_image_has_it(
    local: Running, launch: Launch, ebs: dict[str, Any], made: tuple[int, str]
) -> None:
    instance = launch(BlockDeviceMappings=[{"DeviceName": ROOT, "Ebs": ebs}])["InstanceId"]
    found = volumes(local, instance)[ROOT]
    assert (found["Size"], found["VolumeType"]) == made


def test_description_says_which_volume_goes_with_its_machine(
    local: Running, launch: Launch
) -> None:
    kept = {"DeviceName": DATA, "Ebs": {"VolumeSize": 10}}
    found = volumes(local, launch(BlockDeviceMappings=[kept])["InstanceId"])
    goes = {name: one["Attachments"][0]["DeleteOnTermination"] for name, one in found.items()}
    assert goes == {ROOT: True, DATA: False}


def test_volume_is_attached_once_in_its_zone_to_a_free_device(
    local: Running, launch: Launch
) -> None:
    instance = launch()
    local.settle()
    own = instance["Placement"]["AvailabilityZone"]
    other = "eu-west-1b" if own != "eu-west-1b" else "eu-west-1a"

    def attach(volume: str, device: str = DATA) -> Any:
        return local.ec2.attach_volume(
            VolumeId=volume, InstanceId=instance["InstanceId"], Device=device
        )

    def create(zone: str) -> str:
        return str(local.ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"])

    assert refusal(create, zone="eu-west-1z") == "InvalidZone.NotFound"
    assert refusal(attach, volume=create(other)) == "InvalidVolume.ZoneMismatch"
    volume = create(own)
    assert refusal(attach, volume=volume, device=ROOT) == "InvalidParameterValue"
    attach(volume)
    assert refusal(attach, volume=volume, device="/dev/xvdg") == "VolumeInUse"
    assert refusal(local.ec2.delete_volume, VolumeId=volume) == "VolumeInUse"
    local.ec2.detach_volume(VolumeId=volume)
    assert refusal(local.ec2.detach_volume, VolumeId=volume) == "IncorrectState"
    local.ec2.delete_volume(VolumeId=volume)


def test_machine_that_runs_keeps_its_root_volume(local: Running, launch: Launch) -> None:
    instance = launch()["InstanceId"]
    local.settle()
    volume = volumes(local, instance)[ROOT]["VolumeId"]
    assert refusal(local.ec2.detach_volume, VolumeId=volume) == "OperationNotPermitted"
    local.ec2.stop_instances(InstanceIds=[instance])
    local.settle()
    local.ec2.detach_volume(VolumeId=volume)
    local.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device=ROOT)
    local.ec2.start_instances(InstanceIds=[instance])
    local.settle()
    assert local.state(instance) == "running"
