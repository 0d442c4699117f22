"""Rotates secrets while two values of each are taken, so that no client is refused meanwhile.

A new value takes the place of the old one, which stays beside it in a field `previous_…`. `up`
changes the stores before their clients: a store takes both values, and a client has one of them.
`go_on` removes the old one once everybody has the new one.

- Redis has two passwords of one user.
- A role of PostgreSQL has one password, so two roles with the same privileges take turns.
- Airflow decrypts with both Fernet keys, and `up` has it encrypt anew with the new one.

The machines of a store are clients of each other, and change one after the other. So their secrets
begin with a field `next_…`, which is taken and which nobody uses yet; `go_on` has it used.

The phase is in the pillar, and git has each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stackctl import tree
from stackctl.account import enter
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError, StackError
from stackctl.machines import ec2_client, list_machines, require_master
from stackctl.run import Log
from stackctl.secret_store import SecretStore
from stackctl.ssh import Shell

AIRFLOW_KEYS = "airflow-keys"
PREVIOUS, NEXT = "previous_", "next_"
# Secret -> its fields of which two values are taken.
OVERLAPPING: Mapping[str, Collection[str]] = {
    AIRFLOW_KEYS: ("fernet_key",),
    "postgres-airflow": ("user", "password"),
    "postgres-replication": ("user", "password"),
    "redis-airflow": ("password",),
    "redis-check": ("password",),
    "redis-replication": ("password",),
    "redis-sentinel": ("password",),
}
STAGED = ("postgres-replication", "redis-replication", "redis-sentinel")
# Secret -> the keys of pillar `postgres` with the two roles that take turns in its field `user`.
# Without that field, the first one has the password.
TURNS = {
    "postgres-airflow": ("role", "other_role"),
    "postgres-replication": ("replication", "other_replication"),
}


def optional_fields(secret: str) -> set[str]:
    """Return the fields that a secret has only while, or since, it was rotated."""
    fields = OVERLAPPING.get(secret, ())
    kinds = (PREVIOUS, NEXT) if secret in STAGED else (PREVIOUS,)
    more = {"user"} if secret in TURNS else set()
    return {f"{kind}{field}" for kind in kinds for field in fields} | more


def begin(
    deployment: Deployment, secret: str, made: Mapping[str, str], old: Mapping[str, str]
) -> dict[str, str]:
    """Return the fields of a secret with which its rotation begins.

    Args:
        deployment: whose.
        secret: its name.
        made: its fields, made anew.
        old: its present fields.

    Raises:
        SecretsError: its last rotation is not finished.
    """
    if _is_on(old):
        raise SecretsError(
            f"The last rotation of {secret} is not finished.",
            f"To finish it, {_next_step(deployment)}. If others know a value of it: --at-once.",
        )
    fields = OVERLAPPING[secret]
    present, new = _with_role(deployment, secret, old, made)
    if secret in STAGED:
        return {**old} | _marked(NEXT, new, fields)
    return new | _marked(PREVIOUS, present, fields)


def continued(deployment: Deployment, secret: str, old: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a secret when every machine has the present ones."""
    if not any(field.startswith(NEXT) for field in old):
        return {name: value for name, value in old.items() if not name.startswith(PREVIOUS)}
    fields = OVERLAPPING[secret]
    present, _ = _with_role(deployment, secret, old, {})
    new = {field: old[f"{NEXT}{field}"] for field in fields}
    return new | _marked(PREVIOUS, present, fields)


def _marked(prefix: str, values: Mapping[str, str], fields: Collection[str]) -> dict[str, str]:
    """Return the fields under their names for one of the two values."""
    return {f"{prefix}{field}": values[field] for field in fields}


def _is_on(fields: Collection[str]) -> bool:
    """Return whether two values are taken of a secret with these fields."""
    return any(field.startswith((PREVIOUS, NEXT)) for field in fields)


def _with_role(
    deployment: Deployment, secret: str, old: Mapping[str, str], made: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the present and the new fields, with the role whose turn it is."""
    if secret not in TURNS:
        return dict(old), dict(made)
    roles = deployment.base_pillar("postgres")
    first, second = (str(roles[key]) for key in TURNS[secret])
    user = old.get("user", first)
    return {**old, "user": user}, {**made, "user": second if user == first else first}


def at_once(
    deployment: Deployment, secret: str, made: Mapping[str, str], old: Mapping[str, str]
) -> dict[str, str]:
    """Return the fields of a secret whose old values nothing takes any more after `up`.

    What Airflow has encrypted is still decrypted.
    """
    if secret == AIRFLOW_KEYS:
        return begin(deployment, secret, made, continued(deployment, secret, old))
    return {**made, **{name: value for name, value in old.items() if name == "user"}}


@dataclass(frozen=True)
class Overlap:
    """A rotation that is not finished.

    Attributes:
        secrets: the secrets.
        next_step: what to do.
    """

    secrets: Collection[str]
    next_step: str

    def __str__(self) -> str:
        names = ", ".join(self.secrets)
        return f"two values are taken of {names}: {self.next_step}"


def current(deployment: Deployment) -> Overlap | None:
    """Return the rotation that is not finished; None: there is none. No key is needed for it."""
    store = SecretStore(deployment)
    names = [name for name in store.names() if name in OVERLAPPING and _has_two(store, name)]
    return Overlap(names, _next_step(deployment)) if names else None


def _has_two(store: SecretStore, secret: str) -> bool:
    try:
        fields = store.ciphertexts(secret)
    except StackError:  # the check of the secrets tells what is wrong with the file
        return False
    return _is_on(fields)


def _next_step(deployment: Deployment) -> str:
    again = deployment.command("secrets continue")
    return f"after {deployment.command('up')}, run: {again}"


def require_applied(deployment: Deployment, log: Log) -> None:
    """Raise SecretsError unless every machine has the present secrets, or there is no machine.

    Raises:
        SecretsError: `up` has not brought them, or not to the end.
        StackError: the master cannot be asked.
    """
    with enter(deployment):
        client = ec2_client(deployment)
        found = list_machines(client, deployment)
        if not found:
            return
        master = require_master(deployment, found)
        with Shell(deployment, client, log) as shell:
            shell.trust(master)
            applied = tree.read_converged(shell, master)
    digest = hashlib.sha256(tree.pillar_archive(deployment)).hexdigest()
    if applied[1:] != [digest]:
        raise SecretsError(
            "Not every machine has the present secrets.",
            f"Run: {deployment.command('up')}; then this again.",
        )


def go_on(deployment: Deployment, secrets: Collection[str] = ()) -> list[str]:
    """Go on with rotations, and return what was done, as sentences.

    Args:
        deployment: whose secrets.
        secrets: which; all when there are none.

    Raises:
        SecretsError: no rotation of one of them is on.
    """
    store, rotation = SecretStore(deployment), current(deployment)
    on = [*rotation.secrets] if rotation else []
    if lacking := [name for name in secrets if name not in on]:
        raise SecretsError(
            f"No rotation of {lacking[0]} is on.",
            f"On are: {', '.join(on)}." if on else "Nothing is to be done.",
        )
    told = []
    for name in on:
        if secrets and name not in secrets:
            continue
        old = store.read(name)
        new = continued(deployment, name, old)
        store.write(name, new)
        ended = not any(field.startswith(PREVIOUS) for field in new)
        told.append(
            f"{name}: the old value is taken no more."
            if ended
            else f"{name}: the new value is used; the old one is still taken."
        )
    return told
