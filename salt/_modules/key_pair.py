"""EC2 key pairs by their public half: `boto3_ec2` knows only whether a name is taken, not by which key."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from salt.exceptions import CommandExecutionError


def _call(region: str, operation: str, **arguments: Any) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = getattr(boto3.client("ec2", region_name=region), operation)(**arguments)
    except (BotoCoreError, ClientError) as error:
        raise CommandExecutionError(f"{operation}: {error}") from error
    return answer


def public_key(name: str, region: str) -> str | None:
    """Return the public half of a key pair in OpenSSH's format without its comment, or None when there is no such pair.

    Raises CommandExecutionError when EC2 does not answer as expected.
    """
    filters = [{"Name": "key-name", "Values": [name]}]
    pairs = _call(region, "describe_key_pairs", Filters=filters, IncludePublicKey=True)["KeyPairs"]
    return material(pairs[0].get("PublicKey", "")) if pairs else None


def material(openssh: str) -> str:
    """Return kind and key of a public key in OpenSSH's format, without its comment."""
    return " ".join(openssh.split()[:2])


def upload(name: str, openssh: str, region: str) -> None:
    """Make a key pair out of a public key. Raises CommandExecutionError when the name is taken or EC2 refuses."""
    _call(region, "import_key_pair", KeyName=name, PublicKeyMaterial=openssh.encode())


def delete(name: str, region: str) -> None:
    """Forget a key pair; machines keep the key that they were launched with."""
    _call(region, "delete_key_pair", KeyName=name)
