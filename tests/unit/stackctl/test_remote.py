"""The scripts of stackctl/remote, run for real in a temporary folder."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import stat
import sys
import tarfile
import time
from importlib.resources import files
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from stackctl.deployment import Deployment
from stackctl.errors import CommandError
from stackctl.run import run
from stackctl.secret_store import SecretStore
from stackctl.ssh import script_command
from stackctl.tree import files_archive

# As salt.client of Salt 3008: web-1 answers, slow-1 after 2 s, but a ping at once.
FAKE_CLIENT = """
import queue
import threading
class LocalClient:
    def __enter__(self):
        self.event = self
        self.events = queue.Queue()
        self.jobs = 0
        return self
    def __exit__(self, *_):
        pass
    def run_job(self, tgt, fun, arg=(), tgt_type="glob", listen=False):
        assert (tgt_type, listen) == ("list", True)
        names = tgt.split(",") if isinstance(tgt, str) else tgt
        if not tgt:
            return {}
        self.jobs += 1
        for name in names:
            self.events.put({"jid": str(self.jobs), "minions": [name]})
            quick = fun == "test.ping" and name == "slow-1"
            if name == "web-1" or quick:
                self.answer(str(self.jobs), name, list(arg))
            elif name == "slow-1":
                late = threading.Timer(2, self.answer, (str(self.jobs), name, "late"))
                late.daemon = True
                late.start()
        return {"jid": str(self.jobs), "minions": names}
    def answer(self, jid, name, value):
        self.events.put({"jid": jid, "id": name, "return": value})
    def get_event(self, wait, tag):
        assert tag == "salt/job/"
        try:
            return self.events.get(timeout=wait)
        except queue.Empty:
            return None
