"""The secrets of a deployment as GPG ciphertext, below `pillar/<deployment>/secrets`.

A secret is a file, `postgres-airflow.sls`, and has fields, such as `password`. The deployment's
private key decrypts them. It is kept in the state directory of this host and on the Salt master.
Operators whose public keys are in `pillar/<deployment>/operators` decrypt them with their own
(`stackctl.recipients`).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from stackctl import armour, tree_files
from stackctl.deployment import Deployment
from stackctl.errors import (
    CommandError,
    MissingProgram,
    PreflightError,
    SecretsError,
    StackError,
)
from stackctl.files import private_directory, write_atomically, write_private
from stackctl.run import run

AGAIN = "Restore the file from git, or make the secret anew: stackctl secrets rotate."


class SecretStore:
    """The encrypted secrets of a deployment, and the GPG key pair that encrypts and decrypts them.

    Attributes:
        folder: where the secrets are.
        public_key: the file of the public key.
        private_key: the file of the private key.
        operators: where the public keys of operators are.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.folder = deployment.pillar_dir / "secrets"
        self.public_key = deployment.pillar_dir / "public.asc"
        self.private_key = deployment.state_dir / "gpg-private.asc"
        self.operators = deployment.pillar_dir / "operators"

    def create_key(self) -> bool:
        """Make the key pair unless it exists; return whether it was made.

        Raises:
            SecretsError: there is a private key without its public key.
        """
        if self.public_key.is_file():
            return False
        if self.private_key.is_file():
            raise SecretsError(
                f"{self.private_key} has lost its public half {self.public_key}.",
                "Restore that file from git, or move the private key away to begin anew.",
            )
        user = f"{self._deployment.name} stack"
        # Without a passphrase; `future-default` makes ed25519 with a cv25519 subkey that encrypts.
        kind = ["future-default", "default", "never"]
        with gpg_home() as home:
            gpg(home, ["--passphrase", "", "--quick-generate-key", user, *kind])
            write_private(self.private_key, gpg(home, ["--armor", "--export-secret-keys"]))
            public = gpg(home, ["--armor", "--export"])
        private_directory(self.public_key.parent)
        write_atomically(self.public_key, public)
        return True

    def names(self) -> list[str]:
        """Return the names of the secrets that exist."""
        return sorted(path.stem for path in self.folder.glob("*.sls"))

    def missing(self) -> list[str]:
        """Return the secrets that pillar/base/top.sls gives to some machine and that do not exist.

        Salt would stop at the first such machine, and say that an SLS is not available.
        """
        return sorted(self._wanted() - set(self.names()))

    def _wanted(self) -> set[str]:
        root = self._deployment.root
        top = tree_files.section(root, root / "pillar/base/top.sls", "base")
        names = {name for entries in top.values() for name in entries}
        return {name.removeprefix("secrets.") for name in names if name.startswith("secrets.")}

    def operator_keys(self) -> list[Path]:
        """Return the files of the operators' public keys."""
        return sorted(self.operators.glob("*.asc"))

    def write(self, secret: str, fields: Mapping[str, str]) -> None:
        """Encrypt the fields of a secret into its file, to the deployment and its operators."""
        encrypt = ["--armor", "--encrypt"]
        for key in (self.public_key, *self.operator_keys()):
            encrypt += ["--recipient-file", str(key)]
        with gpg_home() as home:
            encrypted = {field: gpg(home, encrypt, value) for field, value in fields.items()}
        lines = ["#!yaml|gpg", "secrets:", f"  {secret}:"]
        for field, ciphertext in encrypted.items():
            lines += [
                f"    {field}: |",
                *(f"      {line}".rstrip() for line in ciphertext.splitlines()),
            ]
        write_private(self._path(secret), "\n".join(lines) + "\n")

    def read(self, secret: str) -> dict[str, str]:
        """Decrypt all fields of a secret.

        Raises:
            SecretsError: there is no such secret, or the private key is not on this host.
        """
        path = self._path(secret)
        if not path.is_file():
            raise SecretsError(
                f"There is no secret '{secret}'.",
                f"There are: {', '.join(self.names()) or 'none'}.",
            )
        ciphertexts = self.ciphertexts(secret)
        if not self.private_key.is_file():
            return self._read_as_operator(ciphertexts)
        with gpg_home() as home:
            gpg(home, ["--import", str(self.private_key)])
            return {field: gpg(home, ["--decrypt"], text) for field, text in ciphertexts.items()}

    def ciphertexts(self, secret: str) -> dict[str, str]:
        """Return the fields of a secret, encrypted.

        Raises:
            SecretsError: the file holds something else than one secret's ciphertext.
        """
        path = self._path(secret)
        name = path.relative_to(self._deployment.root)
        held = tree_files.section(self._deployment.root, path, "secrets", alone=True)
        # Its key is not looked at: `rename_keys` may still have to run.
        fields = next(iter(held.values())) if len(held) == 1 else None
        if not isinstance(fields, dict) or not fields:
            raise SecretsError(f"{name} has to hold one secret, and its fields.", AGAIN)
        for field, text in fields.items():
            if fault := armour.fault(text):
                raise SecretsError(f"{name}: the field {field} {fault}.", AGAIN)
        return {str(field): text for field, text in fields.items()}

    def check(self) -> None:
        """Raise SecretsError for secrets that Salt could not read, all at once.

        Nothing is decrypted: a field that is changed by a byte is told by its checksum.
        """
        found = []
        for secret in self.names():
            try:
                self.ciphertexts(secret)
            except StackError as error:
                found.append(error.what)
        if found:
            raise SecretsError(" ".join(found), AGAIN)

    def _read_as_operator(self, ciphertexts: Mapping[str, str]) -> dict[str, str]:
        """Decrypt with the key of whoever runs this, in his or her own keyring."""
        if self.operator_keys():
            with suppress(SecretsError):
                return {
                    field: gpg(None, ["--decrypt"], text) for field, text in ciphertexts.items()
                }
        raise SecretsError(
            f"The private key {self.private_key} is not on this machine.",
            "Copy it here from where the deployment keeps it, ask on the Salt master, or have an"
            " operator add your own public key: stackctl secrets share.",
        )

    def rename_keys(self) -> list[str]:
        """Spell each secret's pillar key as its file, and return the secrets that were renamed.

        Earlier versions wrote `postgres_airflow` into `postgres-airflow.sls`. The ciphertext stays.
        """
        renamed = []
        for secret in self.names():
            path = self._path(secret)
            try:
                text = tree_files.text(self._deployment.root, path)
            except PreflightError:
                continue  # `check` says so, and whoever makes it anew needs no old key
            old = re.escape(secret.replace("-", "_"))
            text, count = re.subn(
                rf"^(\s+){old}:(?=\s*$)",
                rf"\g<1>{secret}:",
                text,
                flags=re.MULTILINE,
            )
            if count and write_private(path, text):
                renamed.append(secret)
        return renamed

    def _path(self, secret: str) -> Path:
        return self.folder / f"{secret}.sls"


