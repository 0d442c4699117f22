"""Elastic addresses that the deployment keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__salt__: dict[str, Callable[..., Any]]

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
