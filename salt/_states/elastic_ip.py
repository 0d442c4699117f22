"""Elastic addresses that the deployment keeps, and that one machine has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

Todo = dict[str, Callable[[], Any]]


def present(name: str, region: str) -> dict[str, Any]:
    """The deployment has an elastic address with this Name tag.

    Args:
        name: its Name tag.
        region: where it belongs.

    Returns:
        The state's result. An address is never released.
    """

    def differences() -> Todo:
        if __salt__["aws.find"]("elastic-ip", name, region):
            return {}
        if earlier := __salt__["elastic_ip.earlier"](region):
            return {
                f"take over {earlier['PublicIp']} of an earlier version": lambda: __salt__[
                    "aws.mark"
                ]([earlier["AllocationId"]], name, region)
            }
        return {
            f"allocate the address {name}": lambda: __salt__["elastic_ip.allocate"](name, region)
        }

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result


def associated(name: str, machine: str, region: str) -> dict[str, Any]:
    """A machine that is there has the elastic address.

    Args:
        name: the address's Name tag.
        machine: the Name tag of a machine of the deployment.
        region: where both are.

    Returns:
        The state's result. A machine that does not exist yet is no failure, because the driver
        gives it the address at its launch. The address is never taken from another machine.
    """

    def differences() -> Todo:
        found = __salt__["aws.find"]("elastic-ip", name, region)
        if found is None:
            if __opts__["test"]:
                return {}
            raise CommandExecutionError(f"there is no elastic address {name}")
        interface = __salt__["elastic_ip.interface_of"](machine, region)
        holder = found.get("NetworkInterfaceId") or ""
        if interface is None or holder == interface:
            return {}
        if holder:
            raise CommandExecutionError(
                f"{holder} has {found['PublicIp']}, and {machine} does not take it"
            )
        return {
            f"give {found['PublicIp']} to {machine}": lambda: __salt__["aws.call"](
                "associate_address",
                region,
                AllocationId=found["AllocationId"],
                NetworkInterfaceId=interface,
                AllowReassociation=False,
            )
        }

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result
