"""What limits an account: the vCPUs it may run, its plan, its verification, and what zones have.

EC2 refuses a launch for reasons that no request shows. A new account meets most of them on its
first day. By default this cloud's account is an old one, which meets none; `FaultClient.limit`
gives it other limits until the API process restarts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PATH = "/_localcloud/account"
"""The admin path, like that of faults."""

Plan = Literal["", "FREE", "PAID"]


@dataclass(frozen=True)
class Limits:
    """The limits of an account.

    Args:
        vcpus: quota of the vCPUs that its On-Demand instances of the standard types have together,
            in one region. AWS's default is 5; an account that is used for years has many more.
        plan: empty for an account from before the plans (July 2025).
        pending_verification: AWS still examines the account.
        not_offered: zone -> types that it does not have.
        exhausted: zone -> types of which it has none left now.
    """

    vcpus: int = 1152
    plan: Plan = ""
    pending_verification: bool = False
    not_offered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exhausted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def parse(body: bytes) -> Limits:
    """Return the limits in a request body of the admin path.

    Raises:
        ValueError: the body is no JSON.
        TypeError: the JSON is no mapping, or has an unknown limit.
    """
    given = json.loads(body)
    if not isinstance(given, dict):
        raise TypeError("the body must be a mapping of limits")
    return Limits(**given)
