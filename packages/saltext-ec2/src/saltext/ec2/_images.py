"""Machine images: the one that a profile asks for, and those that an account has."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saltext.ec2 import _lookup
from saltext.ec2._client import Connection
from saltext.ec2.errors import ConfigurationError, NotFound, api_errors

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, ImageTypeDef

SSM_PREFIXES = ("ssm:", "resolve:ssm:")


@dataclass(frozen=True)
class Image:
    """A machine image.

    Attributes:
        id: such as `ami-0123456789abcdef0`.
        root_device: the device of its root volume, such as `/dev/xvda`; empty: unknown.
        root_size: the size of that volume in GiB; 0: unknown.
    """

    id: str
    root_device: str = ""
    root_size: int = 0


def find(connection: Connection, wanted: str | Mapping[str, Any]) -> Image:
    """Return the image that a profile asks for.

    Args:
        connection: where to look.
        wanted: an id (`ami-…`); `ssm:/path/of/a/parameter`; or a mapping with `owner` and `name`
            (a pattern), and optionally `architecture`: the newest image that matches.

    Raises:
        ConfigurationError: it is none of these.
        NotFound: there is no such image or parameter.
        ApiError: AWS did not answer.
    """
    key = json.dumps(wanted, sort_keys=True, default=str)
    fields = connection.cache.get(
        f"image {key}", lambda: dataclasses.astuple(_find(connection, wanted))
    )
    return Image(*fields)


def check(wanted: str | Mapping[str, Any]) -> None:
    """Check that `find` can look for an image, without looking for it.

    Raises:
        ConfigurationError: it is none of the forms that `find` knows.
    """
    if not isinstance(wanted, Mapping):
        if not str(wanted).startswith((*SSM_PREFIXES, "ami-")):
            raise ConfigurationError(
                f"image {wanted!r} is not ami-…, ssm:/parameter, or a mapping with owner and name"
                " (the newest is taken)"
            )
        return
    if unknown := set(wanted) - {"owner", "name", "architecture"}:
        raise ConfigurationError(
            f"image knows owner, name and architecture, not {', '.join(sorted(unknown))}"
        )
    if not (wanted.get("owner") and wanted.get("name")):
        raise ConfigurationError(
            "image by name needs both owner and name: names alone can be taken by anybody"
        )


def _find(connection: Connection, wanted: str | Mapping[str, Any]) -> Image:
    check(wanted)
    if isinstance(wanted, Mapping):
        return _newest(connection, wanted)
    image_id = str(wanted)
    for prefix in SSM_PREFIXES:
        if image_id.startswith(prefix):
            image_id = _parameter(connection, image_id.removeprefix(prefix))
            break
    if not image_id.startswith("ami-"):
        raise ConfigurationError(f"image {wanted!r} is no parameter with the id of an image")
    with api_errors(f"looking up the image {image_id}"):
        found = connection.ec2.describe_images(
            Filters=[{"Name": "image-id", "Values": [image_id]}], IncludeDeprecated=True
        )["Images"]
    if not found:
        raise NotFound(
            f"image {image_id} does not exist in {connection.region},"
            " or is not shared with this account"
        )
    return _as_image(found[0])


def _parameter(connection: Connection, name: str) -> str:
    with api_errors(f"reading the SSM parameter {name}"):
        found = connection.ssm.get_parameters(Names=[name])["Parameters"]
    if not found:
        raise NotFound(f"there is no SSM parameter {name} in {connection.region}")
    return found[0]["Value"]


def _newest(connection: Connection, wanted: Mapping[str, Any]) -> Image:
    filters: list[FilterTypeDef] = [
        {"Name": "name", "Values": [str(wanted["name"])]},
        {"Name": "state", "Values": ["available"]},
    ]
    if wanted.get("architecture"):
        filters.append({"Name": "architecture", "Values": [str(wanted["architecture"])]})
    with api_errors(f"looking for the image {wanted['name']}"):
        answer = connection.ec2.describe_images(Owners=[str(wanted["owner"])], Filters=filters)
    if not answer["Images"]:
        raise NotFound(
            f"{wanted['owner']} owns no image called {wanted['name']} in {connection.region}"
        )
    return _as_image(
        max(answer["Images"], key=lambda image: (image.get("CreationDate", ""), image["ImageId"]))
    )


def _as_image(found: ImageTypeDef) -> Image:
    root = found.get("RootDeviceName", "")
    sizes = {
        mapping["DeviceName"]: mapping.get("Ebs", {}).get("VolumeSize", 0)
        for mapping in found.get("BlockDeviceMappings", [])
        if "DeviceName" in mapping
    }
    return Image(found["ImageId"], root, sizes.get(root, 0))


def owned(connection: Connection, owner: str) -> dict[str, dict[str, Any]]:
    """Return the images of an owner by id.

    Raises:
        ApiError: EC2 did not answer.
    """
    with api_errors(f"listing the images of {owner}"):
        found = connection.ec2.describe_images(Owners=[owner])["Images"]
    return {image["ImageId"]: _lookup.plain(image) for image in found}


def describe(connection: Connection, wanted: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return EC2's description of the image that `find` finds.

    Raises:
        Ec2Error: see `find`.
    """
    image = find(connection, wanted)
    with api_errors(f"looking up the image {image.id}"):
        answer = connection.ec2.describe_images(ImageIds=[image.id])
    return dict(_lookup.plain(answer["Images"][0]))


def register(
    connection: Connection, name: str, root_device: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Make an HVM image of a snapshot.

    Args:
        connection: where to make it.
        name: its name.
        root_device: the device of its root volume.
        settings: `snapshot_id` or `block_device_mapping`; `description`, `volume_type`,
            `architecture`.

    Raises:
        ConfigurationError: there is neither a snapshot nor a mapping.
        ApiError: EC2 refuses.
    """
    devices = settings.get("block_device_mapping")
    if not devices:
        if not settings.get("snapshot_id"):
            raise ConfigurationError("register_image needs snapshot_id=… or block_device_mapping=…")
        volume = {
            "SnapshotId": settings["snapshot_id"],
            "VolumeType": settings.get("volume_type", "gp3"),
            "DeleteOnTermination": True,
        }
        devices = [{"DeviceName": root_device, "Ebs": volume}]
    with api_errors(f"registering the image {name}"):
        answer = connection.ec2.register_image(
            Name=name,
            Description=str(settings.get("description", "")),
            Architecture=settings.get("architecture", "x86_64"),
            VirtualizationType="hvm",
            EnaSupport=True,
            RootDeviceName=root_device,
            BlockDeviceMappings=devices,
        )
    return {"image_id": answer["ImageId"]}
