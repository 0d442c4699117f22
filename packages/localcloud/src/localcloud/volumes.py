"""The volumes that a launch asks for, as EC2 takes them.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/block-device-mapping-concepts.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.ec2.exceptions import EC2ClientError, MissingParameterError
from moto.ec2.responses.instances import InstanceResponse


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
