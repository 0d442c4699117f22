"""Two runs on an account without a Salt master: one makes the foundation, the other is told.

The account is a local cloud, whose S3 keeps the conditions of writes and deletions.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.backends import get_backend

import awsenvironment
from localcloud.faults import Fault, lost
from memorycloud import Running
from plainpillar import ROOT
from policymutants import mutants
from stackctl import account_lock, cli, locks
from stackctl.account_lock import KEY, AccountLock, Bucket
from stackctl.deployment import Deployment
from stackctl.errors import BusyError, StackError
from stackctl.locks import Holder

ANN = Holder("ann@desk", 22, "up", "2026-11-26 03:00:00 UTC")
ME = Holder("me@laptop", 11, "up", "2026-11-26 03:12:07 UTC")
POLICY = json.loads((ROOT / "docs/operator-lock.json").read_text())["Statement"]
NAME = "airflow-stack-prod-123456789012-eu-west-1"


@dataclass
class Operator:
    """An operator with a checkout of his or her own."""

    deployment: Deployment
    holder: Holder
    notes: list[str]

    def lock(self, **options: bool) -> AccountLock:
        return AccountLock(self.deployment, self.holder, self.notes.append, **options)


def operator(prod: Deployment, folder: Path, holder: Holder) -> Operator:
    shutil.copytree(prod.root, folder)
    made = Deployment("prod", folder)
    locks.path_on_this_host(made).touch()
    return Operator(made, holder, [])


@pytest.fixture
def me(in_cloud: Running, prod: Deployment, tmp_path: Path) -> Operator:
    assert in_cloud.client("s3").list_buckets()["Buckets"] == []
    return operator(prod, tmp_path / "mine", ME)


@pytest.fixture
def ann(in_cloud: Running, prod: Deployment, tmp_path: Path) -> Operator:
    assert in_cloud.client("s3").list_buckets()["Buckets"] == []
    return operator(prod, tmp_path / "hers", ANN)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)


def keys(cloud: Running) -> list[str]:
    found = cloud.client("s3").list_objects_v2(Bucket=NAME).get("Contents", ())
    return [one["Key"] for one in found]


def older(cloud: Running, **age: float) -> None:
    """Make the lock older."""
    with cloud.cloud.lock:
        held = get_backend("s3")["123456789012"]["aws"].buckets[NAME].keys[KEY]
        held.last_modified -= timedelta(**age)


def test_second_run_on_an_empty_account_is_told_who_and_since_when(
    in_cloud: Running, me: Operator, ann: Operator
) -> None:
    with ann.lock():
        older(in_cloud, hours=2, minutes=5)
        with pytest.raises(BusyError) as caught, me.lock():
            raise AssertionError("both have the lock")
    assert str(caught.value) == (
        "Another run changes this deployment: `stackctl up` of ann@desk (pid 22), since"
        " 2026-11-26 03:00:00 UTC, 2 h 5 min ago. Wait until it has ended, or let this one wait"
        " for it: --wait. If that run has died, so that nobody gives its lock back: stackctl unlock"
        " -d prod"
    )
    with me.lock():
        assert keys(in_cloud) == [KEY]
    assert keys(in_cloud) == []


def test_of_many_runs_at_once_one_has_the_lock(
    in_cloud: Running, prod: Deployment, me: Operator, tmp_path: Path
) -> None:
    """Each makes the bucket that is not there, which S3 makes once."""
    others = [operator(prod, tmp_path / f"other-{number}", ANN) for number in range(5)]
    start, done = threading.Barrier(6), threading.Barrier(6)
    inside: list[Operator] = []
    told: list[BusyError] = []

    def run(each: Operator) -> None:
        start.wait(60)
        try:
            with each.lock():
                inside.append(each)
                done.wait(60)
        except BusyError as error:
            told.append(error)
            done.wait(60)

    threads = [threading.Thread(target=run, args=(each,)) for each in (me, *others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(inside), len(told)) == (1, 5)
    assert [one["Name"] for one in in_cloud.client("s3").list_buckets()["Buckets"]] == [NAME]


def test_bucket_is_made_with_the_tags_by_which_the_foundation_finds_it(
    in_cloud: Running, me: Operator
) -> None:
    with me.lock():
        pass
    found = in_cloud.client("s3").get_bucket_tagging(Bucket=NAME)["TagSet"]
    assert {one["Key"]: one["Value"] for one in found} == {
        "Name": NAME, "project": "airflow-stack", "deployment": "prod",
    }  # fmt: skip


def test_nothing_is_made_to_destroy_a_deployment(in_cloud: Running, me: Operator) -> None:
    with me.lock(make=False):
        pass
    assert in_cloud.client("s3").list_buckets()["Buckets"] == []


@pytest.mark.parametrize("tags", [{}, {"project": "airflow-stack", "deployment": "other"}])
def test_bucket_of_others_gets_no_lock(
    in_cloud: Running, me: Operator, tags: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_lock, "SETTLE_SECONDS", 0)
    given = [{"Key": key, "Value": value} for key, value in tags.items()]
    create(in_cloud, given)
    with pytest.raises(StackError, match=rf"^The bucket {NAME} .* is left alone"), me.lock():
        raise AssertionError("it was locked")
    assert keys(in_cloud) == []


def create(cloud: Running, tags: list[dict[str, str]]) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=NAME, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    if tags:
        s3.put_bucket_tagging(Bucket=NAME, Tagging={"TagSet": tags})


def test_run_waits_when_asked_to(me: Operator, ann: Operator) -> None:
    with ann.lock() as hers:

        def note(line: str) -> None:
            me.notes.append(line)
            hers.release()

        with AccountLock(me.deployment, ME, note, wait=True):
            pass
    assert re.fullmatch(r"waiting for `stackctl up` of ann@desk .*, 0 min ago", me.notes[0])


def test_lock_of_a_dead_run_of_this_checkout_is_taken_over(
    in_cloud: Running, me: Operator, ann: Operator
) -> None:
    """Whoever holds the checkout's lock proves that no other run of it is alive."""
    me.lock().__enter__()
    with pytest.raises(BusyError), ann.lock():
        raise AssertionError("it is not hers to take")
    with me.lock():
        assert "this lock has no run any more: `stackctl up` of me@laptop" in me.notes[0]
    assert keys(in_cloud) == []


