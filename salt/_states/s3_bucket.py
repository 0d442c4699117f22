"""The deployment's bucket, with the settings that keep what is in it private and for a while."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

__salt__: dict[str, Callable[..., Any]]

Todo = dict[str, Callable[[], Any]]


class Setting(NamedTuple):
    """A setting of a bucket.

    Attributes:
        what: the setting in words.
        operation: how S3 calls it, without `get_` and `put_`.
        argument: the argument of the call that sets it.
        wanted: that argument.
        absent: the code by which S3 says that it is not set; empty: it says nothing.
        key: where in the answer it is; empty: the answer is the setting.
    """

    what: str
    operation: str
    argument: str
    wanted: Any
    absent: str
    key: str


def present(name: str, noncurrent_days: int, upload_days: int, region: str) -> dict[str, Any]:
    """The deployment has a private, versioned, encrypted bucket, reached by TLS only.

    Args:
        name: of the bucket, with `{account}` for the account's number.
        noncurrent_days: for which a version stays that was replaced or deleted.
        upload_days: for which an upload stays that was not completed.
        region: where it is.

    Returns:
        The state's result. A bucket of this name that is not the deployment's fails the state.
    """
    made = []

    def create(bucket: str) -> None:
        made.append(bucket)
        __salt__["aws.call"](
            "create_bucket",
            region,
            service="s3",
            Bucket=bucket,
            # With its tags, so that no run that ends in the middle leaves it without an owner.
            CreateBucketConfiguration={
                "LocationConstraint": region,
                "Tags": __salt__["aws.tag_list"](__salt__["aws.tags"](bucket)),
            },
        )

    def differences() -> Todo:
        owner = __salt__["aws.account"](region)
        bucket = name.replace("{account}", owner)
        if not __salt__["s3_bucket.find"](bucket, region, owner, new=bool(made)):
            return {f"create the bucket {bucket}": lambda: create(bucket)}
        todo: Todo = {}
        place = (region, bucket, owner)
        for setting in _settings(bucket, noncurrent_days, upload_days):
            if _canonical(_found(setting, place)) != _canonical(setting.wanted):
                todo[f"set {setting.what} of {bucket}"] = partial(
                    __salt__["s3_bucket.call"],
                    f"put_{setting.operation}",
                    *place,
                    **{setting.argument: _argument(setting)},
                )
        return todo

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result


def _settings(bucket: str, noncurrent_days: int, upload_days: int) -> Iterator[Setting]:
    """Yield the settings, those first that let nobody else in.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/security-best-practices.html
    """
    yield Setting(
        "the block of public access", "public_access_block", "PublicAccessBlockConfiguration",
        {
            "BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
        "NoSuchPublicAccessBlockConfiguration", "PublicAccessBlockConfiguration",
    )  # fmt: skip
    yield Setting(
        "the ownership of objects", "bucket_ownership_controls", "OwnershipControls",
        {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        "OwnershipControlsNotFoundError", "OwnershipControls",
    )  # fmt: skip
    yield Setting(
        "the policy", "bucket_policy", "Policy", _policy(bucket), "NoSuchBucketPolicy", "Policy",
    )  # fmt: skip
    yield Setting(
        "the encryption", "bucket_encryption", "ServerSideEncryptionConfiguration",
        {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]},
        "ServerSideEncryptionConfigurationNotFoundError", "ServerSideEncryptionConfiguration",
    )  # fmt: skip
    yield Setting(
        "the versioning", "bucket_versioning", "VersioningConfiguration", {"Status": "Enabled"},
        "", "",
    )  # fmt: skip
    yield Setting(
        "the lifecycle", "bucket_lifecycle_configuration", "LifecycleConfiguration",
        {"Rules": [_lifecycle(noncurrent_days, upload_days)]},
        "NoSuchLifecycleConfiguration", "",
    )  # fmt: skip


def _policy(bucket: str) -> dict[str, Any]:
    """Return the policy that refuses everybody who does not use TLS."""
    arn = f"arn:aws:s3:::{bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "RequireTls",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }


def _lifecycle(noncurrent_days: int, upload_days: int) -> dict[str, Any]:
    """Return the rule for what is not current any more; current objects never expire.

    The archive in use may be older than any age that one could name, and a backup is expired by
    the program that knows which others need it.
    """
    return {
        "ID": "not-current",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": noncurrent_days},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": upload_days},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
    }


def _found(setting: Setting, place: tuple[str, str, str]) -> Any:
    absent = (setting.absent,) if setting.absent else ()
    answer = __salt__["s3_bucket.call"](f"get_{setting.operation}", *place, absent=absent)
    found = answer.get(setting.key) if setting.key else answer
    return json.loads(found) if isinstance(found, str) else found


def _argument(setting: Setting) -> Any:
    return json.dumps(setting.wanted) if setting.argument == "Policy" else setting.wanted


def _canonical(value: Any) -> Any:
    """Return a setting without what S3 adds, and without what says nothing."""
    if isinstance(value, Mapping):
        return {
            key: _canonical(one)
            for key, one in value.items()
            if key not in ADDED and one not in ("", False) and _canonical(one) not in ({}, [])
        }
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    return value


# What answers have beside the setting, which nobody has asked for.
ADDED = (
    "ResponseMetadata", "BucketKeyEnabled", "BlockedEncryptionTypes", "MFADelete",
    "TransitionDefaultMinimumObjectSize",
)  # fmt: skip
