"""Each operator decrypts the secrets with an own key; who may not read them any more cannot."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stackctl import cli, recipients
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.secret_store import SecretStore

pytestmark = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")


class Person:
    """Somebody with an own keyring."""

    def __init__(self, home: str, address: str, *kind: str, at: Sequence[str] = ()) -> None:
        self.home, self.address = home, address
        self.gpg(*at, "--passphrase", "", "--quick-generate-key", address, *kind)

    def gpg(self, *args: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["gpg", "--homedir", self.home, "--batch", "--quiet", *args],
            input=stdin, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def public(self, path: Path) -> Path:
        path.write_text(self.gpg("--armor", "--export", self.address))
        return path


@pytest.fixture(scope="module")
def ann() -> Iterator[Person]:
    with tempfile.TemporaryDirectory() as home:
        yield Person(home, "ann@example.org", "default", "default")
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


@pytest.fixture
def store(prod: Deployment) -> SecretStore:
    made = SecretStore(prod)
    made.create_key()
    made.write("redis-airflow", {"password": "one"})
    made.write("airflow-keys", {"a": "two", "b": "three"})
    return made


def test_operator_reads_with_the_own_key_and_the_deployment_too(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    key, changed = recipients.share(prod, ann.public(tmp_path / "ann.asc"), "ann")
    assert "ann@example.org" in key.user
    assert changed == ["airflow-keys", "redis-airflow"]
    assert store.read("redis-airflow") == {"password": "one"}
    store.write("new", {"password": "four"})
    store.private_key.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("GNUPGHOME", ann.home)
    assert store.read("airflow-keys") == {"a": "two", "b": "three"}
    assert store.read("new") == {"password": "four"}, "later secrets too"


def test_sharing_again_changes_nothing(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path
) -> None:
    public = ann.public(tmp_path / "ann.asc")
    recipients.share(prod, public, "ann")
    before = {path: path.read_text() for path in store.folder.glob("*.sls")}
    assert recipients.share(prod, public, "ann")[1] == []
    assert {path: path.read_text() for path in store.folder.glob("*.sls")} == before


def test_interrupted_sharing_is_completed(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path
) -> None:
    """A key that came by git, or a run that ended halfway: the next one does the rest."""
    recipients.share(prod, ann.public(tmp_path / "ann.asc"), "ann")
    hidden = store.operators.rename(tmp_path / "hidden")
    store.write("redis-airflow", {"password": "one"})
    hidden.rename(store.operators)
    assert recipients.encrypt_again(prod) == ["redis-airflow"]


def test_operator_who_left_cannot_read(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipients.share(prod, ann.public(tmp_path / "ann.asc"), "ann")
    assert recipients.unshare(prod, "ann") == ["airflow-keys", "redis-airflow"]
    assert store.read("redis-airflow") == {"password": "one"}
    with pytest.raises(subprocess.CalledProcessError):
        ann.gpg("--decrypt", stdin=store.ciphertexts("redis-airflow")["password"])
    with pytest.raises(SecretsError, match=r"'ann' is no operator of prod"):
        recipients.unshare(prod, "ann")
    store.private_key.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("GNUPGHOME", ann.home)
    with pytest.raises(SecretsError, match="is not on this machine"):
        store.read("redis-airflow")


def test_armour_as_keybase_exports_it(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path
) -> None:
    """With headers, text around it, and other line ends."""
    lines = ann.public(tmp_path / "ann.asc").read_text().split("\n")
    lines[1:1] = ["Comment: https://keybase.io/download", "Version: Keybase Go 6.5.1 (linux)"]
    path = tmp_path / "keybase.asc"
    path.write_bytes(("ann's key\r\n" + "\r\n".join(lines)).encode())
    assert recipients.share(prod, path, "ann")[1]
    binary = tmp_path / "ann.gpg"
    subprocess.run(
        ["gpg", "--homedir", ann.home, "--output", str(binary), "--export", ann.address],
        check=True,
    )
    assert recipients.look(binary).fingerprint == recipients.look(path).fingerprint


def test_private_key_is_refused(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path
) -> None:
    path = tmp_path / "mine.asc"
    path.write_text(ann.gpg("--armor", "--export-secret-keys", ann.address))
    with pytest.raises(SecretsError, match="holds a private key"):
        recipients.share(prod, path, "ann")
    assert not store.operators.exists()


def test_what_is_no_usable_key_is_refused(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path
) -> None:
    text = tmp_path / "text.asc"
    text.write_text("nothing\n")
    with pytest.raises(SecretsError):
        recipients.share(prod, text, "ann")
    with tempfile.TemporaryDirectory() as home:
        signer = Person(home, "signs@example.org", "ed25519", "sign")
        with pytest.raises(SecretsError, match="cannot encrypt"):
            recipients.share(prod, signer.public(tmp_path / "signs.asc"), "signs")
        both = tmp_path / "both.asc"
        both.write_text(
            ann.public(tmp_path / "a").read_text() + signer.public(tmp_path / "b").read_text()
        )
        with pytest.raises(SecretsError, match="holds 2 public keys"):
            recipients.share(prod, both, "both")
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    with pytest.raises(SecretsError, match="cannot be read"):
        recipients.share(prod, tmp_path / "absent", "ann")
    with pytest.raises(SecretsError, match="no name of an operator"):
        recipients.share(prod, text, "../ann")


def test_expired_key_is_named_and_may_be_prolonged(
    prod: Deployment, store: SecretStore, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as home:
        past = ["--faked-system-time", "20200101T000000"]
        bob = Person(home, "bob@example.org", "future-default", "default", "2d", at=past)
        expired = bob.public(tmp_path / "bob.asc")
        with pytest.raises(SecretsError, match="cannot encrypt: it is expired since 2020-01-03"):
            recipients.share(prod, expired, "bob")
        assert not store.operators.exists()
        store.operators.mkdir()
        shutil.copy(expired, store.operators)
        with pytest.raises(SecretsError, match=r"operators/bob\.asc cannot encrypt: it is expired"):
            recipients.encrypt_again(prod)
        [_, found] = recipients.recipients(store)
        assert (found.name, str(found.key.expires)) == ("bob", "2020-01-03")
        for which in ([], ["*"]):  # the primary key, and its subkeys
            bob.gpg("--quick-set-expire", found.key.fingerprint, "0", *which)
        changed = recipients.share(prod, bob.public(expired), "bob")[1]
        assert changed == ["airflow-keys", "redis-airflow"]
        assert recipients.recipients(store)[1].key.expires is None
        assert bob.gpg("--decrypt", stdin=store.ciphertexts("redis-airflow")["password"]) == "one"
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


@pytest.mark.parametrize(("left", "soon"), [(29, True), (32, False)])
def test_key_that_ends_is_told(left: int, soon: bool) -> None:
    day = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=left)
    key = recipients.PublicKey("F", "ann", frozenset("1"), frozenset("1"), day)
    assert key.expires_soon is soon
    assert key.fault == ""


def test_verb_names_who_reads_and_who_cannot(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cli, "repository_root", lambda: prod.root)
    public = ann.public(tmp_path / "ann.asc")
    fingerprint = recipients.look(public).fingerprint
    assert cli.main(["secrets", "share", str(public), "-d", "prod"]) == 0
    capsys.readouterr()
    assert cli.main(["secrets", "recipients", "-d", "prod"]) == 0
    master, of_ann = capsys.readouterr().out.splitlines()
    assert master.startswith(f"the Salt master  {recipients.look(store.public_key).fingerprint}  ")
    assert "expires never  reads every secret" in master
    assert of_ann.startswith(f"ann  {fingerprint}  ann@example.org  expires ")
    hidden = store.operators.rename(tmp_path / "hidden")
    store.write("redis-airflow", {"password": "one"})
    hidden.rename(store.operators)
    assert cli.main(["secrets", "recipients", "-d", "prod"]) == 0
    assert "cannot read redis-airflow" in capsys.readouterr().out.splitlines()[1]
    assert cli.main(["secrets", "recipients", "-d", "prod", "--json"]) == 0
    [of_master, row] = json.loads(capsys.readouterr().out)
    assert (of_master["lacking"], of_master["expires"]) == ([], "")
    assert (row["name"], row["fingerprint"], row["fault"]) == ("ann", fingerprint, "")
    assert row["lacking"] == ["redis-airflow"]


def test_removal_says_that_it_does_not_unlearn(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cli, "repository_root", lambda: prod.root)
    recipients.share(prod, ann.public(tmp_path / "ann.asc"), "ann")
    assert cli.main(["secrets", "unshare", "ann", "-d", "prod"]) == 0
    printed = capsys.readouterr().out
    assert "Encrypted anew: airflow-keys, redis-airflow." in printed
    assert "ann may have kept what was readable until now" in printed
    assert "stackctl secrets rotate NAME -d prod" in printed


def test_name_of_another_key_is_refused(
    prod: Deployment, store: SecretStore, ann: Person, tmp_path: Path
) -> None:
    recipients.share(prod, ann.public(tmp_path / "ann.asc"), "ann")
    with pytest.raises(SecretsError, match="holds the key"):
        recipients.share(prod, store.public_key, "ann")
    assert [path.name for path in store.operators.iterdir()] == ["ann.asc"]
