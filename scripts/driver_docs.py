"""Writes the EC2 driver's options.md and docs/driver-tests.md, or checks them with --check.

    python scripts/driver_docs.py

Both come from the driver's table of options. docs/driver-tests.md also reads the marks of the
driver's tests: `covers("size", "image")` means that a test covers these options, and
`covers(status="refused")` that it covers every option of that status.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from saltext.ec2 import options
from saltext.ec2._option_table import SECTIONS

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "unit" / "ec2"
TESTS_DOCUMENT = ROOT / "docs" / "driver-tests.md"
OLD_DRIVER = {"same": "the same", "changed": "changed", "new": "absent"}


def marks(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each test that has a mark, with the options and the statuses that the mark names.

    Raises:
        ValueError: a mark holds something else than plain strings.
    """
    for path in sorted(folder.glob("test_*.py")):
        for test in ast.parse(path.read_text()).body:
            if isinstance(test, ast.FunctionDef):
                name = f"{path.stem.removeprefix('test_')}::{test.name}"
                for mark in (node for part in test.decorator_list for node in ast.walk(part)):
                    if isinstance(mark, ast.Call) and _is_covers(mark.func):
                        names = [ast.literal_eval(argument) for argument in mark.args]
                        statuses = [ast.literal_eval(keyword.value) for keyword in mark.keywords]
                        yield name, names, statuses


def _is_covers(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr == "covers"


def covered(folder: Path = TESTS) -> dict[str, list[str]]:
    """Return the tests of each option. A name that only a mark knows is in the result too."""
    tests: dict[str, list[str]] = {option.name: [] for option in options.OPTIONS}
    for test, names, statuses in marks(folder):
        of_status = [option.name for option in options.OPTIONS if option.status in statuses]
        for name in dict.fromkeys([*names, *of_status]):
            tests.setdefault(name, []).append(test)
    return {name: list(dict.fromkeys(found)) for name, found in tests.items()}


def options_document() -> str:
    """Return options.md."""
    parts = [
        """\
# Options of the EC2 driver

<!-- Written by scripts/driver_docs.py from the driver's table of options. Do not edit. -->

A provider, a profile and a map may set these options, unless the description says "in the provider
only". A map outranks its profile, and a profile its provider. An option marked with * may also
stand in the main cloud configuration file, which every provider outranks. An option that is not
listed here stops the run with an error that names it.

"Old driver" compares an option with the `ec2` driver of Salt 3007. [Migration](migration.md) lists
the other differences.
"""
    ]
    for title, section in SECTIONS.items():
        parts.append(f"\n## {title}\n\n{_section(section)}")
    return "".join(parts)


def _section(section: Sequence[options.Option]) -> str:
    status = section[0].status
    if status in ("ignored", "obsolete", "refused"):
        result = "stops with an error" if status == "refused" else "logs a warning, once in a run,"
        rows = (
            [", ".join(map(_name, same)), text]
            for text, same in itertools.groupby(section, lambda option: option.text)
        )
        introduction = f"The driver {result} when one of these options is set.\n\n"
        return introduction + _table(("option", "why, or what to use instead"), rows)
    if status == "core":
        core = ([_name(option), option.type.words, option.text] for option in section)
        return _table(("option", "value", "description"), core)
    return _table(("option", "value", "default", "old driver", "description"), map(_row, section))


def _row(option: options.Option) -> list[str]:
    default = option.default
    shown = ", ".join(default) if isinstance(default, list) else str(default).lower()
    text = option.text
    if option.provider_only:
        place = " or the main cloud configuration file" if option.main_file else ""
        text += f" In the provider{place} only."
    return [
        _name(option),
        option.type.words,
        "" if default in (None, {}) else f"`{shown}`",
        OLD_DRIVER[option.status],
        text,
    ]


def _name(option: options.Option) -> str:
    return f"`{option.name}`" + (" \\*" if option.main_file else "")


def tests_document(tests: Mapping[str, Sequence[str]]) -> str:
    """Return docs/driver-tests.md.

    Args:
        tests: the tests of each option.
    """
    rows = (
        [f"`{name}`", "<br>".join(f"`{test}`" for test in found)] for name, found in tests.items()
    )
    return f"""\
# Tests of the EC2 driver

<!-- Written by scripts/driver_docs.py from the marks of the driver's tests. Do not edit. -->

## Faults

`tests/unit/ec2/test_faults.py` has a table of faults. For each fault the table says what the user
reads and what is left in EC2. Each fault happens in a serial run and in a parallel one (`-P`), and
the same command afterwards repairs the result. `packages/localcloud/src/localcloud/faults.py`
injects the faults.

## Calls and times

`make bench-driver` (`scripts/bench_driver.py`) counts calls and measures times, and ends with 1
when a target is missed. The API is the local cloud's, and each call takes as long as a call to EC2.
The old driver's pattern (one call for the map, ten calls for each machine, and the deployment of
Salt's core) runs beside it under the same `salt-cloud`. Maps of 50 use machines that exist in
memory only. Deployments use real machines, four at a time with `-P`, and need Docker. Compare the
lines of one run with each other only.

## Options

Each option has a test. `create::test_x` stands for `pytest tests/unit/ec2/test_create.py::test_x`.
The plugin `tests/support/ignoring.py` proves the marks: it runs each test under a driver that
ignores the option, and the test must fail.

{_table(("option", "tests"), rows)}"""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["--"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def documents() -> dict[Path, str]:
    """Return the text of each document."""
    return {
        options.DOCUMENT: options_document(),
        TESTS_DOCUMENT: tests_document(covered()),
    }


def main(args: Sequence[str] | None = None) -> int:
    """Write the documents. With --check, name those that differ, and return 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if one differs")
    check = parser.parse_args(args).check
    different = [
        path for path, text in documents().items() if not path.is_file() or path.read_text() != text
    ]
    for path in different:
        if check:
            print(f"{path.relative_to(ROOT)} is out of date: run scripts/driver_docs.py")
        else:
            path.write_text(documents()[path])
    return 1 if check and different else 0


if __name__ == "__main__":
    sys.exit(main())
