"""Calls of the EC2 API for which `saltext.boto3` has no function."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from salt.exceptions import CommandExecutionError


def call(operation: str, region: str, **arguments: Any) -> dict[str, Any]:
    """Return EC2's answer to a call, such as ``describe_key_pairs``.

    Raises CommandExecutionError when EC2 refuses or does not answer.
    """
    try:
        answer: dict[str, Any] = getattr(boto3.client("ec2", region_name=region), operation)(
            **arguments
        )
    except (BotoCoreError, ClientError) as error:
        raise CommandExecutionError(f"{operation}: {error}") from error
    return answer
