"""Finds what is wrong with a deployment's secrets, and with who reads them, before it is applied.

Every field is decrypted in memory. What is found names file and field, and never a value.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stackctl import catalogue, recipients, sshkey
from stackctl.catalogue import ACME_ACCOUNT, CLOUD_SSH, DEPLOYMENT_CA, FORMATS, NEXT_KEY
from stackctl.certificates import RENEW_DAYS, certificates, of_key, signed_by
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError, StackError
from stackctl.initialise import CA_SETTING
from stackctl.password_rotation import NEXT, PREVIOUS, optional_fields
from stackctl.recipients import Recipient
from stackctl.roles import EDGE_TLS
from stackctl.secret_store import SecretStore, gpg_home

TOP = "pillar/base/top.sls"
AUTHORITY = f"settings:{CA_SETTING}"
NO_KEY = "is no private key that needs no passphrase"
Faults = Iterator[tuple[str, str]]
"""Fields, each with what is wrong with it, as a predicate; an empty field is the whole file."""
Found = Iterator[tuple[Path, str, str]]
"""The same, each with its file."""


class Bearable(str):
    """A fault with which machines still get secrets that work."""

    __slots__ = ()


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        file: below the checkout.
        field: of the secret, or a key of another file; empty: the whole file.
        fault: what is wrong, as a predicate.
        stops: whether the machines cannot be given what they read.
    """

    file: str
    field: str
    fault: str
    stops: bool

    def __str__(self) -> str:
        return f"{self.file}: {self.field or 'it'} {self.fault}."


@dataclass(frozen=True)
class _Tools:
    """What opens a secret.

    Attributes:
        home: an empty keyring.
        readers: who is to read it; empty: that is not known.
        decrypt: decrypts a message; None: there is no key.
    """

    home: Path
    readers: Sequence[Recipient]
    decrypt: Callable[[str], str] | None


def check(deployment: Deployment) -> list[Finding]:
    """Return everything that is wrong with the secrets, their keys and their readers."""
    root = deployment.root
    return [
        Finding(str(path.relative_to(root)), field, fault, not isinstance(fault, Bearable))
        for path, field, fault in _found(deployment, SecretStore(deployment))
    ]


def value_faults(deployment: Deployment, secret: str, values: Mapping[str, str]) -> Faults:
    """Yield what of a secret's values its readers would not take.

    Args:
        deployment: whose settings hold the public halves.
        secret: its name.
        values: field -> value; one that is absent is checked with no other.
    """
    for field, value in values.items():
        of_field = FORMATS.get(field.removeprefix(PREVIOUS).removeprefix(NEXT))
        if of_field and not of_field.pattern.fullmatch(value):
            yield field, Bearable(f"has to be {of_field.described}")
    settings = deployment.settings()
    if secret == CLOUD_SSH and "private_key" in values:
        yield from _of_ssh_key(values["private_key"], str(settings.get("ssh_public_key", "")))
    elif secret == ACME_ACCOUNT and "private_key" in values:
        yield from _of_account_key(values["private_key"])
    elif secret == DEPLOYMENT_CA:
        yield from _of_authority_keys(values, _authorities(settings))
    elif "certificate" in values:
        yield from _of_certificate(values, _authorities(settings), public=secret == EDGE_TLS)


def _found(deployment: Deployment, store: SecretStore) -> Found:
    known = catalogue.fields(deployment)
    for field, fault in _of_authority(_authorities(deployment.settings())):
        yield deployment.settings_path, field, fault
    yield from _of_readers(deployment, store, known)
    readers, key_files = [], recipients.key_files(store)
    for name, path in key_files.items():
        try:
            reader = Recipient.read(name, path)
        except SecretsError as error:
            yield path, "", Bearable(f"is no public key: {error.what.removesuffix('.')}")
            continue
        readers.append(reader)
        if reader.key.fault:
            yield path, reader.key.fingerprint, Bearable(reader.key.fault)
        elif reader.key.expires_soon:
            yield path, reader.key.fingerprint, Bearable(f"expires on {reader.key.expires}")
    complete = readers if len(readers) == len(key_files) else []
    with ExitStack() as stack:
        home, decrypt = stack.enter_context(gpg_home()), None
        try:
            decrypt = stack.enter_context(store.decryption())
        except SecretsError:
            yield store.private_key, "", "is not on this machine, and no operator has a key"
        else:
            yield from _of_private_key(store, complete)
        tools, wanted = _Tools(home, complete, decrypt), store.wanted()
        for secret in store.names():
            for field, fault in _of_secret(deployment, secret, known.get(secret), tools):
                yield store.path(secret), field, fault if secret in wanted else Bearable(fault)


def _of_readers(deployment: Deployment, store: SecretStore, known: Collection[str]) -> Found:
    """Yield secrets that nobody reads, and readers of what is no secret."""
    wanted, present = store.wanted(), set(store.names())
    for secret in sorted(wanted - set(known)):
        yield deployment.root / TOP, f"secrets.{secret}", "is read, and is no secret"
    for secret in sorted(set(known) - present):
        fault = "does not exist"
        yield store.path(secret), "", fault if secret in wanted else Bearable(fault)
    # The key of the CA is used on the operator's side only.
    for secret in sorted(set(known) - wanted - {DEPLOYMENT_CA}):
        yield deployment.root / TOP, f"secrets.{secret}", Bearable("is read by nobody")
    for secret in sorted(present - set(known)):
        yield store.path(secret), "", Bearable("is no secret of the stack")


