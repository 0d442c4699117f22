"""Nothing secret is in git, and every leaf of a secrets file is ciphertext."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
PATTERNS = {
    # A header alone is code that speaks about keys; a header with key material below it is a key.
    "private key": re.compile(
        r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----\s+[A-Za-z0-9+/=]{16,}"
    ),
    # Access key ids: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
    # Ids that end in EXAMPLE are AWS's own documentation's; nothing but A is nobody's.
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)(?![A-Z0-9]{9}EXAMPLE|A{16})[A-Z0-9]{16}\b"),
}
CIPHERTEXT = re.compile(r"-----BEGIN PGP MESSAGE-----\n.+\n-----END PGP MESSAGE-----", re.DOTALL)


def secrets_in(text: str) -> list[str]:
    """Return what kinds of secrets a text holds."""
    return [kind for kind, pattern in PATTERNS.items() if pattern.search(text)]


def plaintext_leaves(data: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every leaf that is not one whole PGP message."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from plaintext_leaves(value, f"{path}:{key}" if path else str(key))
    elif not (isinstance(data, str) and CIPHERTEXT.fullmatch(data.strip())):
        yield path


def problems(text: str) -> list[str]:
    """Return what is wrong with a secrets file."""
    found = [] if text.startswith("#!yaml|gpg\n") else ["its first line is not #!yaml|gpg"]
    data = yaml.safe_load(text)
    if not isinstance(data, dict) or set(data) != {"secrets"}:
        found.append("it holds something else than `secrets`")
    return found + [f"{leaf} is no ciphertext" for leaf in plaintext_leaves(data)]


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


def test_every_leaf_of_a_secrets_file_is_ciphertext() -> None:
    found = {
        str(path): problems(path.read_text()) for path in (ROOT / "pillar").glob("*/secrets/*.sls")
    }
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


def test_the_file_server_holds_no_key_material() -> None:
    kept = [
        path
        for path in (ROOT / "salt").rglob("*")
        if path.suffix in {".pem", ".key", ".asc", ".gpg"}
    ]
    assert kept == []


def test_the_guard_trips() -> None:
    # Put together here, so that this file does not trip it.
    for header in (
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    ):
        assert secrets_in(f"-----BEGIN {header}" + "-----\n\nMIIEvQIBADANBgkqhkiG9w0B") == [
            "private key"
        ]
    assert secrets_in("key: AKIA" + "2OGYBAH6QLXTUVWX") == ["AWS access key"]
    assert (
        secrets_in("key: AKIAIOSFODNN7EXAMPLE, and '-----BEGIN PRIVATE KEY-----' is how one begins")
        == []
    )

    message = "-----BEGIN PGP MESSAGE-----\n\nhF4D\n-----END PGP MESSAGE-----\n"
    locked = {"secrets": {"lock": {"password": message}}}
    assert problems("#!yaml|gpg\n" + yaml.safe_dump(locked)) == []
    assert problems(yaml.safe_dump(locked)) == ["its first line is not #!yaml|gpg"]
    open_leaf = {"secrets": {"lock": {"password": message, "user": "airflow"}}}
    assert problems("#!yaml|gpg\n" + yaml.safe_dump(open_leaf)) == [
        "secrets:lock:user is no ciphertext"
    ]
    half_open = {"secrets": {"lock": {"password": f"hunter2 {message}"}}}
    assert problems("#!yaml|gpg\n" + yaml.safe_dump(half_open)) == [
        "secrets:lock:password is no ciphertext"
    ]
