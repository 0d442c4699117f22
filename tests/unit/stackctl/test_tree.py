"""The master gets exactly the tree that its revision names."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import cast

import pytest

from stackctl import tree
from stackctl.deployment import Deployment
from stackctl.errors import CommandError, StackError
from stackctl.files import write_private
from stackctl.machines import Machine
from stackctl.run import Log, run
from stackctl.ssh import Shell, script_command

MASTER = Machine("salt-1", "i-1", "running", "10.20.1.10", "")


class HereShell:
    """Runs the master's scripts on this host, but keeps the GPG key in place of importing it."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.key = ""

    def script(
        self, machine: Machine, args: list[str], *, what: str, stdin: str | bytes | None = None
    ) -> str:
        assert machine == MASTER
        self.ran.append(what)
        if args[0] == "import-gpg-key":
            self.key = cast(str, stdin)
            return ""
        return run(script_command(args), log=None, what=what, stdin=stdin)


def git(root: Path, *arguments: str) -> str:
    command = [
        "git",
        "-C",
        str(root),
        "-c",
        "user.name=Tester",
        "-c",
        "user.email=tester@example.org",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout with one commit, and a git that knows nothing about its user."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    (checkout / ".gitignore").write_text("/.stack/\n/pillar/local/\n")
    (checkout / "salt" / "top.sls").write_text("base: {}\n")
    git(checkout, "init", "--quiet")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "tests: begin")
    return checkout


