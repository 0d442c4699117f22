"""Private addresses that a machine's options name, and that its predecessor may still have."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saltext.ec2 import _lookup, _tags
from saltext.ec2._request import Launch
from saltext.ec2.errors import ApiError, ConfigurationError, LaunchError

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeDef

log = logging.getLogger(__name__)

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
IN_USE = "InvalidIPAddress.InUse"
UNSEEN_SECONDS = 60  # for which an address is awaited that no instance seems to have
LONGEST_PAUSE = 15


def when_free(
    wanted: Launch, request: Mapping[str, Any], run: Callable[[], InstanceTypeDef]
) -> InstanceTypeDef:
    """Launch a machine; try again while one that is being terminated has its private address.

    EC2 frees the addresses of an instance when it is terminated, some time after it has begun to
    shut down.

    Args:
        wanted: the machine.
        request: the arguments of RunInstances.
        run: calls it.

    Raises:
        ConfigurationError: a machine that is not about to end has the address.
        LaunchError: the address is not free after `wait_for_ip_timeout`.
        ApiError: EC2 refuses for another reason.
    """
    addresses, subnets = _named(request, "PrivateIpAddress"), _named(request, "SubnetId")
    shown = ", ".join(addresses)
    begin, pause = time.monotonic(), float(wanted.options["wait_for_ip_interval"])
    while True:
        try:
            return run()
        except ApiError as error:
            if error.code != IN_USE or not addresses:
                raise
        holder = _holder(wanted, addresses, subnets)
        patience = wanted.options["wait_for_ip_timeout"]
        if holder is None:
            patience = min(patience, UNSEEN_SECONDS)
        by = holder["InstanceId"] if holder else "a network interface that belongs to no instance"
        if time.monotonic() - begin > patience:
            raise LaunchError(
                f"{wanted.name}: the private address {shown} is still held by {by} after"
                f" {patience:g} s; run the same command again when it is free"
            )
        log.warning("%s: the private address %s is still held by %s", wanted.name, shown, by)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _holder(
    wanted: Launch, addresses: Sequence[str], subnets: Sequence[str]
) -> InstanceTypeDef | None:
    """Return the instance that still has one of the addresses, or None.

    Raises:
        ConfigurationError: it is not about to end.
    """
    filters: list[FilterTypeDef] = [{"Name": "private-ip-address", "Values": list(addresses)}]
    if subnets:
        filters.append({"Name": "subnet-id", "Values": list(subnets)})
    found = _lookup.instances(wanted.connection, filters, foreign=True)
    for instance in found:
        if (state := instance["State"]["Name"]) in _lookup.LIVING:
            owner = _tags.as_dict(instance).get("Name")
            raise ConfigurationError(
                f"{wanted.name}: the private address {', '.join(addresses)} belongs to"
                f" {instance['InstanceId']} ({f'{owner}, ' if owner else ''}{state}), and is not"
                " taken from it"
            )
    ending = [instance for instance in found if instance["State"]["Name"] == "shutting-down"]
    return ending[0] if ending else None


def _named(request: Mapping[str, Any], key: str) -> list[str]:
    """Return the values of a key in a request and in its interfaces."""
    interfaces = request.get("NetworkInterfaces", [])
    more = [address for one in interfaces for address in one.get("PrivateIpAddresses", [])]
    return list(dict.fromkeys(part[key] for part in [request, *interfaces, *more] if key in part))
