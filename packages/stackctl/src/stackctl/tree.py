"""The tree that the Salt master serves: the exact commit of this checkout, and its pillar."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from stackctl.deployment import Deployment
from stackctl.errors import ScaleError, StackError
from stackctl.machines import Machine
from stackctl.run import Log, run, run_bytes
from stackctl.secret_store import SecretStore
from stackctl.ssh import Shell

HOME = "/srv/stack"
GPG_KEYS = "/etc/salt/gpgkeys"
# All but what no machine needs: a change there is no other release.
SERVED = (".", ":(exclude)docs", ":(exclude)tests", ":(exclude,glob)*.md")


def _git(root: Path, log: Log, *args: str) -> str:
    return run(["git", "-C", str(root), *args], log=log, what=f"git {args[0]}").strip()


def revision(root: Path, log: Log) -> tuple[str, str]:
    """Return the name of the revision to deploy, and the git tree that holds it.

    A clean checkout is deployed as its commit. Uncommitted changes to tracked files are deployed
    too, under a name that shows them: `<commit>-dirty-<tree>`. Documents and tests do not count:
    the master does not serve them.
    """
    if not (root / ".git").exists():
        raise StackError(
            f"{root} is no git checkout.",
            "Clone the repository: stackctl names the commit that the master serves.",
        )
    commit = _git(root, log, "rev-parse", "HEAD")
    stash = _git(root, log, "stash", "create")
    if not stash:
        return commit, commit
    if not _git(root, log, "diff", "--name-only", commit, stash, "--", *SERVED):
        return commit, commit
    tree = _git(root, log, "rev-parse", f"{stash}^{{tree}}")
    return f"{commit}-dirty-{tree[:12]}", tree


def untracked_warning(deployment: Deployment, log: Log) -> str:
    """Return a warning about files that git does not track and so are not deployed; empty: none.

    It does not name files that git ignores, nor the deployment's own pillar, which is deployed from
    the work tree.
    """
    others = ["ls-files", "--others", "--exclude-standard", "-z", "--", *SERVED]
    listed = _git(deployment.root, log, *others)
    own = f"{deployment.pillar_dir.relative_to(deployment.root)}/"
    names = [name for name in listed.split("\0") if name and not name.startswith(own)]
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"not deployed, because git does not track them (git add): {', '.join(names[:3])}{more}"


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make a member of an archive root's, private, and the same for the same content."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = 0
    member.mode = 0o700 if member.isdir() else 0o600
    return member


def pillar_archive(deployment: Deployment) -> bytes:
    """Return the deployment's pillar as a tar archive, the same for the same content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(deployment.pillar_dir, arcname=".", filter=_as_root)
    return buffer.getvalue()


def files_archive(files: Mapping[str, str]) -> bytes:
    """Return texts as a tar archive of private files: file name -> text."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            member = _as_root(tarfile.TarInfo(name))
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def require_same(deployment: Deployment, shell: Shell, master: Machine, log: Log) -> None:
    """Raise ScaleError unless the master serves this tree, and has rolled it out.

    Otherwise a new release would be rolled out by the way.
    """
    name, _ = revision(deployment.root, log)
    served = read_revision(deployment, shell, master)
    converged = read_converged(shell, master)[:1]
    if served[:1] != [name]:
        there = _short(served[0]) if served else "no tree"
        raise ScaleError(
            f"{master.name} serves {there}, and the checkout is {_short(name)}: a release would be"
            " rolled out by the way.",
            f"Do that first: {deployment.command('up')}",
        )
    if converged and converged != [name]:
        raise ScaleError(
            f"The tree {_short(name)} is on {master.name}, but it has not been rolled out to the"
            " end.",
            f"Do that first: {deployment.command('up')}",
        )


def _short(name: str) -> str:
    """Return the name of a revision as people read it."""
    commit, dirty, tree = name.partition("-dirty-")
    return f"{commit[:12]} with uncommitted changes ({tree})" if dirty else commit[:12]


def read_revision(deployment: Deployment, shell: Shell, master: Machine) -> list[str]:
    """Return the revision that the master serves, and the digest of its pillar; [] without them."""
    return shell.script(
        master,
        ["read-revision", HOME, deployment.name],
        what=f"reading the revision on {master.name}",
    ).split()


def read_converged(shell: Shell, master: Machine) -> list[str]:
    """Return the revision that was rolled out last, and the digest of its pillar; [] without it.

    Earlier releases did not note the digest.
    """
    args = ["read-converged", HOME]
    return shell.script(master, args, what=f"reading the revision on {master.name}").split()


def push(deployment: Deployment, shell: Shell, master: Machine, log: Log) -> tuple[bool, str]:
    """Bring tree, deployment pillar and GPG key to the master, unless it has them.

    Each tree has a folder of its own. `current` points to the new one when it is complete; the
    previous one is kept, so that one can go back.

    Returns:
        Whether anything changed, and the revision.
    """
    name, treeish = revision(deployment.root, log)
    pillar = pillar_archive(deployment)
    digest = hashlib.sha256(pillar).hexdigest()
    present = read_revision(deployment, shell, master)
    if present == [name, digest]:
        return False, name
    if present[:1] != [name]:
        archive = run_bytes(
            ["git", "-C", str(deployment.root), "archive", "--format=tar", treeish, "--", *SERVED],
            log=log,
            what="git archive",
        )
        shell.script(
            master,
            ["push-tree", HOME, name],
            what=f"pushing the tree to {master.name}",
            stdin=archive,
        )
    # The private key comes first: a pillar that cannot be decrypted would stop every state.
    shell.script(
        master,
        ["import-gpg-key", GPG_KEYS],
        what=f"importing the GPG key on {master.name}",
        stdin=SecretStore(deployment).private_key.read_text(),
    )
    shell.script(
        master,
        ["push-pillar", HOME, deployment.name, digest],
        what=f"pushing the pillar to {master.name}",
        stdin=pillar,
    )
    return True, name
