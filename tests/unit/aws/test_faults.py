"""The foundation is made whole whatever AWS loses or does not know yet, and is repaired.

Each call of the states meets each fault once: `WRITES` and `READS` are all calls that they make.
Faults of different calls occur in one run, since a run takes seconds; what failed has the name of
its state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from accounts import READS, Client, dump
from localcloud import faults
from localcloud.faults import Fault
from memorycloud import Running, emptied

States = dict[str, dict[str, Any]]
Apply = Callable[..., States]

# The calls that change something in an empty account -> how many of each are made.
WRITES = {
    "AddRoleToInstanceProfile": 3,
    "AllocateAddress": 1,
    "AssociateRouteTable": 6,
    "AttachInternetGateway": 1,
    "AuthorizeSecurityGroupEgress": 6,
    "AuthorizeSecurityGroupIngress": 6,
    "CreateBucket": 1,
    "CreateInstanceProfile": 3,
    "CreateInternetGateway": 1,
    "CreateRole": 3,
    "CreateRoute": 1,
    "CreateRouteTable": 2,
    "CreateSecurityGroup": 6,
    "CreateSubnet": 6,
    "CreateSubnetCidrReservation": 1,
    "CreateVpc": 1,
    "CreateVpcEndpoint": 1,
    "ImportKeyPair": 1,
    "ModifyVpcAttribute": 1,
    "PutBucketEncryption": 1,
    "PutBucketLifecycleConfiguration": 1,
    "PutBucketOwnershipControls": 1,
    "PutBucketPolicy": 1,
    "PutBucketVersioning": 1,
    "PutPublicAccessBlock": 1,
    "PutRolePolicy": 5,
    "RevokeSecurityGroupEgress": 6,
    "RevokeSecurityGroupIngress": 0,
}
MAKES = [name for name in WRITES if name.startswith(("Create", "Import", "Allocate"))]
MAKES.remove("CreateRoute")
SECONDS = 0.4  # that a new thing is unknown here: for two looks


@pytest.fixture(autouse=True)
def account(cloud: Running, whole: Counter[str]) -> None:
    """An empty account."""
    emptied(cloud)


def failures(states: States) -> dict[str, str]:
    return {one["__id__"]: one["comment"] for one in states.values() if one["result"] is not True}


def changed(states: States) -> dict[str, Any]:
    return {one["__id__"]: one["changes"] for one in states.values() if one["changes"]}


def count(client: Client) -> Counter[str]:
    """Return how many things of each kind the account has."""
    return Counter({kind: len(listed) for kind, listed in dump(client).items()})


@pytest.fixture(scope="module")
def whole(applied: States, client: Client) -> Counter[str]:
    """How many things of each kind the whole foundation has."""
    return count(client)


def assert_made_whole(
    cloud: Running, apply: Apply, client: Client, given: list[Fault], whole: Counter[str]
) -> None:
    """Fail unless one run under faults makes all of it once, and a second changes nothing."""
    with cloud.faults.inject(*given) as injected:
        states = apply()
        assert all(injected.seen().met), "a fault was not met"
    assert failures(states) == {}
    assert count(client) == whole
    again = apply()
    assert failures(again) == {}
    assert changed(again) == {}


def test_tables_have_every_call(cloud: Running, apply: Apply) -> None:
    with cloud.faults.inject() as injected:
        apply()
        calls = injected.seen().calls
    reads = {name for name in calls if name.startswith(("Describe", "Get", "List"))}
    assert {name: number for name, number in calls.items() if name not in reads} == {
        name: number for name, number in WRITES.items() if number
    }
    assert reads == set(READS)


@pytest.mark.parametrize("skip", [0, pytest.param(1, marks=pytest.mark.long)])
def test_lost_answers_make_nothing_twice(
    cloud: Running, apply: Apply, client: Client, whole: Counter[str], skip: int
) -> None:
    """The first answer to each call is lost, or the second one."""
    given = [faults.lost(action, skip) for action, number in WRITES.items() if number > skip]
    assert_made_whole(cloud, apply, client, given, whole)


def test_lost_answers_of_reads_are_asked_for_again(
    cloud: Running, apply: Apply, client: Client, whole: Counter[str]
) -> None:
    assert_made_whole(cloud, apply, client, [faults.lost(action) for action in READS], whole)


@pytest.mark.long
def test_new_things_whose_answers_are_lost_and_that_are_unknown(
    cloud: Running, apply: Apply, client: Client, whole: Counter[str]
) -> None:
    given = [faults.lost(action, seconds=SECONDS) for action in MAKES]
    assert_made_whole(cloud, apply, client, given, whole)


@pytest.mark.long
def test_everything_new_is_unknown_for_a_while(
    cloud: Running, apply: Apply, client: Client, whole: Counter[str]
) -> None:
    given = [faults.unknown(action, SECONDS) for action in MAKES]
    assert_made_whole(cloud, apply, client, given, whole)


@pytest.mark.long
def test_calls_that_failed_without_effect_are_made_again(
    cloud: Running, apply: Apply, client: Client, whole: Counter[str]
) -> None:
    """Each call is throttled, and one breaks."""
    given = [faults.throttled(action, times=1) for action, number in WRITES.items() if number]
    broken = Fault("error", "CreateVpc", times=1)
    assert_made_whole(cloud, apply, client, [*given, broken], whole)
