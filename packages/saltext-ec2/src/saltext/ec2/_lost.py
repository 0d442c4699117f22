"""Machines that EC2 has lost: terminated by somebody else, while the master accepts their keys."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from saltext.ec2 import _lookup, _maps, _minion_keys, _tags
from saltext.ec2.errors import NotFound
from saltext.ec2.tags import DEPLOY_TAG

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

log = logging.getLogger(__name__)


def find(
    opts: Mapping[str, Any], instances: Iterable[InstanceTypeDef]
) -> dict[str, InstanceTypeDef]:
    """Return the lost machines by name: EC2 shows them as terminated for about an hour.

    The driver has launched them, no living machine has their name, and their key is accepted.

    Args:
        opts: Salt's configuration.
        instances: all instances of an account and region.
    """
    living, ended = set(), {}
    for instance in sorted(instances, key=lambda instance: str(instance.get("LaunchTime"))):
        tags = _tags.as_dict(instance)
        name = tags.get("Name", "")
        if instance["State"]["Name"] in _lookup.LIVING:
            living.add(name)
        elif name and DEPLOY_TAG in tags and _minion_keys.accepted(opts, name):
            ended[name] = instance
    return {name: instance for name, instance in ended.items() if name not in living}


def check(opts: Mapping[str, Any], instances: Iterable[InstanceTypeDef]) -> None:
    """Report the accepted keys of machines that are to be destroyed, but that EC2 does not know.

    Only their names are known, and not whether they were machines of EC2: their keys stay. Where
    other clouds are configured, nothing is reported, because the machines may be theirs.

    Raises:
        NotFound: there is no machine to destroy at all, and salt-cloud would call that a success.
    """
    drivers = {driver for drivers in opts["providers"].values() for driver in drivers}
    if not opts.get("destroy") or drivers != {"ec2"}:
        return
    asked = set(opts.get("names") or ())
    if opts.get("map"):
        asked = {name for machines in _maps.read(opts).values() for name in machines}
    found = list(instances)
    known = set(find(opts, found))
    for instance in found:
        if instance["State"]["Name"] in _lookup.LIVING:
            known |= {_tags.as_dict(instance).get("Name", ""), instance["InstanceId"]}
    lost = sorted(name for name in asked - known if _minion_keys.accepted(opts, name))
    if not lost:
        return
    message = (
        f"no provider has a machine called {' or '.join(lost)}, but the key is accepted;"
        f" to remove it: {'; '.join(f'salt-key -d {name}' for name in lost)}"
    )
    if not asked & known:
        raise NotFound(message)
    log.error("%s", message)
