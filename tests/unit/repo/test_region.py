"""The stack is deployed to one region: no file of the tree names another region."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from plainpillar import DEPLOYMENT

ROOT = Path(__file__).parents[3]
REGION = "eu-west-1"
# The names of AWS regions: area, direction, number.
# https://docs.aws.amazon.com/general/latest/gr/rande.html
NAME = re.compile(
    r"\b(?:us|us-gov|us-iso|eu|eu-isoe|ap|sa|ca|me|af|il|mx|cn)"
    r"-(?:(?:north|south)?(?:east|west)?|central)-\d(?=[a-f]?\b)"
)
# Tests name other regions to show that they are refused; the hashes of the lock are no names.
EXEMPT = ("tests/", "packages/saltext-ec2/tests/", "uv.lock")


def foreign_regions(text: str) -> set[str]:
    """Return every region that the text names, except ours."""
    return set(NAME.findall(text)) - {REGION}


def tracked() -> Iterable[tuple[str, str]]:
    """Yield path and text of every file that is, or is about to be, in git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            yield name, path.read_text(errors="replace")


def problems(kind: str, entries: dict[str, Any]) -> list[str]:
    """Return what is wrong with the region of providers or profiles."""
    found = []
    for name, entry in entries.items():
        if kind == "provider" and (
            entry.get("location") != REGION or entry.get("allowed_regions") != [REGION]
        ):
            found.append(f"provider {name} is not tied to {REGION}")
        if kind == "profile" and {entry.get("location", REGION), entry.get("region", REGION)} != {
            REGION
        }:
            found.append(f"profile {name} is in another region")
    return found


def test_no_file_names_another_region() -> None:
    found = {name: foreign_regions(text) for name, text in tracked() if not name.startswith(EXEMPT)}
    assert {name: regions for name, regions in found.items() if regions} == {}


def test_providers_and_profiles_are_tied_to_the_region() -> None:
    found, files = [], 0
    for kind, folder in (("provider", "cloud.providers.d"), ("profile", "cloud.profiles.d")):
        for path in (ROOT / folder).glob("*.conf"):
            found += problems(kind, yaml.safe_load(path.read_text()))
            files += 1
    assert found == []
    assert files >= 2


def test_foundation_is_in_the_region() -> None:
    aws = DEPLOYMENT.base_pillar("aws")
    assert aws["region"] == REGION
    assert aws["subnet"]["zone"].startswith(REGION)


def test_guards_trip() -> None:
    assert foreign_regions("zone: us-east-1a, eu-west-1b and eu-west-2") == {
        "us-east-1",
        "eu-west-2",
    }
    assert problems("provider", {"p": {"location": REGION}}) != []
    assert problems("provider", {"p": {"location": "eu-west-2", "allowed_regions": [REGION]}}) != []
    assert problems("profile", {"p": {"location": "us-east-1"}}) != []
