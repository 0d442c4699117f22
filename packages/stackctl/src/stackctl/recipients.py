"""Operators who can decrypt a deployment's secrets with keys of their own.

Their public keys are in `pillar/<deployment>/operators/<name>.asc`. Each secret is encrypted to the
deployment's key, which the Salt master has, and to all of these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.files import private_directory, write_atomically
from stackctl.secret_store import SecretStore, gpg, gpg_home

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
# The first letters of a line of `gpg --with-colons`, and its fields:
# https://github.com/gpg/gnupg/blob/master/doc/DETAILS
READER = re.compile(r"^:pubkey enc packet:.* keyid ([0-9A-F]{16})", re.MULTILINE)
USABLE = "-mfuoq"  # validity of a key that is not revoked, expired or disabled


@dataclass(frozen=True)
class PublicKey:
    """An OpenPGP key.

    Attributes:
        fingerprint: of the primary key.
        user: its first user id.
        encrypts: the ids of its keys that encrypt.
    """

    fingerprint: str
    user: str
    encrypts: frozenset[str]


def share(deployment: Deployment, source: Path, name: str) -> tuple[PublicKey, list[str]]:
    """Encrypt every secret to one more operator; return the key and the secrets that changed.

    Args:
        deployment: whose secrets. Its private key, or that of another operator, is on this host.
        source: a file with one public key, armoured as Keybase exports it, or not.
        name: the operator's.

    Raises:
        SecretsError: the file is no usable public key, or the name is another key's.
    """
    if not NAME.fullmatch(name):
        raise SecretsError(
            f"'{name}' is no name of an operator.", "Use letters, digits, dots and dashes."
        )
    store = SecretStore(deployment)
    key, armoured = _read(source)
    target = store.operators / f"{name}.asc"
    if target.is_file():
        present = look(target)
        if present.fingerprint != key.fingerprint:
            raise SecretsError(
                f"{target} holds the key {present.fingerprint} already, and {source} is"
                f" {key.fingerprint}.",
                f"Remove the old one first: stackctl secrets unshare {name} -d {deployment.name}",
            )
    private_directory(store.operators)
    write_atomically(target, armoured)
    return key, encrypt_again(deployment)


def unshare(deployment: Deployment, name: str) -> list[str]:
    """Encrypt every secret without an operator; return the secrets that changed.

    Raises:
        SecretsError: there is no such operator.
    """
    store = SecretStore(deployment)
    names = [path.stem for path in store.operator_keys()]
    if name not in names:
        raise SecretsError(
            f"'{name}' is no operator of {deployment.name}.",
            f"There are: {', '.join(names) or 'none'}.",
        )
    (store.operators / f"{name}.asc").unlink()
    return encrypt_again(deployment)


def encrypt_again(deployment: Deployment) -> list[str]:
    """Encrypt the secrets anew whose readers are others than the keys say; return their names."""
    store = SecretStore(deployment)
    keys = [look(path) for path in (store.public_key, *store.operator_keys())]
    wanted = frozenset(one for key in keys for one in key.encrypts)
    changed = []
    for secret in store.names():
        # gpg may choose any of a key's keys that encrypt; it takes one of each.
        found = [_readers(text) for text in store.ciphertexts(secret).values()]
        if all(one <= wanted and all(one & key.encrypts for key in keys) for one in found):
            continue
        store.write(secret, store.read(secret))
        changed.append(secret)
    return changed


def look(path: Path) -> PublicKey:
    """Return the public key in a file; see `share` for errors."""
    return _read(path)[0]


def _read(path: Path) -> tuple[PublicKey, str]:
    """Return the key in a file, and its text in armour, without anything else of the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SecretsError(f"{path} cannot be read: {error.strerror}.") from None
    if b"PRIVATE KEY BLOCK" in content:
        raise SecretsError(
            f"{path} holds a private key, which belongs on no other machine.",
            "Export the public one: gpg --armor --export ADDRESS, or keybase pgp export.",
        )
    with gpg_home() as home:
        copy = home / "key"
        copy.write_bytes(content)
        listed = gpg(
            home, ["--with-colons", "--import-options", "show-only", "--import", str(copy)]
        )
        rows = [line.split(":") for line in listed.splitlines()]
        if any(row[0] in ("sec", "ssb") for row in rows):
            raise SecretsError(f"{path} holds a private key, which belongs on no other machine.")
        if (number := sum(row[0] == "pub" for row in rows)) != 1:
            raise SecretsError(
                f"{path} holds {number} public keys.", "Give a file with one operator's key."
            )
        key = _of_rows(rows)
        if not key.encrypts:
            raise SecretsError(
                f"The key {key.fingerprint} ({key.user}) in {path} cannot encrypt: it has no such"
                " subkey, or it is expired or revoked.",
                "Ask for a key that is valid.",
            )
        gpg(home, ["--import", str(copy)])
        return key, gpg(home, ["--armor", "--export", key.fingerprint])


def _of_rows(rows: list[list[str]]) -> PublicKey:
    fingerprints = [row[9] for row in rows if row[0] == "fpr"]
    users = [row[9] for row in rows if row[0] == "uid"]
    usable = any(row[0] == "pub" and (row[1] or "-") in USABLE for row in rows)
    encrypts = {
        row[4]
        for row in rows
        # Lower-case letters are what this very key can do.
        if row[0] in ("pub", "sub") and (row[1] or "-") in USABLE and "e" in row[11]
    }
    return PublicKey(fingerprints[0], next(iter(users), ""), frozenset(encrypts if usable else ()))


def _readers(ciphertext: str) -> frozenset[str]:
    """Return the ids of the keys that decrypt a message."""
    with gpg_home() as home:
        packets = gpg(home, ["--list-only", "--list-packets"], ciphertext)
    return frozenset(READER.findall(packets))
