"""What exists in the account: machines by name, and the ids behind the names that profiles use."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saltext.ec2._client import Connection
from saltext.ec2.errors import ConfigurationError, NotFound, api_errors

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, ImageTypeDef, InstanceTypeDef

CENSUS_SECONDS = 10
FILTER_VALUES = 200  # of one filter, at most: EC2's limit
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


@dataclass(frozen=True)
class Subnet:
    """A subnet, and the VPC it lies in."""

    id: str
    vpc_id: str


# -- machines -------------------------------------------------------------------------------------------------------


def tags(resource: Mapping[str, Any]) -> dict[str, str]:
    """Return a resource's tags as a dictionary."""
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags", [])}


def instances(
    connection: Connection, filters: Sequence[FilterTypeDef] = ()
) -> list[InstanceTypeDef]:
    """Return the account's instances in the region, whatever their state.

    Raises:
        ApiError: the API could not be asked.
    """
    with api_errors("listing the instances"):
        pages = connection.ec2.get_paginator("describe_instances").paginate(Filters=list(filters))
        return [
            instance
            for page in pages
            for group in page["Reservations"]
            for instance in group["Instances"]
        ]


def instances_by_id(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    """Return instances as JSON can hold them, by id; those that EC2 does not know are left out.

    Raises:
        ApiError: the API could not be asked.
    """
    found = [
        instance
        for start in range(0, len(ids), FILTER_VALUES)
        for instance in instances(
            connection,
            [{"Name": "instance-id", "Values": list(ids[start : start + FILTER_VALUES])}],
        )
    ]
    return {instance["InstanceId"]: plain(instance) for instance in found}


def plain(answer: Any) -> Any:
    """Return an answer of the API with its times as text, which JSON, every outputter and the event bus can carry."""
    return json.loads(json.dumps(answer, default=lambda value: value.isoformat()))


def named(connection: Connection, name: str) -> list[InstanceTypeDef]:
    """Return every instance of this Name that EC2 still shows, terminated ones (for about an hour) included."""
    return instances(
        connection, [{"Name": "tag:Name", "Values": [re.sub(r"([\\*?])", r"\\\1", name)]}]
    )


def census(found: Iterable[InstanceTypeDef]) -> dict[str, list[list[str]]]:
    """Return which names there are, as the cache keeps them: `{name: [[id, state], …]}`."""
    names: dict[str, list[list[str]]] = {}
    for instance in found:
        name = tags(instance).get("Name", "")
        names.setdefault(name, []).append([instance["InstanceId"], instance["State"]["Name"]])
    return names


def changed(connection: Connection, name: str) -> None:
    """Note that a machine was made or unmade: what was known of its name is old."""
    connection.cache.put(f"changed {name}", True, 2 * CENSUS_SECONDS)


def before_launch(connection: Connection, name: str) -> tuple[InstanceTypeDef | None, list[str]]:
    """Return the living machine of a name, if there is one, and the ids of terminated ones.

    One question serves all machines of a map: only that a name is free is taken from an answer that is some seconds
    old, and the launch's ClientToken stands behind that.

    Raises:
        NotFound: several machines of this name live.
    """
    if not connection.cache.get(f"changed {name}", lambda: False, 0):
        names = connection.cache.get("names", lambda: census(instances(connection)), CENSUS_SECONDS)
        known = names.get(name, [])
        if not any(state in LIVING for _, state in known):
            return None, [instance_id for instance_id, _ in known]
    found = named(connection, name)
    alive = only(name, found)
    return alive, [instance["InstanceId"] for instance in found if instance is not alive]


def only(name: str, candidates: Iterable[InstanceTypeDef]) -> InstanceTypeDef | None:
    """Return the living one of some instances of one name, or None.

    Raises:
        NotFound: more than one lives: the driver will not guess which is meant.
    """
    alive = [instance for instance in candidates if instance["State"]["Name"] in LIVING]
    if len(alive) > 1:
        ids = ", ".join(sorted(instance["InstanceId"] for instance in alive))
        raise NotFound(
            f"{len(alive)} machines are called {name}: {ids}; name the one you mean by its id"
        )
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
    key = json.dumps(wanted, sort_keys=True, default=str)
    return Image(
        *connection.cache.get(
            f"image {key}", lambda: dataclasses.astuple(_find_image(connection, wanted))
        )
    )


def _find_image(connection: Connection, wanted: str | Mapping[str, Any]) -> Image:
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
        raise NotFound(
            f"image {image_id} does not exist in {connection.region}, or is not shared with this account"
        )
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
        raise ConfigurationError(
            f"image knows owner, name and architecture, not {', '.join(sorted(unknown))}"
        )
    if not (wanted.get("owner") and wanted.get("name")):
        raise ConfigurationError(
            "image by name needs both owner and name: names alone can be taken by anybody"
        )
    filters: list[FilterTypeDef] = [
        {"Name": "name", "Values": [str(wanted["name"])]},
        {"Name": "state", "Values": ["available"]},
    ]
    if wanted.get("architecture"):
        filters.append({"Name": "architecture", "Values": [str(wanted["architecture"])]})
    with api_errors(f"looking for the image {wanted['name']}"):
        found = connection.ec2.describe_images(Owners=[str(wanted["owner"])], Filters=filters)[
            "Images"
        ]
    if not found:
        raise NotFound(
            f"{wanted['owner']} owns no image called {wanted['name']} in {connection.region}"
        )
    return _as_image(max(found, key=lambda each: (each.get("CreationDate", ""), each["ImageId"])))


def subnet(connection: Connection, wanted: str) -> Subnet:
    """Return the subnet with this id or Name tag.

    Raises:
        NotFound: there is none, or more than one.
    """

    def ask() -> list[list[str]]:
        by = "subnet-id" if wanted.startswith("subnet-") else "tag:Name"
        with api_errors(f"looking up the subnet {wanted}"):
            found = connection.ec2.describe_subnets(Filters=[{"Name": by, "Values": [wanted]}])[
                "Subnets"
            ]
        if len(found) != 1:
            raise NotFound(
                f"{len(found) or 'no'} subnets are called {wanted} in {connection.region}; exactly one is needed"
            )
        return [[found[0]["SubnetId"], found[0]["VpcId"]]]

    return Subnet(*connection.cache.get(f"subnet {wanted}", ask)[0])


def security_groups(connection: Connection, names: Sequence[str], vpc_id: str = "") -> list[str]:
    """Return the ids of security groups.

    Args:
        connection: where to look.
        names: group names or ids (`sg-…`), in the order wanted.
        vpc_id: the VPC in which a name counts; empty: it must be unique in the region.

    Raises:
        NotFound: a name stands for no group, or for several.
    """
    if all(name.startswith("sg-") for name in names):
        return list(names)
    question = f"groups of {vpc_id}"  # all of them: the profiles of a map name different ones
    ids: dict[str, list[str]] = connection.cache.get(
        question, lambda: _group_ids(connection, vpc_id)
    )
    for name in names:
        if not name.startswith("sg-") and len(ids.get(name, [])) != 1:
            count = len(ids.get(name, [])) or "no"
            where = vpc_id or connection.region
            raise NotFound(
                f"{count} security groups are called {name} in {where}; exactly one is needed"
            )
    return [name if name.startswith("sg-") else ids[name][0] for name in names]


def _group_ids(connection: Connection, vpc_id: str) -> dict[str, list[str]]:
    filters: list[FilterTypeDef] = [{"Name": "vpc-id", "Values": [vpc_id]}] if vpc_id else []
    ids: dict[str, list[str]] = {}
    with api_errors("looking up the security groups"):
        for page in connection.ec2.get_paginator("describe_security_groups").paginate(
            Filters=filters
        ):
            for group in page["SecurityGroups"]:
                ids.setdefault(group["GroupName"], []).append(group["GroupId"])
    return ids
