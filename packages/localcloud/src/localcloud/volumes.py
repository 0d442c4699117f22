"""The volumes that a launch asks for, and those that grow, as EC2 takes them.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/block-device-mapping-concepts.html
https://docs.aws.amazon.com/ebs/latest/userguide/ebs-modify-volume.html
https://docs.aws.amazon.com/ebs/latest/userguide/monitoring-volume-modifications.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError, MissingParameterError
from moto.ec2.models.elastic_block_store import EBSBackend, Volume, VolumeModification
from moto.ec2.responses.instances import InstanceResponse

from localcloud.delays import Delays

COMPLETED = "completed"


def hook(replace: Callable[[Any, str, Any], Any], root_gib: int) -> None:
    """Have moto take block device mappings as EC2 does.

    Args:
        replace: sets an attribute of a class, and returns what it was.
        root_gib: the size of an image's root volume.
    """

    def parse(response: InstanceResponse) -> list[dict[str, Any]]:
        """A root volume is as the image has it, in all that the request does not say.

        It is no smaller than the image's, and ends with its instance.
        """
        given = response._get_param("BlockDeviceMappings", [])
        parsed: list[dict[str, Any]] = original_parse(response)
        image = response.ec2_backend.amis.get(response._get_param("ImageId") or "")
        for asked, mapping in zip(given, parsed, strict=True):
            ebs = mapping["Ebs"]
            if image and mapping["DeviceName"] == image.root_device_name and "Ebs" in asked:
                ebs["VolumeSize"] = ebs["VolumeSize"] or root_gib
                ebs["DeleteOnTermination"] = asked["Ebs"].get("DeleteOnTermination", True)
                if int(ebs["VolumeSize"]) < root_gib:
                    raise EC2ClientError(
                        "InvalidBlockDeviceMapping",
                        f"Volume of size {ebs['VolumeSize']}GB is smaller than snapshot"
                        f" '{image.ebs_snapshot.id}', expect size >= {root_gib}GB",
                    )
            elif "Ebs" in asked and not (ebs["VolumeSize"] or ebs["SnapshotId"]):
                raise MissingParameterError("size or snapshotId")
        return parsed

    def validate(mapping: dict[str, Any]) -> None:
        """Leave the size to `parse`."""
        ebs = mapping.get("Ebs")
        original_validate(mapping | {"Ebs": {"VolumeSize": 1} | ebs} if ebs else mapping)

    original_parse = replace(InstanceResponse, "_parse_block_device_mapping", parse)
    # A static method is found behind its wrapper.
    original_validate = replace(
        InstanceResponse, "_validate_block_device_mapping", staticmethod(validate)
    ).__func__


def hook_modifications(replace: Callable[[Any, str, Any], Any], delays: Delays) -> None:
    """Have moto modify volumes as EC2 does.

    Args:
        replace: sets an attribute of a class, and returns what it was.
        delays: how long a modification takes, and the next one is refused.
    """

    def modify(backend: Any, volume_id: str, target_size: Any = None, *others: Any) -> Volume:
        """A volume becomes no smaller, and rests between two modifications."""
        volume = backend.get_volume(volume_id)
        if volume.modifications:
            last = volume.modifications[-1]
            if (now := state(last)) != COMPLETED:
                raise EC2ClientError(
                    "IncorrectModificationState",
                    f"Volume {volume_id} is being modified; its modification is in state '{now}'.",
                )
            if age(last) < delays.volume_rest:
                raise EC2ClientError(
                    "VolumeModificationRateExceeded",
                    "You've reached the maximum modification rate per volume limit. Wait at least"
                    " 6 hours between modifications per EBS volume.",
                )
        size = int(target_size) if target_size else None
        if size and size < volume.size:
            raise EC2ClientError(
                "InvalidParameterValue", "New size cannot be smaller than existing size"
            )
        modified: Volume = original(backend, volume_id, size, *others)
        return modified

    def age(modification: VolumeModification) -> float:
        passed: float = (utcnow() - modification.start_time).total_seconds()
        return passed

    def state(modification: VolumeModification) -> str:
        """The new size can be used while EC2 optimizes."""
        passed = age(modification)
        if passed < delays.volume_modifying:
            return "modifying"
        return "optimizing" if passed < delays.volume_optimizing else COMPLETED

    def progress(modification: VolumeModification) -> int:
        return 100 if state(modification) == COMPLETED else 0

    original = replace(EBSBackend, "modify_volume", modify)
    replace(VolumeModification, "modification_state", property(state))
    replace(VolumeModification, "progress", property(progress))