def test_run_does_not_give_back_what_another_has_by_now(
    in_cloud: Running, me: Operator, ann: Operator
) -> None:
    bucket = Bucket.of(me.deployment)
    with me.lock():
        held = account_lock.read(bucket)
        assert held
        assert account_lock.clear(bucket, held)
        with ann.lock():
            assert not account_lock.clear(bucket, held), "it is hers now"
            assert keys(in_cloud) == [KEY]
        taken = ann.lock().__enter__()
    assert keys(in_cloud) == [KEY]
    taken.release()
    assert keys(in_cloud) == []


@pytest.mark.parametrize("versions", ["", "Enabled"])
def test_lost_answer_is_no_other_run(in_cloud: Running, me: Operator, versions: str) -> None:
    with me.lock():
        pass
    if versions:
        in_cloud.client("s3").put_bucket_versioning(
            Bucket=NAME, VersioningConfiguration={"Status": versions}
        )
    with in_cloud.faults.inject(lost("PutObject")), me.lock():
        assert keys(in_cloud) == [KEY]
    assert keys(in_cloud) == []
    assert me.notes == []


def test_conflict_is_tried_again(in_cloud: Running, me: Operator) -> None:
    """S3 may refuse a write because of another at the same time that has failed, too."""
    fault = Fault("error", "PutObject", code="ConditionalRequestConflict", status=409, times=1)
    with in_cloud.faults.inject(fault), me.lock():
        assert keys(in_cloud) == [KEY]


