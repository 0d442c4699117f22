"""A secret takes a value that a person brings, if its readers can use it; nobody else sees it."""

from __future__ import annotations

import io
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from stackctl import cli, recipients
from stackctl.catalogue import FORMATS
from stackctl.certificates import Authority
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.secret_edit import edit, in_editor, memory_folder, set_field
from stackctl.secret_store import SecretStore, gpg, gpg_home

pytestmark = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")

PLAIN = "correct-horse-battery"


@pytest.fixture(scope="module")
def made(whole: Path) -> Deployment:
    """The deployment `local` with all its secrets; only to be looked at."""
    return Deployment("local", whole)


@pytest.fixture
def here(mine: Deployment, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A copy that the command line works on."""
    monkeypatch.setattr(cli, "repository_root", lambda: mine.root)
    return mine


def contents(deployment: Deployment) -> dict[str, str]:
    folder = SecretStore(deployment).folder
    return {path.name: path.read_text() for path in folder.iterdir()}


def typed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Have a shell script, whose first argument is the file, be the editor."""
    path = tmp_path / "an editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"'{path}' --wait")


# -- set -------------------------------------------------------------------------------------------


def test_value_of_standard_input_is_encrypted(
    here: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(here)
    typed(monkeypatch, f"{PLAIN}\n".encode())
    assert cli.main(["secrets", "set", "airflow-admin", "password"]) == 0
    printed = capsys.readouterr().out
    assert "This brings it to the machines: stackctl up" in printed
    assert PLAIN not in printed
    assert SecretStore(here).read("airflow-admin") == {"password": PLAIN}
    after = contents(here)
    assert {name for name in after if after[name] != before.get(name)} == {"airflow-admin.sls"}
    assert not any(PLAIN in path.read_text() for path in here.state_dir.rglob("*.log"))
    typed(monkeypatch, PLAIN.encode())
    assert cli.main(["secrets", "set", "airflow-admin", "password"]) == 0
    assert capsys.readouterr().out == "Nothing was changed.\n"
    assert contents(here) == after, "the ciphertext is as it was"


@pytest.mark.parametrize(
    ("keys", "code", "told"),
    [(f"{PLAIN}\n", 0, "Changed: airflow-admin."), ("\4", 1, "No value was given.")],
)
def test_terminal_does_not_show_the_value(
    here: Deployment, keys: str, code: int, told: str
) -> None:
    """A person types at a terminal; Ctrl-D gives no value."""
    verb = ["secrets", "set", "airflow-admin", "password"]
    program = (
        "import sys; from pathlib import Path; from stackctl import cli\n"
        f"cli.repository_root = lambda: Path({str(here.root)!r})\n"
        f"sys.exit(cli.main({verb!r}))"
    )
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", program])
    shown = b""
    with os.fdopen(terminal, "r+b", buffering=0) as file, suppress(OSError):  # it ends with EIO
        while part := file.read(1000):
            shown += part
            if b"password of airflow-admin: " in shown and keys:
                file.write(keys.encode())
                keys = ""
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == code
    assert told in shown.decode()
    assert PLAIN not in shown.decode()
    if code == 0:
        assert SecretStore(here).read("airflow-admin") == {"password": PLAIN}


@pytest.mark.parametrize(
    "data", [b"", b"hunter2\n", b"-correct-horse-battery", b"correct horse battery", b"\xff" * 20]
)
def test_value_that_readers_would_not_take_is_refused(
    here: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    data: bytes,
) -> None:  # fmt: skip
    before = contents(here)
    typed(monkeypatch, data)
    assert cli.main(["secrets", "set", "airflow-admin", "password"]) == 1
    printed = capsys.readouterr().err
    assert "airflow-admin: password has to be 16 to 64 letters" in printed
    assert not data.strip() or data.decode(errors="replace").strip() not in printed
    assert contents(here) == before


def test_other_fields_stay(mine: Deployment) -> None:
    before = SecretStore(mine).read("airflow-keys")
    fernet = "A" * 43 + "="
    both = f"{fernet},{before['fernet_key']}"
    assert set_field(mine, "airflow-keys", "fernet_key", both)
    assert SecretStore(mine).read("airflow-keys") == before | {"fernet_key": both}
    assert FORMATS["fernet_key"].pattern.fullmatch(f"{both},") is None


@pytest.mark.parametrize(
    ("secret", "field", "told"),
    [
        ("redis-tls", "certificate", "Run: stackctl secrets rotate redis-tls"),
        ("cloud-ssh", "private_key", "Run: stackctl secrets rotate cloud-ssh"),
        ("deployment-ca", "private_key", "Run: stackctl secrets rotate deployment-ca"),
        ("edge-tls", "certificate", "change together. Run: stackctl secrets edit edge-tls"),
        ("postgres-backup", "password", "it opens the backups that exist"),
        ("airflow-admin", "user", "has no field 'user'. There are: password."),
        ("wifi", "password", "There is no secret 'wifi'"),
    ],
)
def test_what_nobody_sets_by_hand_is_refused(
    mine: Deployment, secret: str, field: str, told: str
) -> None:
    before = contents(mine)
    with pytest.raises(SecretsError) as raised:
        set_field(mine, secret, field, PLAIN)
    assert told in str(raised.value)
    assert contents(mine) == before


def test_value_is_encrypted_to_every_recipient(mine: Deployment) -> None:
    ann = SecretStore(Deployment("ann", mine.root))
    ann.create_key()
    recipients.share(mine, ann.public_key, "ann")
    set_field(mine, "airflow-admin", "password", PLAIN)
    with gpg_home() as home:
        gpg(home, ["--import", str(ann.private_key)])
        text = SecretStore(mine).ciphertexts("airflow-admin")["password"]
        assert gpg(home, ["--decrypt"], text) == PLAIN
    expired = ["--faked-system-time", "20200101T000000", "--passphrase", ""]
    with gpg_home() as home:
        gpg(home, [*expired, "--quick-generate-key", "bob", "future-default", "default", "2d"])
        bob = mine.pillar_dir / "operators/bob.asc"
        bob.write_text(gpg(home, ["--armor", "--export"]))
    before = contents(mine)
    with pytest.raises(SecretsError, match=r"operators/bob\.asc cannot encrypt: it is expired"):
        set_field(mine, "airflow-admin", "password", f"{PLAIN}-2")
    assert contents(mine) == before


# -- edit ------------------------------------------------------------------------------------------


def test_editor_changes_a_value_and_leaves_nothing_behind(
    here: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    old = SecretStore(here).read("airflow-admin")["password"]
    editor(monkeypatch, tmp_path, f"""
        [ "$1" = --wait ] && cp "$2" {tmp_path}/seen && echo "$2" > {tmp_path}/where
        stat -c %a "$2" "$(dirname "$2")" > {tmp_path}/mode
        stat -f -c %T "$2" >> {tmp_path}/mode
        sed -i s/{old}/{PLAIN}/ "$2"; touch "$2~"
    """)  # fmt: skip
    assert cli.main(["secrets", "edit", "airflow-admin"]) == 0
    assert SecretStore(here).read("airflow-admin") == {"password": PLAIN}
    assert f"\n[password]\n{old}\n" in (tmp_path / "seen").read_text()
    assert (tmp_path / "mode").read_text().split() == ["600", "700", "tmpfs"]
    assert not Path((tmp_path / "where").read_text().strip()).parent.exists()
    assert "stackctl up" in (printed := capsys.readouterr().out)
    assert PLAIN not in printed
    assert old not in printed


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("true", "Nothing was changed."),
        ('echo >> "$2"', "Nothing was changed."),
        ("exit 3", "ended with exit code 3. Nothing was changed."),
        ('echo hunter2 > "$2"', "Line 1 is below no [field]. Nothing was changed."),
        (': > "$2"', "There is no [password] any more. Nothing was changed."),
        ('echo "[password]" >> "$2"', "[password] is there twice. Nothing was changed."),
        ('echo hunter2 >> "$2"', "password has to be 16 to 64"),
        ('rm "$2"', "No such file"),
    ],
)
def test_editing_that_gives_no_value_changes_nothing(
    here: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], script: str, told: str,
) -> None:  # fmt: skip
    before = contents(here)
    editor(monkeypatch, tmp_path, f'echo "$2" > {tmp_path}/where\n{script}')
    cli.main(["secrets", "edit", "airflow-admin"])
    printed = "".join(capsys.readouterr())
    assert told in printed
    assert "hunter2" not in printed
    assert contents(here) == before
    assert not Path((tmp_path / "where").read_text().strip()).parent.exists()


