"""Volumes, and which machines they are attached to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saltext.ec2 import _answers, _arguments, _lookup, _request, _tags
from saltext.ec2._client import Connection
from saltext.ec2._machine import Machine
from saltext.ec2._option_table import VOLUME
from saltext.ec2.errors import ConfigurationError, NotFound, api_errors

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef

DEFAULT_SIZE = 10  # GiB


def described(
    connection: Connection, filters: Sequence[FilterTypeDef] = ()
) -> dict[str, dict[str, Any]]:
    """Return the volumes of the region, or those that the filters match, by id.

    Raises:
        ApiError: EC2 did not answer.
    """
    with api_errors("listing the volumes"):
        pages = connection.ec2.get_paginator("describe_volumes").paginate(Filters=list(filters))
        return {
            volume["VolumeId"]: _lookup.plain(volume)
            for page in pages
            for volume in page["Volumes"]
        }


def attached(machine: Machine) -> dict[str, dict[str, Any]]:
    """Return the volumes of a machine, by id.

    Raises:
        ApiError: EC2 did not answer.
    """
    return described(
        machine.connection, [{"Name": "attachment.instance-id", "Values": [machine.id]}]
    )


def describe(connection: Connection, volume_id: str, machine: Machine | None) -> dict[str, Any]:
    """Return one volume.

    Args:
        connection: the region.
        volume_id: its id.
        machine: the machine that it must be attached to; None: it may be attached to any or none.

    Raises:
        NotFound: there is no such volume.
        ApiError: EC2 did not answer.
    """
    filters: list[FilterTypeDef] = [{"Name": "volume-id", "Values": [volume_id]}]
    if machine:
        filters.append({"Name": "attachment.instance-id", "Values": [machine.id]})
    found = described(connection, filters)
    if volume_id not in found:
        where = f" at {machine.name}" if machine else ""
        raise NotFound(f"there is no volume {volume_id}{where}")
    return found[volume_id]


def create(
    connection: Connection, zone: str, tags: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Make a volume: gp3, encrypted and of 10 GiB by default.

    Args:
        connection: the region.
        zone: the availability zone.
        tags: its tags.
        settings: what an entry of the option `volumes` may have.

    Raises:
        ConfigurationError: a setting is unknown, or another one is needed with it.
        ApiError: EC2 refuses.
    """
    typed = _arguments.typed("create_volume", settings, VOLUME)
    (device,) = _request.new_volumes([{**typed, "device": "-"}])
    wanted = {"VolumeType": "gp3", "Encrypted": True} | device["Ebs"]
    if wanted["VolumeType"] in ("io1", "io2") and "Iops" not in wanted:
        raise ConfigurationError(f"create_volume: type={wanted['VolumeType']} needs iops=…")
    if "KmsKeyId" in wanted and not wanted["Encrypted"]:
        raise ConfigurationError("create_volume: kmskeyid needs encrypted=True")
    if "VolumeSize" in wanted:
        wanted["Size"] = wanted.pop("VolumeSize")
    elif "SnapshotId" not in wanted:
        wanted["Size"] = DEFAULT_SIZE
    if tags:
        wanted["TagSpecifications"] = [{"ResourceType": "volume", "Tags": _tags.as_list(tags)}]
    with api_errors("creating a volume"):
        answer = connection.ec2.create_volume(AvailabilityZone=zone, **wanted)
    volume: dict[str, Any] = _lookup.plain(answer)
    del volume["ResponseMetadata"]
    return _answers.small(volume) | volume


def delete(connection: Connection, volume_id: str) -> dict[str, Any]:
    """Delete a volume that is attached to no machine.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"deleting {volume_id}"):
        connection.ec2.delete_volume(VolumeId=volume_id)
    return {"volume_id": volume_id, "deleted": True}


def attach(machine: Machine, volume_id: str, device: str) -> dict[str, Any]:
    """Attach a volume to a machine.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"attaching {volume_id} to {machine.name}"):
        answer = machine.connection.ec2.attach_volume(
            InstanceId=machine.id, VolumeId=volume_id, Device=device
        )
    state = answer["State"]
    return {
        "volume_id": volume_id,
        "volumeId": volume_id,
        "instanceId": machine.id,
        "device": device,
        "state": state,
        "status": state,
    }


def detach(machine: Machine, volume_id: str) -> dict[str, Any]:
    """Detach a volume from a machine.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"detaching {volume_id} from {machine.name}"):
        answer = machine.connection.ec2.detach_volume(InstanceId=machine.id, VolumeId=volume_id)
    state = answer["State"]
    return {
        "volume_id": volume_id,
        "volumeId": volume_id,
        "instanceId": machine.id,
        "state": state,
        "status": state,
    }
