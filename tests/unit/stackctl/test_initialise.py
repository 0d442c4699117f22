"""Secrets are made once, as ciphertext, and the deployment's authority signs certificates."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from stackctl.catalogue import catalogue
from stackctl.certificates import CERTIFICATE_DAYS, Authority, certificates, signed_by
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.initialise import initialise, rotatable
from stackctl.secret_store import SecretStore

pytestmark = pytest.mark.skipif(
    shutil.which("gpg") is None, reason="gpg is not installed: it makes the ciphertext"
)

ROOT = Path(__file__).parents[3]
URL = "https://127.0.0.1:8443"
CIPHERTEXT = re.compile(r"-----BEGIN PGP MESSAGE-----\n.+\n-----END PGP MESSAGE-----\n", re.DOTALL)
# The table of secrets and fields that the states read.
FIELDS = {
    "acme-account": {"private_key"},
    "airflow-admin": {"password"},
    "airflow-keys": {"fernet_key", "secret_key", "jwt_secret"},
    "cloud-ssh": {"private_key"},
    "deployment-ca": {"private_key"},
    "edge-client-tls": {"private_key", "certificate"},
    "edge-tls": {"private_key", "certificate"},
    "metrics-scrape": {"password"},
    "logs-client-tls": {"private_key", "certificate"},
    "logs-tls": {"private_key", "certificate"},
    "metrics-tls": {"private_key", "certificate"},
    "postgres-airflow": {"password"},
    "postgres-backup": {"password"},
    "postgres-cluster-tls": {"private_key", "certificate"},
    "postgres-owner": {"password"},
    "postgres-replication": {"password"},
    "redis-airflow": {"password"},
    "redis-check": {"password"},
    "redis-replication": {"password"},
    "redis-sentinel": {"password"},
    "redis-tls": {"private_key", "certificate"},
    "web-tls": {"private_key", "certificate"},
}

WEB = [f"web-{number}{domain}" for number in (1, 2) for domain in ("", ".stack.internal")]
# The machines that there may be, so that another one needs no new certificate.
DATABASE_SERVERS, REDIS_SERVERS = (
    [f"{role}-{number}{domain}" for number in range(1, 6) for domain in ("", ".stack.internal")]
    for role in ("postgres", "redis")
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployment, list[str]]:
    """A deployment after its first initialisation, and what that made; only to be looked at."""
    root = tmp_path_factory.mktemp("checkout")
    for part in ("cloud.maps.d", "pillar/base"):
        shutil.copytree(ROOT / part, root / part)
    deployment = Deployment("local", root)
    return deployment, initialise(deployment, URL)


@pytest.fixture(scope="module")
def made(first: tuple[Deployment, list[str]]) -> Deployment:
    """The initialised deployment; only to be looked at."""
    return first[0]


@pytest.fixture(scope="module")
def opened(made: Deployment) -> dict[str, dict[str, str]]:
    """All its secrets, decrypted."""
    store = SecretStore(made)
    return {secret: store.read(secret) for secret in store.names()}


def files(deployment: Deployment) -> dict[str, str]:
    """Return every file of the deployment's pillar with its content."""
    folder = deployment.pillar_dir
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def changed(before: Mapping[str, str], deployment: Deployment) -> set[str]:
    """Return the names of the files that differ."""
    after = files(deployment)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def verify(fields: Mapping[str, str], authority: str, name: str) -> None:
    """Raise VerificationError unless clients of the authority accept the certificate for a name."""
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        subject = x509.DNSName(name)
    store = Store([x509.load_pem_x509_certificate(authority.encode())])
    verifier = PolicyBuilder().store(store).build_server_verifier(subject)  # type: ignore[arg-type]
    verifier.verify(x509.load_pem_x509_certificate(fields["certificate"].encode()), [])


# -- initialise ------------------------------------------------------------------------------------


def test_first_run_makes_everything(first: tuple[Deployment, list[str]]) -> None:
    deployment, made = first
    assert set(made) == {"the GPG key", "settings", *FIELDS}
    assert SecretStore(deployment).names() == sorted(FIELDS)


def test_second_run_makes_nothing(mine: Deployment) -> None:
    before = files(mine)
    assert initialise(mine, URL) == []
    assert changed(before, mine) == set()


