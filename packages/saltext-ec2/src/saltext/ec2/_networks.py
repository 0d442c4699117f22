"""Subnets, security groups and elastic addresses by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saltext.ec2._client import Connection
from saltext.ec2.errors import NotFound, api_errors


@dataclass(frozen=True)
class Subnet:
    """A subnet.

    Attributes:
        id: such as `subnet-0123456789abcdef0`.
        vpc_id: the VPC that it is part of.
    """

    id: str
    vpc_id: str


def subnet(connection: Connection, wanted: str) -> Subnet:
    """Return the subnet with this id or Name tag.

    Raises:
        NotFound: there is none, or more than one.
        ApiError: EC2 did not answer.
    """

    def ask() -> list[list[str]]:
        key, owned = "tag:Name", connection.owned()
        if wanted.startswith("subnet-"):
            key, owned = "subnet-id", []
        with api_errors(f"looking up the subnet {wanted}"):
            answer = connection.ec2.describe_subnets(
                Filters=[{"Name": key, "Values": [wanted]}, *owned]
            )
        found = answer["Subnets"]
        if len(found) != 1:
            raise NotFound(
                f"{len(found) or 'no'} subnets are called {wanted} in {connection.region};"
                f" exactly one is needed{_owned(connection)}"
            )
        return [[found[0]["SubnetId"], found[0]["VpcId"]]]

    return Subnet(*connection.cache.get(f"subnet {wanted}", ask)[0])


def _owned(connection: Connection) -> str:
    """Return the end of a sentence about what was looked for."""
    tags = ", ".join(f"{key}={value}" for key, value in connection.owned_by.items())
    return f" (only what has the tags {tags} counts)" if tags else ""


def security_groups(connection: Connection, names: Sequence[str], vpc_id: str = "") -> list[str]:
    """Return the ids of security groups.

    Args:
        connection: where to look.
        names: group names or ids (`sg-…`); the ids have the same order.
        vpc_id: the VPC in which to look for names; empty: they must be unique in the region.

    Raises:
        NotFound: a name stands for no group, or for several.
        ApiError: EC2 did not answer.
    """
    if all(name.startswith("sg-") for name in names):
        return list(names)
    # All groups of the VPC: the profiles of a map name different ones.
    ids: dict[str, list[str]] = connection.cache.get(
        f"groups of {vpc_id}", lambda: _group_ids(connection, vpc_id)
    )
    for name in names:
        if not name.startswith("sg-") and len(ids.get(name, [])) != 1:
            count = len(ids.get(name, [])) or "no"
            where = vpc_id or connection.region
            raise NotFound(
                f"{count} security groups are called {name} in {where}; exactly one is needed"
                f"{_owned(connection)}"
            )
    return [name if name.startswith("sg-") else ids[name][0] for name in names]


def _group_ids(connection: Connection, vpc_id: str) -> dict[str, list[str]]:
    filters = connection.owned()
    filters += [{"Name": "vpc-id", "Values": [vpc_id]}] if vpc_id else []
    ids: dict[str, list[str]] = {}
    with api_errors("looking up the security groups"):
        pages = connection.ec2.get_paginator("describe_security_groups").paginate(Filters=filters)
        for page in pages:
            for group in page["SecurityGroups"]:
                ids.setdefault(group["GroupName"], []).append(group["GroupId"])
    return ids


def elastic_address(connection: Connection, wanted: str) -> str:
    """Return the allocation id of the elastic address with this id or Name tag.

    Raises:
        NotFound: there is none of that name, or more than one.
        ApiError: EC2 did not answer.
    """
    if wanted.startswith("eipalloc-"):
        return wanted

    def ask() -> list[str]:
        with api_errors(f"looking up the elastic address {wanted}"):
            answer = connection.ec2.describe_addresses(
                Filters=[{"Name": "tag:Name", "Values": [wanted]}, *connection.owned()]
            )
        found = answer["Addresses"]
        if len(found) != 1:
            raise NotFound(
                f"{len(found) or 'no'} elastic addresses are called {wanted} in"
                f" {connection.region}; exactly one is needed{_owned(connection)}"
            )
        return [found[0]["AllocationId"]]

    return str(connection.cache.get(f"elastic address {wanted}", ask)[0])
