"""Everything that can be wrong with a secret is found, with file and field, and without a value."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from stackctl import armour, certificates, cli, recipients, sshkey
from stackctl.catalogue import FORMATS, catalogue
from stackctl.certificates import Authority
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.initialise import initialise
from stackctl.secret_check import Finding, check
from stackctl.secret_store import SecretStore, gpg, gpg_home

pytestmark = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")

ADMIN, TOP = "pillar/local/secrets/airflow-admin.sls", "pillar/base/top.sls"
SETTINGS, CA = "pillar/local/settings.sls", "settings:ca_certificate"
OLD = ["--faked-system-time", "20200101T000000"]
Damage = Callable[[Deployment], object]


@pytest.fixture(scope="module")
def made(whole: Path) -> Deployment:
    """The deployment `local` with all its secrets; only to be looked at."""
    return Deployment("local", whole)


def findings(deployment: Deployment) -> list[Finding]:
    """Return what is wrong, and fail if a secret value is in it."""
    all_of_them = check(deployment)
    told = json.dumps([str(finding) for finding in all_of_them])
    assert PLAIN not in told
    assert "BEGIN" not in told
    return all_of_them


def found(deployment: Deployment) -> list[tuple[str, str, str]]:
    """Return file, field and fault of each."""
    return [(each.file, each.field, each.fault) for each in findings(deployment)]


PLAIN = "correct-horse-battery"


def write(deployment: Deployment, secret: str, **values: str) -> None:
    """Encrypt other values into a secret, beside those that it has."""
    store = SecretStore(deployment)
    store.write(secret, store.read(secret) | values)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def message(deployment: Deployment, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of the administrator's password, with an armour that fits them."""
    store = SecretStore(deployment)
    lines = store.ciphertexts("airflow-admin")["password"].split()
    at = lines.index("MESSAGE-----") + 1
    body = [line for line in lines[at:] if not line.startswith(("=", "-----", "PGP", "MESSAGE"))]
    data = base64.b64encode(change(base64.b64decode("".join(body)))).decode()
    text = f"{armour.BEGIN}\n\n{data}\n{armour.END}\n"
    assert armour.fault(text) == "", "only the key tells"
    put(deployment, "airflow-admin", {"password": text})


def put(deployment: Deployment, secret: str, fields: dict[str, str], key: str = "") -> None:
    """Write a secret's file as it is, with what should be ciphertext."""
    text = yaml.safe_dump({"secrets": {key or secret: fields}}, default_style="|")
    SecretStore(deployment).path(secret).write_text(f"#!yaml|gpg\n{text}")


