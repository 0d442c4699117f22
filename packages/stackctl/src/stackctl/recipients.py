"""Operators who can decrypt a deployment's secrets with keys of their own.

Their public keys are in `pillar/<deployment>/operators/<name>.asc`. Each secret is encrypted to the
deployment's key, which the Salt master has, and to all of these.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stackctl.certificates import RENEW_DAYS
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.files import private_directory, write_atomically
from stackctl.secret_store import SecretStore, gpg, gpg_home

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
# The first letters of a line of `gpg --with-colons`, and its fields:
# https://github.com/gpg/gnupg/blob/master/doc/DETAILS
READER = re.compile(r"^:pubkey enc packet:.* keyid ([0-9A-F]{16})", re.MULTILINE)
USABLE = "-mfuoq"  # validity of a key that is not revoked, expired or disabled
MASTER = "the Salt master"  # whose key is the deployment's


@dataclass(frozen=True)
class PublicKey:
    """An OpenPGP key.

    Attributes:
        fingerprint: of the primary key.
        user: its first user id.
        encrypts: the ids of its keys that encrypt; none: it is expired or revoked, or only signs.
        ids: of all its keys.
        expires: the day; None: never.
    """

    fingerprint: str
    user: str
    encrypts: frozenset[str]
    ids: frozenset[str]
    expires: dt.date | None

    @property
    def expires_soon(self) -> bool:
        """Whether it has to be renewed."""
        soon = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=RENEW_DAYS)
        return self.expires is not None and self.expires < soon

    @property
    def fault(self) -> str:
        """Why nothing can be encrypted to it, as a predicate; empty: it can."""
        if self.encrypts:
            return ""
        if self.expires and self.expires <= dt.datetime.now(dt.UTC).date():
            return f"cannot encrypt: it is expired since {self.expires}"
        return "cannot encrypt: it has no such subkey, or it is revoked"


@dataclass(frozen=True)
class Recipient:
    """Who can read the secrets.

    Attributes:
        name: an operator's, or `MASTER`.
        path: the file of the public key.
        key: that key, which may be expired.
    """

    name: str
    path: Path
    key: PublicKey

    @classmethod
    def read(cls, name: str, path: Path) -> Recipient:
        """Return who has the public key in a file.

        Raises:
            SecretsError: the file holds something else than one public key.
        """
        return cls(name, path, _read(path)[0])


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
    _usable(key, source)
    target = store.operators / f"{name}.asc"
    if target.is_file():
        present, _ = _read(target)  # it may be expired, and the new file prolong it
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
    found = usable(store)
    changed = []
    with gpg_home() as home:
        for secret in store.names():
            texts = store.ciphertexts(secret).values()
            if any(fault for text in texts for fault in faults(readers(home, text), found)):
                store.write(secret, store.read(secret))
                changed.append(secret)
    return changed


def recipients(store: SecretStore) -> list[Recipient]:
    """Return who is to read the secrets, the Salt master first; see `Recipient.read` for errors."""
    return [Recipient.read(name, path) for name, path in key_files(store).items()]


def usable(store: SecretStore) -> list[Recipient]:
    """Return the same; raise SecretsError if nothing can be encrypted to one of them."""
    found = recipients(store)
    for recipient in found:
        _usable(recipient.key, recipient.path)
    return found


def key_files(store: SecretStore) -> dict[str, Path]:
    """Return the files of the public keys, by the name of whose key it is."""
    return {MASTER: store.public_key} | {path.stem: path for path in store.operator_keys()}


def lacking(store: SecretStore, found: Sequence[Recipient]) -> dict[str, list[str]]:
    """Return for each recipient, by name, the secrets that are not encrypted to him or her.

    Raises:
        SecretsError: a secret's file is damaged.
    """
    with gpg_home() as home:
        ids = {
            secret: [readers(home, text) for text in store.ciphertexts(secret).values()]
            for secret in store.names()
        }
    return {
        recipient.name: [
            secret
            for secret, each in ids.items()
            if not all(one & recipient.key.ids for one in each)
        ]
        for recipient in found
    }


def faults(ids: frozenset[str], found: Sequence[Recipient]) -> Iterator[str]:
    """Yield to whom a message is encrypted wrongly, or is not encrypted, as predicates.

    Args:
        ids: of the keys that decrypt it.
        found: who is to read it.
    """
    for recipient in found:
        # gpg may choose any of a key's keys that encrypt; it takes one of each.
        if recipient.key.encrypts and not ids & recipient.key.encrypts:
            yield f"is not encrypted to {recipient.name}"
    for stranger in sorted(ids.difference(*(recipient.key.ids for recipient in found))):
        yield f"is encrypted to the key {stranger}, which is no recipient's"


def look(path: Path) -> PublicKey:
    """Return the public key in a file; see `share` for errors."""
    return _usable(_read(path)[0], path)


def _usable(key: PublicKey, path: Path) -> PublicKey:
    if key.fault:
        raise SecretsError(
            f"The key {key.fingerprint} ({key.user}) in {path} {key.fault}.",
            "Ask for a key that is valid.",
        )
    return key


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
        rows = _rows(home, copy)
        if any(row[0] in ("sec", "ssb") for row in rows):
            raise SecretsError(f"{path} holds a private key, which belongs on no other machine.")
        if (number := sum(row[0] == "pub" for row in rows)) != 1:
            raise SecretsError(
                f"{path} holds {number} public keys.", "Give a file with one operator's key."
            )
        key = _of_rows(rows)
        gpg(home, ["--import", str(copy)])
        return key, gpg(home, ["--armor", "--export", key.fingerprint])


def fingerprints(path: Path) -> list[str]:
    """Return those of the keys in a file, of private keys too."""
    with gpg_home() as home:
        return [row[9] for row in _rows(home, path) if row[0] == "fpr"]


def _rows(home: Path, path: Path) -> list[list[str]]:
    shown = ["--with-colons", "--import-options", "show-only", "--import", str(path)]
    return [line.split(":") for line in gpg(home, shown).splitlines()]


def _of_rows(rows: list[list[str]]) -> PublicKey:
    fingerprints = [row[9] for row in rows if row[0] == "fpr"]
    users = [row[9] for row in rows if row[0] == "uid"]
    keys = [row for row in rows if row[0] in ("pub", "sub")]
    usable = [row for row in keys if (row[1] or "-") in USABLE]
    # Lower-case letters are what this very key can do.
    encrypts = [row for row in usable if "e" in row[11]] if keys[0] in usable else []
    # The last key that encrypts ends with the primary key, or before. Without an end it is empty.
    times = [row[6] for row in encrypts or keys if "e" in row[11]]
    last = "" if "" in times else max(times, key=int, default="")
    ends = [int(time) for time in (keys[0][6], last) if time]
    return PublicKey(
        fingerprints[0],
        next(iter(users), ""),
        frozenset(row[4] for row in encrypts),
        frozenset(row[4] for row in keys),
        dt.datetime.fromtimestamp(min(ends), dt.UTC).date() if ends else None,
    )


def readers(home: Path, ciphertext: str) -> frozenset[str]:
    """Return the ids of the keys that decrypt a message; a keyring that is empty is enough.

    Raises:
        SecretsError: it is no message.
    """
    packets = gpg(home, ["--list-only", "--list-packets"], ciphertext)
    return frozenset(READER.findall(packets))
