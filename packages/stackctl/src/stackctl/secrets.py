"""The deployment's secrets: made once, kept as GPG ciphertext in its pillar.

Only the deployment's private key opens them. It lies in the state directory here and on the Salt master, nowhere else.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import secrets as random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stackctl.deployment import Deployment
from stackctl.errors import CommandError, MissingProgram, SecretsError
from stackctl.files import private_directory, write_private
from stackctl.run import run

DOMAIN = "stack.internal"
CA_DAYS = 3650
CERTIFICATE_DAYS = 397  # what browsers accept at most: CA/Browser Forum ballot SC31

Leaves = dict[str, str]


def password() -> str:
    """Return 192 random bits in hexadecimal: nothing that a shell, a URL or a command's options read otherwise."""
    return random.token_hex(24)


# -- certificates ----------------------------------------------------------------------------------


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    names: list[str],
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    subject_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    signer = issuer[1] if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_name)
        .issuer_name(issuer[0].subject if issuer else subject_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(
            x509.BasicConstraints(ca=issuer is None, path_length=None if issuer else 0),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=issuer is None,
                crl_sign=issuer is None,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if issuer:
        alternatives = [_general_name(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    return builder.sign(signer, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """The deployment's private certificate authority."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, deployment: str) -> Authority:
        """Make one that is valid for `CA_DAYS` days."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_certificate(f"{deployment} stack CA", key, CA_DAYS, None, []), key)

    @property
    def certificate_pem(self) -> str:
        """The public half, which every client of the stack trusts."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def leaves(self) -> Leaves:
        """The private half, as a secret that no machine reads."""
        return {"private_key": _pem(self._key)}

    def claims(self, certificate_pem: str) -> bool:
        """Return whether a certificate names as its issuer this authority, or one before it of the same deployment."""
        return (
            x509.load_pem_x509_certificate(certificate_pem.encode()).issuer
            == self._certificate.subject
        )

    def server(self, subject: str, names: list[str]) -> Leaves:
        """Return key and certificate of a server that answers to `names` (host names or addresses)."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(
            subject, key, CERTIFICATE_DAYS, (self._certificate, self._key), names
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return {"private_key": _pem(key), "certificate": pem}


def _service_names(deployment: Deployment, role: str) -> list[str]:
    ids = [name for name, profile in deployment.machines().items() if profile == role]
    return [f"{role}.{DOMAIN}", *ids, *(f"{name}.{DOMAIN}" for name in ids)]


# -- the catalogue ---------------------------------------------------------------------------------


def catalogue(
    deployment: Deployment, authority: Authority, base_url: str
) -> dict[str, Callable[[], Leaves]]:
    """Return lock -> how to make its leaves. Which minion reads which lock is pillar/base/top.sls's to say."""
    edge_names = [
        *_service_names(deployment, "lb"),
        urlsplit(base_url).hostname or "localhost",
        "localhost",
    ]
    return {
        "deployment-ca": lambda: authority.leaves,
        "postgres-airflow": lambda: {"password": password()},
        "postgres-tls": lambda: authority.server(
            "postgres", _service_names(deployment, "postgres")
        ),
        "redis-airflow": lambda: {"password": password()},
        "redis-tls": lambda: authority.server("redis", _service_names(deployment, "redis")),
        "edge-tls": lambda: authority.server("edge", list(dict.fromkeys(edge_names))),
        "airflow-keys": lambda: {
            "fernet_key": base64.urlsafe_b64encode(random.token_bytes(32)).decode(),
            "secret_key": password(),
            "jwt_secret": random.token_hex(64),
        },
        "airflow-admin": lambda: {"password": password()},
        "cloud-ssh": lambda: {"private_key": _new_ssh_key()},
    }


def _new_ssh_key() -> str:
    return (
        ed25519.Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        .decode()
    )


def ssh_public(private_key: str) -> str:
    """Return the public half of an SSH key, in OpenSSH's format."""
    key = serialization.load_ssh_private_key(private_key.encode(), None)
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public.decode()


# -- GPG -------------------------------------------------------------------------------------------


@contextmanager
def _gpg_home() -> Iterator[Path]:
    # A short path of its own: gpg-agent's socket lies inside, and a socket's path holds 107 bytes at most.
    home = Path(tempfile.mkdtemp(prefix="stackctl-gpg-"))
    try:
        yield home
    finally:
        with suppress(CommandError):  # without gpg there is no agent either
            run(
                ["gpgconf", "--homedir", str(home), "--kill", "all"],
                log=None,
                what="ending gpg-agent",
            )
        shutil.rmtree(home, ignore_errors=True)


def _gpg(home: Path, *arguments: str, stdin: str = "") -> str:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--no-tty", *arguments]
    try:
        return run(command, log=None, what=f"gpg {arguments[0]}", stdin=stdin, quiet=True)
    except MissingProgram:
        raise SecretsError("gpg is not installed.", "Install the package gnupg.") from None
    except CommandError as error:
        raise SecretsError(error.what, error.hint) from None


class Vault:
    """The GPG ciphertext below `pillar/<deployment>/secrets`, and the key pair that locks and opens it."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.folder = deployment.pillar_dir / "secrets"
        self.public_key = deployment.pillar_dir / "public.asc"
        self.private_key = deployment.state_dir / "gpg-private.asc"

    def create_key(self) -> bool:
        """Make the key pair unless it exists; return whether it was made.

        Raises:
            SecretsError: one half exists without the other.
        """
        if self.public_key.is_file():
            return False
        if self.private_key.is_file():
            raise SecretsError(
                f"{self.private_key} has lost its public half {self.public_key}.",
                "Restore that file from git, or move the private key away to begin anew.",
            )
        user = f"{self._deployment.name} stack"
        with _gpg_home() as home:
            # --quick-generate-key with `default` makes ed25519 with a cv25519 subkey that encrypts.
            _gpg(
                home,
                "--passphrase",
                "",
                "--quick-generate-key",
                user,
                "future-default",
                "default",
                "never",
            )
            write_private(self.private_key, _gpg(home, "--armor", "--export-secret-keys"))
            public = _gpg(home, "--armor", "--export")
        private_directory(self.public_key.parent)
        self.public_key.write_text(public)
        return True

    def locks(self) -> list[str]:
        """Return the names of the secrets that exist."""
        return sorted(path.stem for path in self.folder.glob("*.sls"))

    def write(self, lock: str, leaves: Leaves) -> None:
        """Encrypt the leaves of one lock into its file."""
        with _gpg_home() as home:
            encrypted = {
                leaf: _gpg(
                    home,
                    "--armor",
                    "--encrypt",
                    "--recipient-file",
                    str(self.public_key),
                    stdin=value,
                )
                for leaf, value in leaves.items()
            }
        lines = ["#!yaml|gpg", "secrets:", f"  {lock.replace('-', '_')}:"]
        for leaf, ciphertext in encrypted.items():
            lines += [
                f"    {leaf}: |",
                *(f"      {line}".rstrip() for line in ciphertext.splitlines()),
            ]
        private_directory(self.folder)
        (self.folder / f"{lock}.sls").write_text("\n".join(lines) + "\n")

    def read(self, lock: str) -> Leaves:
        """Decrypt all leaves of one lock.

        Raises:
            SecretsError: there is no such lock, or the private key is not on this machine.
        """
        path = self.folder / f"{lock}.sls"
        if not path.is_file():
            raise SecretsError(
                f"There is no secret '{lock}'.", f"There are: {', '.join(self.locks()) or 'none'}."
            )
        if not self.private_key.is_file():
            raise SecretsError(
                f"The private key {self.private_key} is not on this machine.",
                "Copy it here from where the deployment keeps it, or ask on the Salt master.",
            )
        ciphertexts: Leaves = yaml.safe_load(path.read_text())["secrets"][lock.replace("-", "_")]
        with _gpg_home() as home:
            _gpg(home, "--import", str(self.private_key))
            return {leaf: _gpg(home, "--decrypt", stdin=text) for leaf, text in ciphertexts.items()}


def _operator_cidrs(deployment: Deployment) -> list[str]:
    """Return from where the Salt master may be reached by SSH: for `local` this host, as the subnet's router."""
    if not deployment.is_local:
        return []  # the operator's to say, in settings.sls
    subnet = deployment.base_pillar("aws")["subnet"]["cidr"]
    return [f"{next(ipaddress.ip_network(subnet).hosts())}/32"]


def initialise(
    deployment: Deployment,
    base_url: str,
    rotate: frozenset[str] = frozenset(),
    aws_account: str | None = None,
) -> list[str]:
    """Make the key, the settings and every secret that is missing; return what was made.

    Args:
        deployment: whose pillar to fill.
        base_url: the address users type; its host name goes into the edge's certificate.
        rotate: locks to make anew although they exist.
        aws_account: the number of the account that the deployment lives in; None: whatever the settings say.

    Raises:
        SecretsError: a lock to rotate does not exist, or GPG fails.
    """
    vault = Vault(deployment)
    existing = set(vault.locks()) - rotate
    current = deployment.settings() if deployment.has_settings else {}
    authority = _authority(vault, current) if "deployment-ca" in existing else None
    if authority is None:
        authority = Authority.new(deployment.name)
        existing -= {"deployment-ca", "postgres-tls", "redis-tls"}
        if "edge-tls" in existing and authority.claims(vault.read("edge-tls")["certificate"]):
            existing.remove("edge-tls")  # any other was brought, from a public CA
    recipes = catalogue(deployment, authority, base_url)
    if unknown := rotate - recipes.keys():
        raise SecretsError(
            f"There is no secret '{min(unknown)}'.", f"There are: {', '.join(sorted(recipes))}."
        )
    made = ["the GPG key"] if vault.create_key() else []
    for lock, recipe in recipes.items():
        if lock not in existing:
            vault.write(lock, recipe())
            made.append(lock)
    first = {
        "deployment": deployment.name,
        "base_url": base_url,
        "load_examples": deployment.is_local,
        "operator_cidrs": _operator_cidrs(deployment),
    }
    settings = (
        (current or first)
        | ({"aws_account": aws_account} if aws_account else {})
        | {
            "ca_certificate": authority.certificate_pem,
            "ssh_public_key": ssh_public(vault.read("cloud-ssh")["private_key"]),
        }
    )
    if settings != current:
        text = "# What is particular to this deployment and not secret; made by `stackctl secrets init`, then yours.\n"
        deployment.settings_path.write_text(
            text + yaml.safe_dump({"settings": settings}, sort_keys=False)
        )
        made.append("settings")
    return made


def _authority(vault: Vault, settings: Mapping[str, Any]) -> Authority | None:
    """Return the authority whose certificate the settings hold, or None when its key is another's.

    A rotation that was cut short leaves a new key beside the old certificate.
    """
    key = serialization.load_pem_private_key(
        vault.read("deployment-ca")["private_key"].encode(), None
    )
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SecretsError("The secret 'deployment-ca' is no elliptic-curve key.")
    if "ca_certificate" not in settings:
        return None
    certificate = x509.load_pem_x509_certificate(settings["ca_certificate"].encode())
    return Authority(certificate, key) if certificate.public_key() == key.public_key() else None