def test_only_missing_secret_is_made(mine: Deployment) -> None:
    before = files(mine)
    (mine.pillar_dir / "secrets" / "redis-airflow.sls").unlink()
    assert initialise(mine, URL) == ["redis-airflow"]
    assert changed(before, mine) == {"secrets/redis-airflow.sls"}


def test_old_pillar_key_is_renamed(mine: Deployment) -> None:
    path = mine.pillar_dir / "secrets" / "redis-airflow.sls"
    text = path.read_text()
    path.write_text(text.replace("  redis-airflow:", "  redis_airflow:"))
    assert initialise(mine, URL) == ["the pillar key of redis-airflow"]
    assert path.read_text() == text


def test_edited_settings_are_kept(mine: Deployment) -> None:
    path = mine.pillar_dir / "settings.sls"
    text = path.read_text().replace("load_examples: true", "load_examples: false # we have our own")
    path.write_text(text)
    assert initialise(mine, URL) == []
    assert path.read_text() == text


def test_settings(made: Deployment) -> None:
    settings = made.settings()
    assert settings["deployment"] == "local"
    assert settings["base_url"] == URL
    # The subnet's first address: Docker's bridge, behind which this host is.
    assert settings["operator_cidrs"] == ["10.20.1.1/32"]
    assert settings["load_examples"] is True
    assert settings["ssh_public_key"].startswith("ssh-ed25519 ")


def test_settings_of_real_deployment(tmp_path: Path, made: Deployment) -> None:
    for part in ("cloud.maps.d", "pillar/base"):
        shutil.copytree(made.root / part, tmp_path / part)
    prod = Deployment("prod", tmp_path)
    initialise(prod, "https://airflow.example.org")
    assert prod.settings()["operator_cidrs"] == []
    # A site without examples shows an empty list; README.md says where to turn them off.
    assert prod.settings()["load_examples"] is True
    assert "aws_account" not in prod.settings()
    number = "012345670123"  # unquoted, YAML would read it as an octal number
    assert initialise(prod, "https://airflow.example.org", aws_account=number) == ["settings"]
    assert prod.settings()["aws_account"] == number
    assert initialise(prod, "https://airflow.example.org") == []
    assert prod.settings()["aws_account"] == number
    verify(
        SecretStore(prod).read("edge-tls"), prod.settings()["ca_certificate"], "airflow.example.org"
    )


# -- ciphertext ------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", FIELDS)
def test_every_field_is_ciphertext_that_private_key_decrypts(
    made: Deployment, opened: dict[str, dict[str, str]], secret: str
) -> None:
    text = (made.pillar_dir / "secrets" / f"{secret}.sls").read_text()
    assert text.startswith("#!yaml|gpg\n")
    data: dict[str, Any] = yaml.safe_load(text)
    assert list(data) == ["secrets"]
    assert list(data["secrets"]) == [secret]
    fields = data["secrets"][secret]
    assert set(fields) == FIELDS[secret] == set(opened[secret])
    for field, ciphertext in fields.items():
        assert CIPHERTEXT.fullmatch(ciphertext)
        assert opened[secret][field]


def test_secrets_have_the_format_of_their_readers(opened: dict[str, dict[str, str]]) -> None:
    Fernet(opened["airflow-keys"]["fernet_key"])
    passwords = [
        opened[secret]["password"]
        for secret in ("airflow-admin", "postgres-airflow", "redis-airflow")
    ]
    assert len(set(passwords)) == 3
    for password in passwords:
        assert re.fullmatch(r"[0-9a-f]{48}", password), (
            "a leading dash would be an option to whatever command it is given"
        )
    serialization.load_ssh_private_key(opened["cloud-ssh"]["private_key"].encode(), None)


def test_ssh_public_key_of_settings_matches_secret(
    made: Deployment, opened: dict[str, dict[str, str]]
) -> None:
    key = serialization.load_ssh_private_key(opened["cloud-ssh"]["private_key"].encode(), None)
    public = serialization.load_ssh_public_key(made.settings()["ssh_public_key"].encode())
    assert key.public_key() == public


