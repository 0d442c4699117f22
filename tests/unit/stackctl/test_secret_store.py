"""Pillar keys of earlier versions are renamed in place; the ciphertext stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stackctl.deployment import Deployment
from stackctl.secret_store import SecretStore

pytestmark = pytest.mark.skipif(
    shutil.which("gpg") is None, reason="gpg is not installed: it makes the ciphertext"
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the key pair of `local`."""
    root = tmp_path_factory.mktemp("key")
    (root / "cloud.maps.d").mkdir()
    (root / "cloud.maps.d" / "small.map").touch()
    SecretStore(Deployment("local", root)).create_key()
    return root


@pytest.fixture
def store(key: Path, tmp_path: Path) -> SecretStore:
    """A secret store that may be changed."""
    shutil.copytree(key, tmp_path / "checkout")
    return SecretStore(Deployment("local", tmp_path / "checkout"))


def old_spelling(store: SecretStore, secret: str) -> str:
    """Write the pillar key as earlier versions did, and return the file as it was before."""
    path = store.folder / f"{secret}.sls"
    text = path.read_text()
    path.write_text(text.replace(f"  {secret}:\n", f"  {secret.replace('-', '_')}:\n"))
    assert path.read_text() != text
    return text


def test_rename_keys_spells_keys_as_files(store: SecretStore) -> None:
    texts = {}
    for secret in ("postgres-airflow", "redis-tls"):
        store.write(secret, {"password": f"of {secret}", "private_key": "a\nb"})
        texts[secret] = old_spelling(store, secret)
    store.write("new-secret", {"password": "x"})
    assert store.rename_keys() == ["postgres-airflow", "redis-tls"]
    for secret, text in texts.items():
        assert (store.folder / f"{secret}.sls").read_text() == text, "the ciphertext stays"
    assert store.rename_keys() == []


def test_read_accepts_old_spelling(store: SecretStore) -> None:
    store.write("postgres-airflow", {"password": "hunter2"})
    old_spelling(store, "postgres-airflow")
    assert store.read("postgres-airflow") == {"password": "hunter2"}


def test_rename_keys_leaves_fields_alone(store: SecretStore) -> None:
    store.write("private-key", {"private_key": "x"})
    text = (store.folder / "private-key.sls").read_text()
    assert store.rename_keys() == []
    assert (store.folder / "private-key.sls").read_text() == text
