"""Writes the driver's options.md: its table of options, joined with the tests that cover each of them.

    python tests/support/driverdocs.py

A test says what it covers with a mark: `covers("size", "image")` names options, `covers(status="refused")` means every
option of that status, over which the test is then parametrized. `ignoring` proves the former.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from saltext.ec2 import options as _options

ROOT = Path(__file__).parents[2]
DOCUMENT = _options.DOCUMENT
TESTS = ROOT / "tests" / "unit" / "ec2"
OLD_DRIVER = {
    "same": "the same",
    "changed": "changed",
    "new": "-",
    "core": "the same (Salt's core)",
    "ignored": "**no effect**, with a warning",
    "refused": "**refused**",
}


def marks(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each test that is marked, with the options and with the statuses that its mark names.

    Raises:
        ValueError: a mark holds something else than plain strings, which cannot be read from the source.
    """
    for path in sorted(folder.glob("test_*.py")):
        for test in ast.parse(path.read_text()).body:
            for mark in (
                node for one in getattr(test, "decorator_list", ()) for node in ast.walk(one)
            ):
                if (
                    isinstance(mark, ast.Call)
                    and isinstance(mark.func, ast.Attribute)
                    and mark.func.attr == "covers"
                ):
                    names = [ast.literal_eval(argument) for argument in mark.args]
                    statuses = [ast.literal_eval(keyword.value) for keyword in mark.keywords]
                    assert isinstance(test, ast.FunctionDef)
                    yield f"{path.stem.removeprefix('test_')}::{test.name}", names, statuses


def covered(folder: Path = TESTS) -> dict[str, list[str]]:
    """Return the tests of each option; a name that the table does not know is among them."""
    tests: dict[str, list[str]] = {option.name: [] for option in _options.OPTIONS}
    for test, names, statuses in marks(folder):
        for name in names + [
            option.name for option in _options.OPTIONS if option.status in statuses
        ]:
            tests.setdefault(name, []).append(test)
    return tests


def document(tests: Mapping[str, Sequence[str]]) -> str:
    """Return options.md.

    Args:
        tests: the tests of each option.
    """
    rows = []
    for option in _options.OPTIONS:
        default = option.default
        shown = (
            ""
            if default in (None, {})
            else f"`{', '.join(default) if isinstance(default, list) else default}`"
        )
        only = (
            f" In the provider{' or the main configuration' if option.main_file else ''} only."
            if option.provider_only
            else ""
        )
        text = option.text.replace("|", "\\|") + only
        cells = [f"`{option.name}`", OLD_DRIVER[option.status], shown.lower(), text]
        rows.append(
            " | ".join(
                [*cells, "<br>".join(f"`{test}`" for test in dict.fromkeys(tests[option.name]))]
            )
        )
    table = "\n".join(f"| {row} |" for row in rows)
    return f"""# Options of the EC2 driver

<!-- Written by `python tests/support/driverdocs.py` from the table in packages/saltext-ec2/src/saltext/ec2/options.py and the marks of the
tests; a test keeps it equal to both. -->

A provider, a profile and a map may set each of these, unless it says "in the provider only"; a map outranks its
profile, a profile its provider. What the table does not hold stops the run with an error that names it. "Old driver"
compares with Salt 3007's `ec2`. The test `create::test_x` is `pytest tests/unit/ec2/test_create.py::test_x`.

| option | old driver | default | what it does | test |
| --- | --- | --- | --- | --- |
{table}
"""


if __name__ == "__main__":
    DOCUMENT.write_text(document(covered()))
