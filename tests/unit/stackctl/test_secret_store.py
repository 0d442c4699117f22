"""Secrets are readable with the private key only, and what is wrong with them is named."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from stackctl import secret_store
from stackctl.deployment import Deployment
from stackctl.errors import CommandError, MissingProgram, SecretsError
from stackctl.secret_store import SecretStore

pytestmark = pytest.mark.skipif(
    shutil.which("gpg") is None, reason="gpg is not installed: it makes the ciphertext"
)


def empty_checkout(root: Path) -> Deployment:
    """Return the deployment `local` of a checkout that holds nothing but a map."""
    (root / "cloud.maps.d").mkdir(parents=True)
    (root / "cloud.maps.d" / "small.map").touch()
    return Deployment("local", root)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the key pair of `local`."""
    root = tmp_path_factory.mktemp("key")
    SecretStore(empty_checkout(root)).create_key()
    return root


@pytest.fixture
def store(key: Path, tmp_path: Path) -> SecretStore:
    """A secret store that may be changed."""
    shutil.copytree(key, tmp_path / "checkout")
    return SecretStore(Deployment("local", tmp_path / "checkout"))


def test_secret_is_ciphertext_that_reads_back(store: SecretStore) -> None:
    fields = {"password": "hunter2", "private_key": "a\n\nb\n"}
    store.write("redis-tls", fields)
    path = store.folder / "redis-tls.sls"
    assert path.read_text().startswith("#!yaml|gpg\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in path.read_text()
    assert store.names() == ["redis-tls"]
    assert store.read("redis-tls") == fields


def test_key_is_made_once_and_is_private(store: SecretStore) -> None:
    assert store.private_key.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" in store.private_key.read_text()
    assert "PRIVATE" not in store.public_key.read_text()
    before = store.private_key.read_text()
    assert store.create_key() is False
    assert store.private_key.read_text() == before


def test_private_key_without_public_key_is_not_overwritten(store: SecretStore) -> None:
    store.public_key.unlink()
    before = store.private_key.read_text()
    with pytest.raises(SecretsError, match="has lost its public half") as raised:
        store.create_key()
    assert "Restore that file from git" in raised.value.hint
    assert store.private_key.read_text() == before


def test_new_key_pair_opens_what_it_encrypts(tmp_path: Path) -> None:
    store = SecretStore(empty_checkout(tmp_path))
    assert store.create_key() is True
    store.write("a", {"password": "x"})
    assert store.read("a") == {"password": "x"}


@pytest.mark.parametrize(("others", "listed"), [((), "none"), (("b", "a"), "a, b")])
def test_unknown_secret_names_those_that_exist(
    store: SecretStore, others: tuple[str, ...], listed: str
) -> None:
    for name in others:
        store.write(name, {"password": "x"})
    with pytest.raises(SecretsError, match="There is no secret 'c'") as raised:
        store.read("c")
    assert raised.value.hint == f"There are: {listed}."


def test_missing_private_key_is_named(store: SecretStore) -> None:
    store.write("a", {"password": "x"})
    store.private_key.unlink()
    with pytest.raises(SecretsError, match=r"gpg-private\.asc is not on this machine"):
        store.read("a")


def test_ciphertext_of_another_key_is_refused_without_its_content(
    store: SecretStore, tmp_path: Path
) -> None:
    other = SecretStore(empty_checkout(tmp_path / "other"))
    other.create_key()
    other.write("a", {"password": "hunter2"})
    store.folder.mkdir()
    shutil.copy(other.folder / "a.sls", store.folder)
    with pytest.raises(SecretsError, match="gpg --decrypt") as raised:
        store.read("a")
    assert "hunter2" not in f"{raised.value}{raised.value.hint}"


@pytest.mark.parametrize(
    ("failure", "message"),
    [(MissingProgram("gpg"), "gpg is not installed"), (CommandError("gpg said no"), "said no")],
)
def test_failing_gpg_is_an_error_of_secrets(
    store: SecretStore, monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    def fail(command: list[str], **_: object) -> str:
        if command[0] == "gpg":
            raise failure
        return ""

    monkeypatch.setattr(secret_store, "run", fail)
    with pytest.raises(SecretsError, match=message):
        store.write("a", {"password": "x"})


def test_no_agent_and_no_keys_are_left_behind(
    store: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's own folders are too deep for the socket of gpg-agent.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        store.write("a", {"password": "x"})
        store.read("a")
        assert not list(Path(folder).iterdir())


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