"""
SCRIPTS = sorted(
    entry.name for entry in (files("stackctl") / "remote").iterdir() if entry.name.endswith(".sh")
)


def remote(*args: str | Path, stdin: str | bytes = "") -> str:
    """Run a script on this host as on a machine."""
    command = script_command([str(arg) for arg in args])
    return run(command, log=None, what=str(args[0]), stdin=stdin)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_says_what_it_does_and_which_args_it_takes(name: str) -> None:
    shebang, *lines = (files("stackctl") / "remote" / name).read_text().splitlines()
    assert shebang == "#!/bin/sh"
    header = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert header[0].startswith("# ")
    assert header[-1].startswith("# Arguments: ")


def test_push_tree_switches_current_and_keeps_the_previous_tree(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    for revision in ("one", "two-dirty-2", "three"):
        remote("push-tree", folder, revision, stdin=files_archive({"top.sls": revision}))
        assert (folder / "current" / "top.sls").read_text() == revision
        assert (folder / "current" / "REVISION").read_text() == f"{revision}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["current", "three", "two-dirty-2"]
    assert (folder / "current").is_symlink()


def test_interrupted_push_tree_leaves_current_alone(tmp_path: Path) -> None:
    remote("push-tree", tmp_path, "one", stdin=files_archive({"top.sls": "one"}))
    with pytest.raises(CommandError):
        remote("push-tree", tmp_path, "two", stdin=files_archive({"top.sls": "two"})[:700])
    assert (tmp_path / "current" / "top.sls").read_text() == "one"


def test_read_revision_prints_revision_and_digest_that_exist(tmp_path: Path) -> None:
    assert remote("read-revision", tmp_path, "local") == ""
    remote("push-tree", tmp_path, "one", stdin=files_archive({}))
    assert remote("read-revision", tmp_path, "local") == "one\n"
    remote("push-pillar", tmp_path, "local", "abc", stdin=files_archive({}))
    assert remote("read-revision", tmp_path, "local").split() == ["one", "abc"]


def test_tree_and_pillar_are_noted_once_they_are_rolled_out(tmp_path: Path) -> None:
    assert remote("read-converged", tmp_path) == ""
    before: list[str] = []
    for revision, digest in (("one", "abc"), ("two", "abc"), ("two", "def")):
        remote("push-tree", tmp_path, revision, stdin=files_archive({}))
        remote("push-pillar", tmp_path, "local", digest, stdin=files_archive({}))
        assert remote("read-converged", tmp_path).split() == before
        remote("note-converged", tmp_path, "local")
        before = [revision, digest]
        assert remote("read-converged", tmp_path).split() == before


def test_write_counts_replaces_the_file(tmp_path: Path) -> None:
    file = tmp_path / "machines.conf"
    for text in ("a longer text", "short"):
        remote("write-counts", file, stdin=text)
        assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_push_pillar_replaces_every_file(tmp_path: Path) -> None:
    remote(
        "push-pillar", tmp_path, "local", "abc", stdin=files_archive({"a.sls": "1", "b.sls": "2"})
    )
    remote("push-pillar", tmp_path, "local", "def", stdin=files_archive({"a.sls": "3"}))
    pillar = tmp_path / "pillar" / "local"
    assert {path.name: path.read_text() for path in pillar.iterdir()} == {"a.sls": "3"}
    assert (tmp_path / "pillar" / "local.sha256").read_text() == "def\n"
    assert (mode(pillar), mode(pillar.parent)) == (0o700, 0o700)


def test_unpack_private_keeps_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "root" / ".aws"
    remote("unpack-private", folder, stdin=files_archive({"config": "old", "sso": "mine"}))
    remote("unpack-private", folder, stdin=files_archive({"config": "new"}))
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "config": "new",
        "sso": "mine",
    }
    assert mode(folder) == 0o700
    assert mode(folder / "config") == 0o600


def test_bootstrap_master_applies_state_with_the_configuration(tmp_path: Path) -> None:
    program = tmp_path / "salt-call"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    folder, pki = tmp_path / "bootstrap", tmp_path / "pki"
    pki.mkdir()
    (pki / "salt-1.pub").write_text("key")
    args = ("bootstrap-master", folder, pki, program, "master")
    output = remote(*args, stdin="id: salt-1\n")
    assert output == f"--local --config-dir {folder} --out=json state.apply master\n"
    assert (folder / "minion").read_text() == "id: salt-1\n"
    program.write_text("#!/bin/sh\nexit 2\n")
    with pytest.raises(CommandError) as caught:
        remote(*args)
    assert caught.value.code == 2


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """State of each systemd unit on the machine; changing it changes the state."""
    states: dict[str, str] = {}
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nfor unit; do :; done\nstate=$(cat '{tmp_path}/'$unit)\n"
        '[ "$2" = --quiet ] || echo "$state"\n[ "$state" = active ]\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    class Units(dict[str, str]):
        def __setitem__(self, name: str, state: str) -> None:
            super().__setitem__(name, state)
            (tmp_path / name).write_text(state)

    states = Units()
    states["salt-master"] = states["salt-minion"] = "active"
    return states


def test_master_is_ready_after_its_state_was_applied_with_its_present_key(
    tmp_path: Path, units: dict[str, str]
) -> None:
    folder, pki = tmp_path / "bootstrap", tmp_path / "pki"
    pki.mkdir()
    (pki / "salt-1.pub").write_text("key")

    def ready() -> bool:
        return remote("master-is-ready", folder, pki, "salt-master") == "yes\n"

    def bootstrap(program: str) -> None:
        remote("bootstrap-master", folder, pki, program, "master")

    assert not ready()
    bootstrap("true")
    assert ready()
    units["salt-master"] = "failed"
    assert not ready()
    units["salt-master"] = "active"
    with pytest.raises(CommandError):
        bootstrap("false")
    assert not ready(), "its state has failed"
    bootstrap("true")
    (pki / "salt-1.pub").write_text("another key")
    assert not ready()


@pytest.mark.parametrize(
    ("minion", "master", "printed"),
    [
        ("inactive", "active", "stopped"),
        ("activating", "active", "stopped"),
        ("active", "active", "ask"),
        ("active", "activating", "starting"),
        ("active", "inactive", "unasked"),
        ("active", "failed", "unasked"),
    ],
)
def test_own_minion_is_asked_only_by_a_master_that_runs(
    tmp_path: Path, units: dict[str, str], minion: str, master: str, printed: str
) -> None:
    pki = tmp_path / "pki"
    (pki / "minion").mkdir(parents=True)
    (pki / "minion" / "minion.pub").write_text("new")
    denied = pki / "master" / "minions_denied" / "salt-1"
    denied.parent.mkdir(parents=True)
    denied.touch()
    units["salt-minion"], units["salt-master"] = minion, master
    assert remote("own-minion", pki, "salt-1") == f"{printed}\n"
    accepted = pki / "master" / "minions" / "salt-1"
    assert (accepted.read_text() if accepted.exists() else "") == (
        "new" if printed == "ask" else ""
    )
    assert denied.exists() == (printed != "ask")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The folder of keys of a machine that is a master and its minion `web-1`."""
    for folder in ("minion", "master/minions", "master/minions_denied", "master/minions_pre"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("minion/minion.pem", "minion/minion.pub", "master/minions/web-1"):
        (tmp_path / name).write_text("old")
    (tmp_path / "master/minions_denied/web-1").touch()
    return tmp_path


def test_new_key_of_a_minion_is_used_once_it_is_accepted(keys: Path, units: dict[str, str]) -> None:
    minion, accepted = keys / "minion", keys / "master/minions"
    # Of a run that was interrupted.
    (minion / "minion.pem.next").touch(0o400)
    public = remote("new-minion-key", minion)
    assert (minion / "minion.pem").read_text() == "old"
    remote("accept-minion-key", keys / "master", "web-1", stdin=public)
    assert [path.name for path in accepted.iterdir()] == ["web-1"]
    assert (accepted / "web-1").read_text() == public
    assert (accepted / "web-1").stat().st_mode & 0o777 == 0o644
    assert not (keys / "master/minions_denied/web-1").exists()
    remote("use-minion-key", minion)
    assert sorted(path.name for path in minion.iterdir()) == ["minion.pem", "minion.pub"]
    assert (minion / "minion.pem").stat().st_mode & 0o777 == 0o400
    key = serialization.load_pem_private_key((minion / "minion.pem").read_bytes(), None)
    pem, info = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    assert key.public_key().public_bytes(pem, info).decode() == public
    assert (minion / "minion.pub").read_text() == public


@pytest.mark.parametrize("sent", ["", "-----BEGIN PUBLIC KEY-----\nMIIB", "old"])
def test_half_of_a_key_is_not_accepted(keys: Path, sent: str) -> None:
    with pytest.raises(CommandError):
        remote("accept-minion-key", keys / "master", "web-1", stdin=sent)
    assert (keys / "master/minions/web-1").read_text() == "old"


@pytest.mark.parametrize(
    ("seconds", "silent", "names", "answers", "at_most"),
    [
        (60, 60, "web-1", {"web-1": ["x=1"]}, 5),
        (1, 1, "web-1,gone-1", {"web-1": ["x=1"]}, 5),
        (60, 1, "web-1,gone-1", {"web-1": ["x=1"]}, 5),
        # One that is slow and alive is waited for, and the silent one is not.
        (60, 1, "web-1,slow-1,gone-1", {"web-1": ["x=1"], "slow-1": "late"}, 10),
        (60, 60, "", {}, 5),
    ],
)
def test_ask_minions_gives_up_silent_minions_alone(
    tmp_path: Path, seconds: int, silent: int, names: str, answers: object, at_most: int
) -> None:
    (tmp_path / "salt").mkdir()
    (tmp_path / "salt" / "__init__.py").touch()
    (tmp_path / "salt" / "client.py").write_text(FAKE_CLIENT)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    began = time.monotonic()
    question = ("list", names, "role.status", "x=1")
    printed = remote("ask-minions", python, str(seconds), str(silent), *question)
    assert json.loads(printed) == answers
    assert time.monotonic() - began < at_most


def test_ask_minions_names_a_master_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timeout").write_text("#!/bin/sh\nexit 124\n")
    (tmp_path / "timeout").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CommandError, match="the Salt master does not answer"):
        remote("ask-minions", "python", "1", "1", "list", "web-1", "test.ping")


