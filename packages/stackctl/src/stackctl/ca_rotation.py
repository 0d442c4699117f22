"""Rotates the deployment's CA in three phases, so that no machine refuses another one meanwhile.

1. There is a new CA. Every machine trusts it beside the old one, which still signs.
2. The new CA has signed every certificate. The old one is still trusted.
3. The old CA is trusted no more.

`stackctl up` ends each phase. The next one begins only when every machine has loaded what the last
one has made: a service that does not know the new CA would refuse its certificates, and so would
one that knows no other refuse those of the old CA.

The phase is in the pillar, and git has each: `settings:ca_certificate` holds both CAs during a
rotation, and the secret `deployment-ca` the key of the new one until that signs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackctl import settings_file
from stackctl.account import enter
from stackctl.catalogue import DEPLOYMENT_CA, NEXT_KEY
from stackctl.certificates import Authority, certificates, fingerprint, made_at
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.initialise import CA_SETTING, initialise
from stackctl.machines import ec2_client, list_machines, require_master
from stackctl.run import Log
from stackctl.salt import ask_minions
from stackctl.secret_store import SecretStore
from stackctl.ssh import Shell

OVERDUE_DAYS = 7  # a rotation that is on for longer has been forgotten
ANSWER_SECONDS = 60
SILENT_SECONDS = 6
RUNBOOK = "docs/runbooks.md, 'Rotate the deployment's CA'"


@dataclass(frozen=True)
class Rotation:
    """A rotation that is on.

    Attributes:
        phase: the last one that has begun, 1 or 2.
        begun: when the new CA was made.
        next_step: what has to be run once `up` has ended the phase.
    """

    phase: int
    begun: dt.datetime
    next_step: str

    @property
    def overdue(self) -> bool:
        """Whether it has been on for too long."""
        return dt.datetime.now(dt.UTC) - self.begun > dt.timedelta(days=OVERDUE_DAYS)

    def __str__(self) -> str:
        return (
            f"the rotation of the deployment's CA is half done since"
            f" {self.begun.date().isoformat()}, in phase {self.phase} of 3; {self.next_step}"
        )


@dataclass(frozen=True)
class Trust:
    """What a machine says about the CAs and the certificate that it has.

    Attributes:
        authorities: file -> the fingerprints of the CAs in it.
        certificates: file -> the fingerprint of the certificate in it.
        not_loaded: unit -> which of these files it has not loaded as they are.
    """

    authorities: Mapping[str, Sequence[str]]
    certificates: Mapping[str, str]
    not_loaded: Mapping[str, Sequence[str]]


# Machine -> its trust, or why that is not known.
Answers = Mapping[str, Trust | str]


def current(deployment: Deployment) -> Rotation | None:
    """Return the rotation that is on; None: there is none. No key is needed for it.

    Raises:
        SecretsError: the settings hold more CAs than a rotation has.
    """
    text = str(deployment.settings().get(CA_SETTING, "")) if deployment.has_settings else ""
    if text.count("BEGIN CERTIFICATE") <= 1:
        return None
    trusted = certificates(text)
    if len(trusted) != len(("old", "new")):
        source = deployment.settings_path.relative_to(deployment.root)
        raise SecretsError(
            f"settings:{CA_SETTING} in {source} holds {len(trusted)} certificates; it has one, and"
            " two while the CA is rotated.",
            f"Bring back what git has: {RUNBOOK}.",
        )
    is_waiting = NEXT_KEY in SecretStore(deployment).ciphertexts(DEPLOYMENT_CA)
    return Rotation(1 if is_waiting else 2, max(map(made_at, trusted)), _next_step(deployment))


def _next_step(deployment: Deployment) -> str:
    again = deployment.command(f"secrets rotate {DEPLOYMENT_CA}")
    return f"after {deployment.command('up')}, run: {again}"


def rotate(deployment: Deployment, base_url: str, log: Log) -> list[str]:
    """Begin the next phase of a rotation, or a rotation; see `advance`.

    Raises:
        SecretsError: the last phase has not reached every machine.
        StackError: the machines cannot be asked.
    """
    answers = ask(deployment, log) if current(deployment) else {}
    return advance(deployment, base_url, answers)


def advance(deployment: Deployment, base_url: str, answers: Answers) -> list[str]:
    """Begin the next phase, and return what was made, as sentences.

    Args:
        deployment: whose CA to rotate.
        base_url: the address that users type.
        answers: what each machine of the deployment says; see `ask`.

    Raises:
        SecretsError: the last phase has not reached every machine.
    """
    store, rotation = SecretStore(deployment), current(deployment)
    if rotation is None:
        return _trust_new(deployment, store)
    if rotation.phase > 1 and _unsigned(deployment, store):  # it was interrupted
        return _sign(deployment, base_url)
    if reasons := _lacking(deployment, store, rotation.phase, answers):
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise SecretsError(
            f"Phase {rotation.phase} of the rotation has not reached every machine:"
            f" {reasons[0]}{more}.",
            f"Run: {deployment.command('up')}; then this again.",
        )
    if rotation.phase == 1:
        authority = _signer(deployment, store, NEXT_KEY)
        store.write(DEPLOYMENT_CA, authority.fields)
        return _sign(deployment, base_url)
    authority = _signer(deployment, store)
    settings_file.write(deployment.settings_path, CA_SETTING, authority.certificate_pem)
    return [
        "Phase 3 of 3: the old CA is trusted no more.",
        f"Made: settings. {_then(deployment, ends=True)}",
    ]


def _trust_new(deployment: Deployment, store: SecretStore) -> list[str]:
    """Make a new CA, and have it trusted beside the old one.

    The settings come last: as long as they do not name the new CA, nobody trusts it.
    """
    old, new = _signer(deployment, store), Authority.new(deployment.name)
    store.write(DEPLOYMENT_CA, old.fields | {NEXT_KEY: new.fields["private_key"]})
    both = old.certificate_pem + new.certificate_pem
    settings_file.write(deployment.settings_path, CA_SETTING, both)
    return [
        "Phase 1 of 3: there is a new CA, trusted beside the old one, which still signs.",
        f"Made: {DEPLOYMENT_CA}, settings. {_then(deployment)}",
        "Give the new CA to whoever trusts the old one, such as browsers, before phase 2.",
    ]


def _sign(deployment: Deployment, base_url: str) -> list[str]:
    """Have the new CA, which is the one of the secret now, sign what it has not signed yet."""
    made = initialise(deployment, base_url)
    return [
        "Phase 2 of 3: the new CA has signed every certificate. The old one is still trusted.",
        f"Made: {', '.join(dict.fromkeys([DEPLOYMENT_CA, *made]))}. {_then(deployment)}",
    ]


def _then(deployment: Deployment, *, ends: bool = False) -> str:
    commit = "" if deployment.is_local else f"commit pillar/{deployment.name}; then "
    step = f"run: {deployment.command('up')}; it ends the rotation"
    text = f"{commit}{step if ends else _next_step(deployment)}"
    return f"{text[0].upper()}{text[1:]}."


def _signer(deployment: Deployment, store: SecretStore, field: str = "private_key") -> Authority:
    """Return the authority whose key is in a field of the secret.

    Raises:
        SecretsError: the settings do not have its certificate.
    """
    trusted = str(deployment.settings().get(CA_SETTING, ""))
    authority = Authority.load(trusted, store.read(DEPLOYMENT_CA)[field])
    if authority is None:
        raise SecretsError(
            f"settings:{CA_SETTING} has no certificate of the key in the secret '{DEPLOYMENT_CA}'.",
            f"Bring back what git has of pillar/{deployment.name}.",
        )
    return authority


def _unsigned(deployment: Deployment, store: SecretStore) -> list[str]:
    """Return the secrets whose certificate an earlier CA of the deployment has signed."""
    authority = _signer(deployment, store)
    return [
        secret
        for secret, certificate in _certificates(deployment, store).items()
        if authority.issued(certificate) and not authority.signed(certificate)
    ]


def _certificates(deployment: Deployment, store: SecretStore) -> dict[str, str]:
    """Return secret -> certificate."""
    secrets = sorted(deployment.role_table().leaves)
    return {secret: store.read(secret)["certificate"] for secret in secrets}


def _lacking(deployment: Deployment, store: SecretStore, phase: int, answers: Answers) -> list[str]:
    """Return why a phase is not applied, a reason for each machine and file."""
    trusted = certificates(str(deployment.settings()[CA_SETTING]))
    wanted = {fingerprint(each) for each in trusted}
    signed = {
        secret: fingerprint(certificates(certificate)[0])
        for secret, certificate in _certificates(deployment, store).items()
    }
    table, reasons = deployment.role_table(), []
    for name, trust in answers.items():
        role = table.of(name)
        if isinstance(trust, str):
            reasons.append(f"{name} {trust}")
            continue
        if role is None or not role.serves(name):
            continue
        reasons += [
            f"{path} of {name} does not hold the CAs of the settings"
            for path in table.trusts_of(name, answers)
            if set(trust.authorities.get(path, ())) != wanted
        ]
        if phase > 1:
            reasons += [
                f"{path} of {name} is not the certificate of the secret {secret}"
                for secret, paths in table.leaves_of(name, answers).items()
                for path in paths
                if trust.certificates.get(path) != signed[secret]
            ]
        reasons += [
            f"{unit} on {name} has not loaded {', '.join(paths)}"
            for unit, paths in trust.not_loaded.items()
        ]
    return reasons


def ask(deployment: Deployment, log: Log) -> Answers:
    """Return what each machine that exists says; nothing when there is none.

    Raises:
        StackError: the account or the Salt master does not answer.
    """
    with enter(deployment):
        client = ec2_client(deployment)
        machines = list_machines(client, deployment)
        if not machines:
            return {}
        master = require_master(deployment, machines)
        with Shell(deployment, client, log) as shell:
            shell.trust(master)
            question = ["list", ",".join(machines), "trust.told"]
            found = ask_minions(shell, master, question, ANSWER_SECONDS, silent=SILENT_SECONDS)
    return {
        name: _read(found.get(name)) if machine.state == "running" else f"is {machine.state}"
        for name, machine in machines.items()
    }


def _read(answer: Any) -> Trust | str:
    """Return the trust in a minion's answer, or what it says in place of one."""
    if answer is None:
        return "does not answer"
    if not isinstance(answer, Mapping):  # such as a module that has not been synced yet
        return f"answers: {' '.join(str(answer).split())}"
    return Trust(answer["authorities"], answer["certificates"], answer["not_loaded"])
