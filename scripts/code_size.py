"""Count lines of code by area, and show the longest file, function and parameter list of each.

A line of Python counts when it holds code: no blank line, comment or docstring. In SLS files and
shell scripts blank lines and comments do not count. Statements of Python, docstrings left out, are
counted beside the lines, since a formatter does not change them. `--ref` measures another commit.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
KINDS = ("Python", "SLS", "shell")
SHELL = re.compile(rb"#!\s*/(?:usr/)?bin/(?:env )?(?:ba)?sh\b")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Longest(NamedTuple):
    """A number, and the file or function that it belongs to."""

    size: int = 0
    name: str = ""


NOTHING = Longest()


@dataclass
class Area:
    """What one area of the tree holds.

    Attributes:
        lines: kind of code -> lines.
        statements: statements of Python.
        file: the longest file, in lines of code.
        function: the longest Python function, in lines of code.
        parameters: the Python function with the most positional parameters.
    """

    lines: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    statements: int = 0
    file: Longest = NOTHING
    function: Longest = NOTHING
    parameters: Longest = NOTHING


def area_of(name: str) -> str:
    """Return the area of a path: a distribution, or the top folder."""
    parts = name.split("/")
    depth = 2 if parts[0] in {"packages", "src"} else 1
    return "/".join(parts[:depth]) if len(parts) > depth else "."


def kind_of(path: Path) -> str | None:
    """Return the kind of code that a file holds, or None for anything else."""
    if path.suffix == ".py":
        return "Python"
    if path.suffix == ".sls":
        return "SLS"
    if path.suffix == ".sh" or SHELL.match(path.read_bytes()[:64]):
        return "shell"
    return None


def python_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold Python code, docstrings not counted."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    for docstring in docstrings(ast.parse(source)):
        found -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return found


def docstrings(tree: ast.Module) -> list[ast.stmt]:
    """Return the docstrings of a module, its classes and its functions."""
    return [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node)
    ]


def statements(tree: ast.Module) -> int:
    """Return how many statements a module holds, docstrings left out."""
    return sum(isinstance(node, ast.stmt) for node in ast.walk(tree)) - len(docstrings(tree))


def text_lines(source: str) -> int:
    """Return how many lines are neither blank nor a comment of a shell or of Jinja."""
    source = re.sub(r"\{#.*?#\}", "", source, flags=re.DOTALL)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") for line in source.splitlines()
    )


def functions(tree: ast.Module) -> Iterator[tuple[Function, int]]:
    """Yield each function with its count of positional parameters, without `self` and `cls`."""
    methods = {
        node
        for parent in ast.walk(tree)
        if isinstance(parent, ast.ClassDef)
        for node in parent.body
        if isinstance(node, Function)
    }
    for node in ast.walk(tree):
        if isinstance(node, Function):
            static = any(
                isinstance(name, ast.Name) and name.id == "staticmethod"
                for name in node.decorator_list
            )
            bound = int(node in methods and not static)
            yield node, len(node.args.posonlyargs) + len(node.args.args) - bound


def measure(root: Path, names: Iterable[str]) -> dict[str, Area]:
    """Return what each area holds.

    Args:
        root: the folder of the tree.
        names: the files to measure, as paths below the root.
    """
    areas: dict[str, Area] = defaultdict(Area)
    for name in sorted(names):
        path = root / name
        if path.is_symlink() or not path.is_file() or (kind := kind_of(path)) is None:
            continue
        area, source = areas[area_of(name)], path.read_text()
        if kind != "Python":
            count = text_lines(source)
        else:
            lines, tree = python_lines(source), ast.parse(source)
            count = len(lines)
            area.statements += statements(tree)
            for function, parameters in functions(tree):
                where = f"{name}:{function.lineno} {function.name}"
                end = function.end_lineno or function.lineno
                size = len(lines & set(range(function.lineno, end + 1)))
                area.function = max(area.function, Longest(size, where))
                area.parameters = max(area.parameters, Longest(parameters, where))
        area.lines[kind] += count
        area.file = max(area.file, Longest(count, name))
    return dict(areas)


def tracked(root: Path) -> list[str]:
    """Return the files of a checkout that are in git, or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return list(filter(None, listed.stdout.split("\0")))


def measure_commit(root: Path, ref: str) -> dict[str, Area]:
    """Return what each area of another commit holds; raise CalledProcessError if git has none."""
    command = ["git", "archive", "--format=tar", ref]
    archive = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return measure(Path(folder), [str(path.relative_to(folder)) for path in files])


def report(areas: dict[str, Area]) -> list[str]:
    """Return the lines to print: a table of lines of code, then what is longest in each area."""
    width = max(map(len, [*areas, "together"]))
    row = f"{{:<{width}}}" + "{:>9}" * (len(KINDS) + 1) + "{:>20}"
    lines = [row.format("lines of code", *KINDS, "all", "Python statements")]
    for name, area in sorted(areas.items()):
        counts = area.lines.values()
        lines.append(row.format(name, *counts, sum(counts), area.statements))
    sums = [sum(area.lines[kind] for area in areas.values()) for kind in KINDS]
    statements_of_all = sum(area.statements for area in areas.values())
    lines += [row.format("together", *sums, sum(sums), statements_of_all)]
    for title, longest in (
        ("longest file, in lines of code", [area.file for area in areas.values()]),
        ("longest function, in lines of code", [area.function for area in areas.values()]),
        ("most positional parameters", [area.parameters for area in areas.values()]),
    ):
        lines += ["", title]
        lines += [f"{size:>6}  {name}" for size, name in sorted(longest, reverse=True) if size]
    return lines


def main() -> int:
    """Measure the checkout or a commit, print, and return the exit code."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--ref", help="the commit to measure (default: the files as they are)")
    ref = options.parse_args().ref
    try:
        areas = measure_commit(ROOT, ref) if ref else measure(ROOT, tracked(ROOT))
    except subprocess.CalledProcessError as error:
        print(f"error: {error.stderr.decode().strip()}", file=sys.stderr)
        return 1
    print("\n".join(report(areas)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
