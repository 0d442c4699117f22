"""A refused look is no absence: the states fail with AWS's reason, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts import READS, Client, Dump, dump
from localcloud.faults import Fault
from memorycloud import Running, emptied

States = dict[str, dict[str, Any]]
Apply = Callable[..., States]


@pytest.fixture(scope="module", params=[False, True], ids=["empty", "whole"])
def account(request: pytest.FixtureRequest, cloud: Running) -> bool:
    """Whether the account has the foundation."""
    if request.param:
        request.getfixturevalue("applied")
    else:
        emptied(cloud)
    return bool(request.param)


@pytest.fixture(scope="module")
def before(client: Client, *, account: bool) -> Dump:
    """What the account holds before any look is refused."""
    return dump(client)


@pytest.mark.parametrize("action", READS)
def test_refused_look_is_no_absence(
    cloud: Running, apply: Apply, client: Client, before: Dump, action: str, *, account: bool
) -> None:
    later = {"DescribeInstances", "DescribeVpcAttribute", "GetSubnetCidrReservations"} | {
        name for name in READS if "RolePolic" in name or "SecurityGroup" in name
    }
    later |= {"DescribeManagedPrefixLists", "GetPublicAccessBlock"} | {
        name for name in READS if name.startswith("GetBucket") and name != "GetBucketTagging"
    }
    if not account and action in later:
        pytest.skip("nobody asks about what is not there")
    denied = Fault("error", action, code="UnauthorizedOperation", status=403, message="Why")
    with cloud.faults.inject(denied):
        states = apply(test=not account)
    failed = [one["comment"] for one in states.values() if one["result"] is False]
    reasons = [text for text in failed if not text.startswith("One or more requisite failed")]
    assert reasons
    assert all("(UnauthorizedOperation)" in text and "Why" in text for text in reasons)
    assert not any("Traceback" in text for text in reasons)
    assert [
        one["changes"] for one in states.values() if one["result"] is True and one["changes"]
    ] == []
    assert dump(client) == before
