"""The distribution saltext.ec2: its version and documents, and no word of this repository."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import saltext.ec2
from saltext.ec2 import _context, options
from saltext.ec2.clouds import ec2 as driver

PACKAGE = Path(__file__).parents[3] / "packages" / "saltext-ec2"
FILES = sorted(
    path
    for path in PACKAGE.rglob("*")
    if path.is_file()
    and path.suffix not in {".pyc", ".so"}
    and not {"dist", ".pytest_cache"} & set(path.parts)
)
# The package has a folder `tests` of its own.
FOREIGN = re.compile(
    r"airflow|stackctl|local ?cloud|make [a-z]+-driver|tests/(unit|states|cloud|stack)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_names_nothing_of_this_repository(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if FOREIGN.search(line)]
    assert found == []


def test_foreign_words_are_found() -> None:
    assert FOREIGN.search("the role airflow-salt")
    assert FOREIGN.search("the local cloud")
    assert FOREIGN.search("see tests/unit/ec2/test_create.py")


def test_version_is_that_of_project_and_changelog() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    assert saltext.ec2.__version__ == project["version"]
    newest = re.search(r"^## (\S+)", (PACKAGE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest.group(1) == project["version"]


def test_changelog_names_every_new_option() -> None:
    changelog = (PACKAGE / "CHANGELOG.md").read_text()
    new = [option.name for option in options.OPTIONS if option.status == "new"]
    assert [name for name in new if f"`{name}`" not in changelog] == []


def test_examples_of_the_readme_hold_known_options() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        for name, given in yaml.safe_load(block).items():
            options.check(given, name)


def test_driver_without_boto3_says_what_is_missing() -> None:
    program = (
        "import sys; sys.modules['boto3'] = None\n"
        "from saltext.ec2.clouds import ec2; print(ec2.__virtual__())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("(False, ")
    assert "boto3" in done.stdout
    assert "install boto3 into the Python environment of salt-cloud" in done.stdout


def test_driver_with_boto3_is_ec2() -> None:
    assert driver.__virtual__() == driver.__virtualname__ == _context.DRIVER == "ec2"
