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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
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

HEADER = "#!yaml|gpg"  # has Salt decrypt the file
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
        return sorted(self.wanted() - set(self.names()))

    def wanted(self) -> set[str]:
        """Return the secrets that pillar/base/top.sls gives to some machine."""
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
        lines = [HEADER, "secrets:", f"  {secret}:"]
        for field, ciphertext in encrypted.items():
            lines += [
                f"    {field}: |",
                *(f"      {line}".rstrip() for line in ciphertext.splitlines()),
            ]
        write_private(self.path(secret), "\n".join(lines) + "\n")

    def read(self, secret: str) -> dict[str, str]:
        """Decrypt all fields of a secret.

        Raises:
            SecretsError: there is no such secret, or the private key is not on this host.
        """
        if not self.path(secret).is_file():
            raise SecretsError(
                f"There is no secret '{secret}'.",
                f"There are: {', '.join(self.names()) or 'none'}.",
            )
        ciphertexts = self.ciphertexts(secret)
        with self.decryption() as decrypt:
            try:
                return {field: decrypt(text) for field, text in ciphertexts.items()}
            except SecretsError:
                if self.private_key.is_file():
                    raise
                raise self._no_key() from None

    @contextmanager
    def decryption(self) -> Iterator[Callable[[str], str]]:
        """Yield a function that decrypts a message.

        It does so with the deployment's key, or without that with the key of whoever runs this, in
        his or her own keyring.

        Raises:
            SecretsError: the private key is not on this host, and operators have no own keys.
        """
        if self.private_key.is_file():
            with gpg_home() as home:
                gpg(home, ["--import", str(self.private_key)])
                yield partial(gpg, home, ["--decrypt"])
        elif self.operator_keys():
            yield partial(gpg, None, ["--decrypt"])
        else:
            raise self._no_key()

    def ciphertexts(self, secret: str) -> dict[str, str]:
        """Return the fields of a secret, encrypted.

        Raises:
            SecretsError: the file holds something else than one secret's ciphertext.
        """
        # Its key is not looked at: `rename_keys` may still have to run.
        _, fields = self.held(secret)
        for field, fault in self.faults(secret):
            where = f": the field {field}" if field else ""
            raise SecretsError(f"{self._name(secret)}{where} {fault}.", AGAIN)
        return {field: str(text) for field, text in fields.items()}

    def held(self, secret: str) -> tuple[str, dict[str, object]]:
        """Return the key that a secret has in its file, and its fields as they are there.

        Raises:
            SecretsError: the file holds something else than one secret.
            PreflightError: it cannot be read.
        """
        root = self._deployment.root
        found = tree_files.section(root, self.path(secret), "secrets", alone=True, secret=True)
        key, fields = next(iter(found.items())) if len(found) == 1 else ("", None)
        if not isinstance(fields, dict) or not fields:
            raise SecretsError(
                f"{self._name(secret)} has to hold one secret, and its fields.", AGAIN
            )
        return str(key), {str(field): text for field, text in fields.items()}

    def faults(self, secret: str) -> Iterator[tuple[str, str]]:
        """Yield what of a secret Salt could not read, as field and predicate; no field: the file.

        Nothing is decrypted: a field that is changed by a byte is told by its checksum.

        Raises:
            StackError: see `held`.
        """
        for field, text in self.held(secret)[1].items():
            if fault := armour.fault(text):
                yield field, fault
        if not tree_files.text(self._deployment.root, self.path(secret)).startswith(f"{HEADER}\n"):
            yield "", f"does not begin with {HEADER}: Salt would not decrypt it"

    def check(self) -> None:
        """Raise SecretsError for secrets that Salt could not read, all at once; see `faults`."""
        found = []
        for secret in self.names():
            try:
                self.ciphertexts(secret)
            except StackError as error:
                found.append(error.what)
        if found:
            raise SecretsError(" ".join(found), AGAIN)

    def _no_key(self) -> SecretsError:
        return SecretsError(
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
            path = self.path(secret)
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

    def path(self, secret: str) -> Path:
        """Return the file of a secret."""
        return self.folder / f"{secret}.sls"

    def _name(self, secret: str) -> str:
        return str(self.path(secret).relative_to(self._deployment.root))


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
