"""The commit hooks and the forge's workflow run the same checks as `make`, with pinned parts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
TOOL = re.compile(r"(?:\$\(BIN\)|\.venv/bin)/(ruff \w+|[\w-]+)")
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


def lint_tools(makefile: str) -> set[str]:
    """Return the tools that the recipe of `make lint` calls, `ruff` with its command."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    return set(TOOL.findall(recipe[1]))


def hook_tools(config: str) -> set[str]:
    """Return the tools of `.venv` that the commit hooks call; another hook is an empty string."""
    hooks = [hook for repo in yaml.safe_load(config)["repos"] for hook in repo["hooks"]]
    found = [TOOL.match(hook.get("entry", "")) for hook in hooks]
    return {match[1] if match else "" for match in found}


def workflow_problems(text: str) -> list[str]:
    """Return what a workflow lacks: least permissions, a time limit, actions pinned by hash."""
    workflow: dict[str, Any] = yaml.safe_load(text)
    problems = []
    if workflow.get("permissions") != {"contents": "read"}:
        problems.append("it may do more than read")
    if "concurrency" not in workflow:
        problems.append("an old run is not cancelled")
    for name, job in workflow["jobs"].items():
        if "timeout-minutes" not in job:
            problems.append(f"{name} has no time limit")
        problems += [
            f"{step['uses']} is not pinned by hash"
            for step in job["steps"]
            if "uses" in step and not PINNED.fullmatch(step["uses"])
        ]
    return problems


def test_commit_hooks_run_the_tools_of_make_lint() -> None:
    tools = hook_tools((ROOT / ".pre-commit-config.yaml").read_text())
    assert "ruff format" in tools
    assert tools == lint_tools((ROOT / "Makefile").read_text())


def test_lint_checks_every_shell_script(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    scripts = {"a.sh": "true\n", "b": "#!/bin/sh\n", "c": "#!/usr/bin/env bash\n"}
    for name, text in (scripts | {"d": "#!/usr/bin/python3\n", "e.txt": "echo\n"}).items():
        (tmp_path / name).write_text(text)
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    for tool in ("stackctl", "ruff", "mdformat", "mypy", "salt-lint", "yamllint"):
        (tools / tool).symlink_to("/bin/true")
    (tools / "shellcheck").write_text("#!/bin/sh\necho shellcheck: $*\n")
    (tools / "shellcheck").chmod(0o755)
    (tmp_path / ".gitignore").write_text("/.venv/\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    done = subprocess.run(
        ["make", "--silent", "--old-file=.venv/bin/stackctl", "lint"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == f"shellcheck: {' '.join(scripts)}"


def test_workflow_runs_ci_script() -> None:
    (path,) = (ROOT / ".github/workflows").glob("*.yml")
    assert workflow_problems(path.read_text()) == []
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_guards_trip() -> None:
    assert lint_tools("lint: x ## y\n\t$(BIN)/ruff check .\n\t$(BIN)/new\n\nup:\n\t$(BIN)/z\n") == {
        "ruff check",
        "new",
    }
    foreign = "repos: [{repo: https://example.org/x, hooks: [{id: ruff}]}]"
    assert hook_tools(foreign) == {""}
    loose = "on: push\njobs: {test: {steps: [{uses: actions/checkout@v5}]}}"
    assert workflow_problems(loose) == [
        "it may do more than read",
        "an old run is not cancelled",
        "test has no time limit",
        "actions/checkout@v5 is not pinned by hash",
    ]
