"""Paths, links, `make` targets and `stackctl` calls in documents exist."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest

from stackctl.arguments import parser

ROOT = Path(__file__).parents[3]
CODE = re.compile(r"```.*?```", re.DOTALL)
TICKED = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# A path as documents write it: `docs/airflow.md`, `salt/<component>/`, `cloud.maps.d/*.map`.
PATH = re.compile(r"(?:\.?[\w@<>*-][\w.@<>*-]*/)*\.?[\w.@<>*-]+/?")
TOP = {path.name for path in ROOT.iterdir()} | {
    "pillar",
    "salt",
    "packages",
    "tests",
    "docs",
    "requirements",
}


def documents() -> list[Path]:
    """Return every Markdown file of the tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [
        ROOT / name for name in filter(None, listed.stdout.split("\0")) if (ROOT / name).is_file()
    ]


def exists(pattern: str) -> bool:
    """Return whether a path exists, or is ignored by git because a command makes it.

    `<name>` and `*` stand for anything.
    """
    # `local` is the deployment that every checkout can make.
    pattern = re.sub(r"<[^>]*>", "*", pattern.replace("<deployment>", "local")).rstrip("/")
    if any(ROOT.glob(pattern)):
        return True
    command = ["git", "check-ignore", pattern, f"{pattern}/"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def missing_paths(text: str, folder: Path = ROOT) -> Iterator[str]:
    """Yield the paths and links of a document that do not exist in this repository."""
    for token in TICKED.findall(CODE.sub("", text)):
        if PATH.fullmatch(token) and token.split("/")[0] in TOP and not exists(token):
            yield token
    for target in LINK.findall(text):
        if "://" not in target and not (folder / target).exists():
            yield target


def missing_targets(text: str, makefile: str) -> list[str]:
    """Return the `make` targets of a document that the Makefile lacks."""
    known = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    called = set(re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)", text, re.MULTILINE))
    return sorted(called - known)


def calls(text: str) -> set[tuple[str, ...]]:
    """Return the calls of `stackctl` in a document: verb and options, without values.

    Of `secrets` and `master` the action is part of the call. What follows a `--` is another
    command.
    """
    found = set()
    for line in re.findall(r"(?:^|`)stackctl ([^`\n#]+)", text, re.MULTILINE):
        args = re.split(r"\s--(?:\s|$)|[|><&]", line.strip())[0].split()
        depth = 2 if args[0] in ("secrets", "master") else 1
        found.add(
            (
                *args[:depth],
                *(arg.split("=")[0] for arg in args[depth:] if arg.startswith("-")),
            )
        )
    return found


def unknown_calls(found: set[tuple[str, ...]]) -> list[str]:
    """Return the calls of `stackctl` whose verb or options its help does not name."""
    wrong = []
    for call in sorted(found):
        verbs = [arg for arg in call if not arg.startswith("-")]
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(io.StringIO()), suppress(SystemExit):
            parser().parse_args([*verbs, "--help"])
        known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", output.getvalue()))
        if not known or not set(call) - set(verbs) <= known:
            wrong.append(" ".join(call))
    return wrong


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_and_targets_exist(path: Path) -> None:
    assert list(missing_paths(path.read_text(), path.parent)) == []
    assert missing_targets(path.read_text(), (ROOT / "Makefile").read_text()) == []


def test_stackctl_knows_every_call() -> None:
    found = {call for path in documents() for call in calls(path.read_text())}
    assert ("up",) in found
    assert unknown_calls(found) == []


def test_documents_named_in_comments_exist() -> None:
    pattern = r"\bdocs/[a-z0-9_-]+\.md"
    found = subprocess.run(
        ["git", "grep", "--untracked", "-hoE", pattern, "--", ":!*.md", ":!tests"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [path for path in sorted(set(found.stdout.split())) if not exists(path)] == []


def test_guards_trip() -> None:
    missing = "See `salt/no-such-thing/init.sls`, [here](docs/none.md#x) and `salt/<component>/`."
    assert list(missing_paths(missing)) == ["salt/no-such-thing/init.sls", "docs/none.md"]
    present = "`pillar/local/settings.sls` is made; `salt '*' test.ping`, `/etc/salt` are no paths."
    assert list(missing_paths(present)) == []
    assert missing_targets("Run `make up` or `make fly`.\n", "up: venv\n\tstackctl up\n") == ["fly"]
    prose = "```\nmake fly\n```\nmake sure of it is prose: to make haste."
    assert missing_targets(prose, "up:\n") == ["fly", "sure"]
    text = "Run `stackctl secrets rotate redis-airflow`, or `stackctl exec -t web-1 -- ls -l`."
    assert calls(text) == {("secrets", "rotate"), ("exec", "-t")}
    assert unknown_calls({("fly",), ("up", "--fast")}) == ["fly", "up --fast"]