def test_certificate_of_a_public_ca_comes_with_its_key(mine: Deployment) -> None:
    before = SecretStore(mine).read("edge-tls")
    brought = Authority.new("public").server("site", ["airflow.example.org"])

    def swap(*fields: str) -> Callable[[str], str]:
        def ask(text: str) -> str:
            for field in fields:
                text = text.replace(before[field].strip(), brought[field].replace("\n", "\r\n"))
            return text

        return ask

    with pytest.raises(SecretsError, match="private_key is not the key of the certificate"):
        edit(mine, "edge-tls", swap("certificate"))
    assert SecretStore(mine).read("edge-tls") == before
    assert edit(mine, "edge-tls", swap("certificate", "private_key"))
    assert SecretStore(mine).read("edge-tls") == brought
    with pytest.raises(SecretsError, match="secrets rotate redis-tls"):
        edit(mine, "redis-tls", swap())


def test_editor_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SecretsError, match=r"No editor is named\. Set the variable VISUAL"):
        in_editor("")
    monkeypatch.setenv("VISUAL", "/nonexistent/editor")
    with pytest.raises(Exception, match="there is no program '/nonexistent/editor'"):
        in_editor("")


def test_folder_on_a_disk_is_refused(tmp_path: Path) -> None:
    disk = next(path for path in (Path("/usr"), Path("/")) if path.is_dir())
    with pytest.raises(SecretsError, match="No folder of this machine is in memory"):
        memory_folder(["", str(disk), str(tmp_path / "absent")])
    assert memory_folder([str(disk), "/dev/shm"]) == Path("/dev/shm")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_to_end_removes_the_text(tmp_path: Path, number: signal.Signals) -> None:
    """As when the terminal is closed while the editor is open."""
    where = tmp_path / "where"
    script = tmp_path / "editor"
    script.write_text(
        f'#!/bin/sh\necho "$1" > {where}.new; mv {where}.new {where}; exec sleep 60\n'
    )
    script.chmod(0o700)
    code = "from stackctl.secret_edit import in_editor; in_editor('[password]')"
    environment = {**os.environ, "VISUAL": str(script)}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 30
        while not where.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline, "the editor did not start"
            time.sleep(0.02)
        text = Path(where.read_text().strip())
        assert text.read_text() == "[password]"
        process.send_signal(number)
        assert process.wait(30) != 0
    assert not text.parent.exists()
