"""No secret is in git, and every field of a secrets file is ciphertext."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
PATTERNS = {
    # A header alone may be code or prose; a header with key material below it is a key.
    "private key": re.compile(
        r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----\s+[A-Za-z0-9+/=]{16,}"
    ),
    # Access key ids: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
    # AWS's documentation uses ids that end in EXAMPLE. An id of nothing but A belongs to nobody.
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)(?![A-Z0-9]{9}EXAMPLE|A{16})[A-Z0-9]{16}\b"),
}
CIPHERTEXT = re.compile(r"-----BEGIN PGP MESSAGE-----\n.+\n-----END PGP MESSAGE-----", re.DOTALL)


def secrets_in(text: str) -> list[str]:
    """Return what kinds of secrets a text holds."""
    return [kind for kind, pattern in PATTERNS.items() if pattern.search(text)]


def plaintext_fields(data: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every field that is not one whole PGP message."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from plaintext_fields(value, f"{path}:{key}" if path else str(key))
    elif not (isinstance(data, str) and CIPHERTEXT.fullmatch(data.strip())):
        yield path


def problems(text: str) -> list[str]:
    """Return what is wrong with a secrets file."""
    found = [] if text.startswith("#!yaml|gpg\n") else ["its first line is not #!yaml|gpg"]
    data = yaml.safe_load(text)
    if not isinstance(data, dict) or set(data) != {"secrets"}:
        found.append("it holds more than the key `secrets`")
    return found + [f"{field} is no ciphertext" for field in plaintext_fields(data)]


def test_no_file_in_git_holds_a_secret() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [ROOT / name for name in filter(None, listed.stdout.split("\0"))]
    found = {
        str(path): secrets_in(path.read_text(errors="replace")) for path in paths if path.is_file()
    }
    assert {path: kinds for path, kinds in found.items() if kinds} == {}


def test_every_field_of_a_secrets_file_is_ciphertext() -> None:
    found = {
        str(path): problems(path.read_text()) for path in (ROOT / "pillar").glob("*/secrets/*.sls")
    }
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


def test_file_server_holds_no_key_material() -> None:
    kept = [
        path
        for path in (ROOT / "salt").rglob("*")
        if path.suffix in {".pem", ".key", ".asc", ".gpg"}
    ]
    assert kept == []


def test_guards_trip() -> None:
    # Put together here, so that this file itself holds no key.
    headers = ("PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK")
    for header in headers:
        key = f"-----BEGIN {header}" + "-----\n\nMIIEvQIBADANBgkqhkiG9w0B"
        assert secrets_in(key) == ["private key"]
    assert secrets_in("key: AKIA" + "2OGYBAH6QLXTUVWX") == ["AWS access key"]
    prose = "key: AKIAIOSFODNN7EXAMPLE, and '-----BEGIN PRIVATE KEY-----' is how one begins"
    assert secrets_in(prose) == []

    message = "-----BEGIN PGP MESSAGE-----\n\nhF4D\n-----END PGP MESSAGE-----\n"

    def secret(**fields: str) -> str:
        return yaml.safe_dump({"secrets": {"some-secret": fields}})

    encrypted = secret(password=message)
    assert problems("#!yaml|gpg\n" + encrypted) == []
    assert problems(encrypted) == ["its first line is not #!yaml|gpg"]
    assert problems("#!yaml|gpg\n" + secret(password=message, user="airflow")) == [
        "secrets:some-secret:user is no ciphertext"
    ]
    assert problems("#!yaml|gpg\n" + secret(password=f"hunter2 {message}")) == [
        "secrets:some-secret:password is no ciphertext"
    ]
    assert problems("#!yaml|gpg\n" + encrypted + "settings: text\n") == [
        "it holds more than the key `secrets`",
        "settings is no ciphertext",
    ]