@pytest.fixture
def local(repository: Path) -> Deployment:
    """A deployment of it with something in its pillar."""
    deployment = Deployment("local", repository)
    (deployment.pillar_dir / "secrets").mkdir(parents=True)
    (deployment.pillar_dir / "settings.sls").write_text("settings: {}\n")
    (deployment.pillar_dir / "secrets" / "redis-airflow.sls").write_text("ciphertext\n")
    write_private(deployment.state_dir / "gpg-private.asc", "the private key")
    return deployment


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is /srv/stack on the master."""
    monkeypatch.setattr(tree, "HOME", str(tmp_path / "srv"))
    return tmp_path / "srv"


def push(deployment: Deployment, shell: HereShell, log: Log) -> tuple[bool, str]:
    return tree.push(deployment, cast(Shell, shell), MASTER, log)


# -- revision --------------------------------------------------------------------------------------


def test_revision_of_clean_checkout_is_commit(repository: Path, log: Log) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert tree.revision(repository, log) == (commit, commit)


@pytest.mark.parametrize("how", ["edited", "deleted", "added"])
def test_revision_of_dirty_checkout_names_its_content(repository: Path, log: Log, how: str) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    top = repository / "salt" / "top.sls"
    match how:
        case "edited":
            top.write_text("base: {'*': [base]}\n")
        case "deleted":
            top.unlink()
        case "added":
            (repository / "salt" / "new.sls").write_text("new: {}\n")
            git(repository, "add", "salt/new.sls")
    before = git(repository, "status", "--porcelain")
    name, treeish = tree.revision(repository, log)
    assert re.fullmatch(rf"{commit}-dirty-[0-9a-f]{{12}}", name)
    assert treeish.startswith(name[-12:])
    assert tree.revision(repository, log) == (name, treeish)
    # Looking has changed neither the work tree nor the list of stashes.
    assert git(repository, "status", "--porcelain") == before
    assert git(repository, "stash", "list") == ""
    present = git(repository, "ls-tree", "-r", "--name-only", treeish).splitlines()
    assert ("salt/top.sls" in present) == (how != "deleted")
    assert ("salt/new.sls" in present) == (how == "added")


def test_documents_and_tests_are_no_other_release(local: Deployment, home: Path, log: Log) -> None:
    names = ["docs/capacity.md", "tests/unit/test_a.py", "README.md"]
    for name in [*names, "packages/a/README.md"]:
        (local.root / name).parent.mkdir(parents=True, exist_ok=True)
        (local.root / name).write_text("one\n")
    git(local.root, "add", ".")
    git(local.root, "commit", "--quiet", "-m", "docs: begin")
    commit = git(local.root, "rev-parse", "HEAD")
    for name in names:
        (local.root / name).write_text("two\n")
    (local.root / "docs" / "draft.md").touch()
    assert tree.revision(local.root, log) == (commit, commit)
    assert tree.untracked_warning(local, log) == ""
    push(local, HereShell(), log)
    assert not {"docs", "tests", "README.md"} & {one.name for one in (home / "current").iterdir()}
    # A package is built with its own.
    assert (home / "current" / "packages" / "a" / "README.md").exists()


def test_untracked_file_is_not_in_revision(repository: Path, log: Log) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "salt" / "draft.sls").write_text("draft: {}\n")
    assert tree.revision(repository, log) == (commit, commit)


def test_revision_needs_git_checkout(checkout: Path, log: Log) -> None:
    with pytest.raises(StackError, match=r"is no git checkout\. Clone the repository"):
        tree.revision(checkout, log)


def test_untracked_warning_names_files(local: Deployment, log: Log) -> None:
    assert tree.untracked_warning(local, log) == ""
    (local.root / "salt" / "a draft.sls").write_text("draft: {}\n")
    (local.root / "pillar" / "prod").mkdir()
    (local.root / "pillar" / "prod" / "settings.sls").write_text("settings: {}\n")
    assert tree.untracked_warning(local, log).endswith(
        "(git add): pillar/prod/settings.sls, salt/a draft.sls"
    )
    # What is pushed as the deployment's own pillar is not left out.
    prod = Deployment("prod", local.root)
    assert tree.untracked_warning(prod, log).endswith("(git add): salt/a draft.sls")
    for number in range(3):
        (local.root / "salt" / f"{number}.sls").touch()
    assert tree.untracked_warning(prod, log).endswith(
        "(git add): salt/0.sls, salt/1.sls, salt/2.sls and 1 more"
    )


# -- push ------------------------------------------------------------------------------------------


def test_push_brings_tree_pillar_and_key(local: Deployment, home: Path, log: Log) -> None:
    shell = HereShell()
    changed, name = push(local, shell, log)
    assert changed
    assert (home / "current").resolve() == home / name
    assert (home / "current" / "REVISION").read_text() == f"{name}\n"
    assert (home / "current" / "salt" / "top.sls").read_text() == "base: {}\n"
    assert (
        home / "pillar" / "local" / "secrets" / "redis-airflow.sls"
    ).read_text() == "ciphertext\n"
    assert shell.key == "the private key"
    assert "the private key" not in log.path.read_text()
    # Neither what git ignores nor git's own.
    assert not {".stack", ".git"} & {path.name for path in (home / "current").iterdir()}
    assert not (home / "current" / "pillar" / "local").exists()


def test_failing_git_archive_is_a_sentence(
    local: Deployment, home: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "revision", lambda *_: ("name", "0" * 40))
    with pytest.raises(
        CommandError, match=r"^git archive failed: fatal: not a tree object.* Log: "
    ):
        push(local, HereShell(), log)
    assert not home.exists()


def test_second_push_changes_nothing(local: Deployment, home: Path, log: Log) -> None:
    _, name = push(local, HereShell(), log)
    shell = HereShell()
    assert push(local, shell, log) == (False, name)
    assert shell.ran == ["reading the revision on salt-1"]


def test_push_includes_uncommitted_changes_but_no_untracked_files(
    local: Deployment, home: Path, log: Log
) -> None:
    (local.root / "salt" / "top.sls").write_text("base: {'*': [base]}\n")
    (local.root / "salt" / "draft.sls").write_text("draft: {}\n")
    _, name = push(local, HereShell(), log)
    assert "-dirty-" in name
    assert (home / "current" / "salt" / "top.sls").read_text() == "base: {'*': [base]}\n"
    assert not (home / "current" / "salt" / "draft.sls").exists()


def test_push_keeps_only_the_previous_tree(local: Deployment, home: Path, log: Log) -> None:
    names = []
    for number in range(3):
        (local.root / "salt" / "top.sls").write_text(f"base: {{'{number}': []}}\n")
        names.append(push(local, HereShell(), log)[1])
    assert len(set(names)) == 3
    assert (home / "current").resolve() == home / names[2]
    assert sorted(path.name for path in home.iterdir()) == sorted([*names[1:], "current", "pillar"])


def test_push_of_new_secret_omits_tree(local: Deployment, home: Path, log: Log) -> None:
    push(local, HereShell(), log)
    (local.pillar_dir / "secrets" / "redis-airflow.sls").write_text("other ciphertext\n")
    (local.pillar_dir / "settings.sls").unlink()
    shell = HereShell()
    assert push(local, shell, log)[0]
    assert "pushing the tree to salt-1" not in shell.ran
    assert (
        home / "pillar" / "local" / "secrets" / "redis-airflow.sls"
    ).read_text() == "other ciphertext\n"
    assert not (home / "pillar" / "local" / "settings.sls").exists()


def test_pillar_archive_is_private_and_reproducible(local: Deployment) -> None:
    first = tree.pillar_archive(local)
    for path in [*local.pillar_dir.rglob("*")]:
        path.touch()
        path.chmod(0o755)
    assert tree.pillar_archive(local) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        members = archive.getmembers()
    assert {member.name for member in members} == {
        ".",
        "./settings.sls",
        "./secrets",
        "./secrets/redis-airflow.sls",
    }
    assert {(member.uid, member.gid, member.uname) for member in members} == {(0, 0, "root")}
    assert {member.mode for member in members if member.isfile()} == {0o600}
    assert {member.mode for member in members if member.isdir()} == {0o700}
