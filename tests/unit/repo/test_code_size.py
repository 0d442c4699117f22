"""`scripts/code_size.py` counts code, and neither comments nor docstrings."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from saltmodules import load_file

ROOT = Path(__file__).parents[3]
MODULE = '''"""What it is.

In two paragraphs.
"""

# Why.
ANSWER = """
text
"""


class Thing:
    """A thing."""

    def method(self, one, two, /, three, *, four):
        """Do it."""
        return (
            one,  # an argument
        )

    @staticmethod
    def static(one):
        return one
'''


@pytest.fixture(scope="module")
def code_size() -> ModuleType:
    return load_file(ROOT / "scripts/code_size.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {
        "packages/it/src/it/thing.py": MODULE,
        "salt/it/init.sls": "# Why.\n\n{# Jinja\nsays why #}\nit:\n  pkg.installed\n",
        "run": "#!/bin/sh\n# Why.\nset -eu\n",
        "README.md": "# It\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_only_code_counts(code_size: ModuleType, tree: Path) -> None:
    names = [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()]
    areas = code_size.measure(tree, names)
    assert areas.keys() == {"packages/it", "salt", "."}
    assert areas["salt"].lines == {"Python": 0, "SLS": 2, "shell": 0}
    assert areas["."].lines == {"Python": 0, "SLS": 0, "shell": 1}
    python = areas["packages/it"]
    assert python.lines == {"Python": 11, "SLS": 0, "shell": 0}
    assert python.statements == 6
    assert python.file == (11, "packages/it/src/it/thing.py")
    assert python.function == (4, "packages/it/src/it/thing.py:15 method")
    assert python.parameters == (3, "packages/it/src/it/thing.py:15 method")
    assert code_size.report(areas)[4].split() == ["together", "11", "2", "1", "14", "6"]


def test_commit_is_measured_without_later_changes(code_size: ModuleType, tree: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tree, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "--message", "first")
    (tree / "later.py").write_text("ANSWER = 42\n")
    now = code_size.measure(tree, code_size.tracked(tree))
    assert now["."].lines["Python"] == 1
    assert code_size.measure_commit(tree, "HEAD")["."].lines["Python"] == 0
    with pytest.raises(subprocess.CalledProcessError):
        code_size.measure_commit(tree, "no-such-commit")
