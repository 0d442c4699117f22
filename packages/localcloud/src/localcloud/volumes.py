"""The volumes that a launch asks for, and those that grow, as EC2 takes them.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/block-device-mapping-concepts.html
https://docs.aws.amazon.com/ebs/latest/userguide/ebs-modify-volume.html
https://docs.aws.amazon.com/ebs/latest/userguide/monitoring-volume-modifications.html
Types: https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volume-types.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError, MissingParameterError
from moto.ec2.models.elastic_block_store import (
    EBSBackend,
    Volume,
    VolumeAttachment,
    VolumeModification,
)
from moto.ec2.responses.elastic_block_store import ElasticBlockStore
from moto.ec2.responses.instances import InstanceResponse

from localcloud.delays import Delays

COMPLETED = "completed"
MODIFICATIONS = 4
"""How often a volume can be modified within `Delays.volume_rest`."""


@dataclass(frozen=True)
class Limits:
    """What EC2 gives to volumes of a type.

    Attributes:
        gib: the least and the largest size.
        iops: the least and the largest number; None: it cannot be chosen.
        throughput: in MiB/s, likewise.
        root: whether a machine can boot from it.
    """

    gib: tuple[int, int]
    iops: tuple[int, int] | None = None
    throughput: tuple[int, int] | None = None
    root: bool = True


TYPES = {
    "gp2": Limits((1, 16384)),
    "gp3": Limits((1, 65536), (3000, 80000), (125, 2000)),
    "io1": Limits((4, 16384), (100, 64000)),
    "io2": Limits((4, 65536), (100, 256000)),
    "st1": Limits((125, 16384), root=False),
    "sc1": Limits((125, 16384), root=False),
    "standard": Limits((1, 1024)),
}
IOPS_PER_GIB = {"gp3": 500, "io1": 50, "io2": 1000}
MIB_PER_IOPS = 0.25  # of gp3
GP3_IOPS, GP3_THROUGHPUT = 3000, 125  # where a request does not say


def check(kind: str, gib: int, iops: int | None, throughput: int | None) -> None:
    """Raise EC2ClientError for a volume that EC2 does not make.

    Args:
        kind: its type.
        gib: its size.
        iops: as the request has it.
        throughput: in MiB/s, likewise.
    """
    limits = TYPES.get(kind)
    if limits is None:
        raise EC2ClientError("UnknownVolumeType", f"Unsupported volume type '{kind}'.")
    _within(f"Volume of {gib}GiB", gib, limits.gib, f" for volume type {kind}")
    for name, given, allowed in (
        ("iops", iops, limits.iops),
        ("throughput", throughput, limits.throughput),
    ):
        if given is not None and allowed is None:
            text = f"The parameter {name} is not supported for {kind} volumes."
            raise EC2ClientError("InvalidParameterCombination", text)
        if given is not None and allowed is not None:
            _within(f"Volume {name} of {given}", given, allowed, "")
    if iops and kind in IOPS_PER_GIB and iops > max(IOPS_PER_GIB[kind] * gib, GP3_IOPS):
        _refuse(f"Iops to volume size ratio of {iops / gib:f}", "high", IOPS_PER_GIB[kind])
    if throughput and throughput > MIB_PER_IOPS * (iops or GP3_IOPS):
        ratio = throughput / (iops or GP3_IOPS)
        _refuse(f"Throughput (MiB/s) to iops ratio of {ratio:f}", "high", MIB_PER_IOPS)


def _within(what: str, given: int, allowed: tuple[int, int], more: str) -> None:
    least, most = allowed
    if given < least:
        _refuse(what, f"small{more}" if "GiB" in what else "low", least)
    if given > most:
        _refuse(what, f"large{more}" if "GiB" in what else "high", most)


def _refuse(what: str, how: str, limit: float) -> None:
    which = "minimum" if how.startswith(("small", "low")) else "maximum"
    text = f"{what} is too {how}; {which} is {limit}."
    raise EC2ClientError("InvalidParameterValue", text)


def _number(value: Any) -> int | None:
    return int(value) if value else None


ROOT_TYPE = "gp3"
"""Of an image's root volume."""


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
            root = image and mapping["DeviceName"] == image.root_device_name
            if root and "Ebs" in asked:
                ebs["VolumeSize"] = ebs["VolumeSize"] or root_gib
                ebs["VolumeType"] = ebs["VolumeType"] or ROOT_TYPE
                ebs["DeleteOnTermination"] = asked["Ebs"].get("DeleteOnTermination", True)
                if int(ebs["VolumeSize"]) < root_gib:
                    raise EC2ClientError(
                        "InvalidBlockDeviceMapping",
                        f"Volume of size {ebs['VolumeSize']}GB is smaller than snapshot"
                        f" '{image.ebs_snapshot.id}', expect size >= {root_gib}GB",
                    )
            elif "Ebs" in asked and not (ebs["VolumeSize"] or ebs["SnapshotId"]):
                raise MissingParameterError("size or snapshotId")
            if ebs["VolumeSize"]:
                kind = ebs["VolumeType"] or "gp2"
                numbers = (_number(asked["Ebs"].get(name)) for name in ("Iops", "Throughput"))
                check(kind, int(ebs["VolumeSize"]), *numbers)
                if root and not TYPES[kind].root:
                    text = f"The volume type '{kind}' cannot be a root volume."
                    raise EC2ClientError("InvalidBlockDeviceMapping", text)
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
        """A volume becomes no smaller, and is modified so often a day."""
        volume = backend.get_volume(volume_id)
        made = volume.modifications
        if made and (now := state(made[-1])) != COMPLETED:
            raise EC2ClientError(
                "IncorrectModificationState",
                f"Volume {volume_id} is being modified; its modification is in state '{now}'.",
            )
        if len([one for one in made if age(one) < delays.volume_rest]) >= MODIFICATIONS:
            left = delays.volume_rest - age(made[-MODIFICATIONS])
            raise EC2ClientError(
                "VolumeModificationRateExceeded",
                "You've reached the maximum modification rate per volume limit. You can modify it"
                f" again in {left:.0f} seconds.",
            )
        size = int(target_size) if target_size else None
        if size and size < volume.size:
            raise EC2ClientError(
                "InvalidParameterValue", "New size cannot be smaller than existing size"
            )
        kind, iops, throughput = (*others, None, None, None)[:3]
        kind = kind or volume.volume_type
        check(kind, size or volume.size, _number(iops), _number(throughput))
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


