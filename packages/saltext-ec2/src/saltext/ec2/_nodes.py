"""Machines as salt-cloud lists them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from saltext.ec2 import _accounts, _answers, _cachedir, _lookup, _lost, _tags
from saltext.ec2._client import Connection
from saltext.ec2._context import Context
from saltext.ec2.tags import DEPLOY_TAG

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

log = logging.getLogger(__name__)

Nodes = dict[str, dict[str, Any]]

FIELDS = ("id", "image", "name", "size", "state", "private_ips", "public_ips")


def describe(instance: InstanceTypeDef) -> dict[str, Any]:
    """Return EC2's description of an instance, with salt-cloud's fields for all clouds.

    The keys of the 3007 driver are there too.
    """
    tags, plain = _tags.as_dict(instance), _lookup.plain(instance)
    return {
        **_answers.instance(plain),
        **plain,
        "id": instance["InstanceId"],
        "image": instance.get("ImageId"),
        "size": instance.get("InstanceType"),
        "state": instance["State"]["Name"],
        "private_ips": _addresses(instance, "PrivateIpAddress"),
        "public_ips": _addresses(instance, "PublicIpAddress"),
        "name": tags.get("Name"),
        "tags": tags,
    }


def _addresses(instance: Mapping[str, Any], key: str) -> list[str]:
    return [instance[key]] if instance.get(key) else []


def living(found: Iterable[InstanceTypeDef]) -> Nodes:
    """Return the machines that are not terminated, by name.

    A machine without a name, or whose name another one has too, is listed by its id.
    """
    alive = [instance for instance in found if instance["State"]["Name"] in _lookup.LIVING]
    names = [_tags.as_dict(instance).get("Name") for instance in alive]
    return {
        name if name and names.count(name) == 1 else instance["InstanceId"]: describe(instance)
        for name, instance in zip(names, alive, strict=True)
    }


def listed(context: Context, connection: Connection) -> Nodes:
    """Return the machines with salt-cloud's fields.

    While salt-cloud applies a map or a profile, it creates what this does not contain, see
    `_finished`. While it destroys machines, lost ones are listed too: it then removes their keys.

    Raises:
        ApiError: EC2 did not answer.
    """
    found = _accounts.instances(context, connection)
    nodes = living(found)
    if context.applying:
        nodes = _finished(nodes)
    if context.opts.get("destroy"):
        lost = _lost.find(context.opts, found)
        nodes |= {name: describe(instance) for name, instance in lost.items()}
    return {name: {field: node[field] for field in FIELDS} for name, node in nodes.items()}


def full(context: Context, connection: Connection) -> Nodes:
    """Return the machines with everything that EC2 describes, and keep them in Salt's cache.

    Raises:
        ApiError: EC2 did not answer.
    """
    nodes = living(_accounts.instances(context, connection))
    _cachedir.put_all(context, nodes)
    return nodes


def _finished(nodes: Mapping[str, dict[str, Any]]) -> Nodes:
    """Return the machines that the core need not create.

    A machine whose deployment is pending is left out: the core then calls `create`, which finds
    and repairs it. Several machines of one name are listed once, by that name: if they were listed
    by id, the core would replace the key of a minion that works.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for key, node in nodes.items():
        by_name.setdefault(node["name"] or key, []).append(node)
    for name, found in by_name.items():
        if len(found) > 1:
            log.warning(
                "%d machines are called %s: %s; none is launched or deployed by that name",
                len(found),
                name,
                ", ".join(sorted(node["id"] for node in found)),
            )
    return {
        name: found[0]
        for name, found in by_name.items()
        if len(found) > 1 or found[0]["tags"].get(DEPLOY_TAG) != "pending"
    }
