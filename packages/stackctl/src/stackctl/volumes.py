"""Volumes that are smaller than their machines' profiles say: EC2 makes them larger at run time.

The file system on it follows in the machine's own states (salt/_states/root_disk.py).

https://docs.aws.amazon.com/ebs/latest/userguide/ebs-modify-volume.html
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from stackctl import profiles
from stackctl.deployment import Deployment
from stackctl.errors import AwsError
from stackctl.machines import Machine

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

# The volume has been modified within the last hours; EC2's words say how long it rests.
RESTING = ("IncorrectModificationState", "VolumeModificationRateExceeded")
MODIFY_SECONDS = 300
_PAUSE = 2


@dataclass(frozen=True)
class Difference:
    """A volume that has another size than its machine's profile says.

    Attributes:
        machine: its name.
        volume: its id.
        size: in GiB.
        wanted: the profile's size.
    """

    machine: str
    volume: str
    size: int
    wanted: int

    @property
    def grows(self) -> bool:
        """Whether EC2 can give it the wanted size."""
        return self.wanted > self.size

    def __str__(self) -> str:
        """Return the sentence about it."""
        if self.grows:
            return f"grow the volume of {self.machine} from {self.size} to {self.wanted} GiB"
        return (
            f"warning: the volume of {self.machine} has {self.size} GiB, and its profile says"
            f" {self.wanted}: EC2 makes none smaller; a machine that replaces it gets that"
        )


def differences(
    deployment: Deployment, client: EC2Client, machines: Iterable[Machine]
) -> list[Difference]:
    """Return the volumes of machines of the map that differ in size from the profiles."""
    named, given = deployment.machines(), deployment.map_options()
    by_id = {each.instance_id: each.name for each in machines if each.name in named}
    if not by_id:
        return []
    wanted = {
        name: dict(_sizes({**profiles.resolve(deployment, named[name]), **given[name]}))
        for name in by_id.values()
    }
    pages = client.get_paginator("describe_volumes").paginate(
        Filters=[{"Name": "attachment.instance-id", "Values": sorted(by_id)}]
    )
    found = [
        Difference(name, volume["VolumeId"], volume["Size"], size)
        for page in pages
        for volume in page["Volumes"]
        for attachment in volume["Attachments"]
        if (name := by_id.get(attachment["InstanceId"]))
        and (size := wanted[name].get(attachment["Device"], volume["Size"])) != volume["Size"]
    ]
    return sorted(found, key=lambda each: each.machine)


def grow(client: EC2Client, found: Iterable[Difference]) -> tuple[list[str], list[str]]:
    """Give volumes their wanted size, and wait until they have it.

    Returns:
        What has grown, and what has not and why, a text each.

    Raises:
        ClientError: EC2 refuses for another reason than that it cannot be now.
        AwsError: a volume has not got its size in time.
    """
    grown, left, waiting = [], [], []
    for each in found:
        if not each.grows:
            left.append(str(each).removeprefix("warning: "))
            continue
        try:
            client.modify_volume(VolumeId=each.volume, Size=each.wanted)
        except ClientError as error:
            if error.response["Error"]["Code"] not in RESTING:
                raise
            reason = error.response["Error"]["Message"]
            left.append(f"the volume of {each.machine} does not grow now: {reason}")
            continue
        waiting.append(each.volume)
        grown.append(f"{each.machine} {each.size} -> {each.wanted} GiB")
    _wait(client, waiting)
    return grown, left


def _sizes(profile: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield device and size of the volumes in a profile, in either of its forms."""
    for mapping in profile.get("block_device_mappings") or ():
        size = mapping.get("Ebs.VolumeSize", (mapping.get("Ebs") or {}).get("VolumeSize"))
        if size is not None:
            yield str(mapping["DeviceName"]), int(size)


def _wait(client: EC2Client, volumes: list[str]) -> None:
    """Wait until the new sizes can be used; EC2 optimizes the volumes for hours after that."""
    deadline = time.monotonic() + MODIFY_SECONDS
    while volumes:
        answer = client.describe_volumes_modifications(VolumeIds=volumes)
        states = {
            each["VolumeId"]: each["ModificationState"] for each in answer["VolumesModifications"]
        }
        if failed := [volume for volume in volumes if states.get(volume) == "failed"]:
            raise AwsError(f"EC2 has failed to modify {', '.join(failed)}.")
        volumes = [each for each in volumes if states.get(each) not in ("optimizing", "completed")]
        if volumes:
            if time.monotonic() > deadline:
                raise AwsError(f"{', '.join(volumes)}: no new size after {MODIFY_SECONDS} s.")
            time.sleep(_PAUSE)
