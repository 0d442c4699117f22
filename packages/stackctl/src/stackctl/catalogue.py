"""Which secrets a deployment has, and how the fields of each are made."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stackctl import sshkey
from stackctl.certificates import Authority
from stackctl.deployment import Deployment
from stackctl.roles import EDGE_TLS, Role

ACME_ACCOUNT = "acme-account"
DEPLOYMENT_CA = "deployment-ca"
CLOUD_SSH = "cloud-ssh"
NEXT_KEY = "next_private_key"  # of `DEPLOYMENT_CA`: the key of the new CA, until that signs
Recipe = Callable[[], dict[str, str]]


@dataclass(frozen=True)
class Format:
    """What a field's readers take, also of a value that nobody here has made.

    Attributes:
        pattern: of the whole value.
        described: it, as the end of a sentence that begins with `it has to be`.
    """

    pattern: re.Pattern[str]
    described: str


# Shells, URLs and options read these characters literally, but for a dash at the beginning.
_TEXT = "[A-Za-z0-9][A-Za-z0-9._-]"
_SAID = "letters, digits, dots, dashes and underscores, the first a letter or digit"
_FERNET = "[A-Za-z0-9_-]{43}="
_ROLE = Format(
    re.compile("[a-z][a-z0-9_]{0,62}"),
    "lower-case letters, digits and underscores, the first a letter",
)
# Fields that are single values; keys and certificates are checked with each other.
FORMATS = {
    "user": _ROLE,
    "password": Format(re.compile(_TEXT + "{15,63}"), f"16 to 64 {_SAID}"),
    "fernet_key": Format(
        re.compile(f"{_FERNET}(,{_FERNET})*"),
        "32 bytes in URL-safe base64, or several such keys with commas between, the newest first",
    ),
    "secret_key": Format(re.compile(_TEXT + "{31,255}"), f"32 to 256 {_SAID}"),
    "jwt_secret": Format(re.compile(_TEXT + "{63,255}"), f"64 to 256 {_SAID}"),
}
MOST_VOTERS = 5
"""Machines of a role that votes: two may be lost, and more would only be slower to agree."""


def catalogue(deployment: Deployment, authority: Authority, base_url: str) -> Mapping[str, Recipe]:
    """Return secret -> function that makes its fields.

    Which minion reads which secret is written in pillar/base/top.sls, which roles have a
    certificate in pillar/base/roles.sls.

    Args:
        deployment: the map names the machines, whose names are in the certificates.
        authority: signs the certificates.
        base_url: the address that users type.
    """
    recipes: dict[str, Recipe] = {
        DEPLOYMENT_CA: lambda: authority.fields,
        ACME_ACCOUNT: lambda: {"private_key": _account_key()},
        "metrics-scrape": _password,
        "postgres-airflow": _password,
        "postgres-backup": _password,
        "postgres-owner": _password,
        "postgres-replication": _password,
        "redis-airflow": _password,
        "redis-check": _password,
        "redis-replication": _password,
        "redis-sentinel": _password,
        "airflow-keys": _airflow_keys,
        "airflow-admin": _password,
        CLOUD_SSH: lambda: {"private_key": sshkey.new_private_key()},
    }
    for role in deployment.role_table().roles.values():
        if role.certificate:
            names = _host_names(deployment, role)
            if role.certificate == EDGE_TLS:
                names += [urlsplit(base_url).hostname or "localhost", "localhost"]
            unique = list(dict.fromkeys(names))
            recipes[role.certificate] = partial(
                authority.server, role.name, unique, client=bool(role.members)
            )
        if role.client:
            recipes[role.client] = partial(authority.client, role.client_name)
        if role.receiver:
            name = f"{role.receiver.name}.{deployment.role_table().domain}"
            recipes[role.receiver.secret] = partial(authority.server, role.receiver.name, [name])
        if role.senders:
            recipes[role.senders.secret] = partial(authority.client, role.senders.name)
    return recipes


def fields(deployment: Deployment) -> dict[str, frozenset[str]]:
    """Return secret -> the names of its fields, as its recipe makes them."""
    recipes = catalogue(deployment, Authority.new(deployment.name), "")
    return {secret: frozenset(recipe()) for secret, recipe in recipes.items()}


def _host_names(deployment: Deployment, role: Role) -> list[str]:
    """Return the names by which other machines reach a role's service and its machines."""
    domain = deployment.role_table().domain
    # Also those that the map may get later: they serve with the certificate that there is.
    later = role.members or (MOST_VOTERS if role.votes else 0)
    ids = [f"{role.name}-{number}" for number in range(1, later + 1)] or deployment.machines_of(
        role.name
    )
    return [f"{role.service}.{domain}", *ids, *(f"{name}.{domain}" for name in ids)]


def _password() -> dict[str, str]:
    """Return 192 random bits in hexadecimal: shells, URLs and options read them literally."""
    return {"password": secrets.token_hex(24)}


def _account_key() -> str:
    """Return a key of the form that lego reads: no other curve, and not PKCS#8."""
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        .decode()
    )


def _airflow_keys() -> dict[str, str]:
    return {
        "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "secret_key": secrets.token_hex(24),
        "jwt_secret": secrets.token_hex(64),
    }