@contextmanager
def gpg_home() -> Iterator[Path]:
    """Yield an empty keyring, which is removed afterwards."""
    # A short path of its own: the path of gpg-agent's socket in it holds 107 bytes at most.
    home = Path(tempfile.mkdtemp(prefix="stackctl-gpg-"))
    try:
        yield home
    finally:
        with suppress(CommandError):  # without gpg there is no agent either
            end = ["gpgconf", "--homedir", str(home), "--kill", "all"]
            run(end, log=None, what="ending gpg-agent")
        shutil.rmtree(home, ignore_errors=True)


def gpg(home: Path | None, args: list[str], stdin: str = "") -> str:
    """Run gpg with a keyring and return its output.

    Args:
        home: the keyring; None: of whoever runs this, where gpg may ask for a passphrase.
        args: of gpg.
        stdin: what it reads.

    Raises:
        SecretsError: it fails, or is not installed.
    """
    where = ["--homedir", str(home), "--batch"] if home else []
    command = ["gpg", *where, "--quiet", "--no-tty", *args]
    try:
        return run(command, log=None, what=f"gpg {args[0]}", stdin=stdin, quiet=True)
    except MissingProgram:
        raise SecretsError("gpg is not installed.", "Install the package gnupg.") from None
    except CommandError as error:
        raise SecretsError(error.what, error.hint) from None
