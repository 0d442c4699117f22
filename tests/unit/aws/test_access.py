"""Credentials that have ended, or an API that is too busy, never make the foundation twice.

test_refusals.py does the same for credentials that may not look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from localcloud import faults
from localcloud.faults import Fault
from memorycloud import Running

States = dict[str, dict[str, Any]]
THROTTLED = Fault("error", "DescribeInternetGateways", code="RequestLimitExceeded", status=503)
MADE = {
    "describe_vpcs": "Vpcs", "describe_subnets": "Subnets", "describe_key_pairs": "KeyPairs",
    "describe_internet_gateways": "InternetGateways", "describe_route_tables": "RouteTables",
    "describe_security_groups": "SecurityGroups", "describe_addresses": "Addresses",
}  # fmt: skip


def things(cloud: Running) -> dict[str, int]:
    """Return how many things of each kind the account has."""
    found = {key: len(getattr(cloud.ec2, call)()[key]) for call, key in MADE.items()}
    return found | {"Roles": len(cloud.client("iam").list_roles()["Roles"])}


@pytest.mark.parametrize(
    "fault",
    [faults.expired("Describe*"), THROTTLED],
    ids=lambda fault: f"{fault.action}-{fault.code}",
)
def test_failed_look_up_makes_nothing_and_says_why(
    applied: States, apply: Callable[..., States], cloud: Running, fault: Fault
) -> None:
    before = things(cloud)
    with cloud.faults.inject(fault):
        states = apply()
    failed = [str(state["comment"]) for state in states.values() if state["result"] is False]
    assert failed
    assert any(fault.code in comment for comment in failed)
    assert things(cloud) == before
    changes = {name: state["changes"] for name, state in states.items() if state["changes"]}
    assert changes == {}


def test_credentials_that_have_ended_fail_the_first_state(
    applied: States, apply: Callable[..., States], cloud: Running
) -> None:
    with cloud.faults.inject(faults.expired()):
        states = apply()
    first = min(states.values(), key=lambda state: int(state["__run_num__"]))
    assert (first["__id__"], first["result"]) == ("aws-names", False)
    assert "An error occurred (RequestExpired) when calling the Describe" in first["comment"]
    assert not any(state["result"] for state in states.values())


def test_good_credentials_change_nothing(applied: States, apply: Callable[..., States]) -> None:
    again = apply()
    assert [state["comment"] for state in again.values() if state["result"] is not True] == []
    assert [name for name, state in again.items() if state["changes"]] == []
