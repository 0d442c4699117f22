"""Instances by name and by id."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from saltext.ec2 import _tags
from saltext.ec2._client import Connection
from saltext.ec2.errors import NotFound, api_errors

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeDef

NAMES_SECONDS = 10  # for which a list of the account's names is used again
FILTER_VALUES = 200  # EC2's limit for the values of one filter
LIVING = ("pending", "running", "stopping", "stopped")


def plain(answer: Any) -> Any:
    """Return an answer of EC2 as JSON can hold it, with times as text.

    Outputters and the event bus cannot carry anything else.
    """
    return json.loads(json.dumps(answer, default=lambda value: value.isoformat()))


def instances(
    connection: Connection, filters: Sequence[FilterTypeDef] = (), *, foreign: bool = False
) -> list[InstanceTypeDef]:
    """Return the instances that the provider sees in the region, in every state.

    Args:
        connection: that of the provider.
        filters: of EC2.
        foreign: whether instances without the tags of `owned_by` count too.

    Raises:
        ApiError: EC2 did not answer.
    """
    with api_errors("listing the instances"):
        pages = connection.ec2.get_paginator("describe_instances").paginate(
            Filters=[*filters, *(() if foreign else connection.owned())]
        )
        return [
            instance
            for page in pages
            for group in page["Reservations"]
            for instance in group["Instances"]
        ]


def instances_by_id(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    """Return instances by id, as JSON can hold them; those that EC2 does not know are left out.

    Raises:
        ApiError: EC2 did not answer.
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


def named(connection: Connection, name: str) -> list[InstanceTypeDef]:
    """Return all instances with this Name tag, also terminated ones, which EC2 shows for an hour.

    Raises:
        ApiError: EC2 did not answer.
    """
    pattern = re.sub(r"([\\*?])", r"\\\1", name)
    return instances(connection, [{"Name": "tag:Name", "Values": [pattern]}])


def only(name: str, candidates: Iterable[InstanceTypeDef]) -> InstanceTypeDef | None:
    """Return the living instance among those of one name, or None.

    Raises:
        NotFound: several live; the driver does not guess which of them is meant.
    """
    alive = [instance for instance in candidates if instance["State"]["Name"] in LIVING]
    if len(alive) > 1:
        ids = ", ".join(sorted(instance["InstanceId"] for instance in alive))
        raise NotFound(
            f"{len(alive)} machines are called {name}: {ids}; name the one you mean by its id"
        )
    return alive[0] if alive else None


# -- the names that the machines of one map share --------------------------------------------------


def remember_names(connection: Connection, found: Iterable[InstanceTypeDef]) -> None:
    """Keep for a few seconds which names exist, so that `before_launch` need not ask."""
    connection.cache.put("names", _states_by_name(found), NAMES_SECONDS)


def living(connection: Connection) -> set[str]:
    """Return the names of the living machines, as they were some seconds ago.

    Raises:
        ApiError: EC2 did not answer.
    """
    names = connection.cache.get(
        "names", lambda: _states_by_name(instances(connection)), NAMES_SECONDS
    )
    return {name for name, known in names.items() if any(state in LIVING for _, state in known)}


def forget_name(connection: Connection, name: str) -> None:
    """Have the next `before_launch` ask about a name, because its machine was just changed."""
    connection.cache.put(f"changed {name}", True, 2 * NAMES_SECONDS)


def before_launch(connection: Connection, name: str) -> tuple[InstanceTypeDef | None, list[str]]:
    """Return the living instance of a name, if there is one, and the ids of its terminated ones.

    All machines of a map share one question. That a name is free may be an answer some seconds
    old: the launch's ClientToken keeps EC2 from launching the same machine twice.

    Raises:
        NotFound: several instances of this name live.
        ApiError: EC2 did not answer.
    """
    if not connection.cache.get(f"changed {name}", lambda: False, 0):
        names = connection.cache.get(
            "names", lambda: _states_by_name(instances(connection)), NAMES_SECONDS
        )
        known = names.get(name, [])
        if not any(state in LIVING for _, state in known):
            return None, [instance_id for instance_id, _ in known]
    found = named(connection, name)
    alive = only(name, found)
    return alive, [instance["InstanceId"] for instance in found if instance is not alive]


def _states_by_name(found: Iterable[InstanceTypeDef]) -> dict[str, list[list[str]]]:
    """Return which names exist, as the cache can hold it: `{name: [[id, state], …]}`."""
    names: dict[str, list[list[str]]] = {}
    for instance in found:
        name = _tags.as_dict(instance).get("Name", "")
        names.setdefault(name, []).append([instance["InstanceId"], instance["State"]["Name"]])
    return names