def test_key_of_another_deployment_decrypts_nothing(mine: Deployment, tmp_path: Path) -> None:
    other = Deployment("other", mine.root)
    SecretStore(other).create_key()
    shutil.copy(SecretStore(other).private_key, SecretStore(mine).private_key)
    with pytest.raises(SecretsError, match=r"gpg --decrypt failed: .*[Nn]o secret key"):
        SecretStore(mine).read("airflow-admin")


def test_private_key_is_readable_by_owner_only(made: Deployment) -> None:
    path = SecretStore(made).private_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((made.pillar_dir / "secrets").stat().st_mode) == 0o700
    assert path.is_relative_to(made.root / ".stack")


# -- certificates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "names"),
    [
        ("postgres-cluster-tls", ["postgres.stack.internal", *DATABASE_SERVERS]),
        ("redis-tls", ["redis.stack.internal", *REDIS_SERVERS]),
        ("web-tls", ["web.stack.internal", *WEB]),
        (
            "edge-tls",
            ["lb.stack.internal", "lb-1", "lb-1.stack.internal", "127.0.0.1", "localhost"],
        ),
    ],
)
def test_certificate_has_its_names_and_is_signed_by_authority(
    made: Deployment, opened: dict[str, dict[str, str]], secret: str, names: list[str]
) -> None:
    authority = made.settings()["ca_certificate"]
    for name in names:
        verify(opened[secret], authority, name)
    with pytest.raises(VerificationError):
        verify(opened[secret], authority, "monitor-1")
    certificate = x509.load_pem_x509_certificate(opened[secret]["certificate"].encode())
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(alternative.value) for alternative in alternatives} == set(names)
    key = serialization.load_pem_private_key(opened[secret]["private_key"].encode(), None)
    assert key.public_key() == certificate.public_key()
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    # Database servers are clients of each other.
    usages += [ExtendedKeyUsageOID.CLIENT_AUTH] if secret == "postgres-cluster-tls" else []
    assert list(usage) == usages
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=CERTIFICATE_DAYS - 1) < left <= dt.timedelta(days=CERTIFICATE_DAYS)


def test_certificate_of_a_client_serves_nobody(
    made: Deployment, opened: dict[str, dict[str, str]]
) -> None:
    """It names no machine, and is for clients only."""
    (authority,) = certificates(made.settings()["ca_certificate"])
    (own,) = certificates(opened["edge-client-tls"]["certificate"])
    assert signed_by(own, authority)
    assert own.subject.rfc4514_string() == "CN=edge"
    usage = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        own.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_certificate_fails_verification_by_another_authority(
    opened: dict[str, dict[str, str]],
) -> None:
    with pytest.raises(VerificationError):
        verify(opened["edge-tls"], Authority.new("local").certificate_pem, "localhost")


def test_authority_cannot_sign_other_authorities(made: Deployment) -> None:
    certificate = x509.load_pem_x509_certificate(made.settings()["ca_certificate"].encode())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


# -- rotate ----------------------------------------------------------------------------------------


def test_rotate_changes_only_the_given_secret(
    mine: Deployment, opened: dict[str, dict[str, str]]
) -> None:
    before = files(mine)
    assert initialise(mine, URL, frozenset({"redis-airflow"})) == ["redis-airflow"]
    assert changed(before, mine) == {"secrets/redis-airflow.sls"}
    assert SecretStore(mine).read("redis-airflow") != opened["redis-airflow"]


def test_all_are_rotated_but_those_that_go_their_own_way(
    mine: Deployment, opened: dict[str, dict[str, str]]
) -> None:
    made = initialise(mine, URL, rotatable(mine))
    lasting = {"deployment-ca", "postgres-backup"}
    assert set(opened) - {*made} == lasting
    now = {name: SecretStore(mine).read(name) for name in opened}
    assert {name for name in opened if now[name] == opened[name]} == lasting
    # A rotation of passwords that is on has to be finished before.
    before = files(mine)
    with pytest.raises(SecretsError, match="is not finished"):
        initialise(mine, URL, rotatable(mine))
    assert changed(before, mine) == set()


def test_rotated_certificate_has_the_same_authority(
    mine: Deployment, opened: dict[str, dict[str, str]]
) -> None:
    authority = mine.settings()["ca_certificate"]
    assert initialise(mine, URL, frozenset({"redis-tls"})) == ["redis-tls"]
    fields = SecretStore(mine).read("redis-tls")
    assert fields["private_key"] != opened["redis-tls"]["private_key"]
    verify(fields, authority, "redis.stack.internal")
    assert mine.settings()["ca_certificate"] == authority


