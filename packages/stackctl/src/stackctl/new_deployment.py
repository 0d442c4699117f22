"""`stackctl init`: the files of a new deployment in an AWS account, from a few answers.

It makes what is missing, and never replaces an answer that the settings hold already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from stackctl import edge_address, initialise, operators, preflight, recipients, settings
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError, StackError
from stackctl.secret_store import SecretStore
from stackctl.tree_modules import load

ACCOUNT = re.compile(r"[0-9]{12}")
Ask = Callable[[str, str], str]
"""Asks a question, with the answer that an empty line gives; raises StackError without a person."""


@dataclass(frozen=True)
class Answers:
    """What an operator decides about a new deployment; what is empty was not said.

    Attributes:
        account: the number of the AWS account.
        base_url: the address that users type; empty: that of an Elastic IP.
        operator_cidrs: the networks that operators come from.
        budget: USD a month.
        operator_keys: files with the public keys of operators.
    """

    account: str = ""
    base_url: str = ""
    operator_cidrs: Sequence[str] = ()
    budget: float | None = None
    operator_keys: Sequence[Path] = field(default_factory=tuple)

    def decided(self) -> dict[str, Any]:
        """Return the settings that were said."""
        given = {
            "aws_account": self.account,
            "base_url": self.base_url,
            "operator_cidrs": list(self.operator_cidrs),
            "budget": self.budget,
        }
        return {key: value for key, value in given.items() if value}


def complete(deployment: Deployment, answers: Answers, ask: Ask) -> Answers:
    """Return the answers with those of the settings, and of questions for what is still open.

    Raises:
        StackError: an answer cannot be, differs from the settings, or is missing and nobody can be
            asked.
    """
    if deployment.is_local:
        raise StackError(
            f"'{deployment.name}' is this machine's own deployment.",
            "`stackctl up` makes it. Give a name for one in an AWS account, such as prod.",
        )
    settings.check_name(deployment)
    present = deployment.settings() if deployment.has_settings else {}
    for key, value in answers.decided().items():
        if key in present and present[key] not in (value, []):
            path = deployment.settings_path.relative_to(deployment.root)
            raise StackError(
                f"settings:{key} in {path} is {present[key]!r} already, and not {value!r}:"
                " nothing was changed.",
                "init replaces nothing. Change that file if it is wrong: docs/runbooks.md.",
            )
    account = answers.account or str(present.get("aws_account") or "")
    account = account or ask("The AWS account's number", "")
    if not ACCOUNT.fullmatch(account):
        raise StackError(f"'{account}' is no AWS account: it has 12 digits.")
    cidrs = list(answers.operator_cidrs) or list(present.get("operator_cidrs") or [])
    if not cidrs:
        own = operators.own_address()
        line = ask("The networks that operators come from, with spaces", f"{own}/32" if own else "")
        cidrs = line.replace(",", " ").split()
    try:
        cidrs = load(deployment, "operators").networks(cidrs)
    except CommandExecutionError as error:
        raise StackError(f"{error}.") from None
    if not cidrs:
        raise StackError("Nobody could log in without a network that operators come from.")
    if answers.base_url:
        settings.check_site(answers.base_url)
    for file in answers.operator_keys:
        recipients.look(file)
    url = answers.base_url or str(present.get("base_url") or "")
    budget = answers.budget if answers.budget is not None else present.get("budget")
    return Answers(account, url, cidrs, budget, answers.operator_keys)


def plan(deployment: Deployment, answers: Answers) -> list[str]:
    """Return what `make` would make, a line each; changes nothing.

    Args:
        deployment: the new one.
        answers: complete.
    """
    path = deployment.pillar_dir.relative_to(deployment.root)
    store = SecretStore(deployment)
    lines = []
    if not answers.base_url:
        name = deployment.in_account(deployment.base_pillar("aws")["edge_address"]["name"])
        lines.append(
            f"find or allocate the Elastic IP {name} in the account {answers.account}:"
            f" {edge_address.price()} USD an hour"
        )
    if not store.public_key.is_file():
        lines.append(
            f"make the key pair {store.public_key.relative_to(deployment.root)} and"
            f" {store.private_key.relative_to(deployment.root)}"
        )
    lines += [f"make the secret {secret}" for secret in store.missing()]
    shared = {path.stem for path in store.operator_keys()}
    lines += [
        f"encrypt every secret to {key}" for key in answers.operator_keys if key.stem not in shared
    ]
    if not deployment.has_settings:
        said = ", ".join(f"{key}: {value}" for key, value in answers.decided().items())
        lines.append(f"write {path}/settings.sls with {said}")
    return lines


@dataclass(frozen=True)
class Made:
    """What `make` has made.

    Attributes:
        things: keys, secrets and settings.
        url: the address that users type.
        address: a sentence about the Elastic IP; empty: the site has a name of its own.
    """

    things: Sequence[str]
    url: str
    address: str


def make(deployment: Deployment, answers: Answers) -> Made:
    """Make what is missing, and return what was made.

    Args:
        deployment: the new one.
        answers: complete.

    Raises:
        PreflightError: the credentials are another account's; nothing was made.
        SecretsError: see `initialise.initialise`.
    """
    store = SecretStore(deployment)
    if store.public_key.is_file() and not store.private_key.is_file():
        raise SecretsError(
            f"{deployment.name} exists, and its private key {store.private_key} is not on this"
            " machine.",
            "Copy it here from where the deployment keeps it; init makes no second one.",
        )
    url, address = answers.base_url, ""
    if url:
        preflight.check_credentials(deployment, answers.account, "--account")
    else:
        found = edge_address.ensure(deployment, answers.account)
        url, address = found.base_url, str(found)
    decided = {key: value for key, value in answers.decided().items() if key != "base_url"}
    made = initialise.initialise(deployment, url, answers=decided)
    for key in answers.operator_keys:
        _, changed = recipients.share(deployment, key, key.stem.lower())
        made += [f"{secret} for {key.stem.lower()}" for secret in changed]
    settings.check(deployment, complete=True)
    return Made(made, url, address)