def test_unreadable_lock_is_somebodys(in_cloud: Running, me: Operator) -> None:
    with me.lock():
        pass
    for text in (b"", b"{", b"[]", json.dumps({"holder": 1}).encode(), b"\xff"):
        in_cloud.client("s3").put_object(Bucket=NAME, Key=KEY, Body=text)
        with pytest.raises(BusyError, match="of somebody"), me.lock():
            raise AssertionError("it was locked")


def test_credentials_that_end_leave_the_lock_and_say_so(in_cloud: Running, me: Operator) -> None:
    ended = Fault("error", "GetObject", code="ExpiredToken", status=400)
    with in_cloud.faults.inject(ended), pytest.raises(StackError, match="the run's own"), me.lock():
        raise StackError("the run's own.")
    assert "the lock of this run stays" in me.notes[0]
    assert me.notes[0].endswith("This removes it: stackctl unlock -d prod")


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(me: Operator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*args: str) -> tuple[int, str]:
        monkeypatch.setattr(cli, "repository_root", lambda: me.deployment.root)
        monkeypatch.setattr(cli, "enter", lambda _: nullcontext())
        code = cli.main([*args, "-d", "prod"])
        return code, " ".join(capsys.readouterr().out.split())

    return run


def test_unlock_removes_the_lock_that_it_names(
    in_cloud: Running, ann: Operator, call: Call
) -> None:
    assert call("unlock") == (0, "Nobody holds the lock of prod.")
    ann.lock().__enter__()
    older(in_cloud, minutes=95)
    whose = "lock of `stackctl up` of ann@desk (pid 22), since 2026-11-26 03:00:00 UTC, 1 h 35 min"
    assert call("unlock", "--dry-run") == (0, f"Would remove the {whose} ago.")
    assert keys(in_cloud) == [KEY]
    assert call("unlock") == (0, f"Removed the {whose} ago.")
    assert keys(in_cloud) == []


def test_holder_has_no_clock_to_be_believed(me: Operator, ann: Operator) -> None:
    """The age is by the clock of S3, on both ends."""
    future: Any = replace(ann.holder, since="2036-01-01 00:00:00 UTC")
    with (
        AccountLock(ann.deployment, future, ann.notes.append),
        pytest.raises(BusyError, match=r"since 2036-01-01 00:00:00 UTC, 0 min ago"),
        me.lock(),
    ):
        raise AssertionError("both have the lock")


def test_documented_policy_is_enough_and_no_part_of_it_is_superfluous(
    cloud: Running, prod: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iam, s3 = cloud.client("iam"), cloud.client("s3")
    iam.create_user(UserName="operator")
    key = iam.create_access_key(UserName="operator")["AccessKey"]
    awsenvironment.use(monkeypatch, cloud, key["AccessKeyId"], key["SecretAccessKey"])
    mine, hers = operator(prod, tmp_path / "mine", ME), operator(prod, tmp_path / "hers", ANN)

    def allowed(statements: Any) -> bool:
        """Return whether a first run has the lock, sees that it is gone, and may do no more."""
        for one in s3.list_buckets()["Buckets"]:
            s3.delete_object(Bucket=NAME, Key=KEY)
            s3.delete_bucket(Bucket=one["Name"])
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_user_policy(UserName="operator", PolicyName="one", PolicyDocument=document)
        made: Any = boto3.client("s3", region_name="eu-west-1")
        try:
            with mine.lock():
                with pytest.raises(BusyError), hers.lock():
                    raise AssertionError("both have the lock")
                with pytest.raises(ClientError, match="AccessDenied"):
                    made.put_object(Bucket=NAME, Key="master/keys", Body=b"")
            gone = account_lock.read(Bucket.of(mine.deployment)) is None
        except ClientError:
            return False
        return gone

    assert allowed(POLICY)
    unnoticed = [name for name, fewer in mutants(POLICY) if allowed(fewer)]
    assert unnoticed == []
