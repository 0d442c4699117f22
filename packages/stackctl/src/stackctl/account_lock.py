"""One run at a time changes what is around the machines, also before there is a Salt master.

The lock is an object in the deployment's bucket. S3 writes it only where there is none, and deletes
it only while it is still the same; of two writes at once it refuses one:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-deletes.html

The first run makes the bucket, which S3 makes once, and takes the lock before it does anything
else: the foundation (salt/aws/bucket.sls) finds the bucket and gives it its settings.

An object does not end with its process, as the locks of `locks` do. So it is held only until the
master's lock is. What a dead run has left is taken over by the next run from the same checkout,
whose lock proves that the other has ended; any other run is told who, since when, and the command.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from stackctl import inventory, locks
from stackctl.deployment import Deployment
from stackctl.errors import BusyError, StackError
from stackctl.locks import Holder, Note

KEY = "lock"  # of the object
TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")
GONE = ("NoSuchBucket", "NoSuchKey")
MADE = ("BucketAlreadyOwnedByYou", "OperationAborted")  # by another run, at the same time
SETTLE_SECONDS = 20  # that S3 has to show the tags of a bucket that was just made
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Bucket:
    """The deployment's bucket.

    Attributes:
        s3: the API.
        name: of the bucket.
        account: the number of the account that has to own it.
        tags: of the deployment.
    """

    s3: Any
    name: str
    account: str
    tags: dict[str, str]

    @classmethod
    def of(cls, deployment: Deployment) -> Self:
        """Return the bucket of a deployment; boto3 finds credentials and endpoint."""
        region = deployment.region()
        account = boto3.client("sts", region_name=region).get_caller_identity()["Account"]
        named = deployment.in_account(str(deployment.base_pillar("aws")["bucket"]["name"]))
        s3 = boto3.client("s3", region_name=region)
        return cls(s3, named.replace("{account}", account), account, deployment.owner())

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Return S3's answer to a call about the bucket; raise ClientError."""
        owner = {"Bucket": self.name, "ExpectedBucketOwner": self.account}
        answer: dict[str, Any] = getattr(self.s3, operation)(**owner, **arguments)
        return answer

    def exists(self) -> bool:
        """Return whether there is the bucket.

        Raises:
            StackError: it is somebody else's.
            ClientError: S3 does not tell.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                answer = self.call("get_bucket_tagging")
            except ClientError as error:
                if inventory.code_of(error) == "NoSuchBucket":
                    return False
                if inventory.code_of(error) != "NoSuchTagSet":
                    raise
                answer = {}
            found = {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", ())}
            if self.tags.items() <= found.items():
                return True
            if found or time.monotonic() > deadline:
                wanted = ", ".join(f"{key}={value}" for key, value in self.tags.items())
                raise StackError(
                    f"The bucket {self.name} has the name of this deployment's, but not its tags"
                    f" ({wanted}): it is somebody else's, and is left alone.",
                    "Choose another name of the deployment, or tag the bucket if it is its own.",
                )
            time.sleep(locks.POLL_SECONDS)

    def make(self) -> None:
        """Make the bucket with its tags, unless another run does at the same time."""
        tags = [{"Key": key, "Value": value} for key, value in self.tags.items()]
        try:
            self.s3.create_bucket(
                Bucket=self.name,
                CreateBucketConfiguration={
                    "LocationConstraint": self.s3.meta.region_name,
                    "Tags": [{"Key": "Name", "Value": self.name}, *tags],
                },
            )
        except ClientError as error:
            if inventory.code_of(error) not in MADE:
                raise


@dataclass(frozen=True)
class Lock:
    """A lock that somebody holds.

    Attributes:
        holder: who.
        process: see `_this_process`.
        nonce: of this lock alone.
        etag: S3's name of the object's content.
        age: for how long, by the clock of S3.
    """

    holder: Holder
    process: str
    nonce: str
    etag: str
    age: timedelta

    def __str__(self) -> str:
        """Return holder and age in words."""
        minutes = int(self.age.total_seconds()) // 60
        hours = f"{minutes // 60} h " if minutes >= 60 else ""
        return f"{self.holder}, {hours}{minutes % 60} min ago"


def read(bucket: Bucket) -> Lock | None:
    """Return the lock of a deployment; None: nobody holds it."""
    try:
        answer = bucket.call("get_object", Key=KEY)
    except ClientError as error:
        if inventory.code_of(error) in GONE:
            return None
        raise
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    age = max(now - answer["LastModified"], timedelta())
    text = answer["Body"].read().decode(errors="replace")
    try:
        found = json.loads(text)
        known = (json.dumps(found["holder"]), str(found["process"]), str(found["nonce"]))
    except (ValueError, TypeError, KeyError):
        known = ("", "", "")
    holder, process, nonce = known
    return Lock(Holder.read(holder), process, nonce, answer["ETag"], age)


def clear(bucket: Bucket, lock: Lock) -> bool:
    """Delete a lock; return False if it is another one's by now, or nobody's."""
    try:
        bucket.call("delete_object", Key=KEY, IfMatch=lock.etag)
    except ClientError as error:
        if inventory.code_of(error) in (*GONE, *TAKEN):
            return False
        raise
    return True


class AccountLock:
    """The lock of one run, from the beginning of the block to `release` or the block's end.

    The run holds the lock of its checkout.
    """

    def __init__(
        self,
        deployment: Deployment,
        holder: Holder,
        note: Note,
        *,
        wait: bool = False,
        make: bool = True,
    ) -> None:
        """Keep the context.

        Args:
            deployment: which one.
            holder: this run.
            note: told which run this one waits for.
            wait: for another run, up to `locks.WAIT_SECONDS`.
            make: the bucket, where there is none. Otherwise nothing is locked then.
        """
        self._deployment = deployment
        self._note = note
        self._wait = wait
        self._make = make
        self._nonce = uuid.uuid4().hex
        self._process = _this_process(deployment)
        content = {
            "holder": asdict(holder),
            "process": self._process,
            "nonce": self._nonce,
        }
        self._body = json.dumps(content).encode()
        self._bucket: Bucket | None = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            BusyError: another run holds it.
            StackError: the bucket is somebody else's.
            ClientError: S3 refuses.
        """
        bucket = Bucket.of(self._deployment)
        if not bucket.exists():
            if not self._make:
                return self
            bucket.make()
            bucket.exists()
        self._take(bucket)
        self._bucket = bucket
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.release()
        except (BotoCoreError, ClientError) as error:  # the block's own error is the one to show
            clear_it = self._deployment.command("unlock")
            self._note(f"warning: the lock of this run stays: {error}. This removes it: {clear_it}")

    def release(self) -> None:
        """Give the lock back, if this run still has it; raise ClientError."""
        bucket, self._bucket = self._bucket, None
        held = read(bucket) if bucket else None
        if bucket and held and held.nonce == self._nonce:
            clear(bucket, held)

    def _take(self, bucket: Bucket) -> None:
        deadline = time.monotonic() + (locks.WAIT_SECONDS if self._wait else 0)
        condition: dict[str, str] = {"IfNoneMatch": "*"}
        while True:
            try:
                bucket.call("put_object", Key=KEY, Body=self._body, **condition)
            except ClientError as error:
                if inventory.code_of(error) not in (*TAKEN, "NoSuchKey"):
                    raise
            else:
                return
            condition = {"IfNoneMatch": "*"}
            other = read(bucket)
            if other is None:  # it has just been given back
                continue
            if other.nonce == self._nonce:  # the answer to an earlier try was lost
                return
            if other.process == self._process:
                self._note(f"this lock has no run any more: {other}")
                condition = {"IfMatch": other.etag}
                continue
            self._wait_for(other, deadline)

    def _wait_for(self, other: Lock, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise BusyError(
                f"Another run changes this deployment: {other}.",
                "Wait until it has ended, or let this one wait for it: --wait. If that run has"
                f" died, so that nobody gives its lock back: {self._deployment.command('unlock')}",
            )
        self._note(f"waiting for {other}")
        time.sleep(locks.POLL_SECONDS)


def _this_process(deployment: Deployment) -> str:
    """Return what only the process has that holds the checkout's lock: the file of that lock.

    A file's number is its own on one file system while that host runs.
    """
    found = locks.path_on_this_host(deployment).stat()
    return f"{BOOT_ID.read_text().strip()} {found.st_dev} {found.st_ino}"
