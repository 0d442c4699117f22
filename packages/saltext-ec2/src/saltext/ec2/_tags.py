"""Tags of EC2 resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saltext.ec2._client import Connection
from saltext.ec2.errors import ConfigurationError, api_errors

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import TagTypeDef


def as_dict(resource: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a resource, as EC2 describes it, as a dictionary."""
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags", [])}


def as_list(tags: Mapping[str, Any]) -> list[TagTypeDef]:
    """Return tags as EC2's list of keys and values."""
    return [{"Key": str(key), "Value": str(value)} for key, value in tags.items()]


def target(*ids: str | None) -> str:
    """Return the first of some resource ids that is set.

    Raises:
        ConfigurationError: none is set.
    """
    for resource in ids:
        if resource:
            return resource
    raise ConfigurationError("a function for tags needs resource_id=…, an action needs a machine")


def read(connection: Connection, resource: str) -> dict[str, str]:
    """Return the tags of the resource with this id.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"reading the tags of {resource}"):
        found = connection.ec2.describe_tags(
            Filters=[{"Name": "resource-id", "Values": [resource]}]
        )["Tags"]
    return {tag["Key"]: tag["Value"] for tag in found}


def write(connection: Connection, resources: Sequence[str], tags: Mapping[str, Any]) -> None:
    """Set tags of the resources with these ids.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"tagging {', '.join(resources)}"):
        connection.ec2.create_tags(Resources=resources, Tags=as_list(tags))


def set_some(connection: Connection, resource: str, tags: Mapping[str, Any]) -> None:
    """Set the tags that a user gives, but no machine's Name.

    Raises:
        ConfigurationError: there is no tag, or it is a machine's Name.
        ApiError: EC2 refuses.
    """
    if not tags:
        raise ConfigurationError("set_tags needs at least one tag=value")
    if "Name" in tags and resource.startswith("i-"):
        raise ConfigurationError("set_tags leaves Name alone: salt-cloud -a rename NAME newname=…")
    write(connection, [resource], tags)


def remove(connection: Connection, resource: str, keys: Sequence[str]) -> None:
    """Remove tags of the resource with this id.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"removing tags of {resource}"):
        connection.ec2.delete_tags(Resources=[resource], Tags=[{"Key": key} for key in keys])