def hook_creation(replace: Callable[[Any, str, Any], Any]) -> None:
    """Have moto create volumes as EC2 does.

    Args:
        replace: sets an attribute of a class, and returns what it was.
    """

    def create(backend: Any, size: Any, zone_name: str, *given: Any, **options: Any) -> Volume:
        """A volume is of a type that there is."""
        if size:
            kind = options.get("volume_type") or "gp2"
            numbers = (_number(options.get(name)) for name in ("iops", "throughput"))
            check(kind, int(size), *numbers)
        made: Volume = original_create(backend, size, zone_name, *given, **options)
        return made

    def asked(response: ElasticBlockStore) -> Any:
        """A volume is in a zone that there is; those that moto makes for images are anywhere."""
        wanted = response._get_param("AvailabilityZone")
        zones = {zone.name for zone in response.ec2_backend.describe_availability_zones()}
        if wanted and wanted not in zones:
            text = f"The zone '{wanted}' does not exist."
            raise EC2ClientError("InvalidZone.NotFound", text)
        return original_asked(response)

    original_create = replace(EBSBackend, "create_volume", create)
    original_asked = replace(ElasticBlockStore, "create_volume", asked)


def hook_attachments(replace: Callable[[Any, str, Any], Any]) -> None:
    """Have moto attach, detach and describe volumes as EC2 does.

    Args:
        replace: sets an attribute of a class, and returns what it was.
    """

    def attach(
        backend: Any, volume_id: str, instance_id: str, device: str, *given: Any, **options: Any
    ) -> VolumeAttachment:
        """A volume has one machine, in its zone, and a device one volume."""
        volume, instance = backend.get_volume(volume_id), backend.get_instance(instance_id)
        if volume.attachment:
            text = f"{volume_id} is already attached to an instance"
            raise EC2ClientError("VolumeInUse", text)
        if volume.zone.name != instance.availability_zone:
            text = f"The volume '{volume_id}' is not in the same availability zone as instance"
            raise EC2ClientError("InvalidVolume.ZoneMismatch", f"{text} '{instance_id}'")
        if device in instance.block_device_mapping:
            text = f"Invalid value '{device}' for unixDevice. Attachment point {device} is already"
            raise EC2ClientError("InvalidParameterValue", f"{text} in use")
        made: VolumeAttachment = original_attach(
            backend, volume_id, instance_id, device, *given, **options
        )
        return made

    def detach(response: ElasticBlockStore) -> Any:
        """A call need not name the machine; a machine that runs keeps its root volume.

        Not in the backend, by which moto detaches the volumes of a machine that ends.
        """
        volume_id = response._get_param("VolumeId")
        held = response.ec2_backend.get_volume(volume_id).attachment
        if held is None:
            text = f"Volume '{volume_id}' is in the 'available' state."
            raise EC2ClientError("IncorrectState", text)
        if held.device == held.instance.root_device_name and held.instance.state == "running":
            text = f"Unable to detach root volume '{volume_id}' from instance '{held.instance.id}'"
            raise EC2ClientError("OperationNotPermitted", text)
        return original_detach(response)

    def detach_named(
        backend: Any, volume_id: str, instance_id: str | None, *given: Any
    ) -> VolumeAttachment:
        held = backend.get_volume(volume_id).attachment
        named = instance_id or (held.instance.id if held else "")
        done: VolumeAttachment = original_detach_named(backend, volume_id, named, *given)
        return done

    def goes_with_machine(attachment: VolumeAttachment) -> bool:
        mapping = attachment.instance.block_device_mapping.get(attachment.device)
        return bool(mapping and mapping.delete_on_termination)

    original_attach = replace(EBSBackend, "attach_volume", attach)
    original_detach = replace(ElasticBlockStore, "detach_volume", detach)
    original_detach_named = replace(EBSBackend, "detach_volume", detach_named)
    replace(VolumeAttachment, "delete_on_termination", property(goes_with_machine))
