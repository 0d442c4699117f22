"""Files that are damaged in every way: each verb tells the file, and nobody sees a traceback."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stackctl import armour, cli, local
from stackctl.deployment import Deployment
from stackctl.errors import StackError
from stackctl.secret_store import SecretStore

SETTINGS, ADMIN = "pillar/local/settings.sls", "pillar/local/secrets/airflow-admin.sls"
TREE = (
    "cloud.maps.d/small.map",
    "cloud.profiles.d/machines.conf",
    "cloud.providers.d/eu-west-1.conf",
    "pillar/base/aws.sls",
    "pillar/base/endpoints.sls",
    "pillar/base/roles.sls",
    "pillar/base/top.sls",
    "pillar/base/airflow.sls",
)
Damage = Callable[[str], str | bytes]


def _without_values(text: str) -> str:
    return "".join(f"{line.split(':')[0]}:\n" for line in text.splitlines() if line[:1].isalpha())


DAMAGE: dict[str, Damage] = {
    "empty": lambda _: "",
    "no YAML": lambda _: "a: [b\n c: }",
    "binary": lambda _: bytes(range(256)),
    "a list": lambda _: "- a\n- b\n",
    "a text": lambda _: "hello",
    "keys without values": _without_values,
    "a tag of Python": lambda _: "a: !!python/object/apply:os.system ['true']\n",
    "a tab": lambda _: "a:\n\tb: 1\n",
    "half of Jinja": lambda text: f"{text}\n{{% if %}}\n",
    "twice the same": lambda text: f"{text}\n{text}",
}
SECRET: dict[str, tuple[Damage, str]] = {
    "plaintext": (lambda _: "secrets:\n  airflow-admin:\n    password: hello\n", "not encrypted"),
    "plaintext alone": (lambda _: "hello\n", "holds a value"),
    "plaintext that YAML refuses": (lambda _: "secrets: {a: *hello}\n", "is no YAML, line 1."),
    "not for gpg": (lambda text: text.replace("#!yaml|gpg\n", ""), "does not begin with #!yaml"),
    "another header": (lambda text: text.replace("BEGIN PGP", "BEGIN PGO"), "not encrypted"),
    "no end": (lambda text: text.replace("-----END PGP MESSAGE-----", ""), "cut off"),
    "half": (lambda text: text[: len(text) // 2], "cut off"),
    "a changed letter": (lambda text: _changed(text, text.index("\n\n") + 20), "damaged"),
    "no field": (lambda _: "secrets:\n  airflow-admin:\n", "one secret, and its fields"),
    "two secrets": (lambda text: f"{text}  other:\n    a: b\n", "one secret, and its fields"),
    "no secret": (lambda _: "password: hello\n", "has to hold one key, secrets"),
    "empty": (lambda _: "", "is empty"),
    "no YAML": (lambda _: "a: [b\n c: }", "is no YAML"),
    "binary": (lambda _: bytes(range(256)), "not in UTF-8"),
}


def _changed(text: str, at: int) -> str:
    return f"{text[:at]}{'A' if text[at] != 'A' else 'B'}{text[at + 1 :]}"


@pytest.fixture
def root(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that checkout, which stackctl takes for its own."""
    copy = tmp_path / "checkout"
    shutil.copytree(whole, copy)
    monkeypatch.setattr(cli, "repository_root", lambda: copy)
    return copy


def damaged(path: Path, damage: Damage) -> None:
    made = damage(path.read_text())
    path.write_bytes(made.encode() if isinstance(made, str) else made)


def said(capsys: pytest.CaptureFixture[str], *verb: str) -> str:
    """Run a verb that fails, and return what it says of why."""
    assert cli.main(verb) == 1
    return " ".join(capsys.readouterr().err.split())


