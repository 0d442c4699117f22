"""What exists in the account: machines by name, and the ids behind the names that profiles use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saltext.ec2._client import Connection
from saltext.ec2._errors import ConfigurationError, NotFound, api_errors

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, ImageTypeDef, InstanceTypeDef

LIVING = ("pending", "running", "stopping", "stopped")
SSM_PREFIXES = ("ssm:", "resolve:ssm:")


@dataclass(frozen=True)
class Image:
    """A machine image.

    Attributes:
        id: such as `ami-0123456789abcdef0`.
        root_device: the name under which it maps its root volume, such as `/dev/xvda`; empty when it says none.
        root_size: the size of that volume in GiB; 0 when it says none.
    """

    id: str
    root_device: str = ""
    root_size: int = 0


# -- machines -------------------------------------------------------------------------------------------------------


def tags(resource: Mapping[str, Any]) -> dict[str, str]:
    """Return a resource's tags as a dictionary."""
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags", [])}


def instances(connection: Connection, filters: Sequence[FilterTypeDef] = ()) -> list[InstanceTypeDef]:
    """Return the account's instances in the region, whatever their state.

    Raises:
        ApiError: the API could not be asked.
    """
    with api_errors("listing the instances"):
        pages = connection.ec2.get_paginator("describe_instances").paginate(Filters=list(filters))
        return [instance for page in pages for group in page["Reservations"] for instance in group["Instances"]]


def living(connection: Connection, name: str) -> InstanceTypeDef | None:
    """Return the one instance of this Name that is not terminated, or None.

    Raises:
        NotFound: there are several.
    """
    return only(name, named(connection, name))


def named(connection: Connection, name: str) -> list[InstanceTypeDef]:
    """Return every instance of this Name that EC2 still shows, terminated ones (for about an hour) included."""
    return instances(connection, [{"Name": "tag:Name", "Values": [re.sub(r"([\\*?])", r"\\\1", name)]}])


def only(name: str, candidates: Iterable[InstanceTypeDef]) -> InstanceTypeDef | None:
    """Return the living one of some instances of one name, or None.

    Raises:
        NotFound: more than one lives: the driver will not guess which is meant.
    """
    alive = [instance for instance in candidates if instance["State"]["Name"] in LIVING]
    if len(alive) > 1:
        ids = ", ".join(sorted(instance["InstanceId"] for instance in alive))
        raise NotFound(f"{len(alive)} machines are called {name}: {ids}; name the one you mean by its id")
    return alive[0] if alive else None


# -- what profiles name ---------------------------------------------------------------------------------------------


def image(connection: Connection, wanted: str | Mapping[str, Any]) -> Image:
    """Return the image that a profile asks for.

    Args:
        connection: where to look.
        wanted: an id (`ami-…`); `ssm:/path/of/a/parameter`; or a mapping with `owner` and `name` (a pattern), and
            perhaps `architecture`: the newest that fits.

    Raises:
        ConfigurationError: it is none of these.
        NotFound: there is no such image or parameter.
    """
    if isinstance(wanted, Mapping):
        return _newest_image(connection, wanted)
    image_id = str(wanted)
    for prefix in SSM_PREFIXES:
        if image_id.startswith(prefix):
            image_id = _parameter(connection, image_id.removeprefix(prefix))
            break
    if not image_id.startswith("ami-"):
        raise ConfigurationError(
            f"image {wanted!r} is not ami-…, ssm:/parameter, or a mapping with owner and name (the newest is taken)"
        )
    with api_errors(f"looking up the image {image_id}"):
        found = connection.ec2.describe_images(
            Filters=[{"Name": "image-id", "Values": [image_id]}], IncludeDeprecated=True
        )["Images"]
    if not found:
        raise NotFound(f"image {image_id} does not exist in {connection.region}, or is not shared with this account")
    return _as_image(found[0])


def _as_image(found: ImageTypeDef) -> Image:
    root = found.get("RootDeviceName", "")
    sizes = {
        mapping["DeviceName"]: mapping.get("Ebs", {}).get("VolumeSize", 0)
        for mapping in found.get("BlockDeviceMappings", [])
        if "DeviceName" in mapping
    }
    return Image(found["ImageId"], root, sizes.get(root, 0))


def _parameter(connection: Connection, name: str) -> str:
    with api_errors(f"reading the SSM parameter {name}"):
        found = connection.ssm.get_parameters(Names=[name])["Parameters"]
    if not found:
        raise NotFound(f"there is no SSM parameter {name} in {connection.region}")
    return found[0]["Value"]


def _newest_image(connection: Connection, wanted: Mapping[str, Any]) -> Image:
    if unknown := set(wanted) - {"owner", "name", "architecture"}:
        raise ConfigurationError(f"image knows owner, name and architecture, not {', '.join(sorted(unknown))}")
    if not (wanted.get("owner") and wanted.get("name")):
        raise ConfigurationError("image by name needs both owner and name: names alone can be taken by anybody")
    filters: list[FilterTypeDef] = [
        {"Name": "name", "Values": [str(wanted["name"])]},
        {"Name": "state", "Values": ["available"]},
    ]
    if wanted.get("architecture"):
        filters.append({"Name": "architecture", "Values": [str(wanted["architecture"])]})
    with api_errors(f"looking for the image {wanted['name']}"):
        found = connection.ec2.describe_images(Owners=[str(wanted["owner"])], Filters=filters)["Images"]
    if not found:
        raise NotFound(f"{wanted['owner']} owns no image called {wanted['name']} in {connection.region}")
    return _as_image(max(found, key=lambda each: (each.get("CreationDate", ""), each["ImageId"])))


def subnet(connection: Connection, name: str) -> str:
    """Return the id of the subnet with this Name tag.

    Raises:
        NotFound: there is none, or more than one.
    """
    with api_errors(f"looking up the subnet {name}"):
        found = connection.ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": [name]}])["Subnets"]
    if len(found) != 1:
        raise NotFound(f"{len(found) or 'no'} subnets are called {name} in {connection.region}; exactly one is needed")
    return found[0]["SubnetId"]


def security_groups(connection: Connection, names: Sequence[str], subnet_id: str = "") -> list[str]:
    """Return the ids of security groups.

    Args:
        connection: where to look.
        names: group names or ids (`sg-…`), in the order wanted.
        subnet_id: the subnet whose VPC decides between groups of the same name; empty: names must be unique.

    Raises:
        NotFound: a name stands for no group, or for several.
    """
    unknown = [name for name in names if not name.startswith("sg-")]
    if not unknown:
        return list(names)
    filters: list[FilterTypeDef] = [{"Name": "group-name", "Values": unknown}]
    with api_errors(f"looking up the security groups {', '.join(unknown)}"):
        groups = connection.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        if subnet_id and len(groups) > len(unknown):
            vpc = connection.ec2.describe_subnets(SubnetIds=[subnet_id])["Subnets"][0]["VpcId"]
            groups = [group for group in groups if group.get("VpcId") == vpc]
    ids: dict[str, list[str]] = {}
    for group in groups:
        ids.setdefault(group["GroupName"], []).append(group["GroupId"])
    for name in unknown:
        if len(ids.get(name, [])) != 1:
            count = len(ids.get(name, [])) or "no"
            raise NotFound(f"{count} security groups are called {name} in {connection.region}; exactly one is needed")
    return [ids[name][0] if name in ids else name for name in names]
