"""Makes what a deployment lacks: its GPG key, its settings and its secrets."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from stackctl import password_rotation, recipients, sshkey
from stackctl.catalogue import CLOUD_SSH, DEPLOYMENT_CA, Recipe, catalogue
from stackctl.certificates import Authority, certificates
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.files import write_atomically
from stackctl.roles import EDGE_TLS
from stackctl.secret_store import SecretStore

CA_SETTING = "ca_certificate"
SETTINGS_HEADER = (
    "# What is particular to this deployment and not secret;"
    " made by `stackctl secrets init`, then yours.\n"
)
# Secret -> why it is not made anew, and what to do.
LASTING = {
    "postgres-backup": (
        "The secret postgres-backup stays: it opens the backups that exist.",
        "If somebody else knows it, see docs/runbooks.md, 'The key of the backups is known'.",
    )
}


def initialise(
    deployment: Deployment,
    base_url: str,
    rotate: frozenset[str] = frozenset(),
    aws_account: str | None = None,
    *,
    answers: Mapping[str, Any] | None = None,
    at_once: bool = False,
) -> list[str]:
    """Make the key, the settings and every secret that is missing; return what was made.

    Args:
        deployment: whose pillar to fill.
        base_url: the address that users type; the edge's certificate names its host.
        rotate: secrets to make anew although they exist.
        aws_account: the number of the deployment's AWS account; None: as the settings have it.
        answers: further settings that the operator has decided; see `new_deployment`.
        at_once: rotate without a time in which the old values are taken, too; see
            `stackctl.password_rotation`.

    Raises:
        SecretsError: a secret to rotate does not exist or has to stay, its last rotation is not
            finished, or GPG fails.

    The CA itself is rotated in phases: `stackctl.ca_rotation`.
    """
    store = SecretStore(deployment)
    settings = deployment.settings() if deployment.has_settings else {}
    kept = set(store.names()) - rotate
    trusted = str(settings.get(CA_SETTING, ""))
    authority = _authority(store, trusted) if DEPLOYMENT_CA in kept else None
    if authority is None:
        authority = Authority.new(deployment.name)
        trusted = authority.certificate_pem
        kept -= _issued(deployment, store, authority) | {DEPLOYMENT_CA}
    elif len(certificates(trusted)) > 1:
        kept -= _issued(deployment, store, authority)
    recipes = catalogue(deployment, authority, base_url)
    if unknown := rotate - recipes.keys():
        raise SecretsError(
            f"There is no secret '{min(unknown)}'.", f"There are: {', '.join(sorted(recipes))}."
        )
    if lasting := sorted(rotate & LASTING.keys()):
        raise SecretsError(*LASTING[lasting[0]])
    if DEPLOYMENT_CA in rotate:
        raise SecretsError(
            f"The secret {DEPLOYMENT_CA} is rotated in phases, and by itself.",
            f"Run: stackctl secrets rotate {DEPLOYMENT_CA}",
        )
    rotated = _rotated(deployment, store, rotate & set(store.names()), recipes, at_once=at_once)
    made = [f"the pillar key of {secret}" for secret in store.rename_keys()]
    if store.create_key():
        made.append("the GPG key")
    for secret, recipe in recipes.items():
        if secret not in kept:
            store.write(secret, rotated.get(secret) or recipe())
            made.append(secret)
    derived = {
        CA_SETTING: trusted,
        "ssh_public_key": sshkey.public_key(store.read(CLOUD_SSH)["private_key"]),
    }
    if store.operator_keys():
        again = recipients.encrypt_again(deployment)
        made += [f"{secret} for its operators" for secret in again if secret not in made]
    chosen = {"aws_account": aws_account} if aws_account else {}
    chosen |= answers or {}
    wanted = (settings or _first_settings(deployment, base_url)) | chosen | derived
    if wanted != settings:
        text = yaml.safe_dump({"settings": wanted}, sort_keys=False)
        write_atomically(deployment.settings_path, SETTINGS_HEADER + text)
        made.append("settings")
    return made


def rotatable(deployment: Deployment) -> frozenset[str]:
    """Return the deployment's secrets that can be rotated together."""
    return frozenset(SecretStore(deployment).names()) - LASTING.keys() - {DEPLOYMENT_CA}


def _rotated(
    deployment: Deployment,
    store: SecretStore,
    secrets: Collection[str],
    recipes: Mapping[str, Recipe],
    *,
    at_once: bool,
) -> dict[str, dict[str, str]]:
    """Return the fields of secrets of which two values can be taken, before any is written."""
    merge = password_rotation.at_once if at_once else password_rotation.begin
    return {
        secret: merge(deployment, secret, recipes[secret](), store.read(secret))
        for secret in sorted(password_rotation.OVERLAPPING.keys() & secrets)
    }


def _authority(store: SecretStore, trusted: str) -> Authority | None:
    """Return the authority that signs, of those that the settings hold; None: its key is another's.

    Earlier releases rotated the CA at once, and left a new key and the old certificate when they
    were interrupted.
    """
    return Authority.load(trusted, store.read(DEPLOYMENT_CA)["private_key"])


def _issued(deployment: Deployment, store: SecretStore, authority: Authority) -> set[str]:
    """Return the certificates that an authority has to sign, and has not signed yet.

    The edge's certificate may come from a public CA; then it stays.
    """
    found = set()
    for secret in deployment.role_table().leaves:
        if secret in store.names():
            certificate = store.read(secret)["certificate"]
            if authority.signed(certificate):
                continue
            if secret == EDGE_TLS and not authority.issued(certificate):
                continue
        found.add(secret)
    return found


def _first_settings(deployment: Deployment, base_url: str) -> dict[str, Any]:
    return {
        "deployment": deployment.name,
        "base_url": base_url,
        "load_examples": True,
        "operator_cidrs": _operator_cidrs(deployment),
    }


def _operator_cidrs(deployment: Deployment) -> list[str]:
    """Return the networks that reach the master by SSH: for `local` this host, the subnet's router.

    For a real account the operator writes them into settings.sls.
    """
    if not deployment.is_local:
        return []
    subnet = deployment.base_pillar("aws")["subnet"]["cidr"]
    return [f"{next(ipaddress.ip_network(subnet).hosts())}/32"]
