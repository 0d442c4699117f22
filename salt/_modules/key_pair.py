"""EC2 key pairs with their public keys, which `boto3_ec2` does not return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__salt__: dict[str, Callable[..., Any]]


def public_key(name: str, region: str) -> str | None:
    """Return a key pair's public key in OpenSSH's format without comment, or None without a pair.

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
    """Create a key pair from a public key.

    Raises CommandExecutionError when the name is taken or EC2 refuses.
    """
    __salt__["ec2.call"](
        "import_key_pair", region, KeyName=name, PublicKeyMaterial=openssh.encode()
    )


def delete(name: str, region: str) -> None:
    """Delete a key pair; machines keep the key with which they were launched."""
    __salt__["ec2.call"]("delete_key_pair", region, KeyName=name)
