"""EC2 key pairs by their public half: `boto3_ec2` knows only whether a name is taken, not by which key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__salt__: dict[str, Callable[..., Any]]


def public_key(name: str, region: str) -> str | None:
    """Return the public half of a key pair in OpenSSH's format without its comment, or None when there is no such pair.

    Raises CommandExecutionError when EC2 does not answer as expected.
    """
    filters = [{"Name": "key-name", "Values": [name]}]
    pairs = __salt__["ec2.call"](
        "describe_key_pairs", region, Filters=filters, IncludePublicKey=True
    )["KeyPairs"]
    return material(pairs[0].get("PublicKey", "")) if pairs else None


def material(openssh: str) -> str:
    """Return kind and key of a public key in OpenSSH's format, without its comment."""
    return " ".join(openssh.split()[:2])


def upload(name: str, openssh: str, region: str) -> None:
    """Make a key pair out of a public key. Raises CommandExecutionError when the name is taken or EC2 refuses."""
    __salt__["ec2.call"](
        "import_key_pair", region, KeyName=name, PublicKeyMaterial=openssh.encode()
    )


def delete(name: str, region: str) -> None:
    """Forget a key pair; machines keep the key that they were launched with."""
    __salt__["ec2.call"]("delete_key_pair", region, KeyName=name)
