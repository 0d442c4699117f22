"""The deployment's elastic addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__pillar__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

LIMIT_REACHED = "AddressLimitExceeded"


def earlier(region: str) -> dict[str, Any] | None:
    """Return the address that an earlier version has allocated for this deployment, or None.

    It is this deployment's if the key pair of that version holds its SSH key, or if `base_url`
    names the address.

    Raises:
        AwsError: EC2 does not answer.
    """
    name = __pillar__["aws"]["earlier"]["edge_address"]
    found = __salt__["aws.things"]("elastic-ip", region, {"tag:Name": name})
    unowned: list[dict[str, Any]] = [one for one in found if __salt__["aws.is_earlier"](one)]
    url = str(__pillar__["settings"].get("base_url", ""))
    named = [one for one in unowned if url.partition("://")[2].rstrip("/") == one["PublicIp"]]
    if len(unowned) == 1 and not named and __salt__["aws.has_earlier_key"](region):
        return unowned[0]
    return named[0] if named else None


def allocate(name: str, region: str) -> None:
    """Allocate an address of the deployment.

    Raises:
        AwsError: EC2 refuses.
        CommandExecutionError: the account has as many as it may.
    """
    try:
        __salt__["aws.call"](
            "allocate_address",
            region,
            Domain="vpc",
            TagSpecifications=__salt__["aws.specification"]("elastic-ip", name),
        )
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
