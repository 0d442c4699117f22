"""The tree that the Salt master serves: an exact commit, pushed to it and named on it."""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
from pathlib import Path

from stackctl.deployment import Deployment
from stackctl.errors import StackError
from stackctl.machines import Machine, Shell
from stackctl.run import Log, run, run_bytes
from stackctl.secret_store import SecretStore

HOME = "/srv/stack"


def _git(root: Path, log: Log, *arguments: str) -> str:
    return run(["git", "-C", str(root), *arguments], log=log, what=f"git {arguments[0]}").strip()


def revision(root: Path, log: Log) -> tuple[str, str]:
    """Return the name of what is to be deployed, and the git tree that holds it.

    A clean checkout is deployed as its commit. Uncommitted changes to tracked files are deployed too, and say so:
    `<commit>-dirty-<tree>`.
    """
    if not (root / ".git").exists():
        raise StackError(
            f"{root} is no git checkout.",
            "Clone the repository: the master is told which commit it runs.",
        )
    commit = _git(root, log, "rev-parse", "HEAD")
    stash = _git(root, log, "stash", "create")
    if not stash:
        return commit, commit
    tree = _git(root, log, "rev-parse", f"{stash}^{{tree}}")
    return f"{commit}-dirty-{tree[:12]}", tree


def left_out(deployment: Deployment, log: Log) -> str:
    """Return a warning that names files which are not deployed because git was not told of them; empty: none are.

    Those that git ignores are meant so. The deployment's own pillar is no such file: it is deployed as it lies there.
    """
    files = _git(deployment.root, log, "ls-files", "--others", "--exclude-standard", "-z").split(
        "\0"
    )
    own = f"{deployment.pillar_dir.relative_to(deployment.root)}/"
    names = [name for name in files if name and not name.startswith(own)]
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"not deployed, since git does not know them (git add): {', '.join(names[:3])}{more}"


def _pillar_archive(deployment: Deployment) -> bytes:
    buffer = io.BytesIO()

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = 0
        member.mode = 0o700 if member.isdir() else 0o600
        return member

    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(deployment.pillar_dir, arcname=".", filter=anonymous)
    return buffer.getvalue()


def push(deployment: Deployment, shell: Shell, master: Machine, log: Log) -> tuple[bool, str]:
    """Bring tree, deployment pillar and GPG key to the master; return whether anything changed, and the revision.

    Each tree lies in a folder of its own; `current` is switched only when it is whole, and the one before is kept as
    the way back.
    """
    name, treeish = revision(deployment.root, log)
    pillar = _pillar_archive(deployment)
    digest = hashlib.sha256(pillar).hexdigest()
    there = shell.run(
        master,
        f"cat {HOME}/current/REVISION {HOME}/pillar/{deployment.name}.sha256 2>/dev/null || true",
        what=f"reading the revision on {master.name}",
    ).split()
    if there == [name, digest]:
        return False, name

    where = shlex.quote(f"{HOME}/{name}")
    if there[:1] != [name]:
        archive = run_bytes(
            ["git", "-C", str(deployment.root), "archive", "--format=tar", treeish],
            log=log,
            what="git archive",
        )
        shell.run(
            master,
            f"set -e; rm -rf {where}.new; install -d -m 0755 {HOME} {where}.new; tar -x -C {where}.new;"
            f" echo {shlex.quote(name)} > {where}.new/REVISION; rm -rf {where}; mv {where}.new {where};"
            f" old=$(readlink {HOME}/current || true); ln -sfn {where} {HOME}/current;"
            f" for tree in {HOME}/*/REVISION; do tree=$(dirname $tree); case $tree in"
            f" {where}|$old|{HOME}/current) ;; *) rm -rf $tree;; esac; done",
            what=f"pushing the tree to {master.name}",
            stdin=archive,
        )
    # The private key goes first: a pillar that cannot be opened would stop every state.
    shell.run(
        master,
        "set -e; install -d -m 0700 /etc/salt/gpgkeys; gpg --homedir /etc/salt/gpgkeys --batch --quiet --import",
        what=f"handing the GPG key to {master.name}",
        stdin=SecretStore(deployment).private_key.read_text(),
    )
    folder = f"{HOME}/pillar/{deployment.name}"
    shell.run(
        master,
        f"set -e; rm -rf {folder}.new; install -d -m 0700 {HOME}/pillar {folder}.new; tar -x -C {folder}.new;"
        f" rm -rf {folder}; mv {folder}.new {folder}; echo {digest} > {folder}.sha256",
        what=f"pushing the pillar to {master.name}",
        stdin=pillar,
    )
    return True, name