def test_authority_is_not_rotated_at_once(mine: Deployment) -> None:
    before = files(mine)
    with pytest.raises(SecretsError, match=r"deployment-ca is rotated in phases, and by itself\."):
        initialise(mine, URL, frozenset({"deployment-ca", "redis-tls"}))
    assert changed(before, mine) == set()


def test_authority_whose_key_is_lost_is_replaced(mine: Deployment) -> None:
    """Every certificate is signed anew, except one of a public CA."""
    before = mine.settings()["ca_certificate"]
    brought = Authority.new("public").server("edge", ["airflow.example.org"])
    SecretStore(mine).write("edge-tls", brought)
    (mine.pillar_dir / "secrets" / "deployment-ca.sls").unlink()
    made = initialise(mine, URL)
    own = {
        "edge-client-tls",
        "logs-client-tls",
        "logs-tls",
        "metrics-tls",
        "postgres-cluster-tls",
        "redis-tls",
        "web-tls",
    }
    assert set(made) == {"deployment-ca", *own, "settings"}
    after = mine.settings()["ca_certificate"]
    assert after != before
    for secret, name in {"postgres-cluster-tls": "postgres-1", "redis-tls": "redis-1"}.items():
        verify(SecretStore(mine).read(secret), after, name)
    assert SecretStore(mine).read("edge-tls") == brought
    assert initialise(mine, URL) == []
    assert "edge-tls" in initialise(mine, URL, frozenset({"edge-tls"})), (
        "asked for by name it is made anew"
    )


def test_settings_follow_ssh_key(mine: Deployment) -> None:
    # As a rotation leaves it that is interrupted before the settings.
    recipe = catalogue(mine, Authority.new("local"), URL)["cloud-ssh"]
    SecretStore(mine).write("cloud-ssh", recipe())
    before = mine.settings()["ssh_public_key"]
    assert initialise(mine, URL) == ["settings"]
    assert mine.settings()["ssh_public_key"] != before


@pytest.mark.parametrize("state", ["initialised", "empty"])
def test_rotate_of_unknown_secret_changes_nothing(
    mine: Deployment, deployment: Deployment, state: str
) -> None:
    target = mine if state == "initialised" else deployment
    before = files(target)
    with pytest.raises(
        SecretsError,
        match=r"There is no secret 'nonsense'\. There are: acme-account, .*, web-tls\.",
    ):
        initialise(target, URL, frozenset({"nonsense", "redis-airflow"}))
    assert changed(before, target) == set()


# -- what goes wrong -------------------------------------------------------------------------------


def test_read_of_unknown_secret_names_known_secrets(
    made: Deployment, deployment: Deployment
) -> None:
    with pytest.raises(
        SecretsError, match=r"There is no secret 'wifi'\. There are: acme-account, airflow-admin, "
    ):
        SecretStore(made).read("wifi")
    with pytest.raises(SecretsError, match=r"There is no secret 'wifi'\. There are: none\."):
        SecretStore(deployment).read("wifi")


def test_read_without_private_key_names_its_path(mine: Deployment) -> None:
    path = SecretStore(mine).private_key
    path.unlink()
    with pytest.raises(
        SecretsError, match=rf"{re.escape(str(path))} is not on this machine\. Copy it here"
    ):
        SecretStore(mine).read("airflow-admin")


def test_private_key_is_never_overwritten(mine: Deployment) -> None:
    store = SecretStore(mine)
    before = store.private_key.read_text()
    store.public_key.unlink()
    with pytest.raises(SecretsError, match="has lost its public half"):
        initialise(mine, URL)
    assert store.private_key.read_text() == before


def test_authority_with_another_kind_of_key_is_refused(mine: Deployment) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    SecretStore(mine).write("deployment-ca", {"private_key": pem.decode()})
    with pytest.raises(SecretsError, match="'deployment-ca' is no elliptic-curve key"):
        initialise(mine, URL)


def test_missing_gpg_is_a_sentence(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SecretsError, match=r"gpg is not installed\. Install the package gnupg\."):
        SecretStore(deployment).create_key()