def test_replace_ssh_key_leaves_other_keys_and_mode(tmp_path: Path) -> None:
    file = tmp_path / "authorized_keys"
    file.write_text("ssh-ed25519 AAAAmine me\nssh-ed25519 AAAAold+/= deploy\n")
    file.chmod(0o640)
    for _ in range(2):
        remote("replace-ssh-key", file, "ssh-ed25519 AAAAold+/=", "ssh-ed25519 AAAAnew")
        assert file.read_text() == "ssh-ed25519 AAAAmine me\nssh-ed25519 AAAAnew\n"
    assert mode(file) == 0o640


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed: it reads the key")
def test_import_gpg_key_fills_a_private_key_ring(deployment: Deployment, tmp_path: Path) -> None:
    store = SecretStore(deployment)
    store.create_key()
    with pytest.MonkeyPatch.context() as patch:
        ring = tmp_path / "ring"  # a short path: gpg-agent's socket is in it
        patch.setenv("GNUPGHOME", str(ring))
        remote("import-gpg-key", ring, stdin=store.private_key.read_text())
        listed = run(
            ["gpg", "--homedir", str(ring), "--batch", "--list-secret-keys"], log=None, what="gpg"
        )
        run(["gpgconf", "--homedir", str(ring), "--kill", "all"], log=None, what="gpgconf")
    assert "local stack" in listed
    assert mode(ring) == 0o700


def test_files_archive_is_the_same_for_the_same_texts() -> None:
    archive = files_archive({"config": "ä"})
    assert archive == files_archive({"config": "ä"})
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        (member,) = opened.getmembers()
        content = opened.extractfile(member)
        assert content is not None
        assert content.read().decode() == "ä"
    assert (member.name, member.mode, member.uname) == ("config", 0o600, "root")