def _of_private_key(store: SecretStore, readers: Sequence[Recipient]) -> Found:
    """Yield a deployment's private key that is another one's."""
    if not store.private_key.is_file() or not readers:
        return
    public = readers[0].key.fingerprint
    if public not in (found := recipients.fingerprints(store.private_key)):
        other = next(iter(found), "of nobody")
        yield store.private_key, "", f"is the key {other}, and {store.public_key.name} is {public}"


def _of_secret(
    deployment: Deployment, secret: str, wanted: frozenset[str] | None, tools: _Tools
) -> Faults:
    """Yield what is wrong with a secret.

    Args:
        deployment: whose.
        secret: its name.
        wanted: its fields; None: it is no secret of the stack.
        tools: what opens it.
    """
    store, values = SecretStore(deployment), {}
    try:
        key, fields = store.held(secret)
        damaged = dict(store.faults(secret))
    except StackError as error:
        name = store.path(secret).relative_to(deployment.root)
        yield "", error.what.removeprefix(f"{name} ").removesuffix(".")
        return
    yield from damaged.items()
    if key != secret:
        yield "", f"names its secret {key}, and not {secret}"
    optional = {NEXT_KEY} if secret == DEPLOYMENT_CA else optional_fields(secret)
    for field in sorted((wanted or frozenset()) - fields.keys()):
        yield field, "is missing"
    for field, text in fields.items():
        if wanted and field not in wanted | optional:
            others = ", ".join(sorted(wanted))
            yield field, Bearable(f"is no field of {secret}: it has {others}")
        if field in damaged:
            continue
        try:
            ids = recipients.readers(tools.home, str(text))
            if tools.readers:
                for fault in recipients.faults(ids, tools.readers):
                    yield field, Bearable(fault)
            if tools.decrypt:
                values[field] = tools.decrypt(str(text))
        except SecretsError as error:
            yield field, f"cannot be decrypted: {error.what.rpartition(': ')[2].removesuffix('.')}"
    if wanted:
        yield from value_faults(deployment, secret, values)


def _authorities(settings: Mapping[str, Any]) -> list[x509.Certificate]:
    """Return the CAs of the settings; none for what is no certificate."""
    try:
        return certificates(str(settings.get(CA_SETTING, "")))
    except ValueError:
        return []


def _of_authority(authorities: Sequence[x509.Certificate]) -> Faults:
    if not authorities:
        yield AUTHORITY, "is no certificate"
    for authority in authorities:
        yield from ((AUTHORITY, fault) for fault in _of_end(authority))


def _of_end(certificate: x509.Certificate) -> Iterator[str]:
    end, now = certificate.not_valid_after_utc, dt.datetime.now(dt.UTC)
    if end < now:
        yield Bearable(f"is expired since {end.date()}")
    elif end < now + dt.timedelta(days=RENEW_DAYS):
        yield Bearable(f"expires on {end.date()}")


def _of_ssh_key(private_key: str, public_key: str) -> Faults:
    try:
        made = sshkey.public_key(private_key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        yield "private_key", NO_KEY
        return
    if made.split()[:2] != public_key.split()[:2]:
        yield "private_key", "is of another key than settings:ssh_public_key"


def _of_account_key(private_key: str) -> Faults:
    try:
        key = serialization.load_pem_private_key(private_key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        yield "private_key", NO_KEY
        return
    is_known = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
    if not is_known or not private_key.startswith("-----BEGIN EC PRIVATE KEY-----\n"):
        yield "private_key", "has to be a key of the curve P-256, as `openssl ec` writes it"


def _of_authority_keys(
    values: Mapping[str, str], authorities: Sequence[x509.Certificate]
) -> Faults:
    for field in values.keys() & {"private_key", NEXT_KEY}:
        try:
            if not any(map(partial(of_key, private_key_pem=values[field]), authorities)):
                yield field, f"is the key of no certificate in {AUTHORITY}"
        except ValueError:
            yield field, NO_KEY


def _of_certificate(
    values: Mapping[str, str], authorities: Sequence[x509.Certificate], *, public: bool
) -> Faults:
    """Yield what is wrong with a certificate and its key.

    Args:
        values: both, or the certificate alone.
        authorities: the deployment's.
        public: whether another CA may have signed it.
    """
    try:
        own = certificates(values["certificate"])[0]
    except (ValueError, IndexError):
        yield "certificate", "is no certificate in PEM"
        return
    yield from (("certificate", fault) for fault in _of_end(own))
    # Every CA of one deployment has the same name, also an earlier one.
    may_be_public = public and own.issuer not in [each.subject for each in authorities]
    if not may_be_public and not any(map(partial(signed_by, own), authorities)):
        yield "certificate", f"is signed by no CA in {AUTHORITY}"
    try:
        if "private_key" in values and not of_key(own, values["private_key"]):
            yield "private_key", "is not the key of the certificate"
    except ValueError:
        yield "private_key", NO_KEY
