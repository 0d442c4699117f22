"""Whose a bucket is. Names of buckets are global: another account may have taken one.

Every call says which account has to own the bucket, so that S3 refuses somebody else's:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]


def find(name: str, region: str, owner: str, new: bool = False) -> bool:
    """Return whether the deployment has a bucket.

    Args:
        name: of the bucket.
        region: where it is.
        owner: the number of the account that has to own it.
        new: whether it was just made: S3 may show its tags some time later.

    Raises:
        CommandExecutionError: another account has it, or it does not have the deployment's tags.
        AwsError: S3 does not answer.
    """
    try:
        answer = call("get_bucket_tagging", region, name, owner, absent=("NoSuchBucket",))
    except CommandExecutionError as error:
        if "(AccessDenied)" in str(error):
            raise CommandExecutionError(
                f"the bucket {name} belongs to another account, because names of buckets are"
                " global, or your credentials lack s3:GetBucketTagging (docs/security.md): it is"
                " left alone. Choose another name of the deployment, or add the permission"
            ) from error
        if "(NoSuchTagSet)" not in str(error):
            raise
        answer = {"TagSet": []}
    if not answer or (new and not answer["TagSet"]):
        return False
    __salt__["aws.require_own"]("bucket", name, region, [{"Name": name, "Tags": answer["TagSet"]}])
    return True


def call(operation: str, region: str, name: str, owner: str, **arguments: Any) -> dict[str, Any]:
    """Return S3's answer to a call about a bucket, which has to be an account's.

    Args:
        operation: in boto3's spelling.
        region: where it is.
        name: of the bucket.
        owner: the account's number.
        arguments: further ones, and those of `aws.call`.

    Raises:
        AwsError: S3 refuses or does not answer.
    """
    found: dict[str, Any] = __salt__["aws.call"](
        operation, region, service="s3", Bucket=name, ExpectedBucketOwner=owner, **arguments
    )
    return found
