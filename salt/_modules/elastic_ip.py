"""Elastic addresses by their Name tag, and the machines that have them.

``boto3_ec2`` allocates an address without tags, so a later run would not find it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]

LIMIT_REACHED = "AddressLimitExceeded"
# Of a machine that can be given an address; EC2 refuses it to a pending one.
STATES = ["running", "stopped"]


def find(name: str, region: str) -> dict[str, str] | None:
    """Return an address, or None without one of that name.

    Its keys: ``allocation``, ``address``, and ``interface``, which is empty while it is free.

    Raises CommandExecutionError when several have the name, or EC2 does not answer.
    """
    filters = [{"Name": "tag:Name", "Values": [name]}]
    found = __salt__["ec2.call"]("describe_addresses", region, Filters=filters)["Addresses"]
    if len(found) > 1:
        raise CommandExecutionError(f"{len(found)} elastic addresses are called {name}")
    return _answer(found[0]) if found else None


def allocate(name: str, tags: Mapping[str, str], region: str) -> str:
    """Allocate an address with these tags, and return it.

    Raises CommandExecutionError when EC2 refuses, as it does beyond the account's quota.
    """
    try:
        return _allocate(name, tags, region)
    except CommandExecutionError as error:
        if LIMIT_REACHED not in str(error):
            raise
        raise CommandExecutionError(limit_reached(name, region)) from error


def limit_reached(name: str, region: str) -> str:
    """Return what to do when the account may have no more elastic addresses.

    The quota: https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html
    """
    return (
        f"the account has as many elastic addresses in {region} as it may (5, unless Amazon has"
        f" raised the quota), so {name} cannot be allocated: release one that nothing uses, or ask"
        " for more (Service Quotas, EC2-VPC Elastic IPs, L-0263D0A3)"
    )


def _allocate(name: str, tags: Mapping[str, str], region: str) -> str:
    named = [{"Key": key, "Value": value} for key, value in {**tags, "Name": name}.items()]
    answer = __salt__["ec2.call"](
        "allocate_address",
        region,
        Domain="vpc",
        TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": named}],
    )
    return str(answer["PublicIp"])


def machine(name: str, project: str, region: str) -> str | None:
    """Return the first interface of a machine that runs or is stopped, or None without one.

    Args:
        name: the machine's Name tag.
        project: its tag ``project``.
        region: where it is.

    Raises CommandExecutionError when several have the name, or EC2 does not answer.
    """
    wanted = {"tag:Name": [name], "tag:project": [project], "instance-state-name": STATES}
    filters = [{"Name": key, "Values": values} for key, values in wanted.items()]
    groups = __salt__["ec2.call"]("describe_instances", region, Filters=filters)["Reservations"]
    found = [instance for group in groups for instance in group["Instances"]]
    if len(found) > 1:
        raise CommandExecutionError(f"{len(found)} machines are called {name}")
    for instance in found:
        for interface in instance["NetworkInterfaces"]:
            if interface["Attachment"]["DeviceIndex"] == 0:
                return str(interface["NetworkInterfaceId"])
    return None


def associate(allocation: str, interface: str, region: str) -> None:
    """Give a free address to an interface.

    Raises CommandExecutionError when EC2 refuses, as it does when another interface has it.
    """
    __salt__["ec2.call"](
        "associate_address",
        region,
        AllocationId=allocation,
        NetworkInterfaceId=interface,
        AllowReassociation=False,
    )


def _answer(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        "allocation": found["AllocationId"],
        "address": found["PublicIp"],
        "interface": found.get("NetworkInterfaceId") or "",
    }
