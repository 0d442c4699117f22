"""Archives of releases in the deployment's bucket: a new Salt master takes them from there.

The bucket is a help and no source: what it does not have, or does not give, is built. So each call
ends soon, and no call is made that may wait for long.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]

PREFIX = "releases"
PATIENCE = Config(
    connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 2}
)
GET_SECONDS = 300  # for an archive of some 120 MB, which a t2.micro has in 5 to 20 s
PART = 1 << 20


def has(name: str) -> bool:
    """Return whether the bucket has the archive of a release with its digest.

    This lists, because S3 tells that an object is missing only to those who may list the whole
    bucket, and says to all others that it is forbidden.

    Raises:
        CommandExecutionError: the bucket cannot be asked.
    """
    with _explained():
        return _has(*_open(), name)


def same(name: str, archives: str) -> bool:
    """Return whether the bucket has the archive of a release that a folder has.

    Args:
        name: of the release.
        archives: the folder, in which it is complete.

    Raises:
        CommandExecutionError: the bucket cannot be asked.
    """
    with _explained():
        s3, where = _open()
        if not _has(s3, where, name):
            return False
        line = s3.get_object(Key=_key(name, ".sha256"), **where)["Body"].read(1000)
        return bool(line == Path(archives, f"{name}.tar.zst.sha256").read_bytes())


def get(name: str, archives: str) -> None:
    """Write the archive of a release from the bucket into a folder; then it is complete there.

    Args:
        name: of the release.
        archives: the folder.

    Raises:
        CommandExecutionError: the bucket does not have it, it does not have its SHA-256, or it took
            too long. Nothing is left then.
    """
    archive = Path(archives, f"{name}.tar.zst")
    fresh = archive.with_name(f"{archive.name}.taken")
    try:
        with _explained():
            s3, where = _open()
            line = s3.get_object(Key=_key(name, ".sha256"), **where)["Body"].read(1000)
            with fresh.open("wb") as file:
                found = _copy(s3.get_object(Key=_key(name), **where)["Body"], file)
            expected = line.decode(errors="replace").split()[:1]
            if [found] != expected:
                raise CommandExecutionError(
                    f"the archive of {name} there is broken: its SHA-256 is {found}, and not"
                    f" {' '.join(expected) or 'told'}"
                )
            fresh.chmod(0o644)
            fresh.rename(archive)
            _write(archive.with_name(f"{archive.name}.sha256"), line)
    finally:
        fresh.unlink(missing_ok=True)


def put(name: str, archives: str) -> str:
    """Copy the complete archive of a release from a folder into the bucket; return where it is.

    Its digest comes last, and S3 compares the archive with it.

    Args:
        name: of the release.
        archives: the folder.

    Raises:
        CommandExecutionError: the archive is not what its digest says, or S3 refuses.
    """
    archive = Path(archives, f"{name}.tar.zst")
    with _explained():
        line = archive.with_name(f"{archive.name}.sha256").read_bytes()
        digest = base64.b64encode(bytes.fromhex(line.decode().split()[0])).decode()
        s3, where = _open()
        with archive.open("rb") as file:
            s3.put_object(Key=_key(name), Body=file, ChecksumSHA256=digest, **where)
        s3.put_object(Key=_key(name, ".sha256"), Body=line, **where)
    return f"s3://{where['Bucket']}/{_key(name)}"


def _has(s3: Any, where: Mapping[str, str], name: str) -> bool:
    found = s3.list_objects_v2(Prefix=f"{PREFIX}/{name}/", **where)
    keys = {one["Key"] for one in found.get("Contents", ())}
    return {_key(name), _key(name, ".sha256")} <= keys


def _key(name: str, more: str = "") -> str:
    return f"{PREFIX}/{name}/{name}.tar.zst{more}"


def _open() -> tuple[Any, dict[str, str]]:
    """Return a client, and the arguments that every call has; boto3 finds the credentials."""
    aws = __salt__["aws.settings"]()
    region = aws["region"]
    sts: Any = boto3.client("sts", region_name=region, config=PATIENCE)
    account = sts.get_caller_identity()["Account"]
    bucket = aws["bucket"]["name"].replace("{account}", account)
    s3: Any = boto3.client("s3", region_name=region, config=PATIENCE)
    return s3, {"Bucket": bucket, "ExpectedBucketOwner": account}


@contextmanager
def _explained() -> Iterator[None]:
    """Raise CommandExecutionError for whatever S3, the network or the disk says."""
    try:
        yield
    except (BotoCoreError, ClientError, OSError, ValueError, IndexError) as error:
        raise CommandExecutionError(str(error)) from error


def _copy(body: Any, file: Any) -> str:
    """Write a body into a file, also onto the disk, and return its SHA-256."""
    digest, end = hashlib.sha256(), time.monotonic() + GET_SECONDS
    while part := body.read(PART):
        if time.monotonic() > end:
            raise CommandExecutionError(f"the archive did not come within {GET_SECONDS} s")
        digest.update(part)
        file.write(part)
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a file as a whole: the archive beside it counts as complete from then on."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.chmod(0o644)
    fresh.rename(path)
