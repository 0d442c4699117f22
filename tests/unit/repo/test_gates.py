"""Each gate turns red for a fault of its kind, which is planted in a copy of the tree.

Without a fault they are green: the suite itself runs them.
The gates that need machines are shown to be able to fail beside them: the right credential and the
wrong one, the allowed port and the others, TLS 1.3 and what is older.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plainpillar import ROOT

PLAIN = "#!yaml|gpg\nsecrets:\n  redis-airflow:\n    password: in-plaintext-for-all-to-see\n"


def planted(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return what replaces a text of a file."""

    def plant(tree: Path) -> None:
        path = tree / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} has not once: {old}"
        path.write_text(text.replace(old, new))

    return plant


def written(name: str, text: str) -> Callable[[Path], None]:
    """Return what makes a file."""

    def plant(tree: Path) -> None:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)

    return plant


REDIS_KEY = """    - contents: {{ secrets['redis-tls']['private_key'] | json }}
    - group: redis
    - mode: '%s'
"""
# What is planted, and the test that has to notice it.
FAULTS = {
    "a secret in plaintext": (
        written("pillar/prod/secrets/redis-airflow.sls", PLAIN),
        "repo/test_secrets_in_git.py::test_every_field_of_a_secrets_file_is_ciphertext",
    ),
    "a key that every minion can read": (
        written("salt/redis/files/redis.pem", "a key\n"),
        "repo/test_secrets_in_git.py::test_file_server_holds_no_key_material",
    ),
    "a key that every user can read": (
        planted("salt/redis/init.sls", REDIS_KEY % "0640", REDIS_KEY % "0644"),
        "test_render.py::test_files_with_secrets_are_private",
    ),
    "a store that lets everybody in": (
        planted("pillar/base/endpoints.sls", "[web, redis, monitor]", "[any-role]"),
        "test_openings.py",
    ),
    "a secret for another role": (
        planted(
            "pillar/base/top.sls", "    - secrets.edge-tls\n",
            "    - secrets.edge-tls\n    - secrets.redis-airflow\n",
        ),
        "test_targeting.py::test_pillar_gives_secrets_of_role",
    ),
    "a policy for more than it needs": (
        planted("salt/aws/identity.sls", "Action: 'ssm:GetParameters'", "Action: 'ssm:*'"),
        "aws/test_least_privilege.py::test_of_all_actions_of_aws_a_role_has_these",
    ),
    "a deployment to another region": (
        written("cloud.providers.d/us-east-1.conf", "us: {driver: ec2, location: us-east-1}\n"),
        "repo/test_region.py",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks, as a repository of its own."""
    tree = tmp_path_factory.mktemp("tree") / "copy"
    listed = git(ROOT, "ls-files", "-z").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    git(tree, "init", "--quiet")
    return tree


def git(tree: Path, *args: str) -> str:
    return subprocess.run(
        ["git", "-C", str(tree), *args], capture_output=True, text=True, check=True
    ).stdout


def judged(tree: Path, gate: str) -> subprocess.CompletedProcess[str]:
    """Return what a test says of a tree."""
    git(tree, "add", "--all")
    paths = [tree / "packages/stackctl/src", tree / "packages/localcloud/src"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [*paths, tree / "packages/saltext-ec2/src"]))
    }
    options = ["-q", "--exitfirst", "--numprocesses=0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, f"tests/unit/{gate}"]
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_turns_its_gate_red(copied: Path, tmp_path: Path, fault: str) -> None:
    plant, gate = FAULTS[fault]
    tree = tmp_path / "tree"
    shutil.copytree(copied, tree)
    plant(tree)
    done = judged(tree, gate)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in done.stdout
    assert "ERROR" not in done.stdout
