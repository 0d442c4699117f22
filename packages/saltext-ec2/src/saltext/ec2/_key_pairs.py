"""EC2's key pairs, for the first login to a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saltext.ec2 import _lookup
from saltext.ec2._client import Connection
from saltext.ec2.errors import ConfigurationError, api_errors


def create(connection: Connection, name: str) -> dict[str, Any]:
    """Make a key pair. Only the answer contains its private half.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"creating the key pair {name}"):
        answer = connection.ec2.create_key_pair(KeyName=name)
    return {key: answer[key] for key in ("KeyName", "KeyPairId", "KeyFingerprint", "KeyMaterial")}


def import_public(connection: Connection, name: str, path: str) -> dict[str, Any]:
    """Make a key pair of the public key in a file.

    Raises:
        ConfigurationError: the file cannot be read.
        ApiError: EC2 refuses.
    """
    try:
        public = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"importing the key pair {name} failed: {error}") from error
    with api_errors(f"importing the key pair {name}"):
        answer = connection.ec2.import_key_pair(KeyName=name, PublicKeyMaterial=public)
    return {key: answer[key] for key in ("KeyName", "KeyPairId", "KeyFingerprint")}


def describe(connection: Connection, name: str) -> dict[str, Any]:
    """Return the public half and the fingerprint of a key pair.

    Raises:
        ApiError: EC2 did not answer, or knows no such key pair.
    """
    with api_errors(f"looking up the key pair {name}"):
        answer = connection.ec2.describe_key_pairs(KeyNames=[name], IncludePublicKey=True)
    return dict(_lookup.plain(answer["KeyPairs"][0]))


def delete(connection: Connection, name: str) -> dict[str, Any]:
    """Remove a key pair from EC2.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"deleting the key pair {name}"):
        connection.ec2.delete_key_pair(KeyName=name)
    return {"KeyName": name, "deleted": True}