def certificate(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Give Redis a certificate that ends after so many days."""
    monkeypatch.setattr(certificates, "CERTIFICATE_DAYS", days)
    initialise(deployment, "https://127.0.0.1:8443", frozenset({"redis-tls"}))


def pkcs8(deployment: Deployment) -> str:
    """Return the key of the CA's account in the form that OpenSSL writes by itself."""
    held = SecretStore(deployment).read("acme-account")["private_key"]
    key = serialization.load_pem_private_key(held.encode(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def other(deployment: Deployment) -> SecretStore:
    """Return the store of another deployment, which has a key pair of its own."""
    made = SecretStore(Deployment("other", deployment.root))
    made.create_key()
    return made


def test_nothing_is_wrong_with_what_is_made(made: Deployment) -> None:
    assert found(made) == []


@pytest.mark.parametrize("secret", ["airflow-admin", "airflow-keys", "redis-check"])
def test_recipes_make_what_the_formats_take(made: Deployment, secret: str) -> None:
    fields = catalogue(made, Authority.new("local"), "")[secret]()
    assert all(FORMATS[field].pattern.fullmatch(value) for field, value in fields.items())


FLAWS: dict[str, tuple[Damage, str, str, str]] = {
    "a changed byte": (
        lambda it: message(it, lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]),
        ADMIN, "password", "cannot be decrypted",
    ),
    "half a message": (
        lambda it: message(it, lambda data: data[: -len(data) // 4]),
        ADMIN, "password", "cannot be decrypted",
    ),
    "half a file": (
        lambda it: (it.root / ADMIN).write_text((it.root / ADMIN).read_text()[:200]),
        ADMIN, "password", "is cut off",
    ),
    "plaintext": (
        lambda it: put(it, "airflow-admin", {"password": PLAIN}), ADMIN, "password", "not encrypted"
    ),
    "plaintext alone": (
        lambda it: (it.root / ADMIN).write_text(f"{PLAIN}\n"), ADMIN, "", "holds a value"
    ),
    "plaintext that YAML refuses": (
        lambda it: (it.root / ADMIN).write_text(f"secrets: {{a: *{PLAIN}}}\n"),
        ADMIN, "", "is no YAML, line 1",
    ),
    "no header": (
        lambda it: edit(it.root / ADMIN, "#!yaml|gpg\n", ""),
        ADMIN, "", "does not begin with #!yaml",
    ),
    "another name": (
        lambda it: edit(it.root / ADMIN, "  airflow-admin:", "  airflow_admin:"),
        ADMIN, "", "names its secret airflow_admin",
    ),
    "a short password": (
        lambda it: write(it, "airflow-admin", password="hunter2"), ADMIN, "password", "has to be 16"
    ),
    "a dash at the beginning": (
        lambda it: write(it, "airflow-admin", password=f"-{PLAIN}"), ADMIN, "password", "has to be"
    ),
    "an end of line": (
        lambda it: write(it, "airflow-admin", password=f"{PLAIN}\n"), ADMIN, "password", "has to be"
    ),
    "no Fernet key": (
        lambda it: write(it, "airflow-keys", fernet_key=PLAIN),
        "pillar/local/secrets/airflow-keys.sls", "fernet_key", "has to be 32 bytes",
    ),
    "a field too few": (
        lambda it: SecretStore(it).write(
            "airflow-keys",
            {field: value for field, value in SecretStore(it).read("airflow-keys").items()
             if field != "jwt_secret"},
        ),
        "pillar/local/secrets/airflow-keys.sls", "jwt_secret", "is missing",
    ),
    "a field too many": (
        lambda it: write(it, "airflow-admin", login=PLAIN), ADMIN, "login", "is no field of"
    ),
    "a secret too few": (lambda it: (it.root / ADMIN).unlink(), ADMIN, "", "does not exist"),
    "a secret too many": (
        lambda it: SecretStore(it).write("wifi", {"password": PLAIN}),
        "pillar/local/secrets/wifi.sls", "", "is no secret of the stack",
    ),
    "nobody reads it": (
        lambda it: edit(it.root / TOP, "    - secrets.redis-check\n", ""),
        TOP, "secrets.redis-check", "is read by nobody",
    ),
    "a reader of nothing": (
        lambda it: edit(it.root / TOP, "secrets.edge-tls", "secrets.edge-tls\n    - secrets.wifi"),
        TOP, "secrets.wifi", "is no secret",
    ),
    "an account's key that lego does not read": (
        lambda it: write(it, "acme-account", private_key=pkcs8(it)),
        "pillar/local/secrets/acme-account.sls", "private_key", "of the curve P-256",
    ),
    "an account's key that is none": (
        lambda it: write(it, "acme-account", private_key=PLAIN),
        "pillar/local/secrets/acme-account.sls", "private_key", "is no private key",
    ),
    "a key of another certificate": (
        lambda it: write(
            it, "redis-tls", private_key=SecretStore(it).read("edge-tls")["private_key"]
        ),
        "pillar/local/secrets/redis-tls.sls", "private_key", "is not the key of the certificate",
    ),
    "no certificate": (
        lambda it: write(it, "redis-tls", certificate=PLAIN),
        "pillar/local/secrets/redis-tls.sls", "certificate", "is no certificate in PEM",
    ),
    "no key": (
        lambda it: write(it, "redis-tls", private_key=PLAIN),
        "pillar/local/secrets/redis-tls.sls", "private_key", "is no private key",
    ),
    "a certificate of another CA": (
        lambda it: write(it, "redis-tls", **Authority.new("public").server("redis", ["redis"])),
        "pillar/local/secrets/redis-tls.sls", "certificate", "is signed by no CA",
    ),
    "a certificate of an earlier CA": (
        lambda it: write(it, "edge-tls", **Authority.new("local").server("lb", ["localhost"])),
        "pillar/local/secrets/edge-tls.sls", "certificate", "is signed by no CA",
    ),
    "another CA's key": (
        lambda it: write(it, "deployment-ca", **Authority.new("local").fields),
        "pillar/local/secrets/deployment-ca.sls", "private_key", "is the key of no certificate",
    ),
    "no key of the CA": (
        lambda it: write(it, "deployment-ca", private_key=PLAIN),
        "pillar/local/secrets/deployment-ca.sls", "private_key", "is no private key",
    ),
    "another SSH key": (
        lambda it: write(it, "cloud-ssh", private_key=sshkey.new_private_key()),
        "pillar/local/secrets/cloud-ssh.sls", "private_key", "is of another key",
    ),
    "no SSH key": (
        lambda it: write(it, "cloud-ssh", private_key=PLAIN),
        "pillar/local/secrets/cloud-ssh.sls", "private_key", "is no private key",
    ),
    "no operator's key": (
        lambda it: operator(it, PLAIN), "pillar/local/operators/ann.asc", "", "is no public key"
    ),
    "an operator's expired key": (
        lambda it: operator(it, new_key(OLD)), "pillar/local/operators/ann.asc", "*",
        "cannot encrypt: it is expired since 2020-01-",
    ),
    "an operator's key that ends": (
        lambda it: recipients.share(it, operator(it, new_key([])), "ann"),
        "pillar/local/operators/ann.asc", "*", "expires on",
    ),
}  # fmt: skip


# Machines still get what they read.
BEARABLE = {
    "a short password", "a dash at the beginning", "an end of line", "no Fernet key",
    "a field too many", "a secret too many", "nobody reads it", "another CA's key",
    "no key of the CA", "no operator's key", "an operator's expired key",
    "an operator's key that ends",
}  # fmt: skip


def operator(deployment: Deployment, key: str) -> Path:
    path = deployment.pillar_dir / "operators/ann.asc"
    path.parent.mkdir(exist_ok=True)
    path.write_text(key)
    return path


def new_key(options: list[str]) -> str:
    """Return a public key that is made with options of gpg, and expires two days later."""
    with gpg_home() as home:
        made = ["--passphrase", "", "--quick-generate-key", "ann", "future-default", "default"]
        gpg(home, [*options, *made, "2d"])
        return gpg(home, ["--armor", "--export"])


@pytest.mark.parametrize("flaw", FLAWS)
def test_flaw_is_found_with_file_and_field(mine: Deployment, flaw: str) -> None:
    damage, file, field, fault = FLAWS[flaw]
    damage(mine)
    told = findings(mine)
    assert len(told) == 1, told
    assert told[0].file == file
    assert field in {told[0].field, "*"}
    assert fault in told[0].fault
    assert told[0].stops is (flaw not in BEARABLE)


@pytest.mark.parametrize(("days", "fault"), [(0, "is expired since"), (10, "expires on")])
def test_certificate_that_ends_is_found(
    mine: Deployment, monkeypatch: pytest.MonkeyPatch, days: int, fault: str
) -> None:
    certificate(mine, monkeypatch, days)
    [(file, field, told)] = found(mine)
    assert (file, field) == ("pillar/local/secrets/redis-tls.sls", "certificate")
    assert told.startswith(fault)


def test_certificate_of_a_public_ca_is_no_fault_at_the_edge(mine: Deployment) -> None:
    write(mine, "edge-tls", **Authority.new("public").server("site", ["airflow.example.org"]))
    assert found(mine) == []


def test_ca_that_is_no_certificate_is_found(mine: Deployment) -> None:
    settings = yaml.safe_load((mine.root / SETTINGS).read_text())
    settings["settings"]["ca_certificate"] = "none"
    (mine.root / SETTINGS).write_text(yaml.safe_dump(settings))
    assert (SETTINGS, CA, "is no certificate") in found(mine)


def test_strange_and_absent_recipients_are_found(mine: Deployment) -> None:
    """A field that was encrypted to somebody else only."""
    stranger = other(mine)
    stranger.write("airflow-admin", {"password": PLAIN})
    shutil.copy(stranger.path("airflow-admin"), mine.root / ADMIN)
    told = found(mine)
    assert {(file, field) for file, field, _ in told} == {(ADMIN, "password")}
    absent, strange, opened = (fault for _, _, fault in told)
    assert absent == "is not encrypted to the Salt master"
    ids = recipients.look(stranger.public_key).encrypts
    assert strange in {f"is encrypted to the key {one}, which is no recipient's" for one in ids}
    assert opened == "cannot be decrypted: No secret key"


def test_operator_whose_key_came_by_git_is_named(mine: Deployment) -> None:
    operator(mine, other(mine).public_key.read_text())
    told = found(mine)
    assert {fault for _, _, fault in told} == {"is not encrypted to ann"}
    assert len({file for file, _, _ in told}) == len(SecretStore(mine).names())
    recipients.encrypt_again(mine)
    assert found(mine) == []
    (mine.pillar_dir / "operators/ann.asc").unlink()
    assert {fault.split(" 0")[0].split(" the key")[0] for _, _, fault in found(mine)} == {
        "is encrypted to"
    }, "who is no operator any more"


def test_wrong_private_key_is_named(mine: Deployment) -> None:
    store = SecretStore(mine)
    shutil.copy(other(mine).private_key, store.private_key)
    told = found(mine)
    assert told[0][0] == ".stack/local/gpg-private.asc"
    assert recipients.look(store.public_key).fingerprint in told[0][2]
    assert {fault for _, _, fault in told[1:]} == {"cannot be decrypted: No secret key"}


def test_without_private_key_the_rest_is_still_checked(mine: Deployment) -> None:
    SecretStore(mine).private_key.unlink()
    put(mine, "airflow-admin", {"password": PLAIN})
    [absent, plain] = found(mine)
    assert absent[2].startswith("is not on this machine")
    assert plain == (ADMIN, "password", "is not encrypted: it is no PGP message")


def test_first_fault_hides_no_other(mine: Deployment) -> None:
    put(mine, "airflow-admin", {"password": PLAIN, "user": PLAIN})
    (mine.root / "pillar/local/secrets/redis-check.sls").unlink()
    assert [(Path(file).stem, field) for file, field, _ in found(mine)] == [
        ("redis-check", ""),
        ("airflow-admin", "password"),
        ("airflow-admin", "user"),
        ("airflow-admin", "user"),
    ]


def test_verb_prints_faults_and_fails(
    mine: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "repository_root", lambda: mine.root)
    assert cli.main(["secrets", "check"]) == 0
    assert capsys.readouterr().out == "Nothing is wrong.\n"
    assert cli.main(["secrets", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    write(mine, "airflow-admin", password="hunter2")
    assert cli.main(["secrets", "check"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{ADMIN}: password has to be 16 to 64 ")
    assert "\n1 fault. Restore the file from git" in printed
    assert cli.main(["secrets", "check", "--json"]) == 1
    [row] = json.loads(capsys.readouterr().out)
    assert (row["file"], row["field"], row["stops"]) == (ADMIN, "password", False)
    assert str(Finding(**row)) in printed


def test_header_is_missed_before_anything_is_applied(mine: Deployment) -> None:
    """Salt would hand the ciphertext to the services."""
    edit(mine.root / ADMIN, "#!yaml|gpg\n", "")
    with pytest.raises(SecretsError, match=rf"{ADMIN} does not begin with #!yaml"):
        SecretStore(mine).check()
