"""What the documents point at exists: paths, links, `make` targets."""

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
# A path as documents write it: `docs/airflow.md`, `salt/<component>/`, `cloud.maps.d/*.map`, `Makefile`.
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
    """Return whether a path, in which `<name>` and `*` stand for anything, is there or is made by a command."""
    # `local` is the deployment that every checkout can make.
    pattern = re.sub(r"<[^>]*>", "*", pattern.replace("<deployment>", "local")).rstrip("/")
    if any(ROOT.glob(pattern)):
        return True
    asked = ["git", "check-ignore", pattern, f"{pattern}/"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, check=False).returncode == 0


def missing_paths(text: str, folder: Path = ROOT) -> Iterator[str]:
    """Yield the paths of this repository that a document points at and that are not there."""
    for token in TICKED.findall(CODE.sub("", text)):
        if PATH.fullmatch(token) and token.split("/")[0] in TOP and not exists(token):
            yield token
    for target in LINK.findall(text):
        if "://" not in target and not (folder / target).exists():
            yield target


def missing_targets(text: str, makefile: str) -> list[str]:
    """Return the targets that a document calls with `make` and that the Makefile lacks."""
    known = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    called = set(re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)", text, re.MULTILINE))
    return sorted(called - known)


def calls(text: str) -> set[tuple[str, ...]]:
    """Return how a document calls `stackctl`: the verb, that of `secrets`, and the options before any `--`."""
    found = set()
    for line in re.findall(r"(?:^|`)stackctl ([^`\n#]+)", text, re.MULTILINE):
        words = re.split(r"\s--(?:\s|$)|[|><&]", line.strip())[0].split()
        depth = 2 if words[0] == "secrets" else 1
        found.add(
            (
                *words[:depth],
                *(word.split("=")[0] for word in words[depth:] if word.startswith("-")),
            )
        )
    return found


def unknown_calls(found: set[tuple[str, ...]]) -> list[str]:
    """Return the calls of `stackctl` whose verb or options its own help does not know."""
    wrong = []
    for call in sorted(found):
        verbs = [word for word in call if not word.startswith("-")]
        told = io.StringIO()
        with redirect_stdout(told), redirect_stderr(io.StringIO()), suppress(SystemExit):
            parser().parse_args([*verbs, "--help"])
        known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", told.getvalue()))
        if not known or not set(call) - set(verbs) <= known:
            wrong.append(" ".join(call))
    return wrong


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_document_points_at_what_is_there(path: Path) -> None:
    assert list(missing_paths(path.read_text(), path.parent)) == []
    assert missing_targets(path.read_text(), (ROOT / "Makefile").read_text()) == []


def test_documents_call_stackctl_as_it_is() -> None:
    found = {call for path in documents() for call in calls(path.read_text())}
    assert ("up",) in found
    assert unknown_calls(found) == []


def test_comments_point_at_documents_that_are_there() -> None:
    found = subprocess.run(
        ["git", "grep", "--untracked", "-hoE", r"\bdocs/[a-z0-9_-]+\.md", "--", ":!*.md", ":!tests"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [path for path in sorted(set(found.stdout.split())) if not exists(path)] == []


def test_the_guard_trips() -> None:
    assert list(
        missing_paths(
            "See `salt/no-such-thing/init.sls`, [here](docs/none.md#x) and `salt/<component>/`."
        )
    ) == [
        "salt/no-such-thing/init.sls",
        "docs/none.md",
    ]
    assert (
        list(
            missing_paths(
                "`pillar/local/settings.sls` is made; `salt '*' test.ping` and `/etc/salt` are no paths."
            )
        )
        == []
    )
    assert missing_targets("Run `make up` or `make fly`.\n", "up: venv\n\tstackctl up\n") == ["fly"]
    assert missing_targets(
        "```\nmake fly\n```\nmake sure of it is prose: to make haste.", "up:\n"
    ) == ["fly", "sure"]
    assert calls(
        "Run `stackctl secrets rotate redis-airflow`, or `stackctl exec -t web-1 -- ls -l`."
    ) == {
        ("secrets", "rotate"),
        ("exec", "-t"),
    }
    assert unknown_calls({("fly",), ("up", "--fast")}) == ["fly", "up --fast"]