def test_whole_files_are_taken(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cost"]) == 0, capsys.readouterr().err
    SecretStore(Deployment("local", root)).check()


@pytest.mark.parametrize("verb", [("up", "--dry-run"), ("cost",), ("scale", "web=3")])
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*TREE, SETTINGS])
def test_damaged_file_is_named(
    root: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str, verb: tuple[str, ...]
) -> None:
    damaged(root / name, DAMAGE[damage])
    assert said(capsys, *verb).startswith("error:")
    told = said(capsys, *verb)
    assert Path(name).name in told


@pytest.mark.parametrize("name", [*TREE[1:], SETTINGS])
def test_folder_in_the_place_of_a_file_is_named(
    root: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (root / name).unlink()
    (root / name).mkdir()
    assert f"{name} cannot be read" in said(capsys, "cost")


@pytest.mark.parametrize("verb", [("up", "--dry-run"), ("plan",), ("launch",)])
@pytest.mark.parametrize("damage", SECRET)
def test_damaged_secret_is_named_before_anything_is_done(
    root: Path, capsys: pytest.CaptureFixture[str], damage: str, verb: tuple[str, ...]
) -> None:
    damaged(root / ADMIN, SECRET[damage][0])
    told = said(capsys, *verb)
    assert ADMIN in told
    assert SECRET[damage][1] in told
    assert "secrets rotate" in told
    assert "hello" not in told


@pytest.mark.parametrize("damage", SECRET)
def test_damaged_secret_is_made_anew(root: Path, damage: str) -> None:
    damaged(root / ADMIN, SECRET[damage][0])
    assert cli.main(["secrets", "rotate", "airflow-admin"]) == 0
    assert SecretStore(Deployment("local", root)).read("airflow-admin")["password"]


@pytest.mark.parametrize("url", ["http://a.example", "javascript:alert(1)", "https://a.example/x"])
def test_address_that_is_no_sites_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    damaged(root / SETTINGS, lambda text: text.replace(local.base_url(), url))
    assert "settings:base_url" in said(capsys, "up", "--dry-run")


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("aws", "salt_address: 10.20.1.250", "salt_address: ten", "aws:salt_address is 'ten'"),
        ("roles", "    unit: salt-master", "    unit: salt-master\n    trusts: 5", "trusts is 5"),
        (
            "roles",
            "    unit: salt-master",
            "    unit: 7",
            "roles:salt:unit is 7",
        ),
    ],
)
def test_value_of_another_kind_is_named(
    root: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, told: str
) -> None:
    damaged(root / f"pillar/base/{name}.sls", lambda text: text.replace(old, new))
    assert told in said(capsys, "cost")


def test_full_disk_leaves_the_old_file(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (root / ADMIN).read_text()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left on device" in said(capsys, "secrets", "rotate", "airflow-admin")
    assert (root / ADMIN).read_text() == before
    assert not list(root.rglob("*.new"))


def test_error_of_a_library_is_not_taken_for_the_systems(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del root

    def broken(*_: object) -> int:
        raise OSError("no number")

    monkeypatch.setitem(cli.VERBS, "cost", broken)
    with pytest.raises(OSError, match="no number"):
        cli.main(["cost"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "not encrypted"),
        ("", "not encrypted"),
        (f"{armour.BEGIN}\n\nAAAA\n", "cut off"),
        (f"{armour.BEGIN}\n{armour.END}", "damaged"),
        (f"{armour.BEGIN}\n\nA*AA\n{armour.END}", "damaged"),
        (f"{armour.BEGIN}\n\nAAAA\n=AAAA\n{armour.END}", "damaged"),
        # The checksum of no byte at all is the initial value: RFC 9580, section 6.1.1.
        (f"{armour.BEGIN}\nVersion: 1\n\nYQ==\n=n5uk\n{armour.END}", "damaged"),
        (f"{armour.BEGIN}\n\nAAAA\n{armour.END}", ""),
    ],
)
def test_armour_is_whole(text: object, fault: str) -> None:
    found = armour.fault(text)
    assert fault in found
    assert bool(found) == bool(fault)


def test_missing_secret_is_named(root: Path) -> None:
    with pytest.raises(StackError, match="There is no secret 'nothing'"):
        SecretStore(Deployment("local", root)).read("nothing")
