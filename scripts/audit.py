"""Look up the known vulnerabilities of both lockfiles, and say how old the lockfiles are.

Exit with 1 when a package has one, and with 2 when packages could not be looked up. pip-audit runs
in an environment of its own, so that its dependencies are not in uv.lock. It asks PyPI's JSON API;
a mirror of PyPI often lacks that API, and then pip-audit skips every package and reports success.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
UV = str(Path(sys.executable).parent / "uv")
PIP_AUDIT = "pip-audit==2.10.1"
LOCKS = ("uv.lock", "salt/airflow/files/requirements.txt")
DAY = 86400  # seconds
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 2


def age(lock: str, root: Path = ROOT) -> str:
    """Return how long ago git saw the lockfile change, as a sentence."""
    done = subprocess.run(
        ["git", "log", "-1", "--format=%ct", "--", lock],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode or not done.stdout.strip():
        return f"{lock}: git does not know when it changed"
    days = int((time.time() - int(done.stdout)) / DAY)
    return f"{lock}: last changed {days} {'day' if days == 1 else 'days'} ago"


def requirements(lock: str, folder: Path) -> Path:
    """Return the lockfile as a requirements file with hashes."""
    if lock.endswith(".txt"):
        return ROOT / lock
    path = folder / "requirements.txt"
    everything = ("--all-packages", "--all-groups", "--all-extras", "--no-emit-workspace")
    exported = subprocess.run(
        [UV, "export", "--quiet", "--frozen", *everything, "--format", "requirements-txt"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    path.write_text(exported.stdout)
    return path


def look_up(path: Path) -> list[Mapping[str, Any]]:
    """Return pip-audit's entry for each package of a requirements file; empty: it has none.

    Its exit code says nothing, since it is the same for findings and for failures.
    """
    options = ("--require-hashes", "--disable-pip", "--format=json", "--progress-spinner=off")
    done = subprocess.run(
        [UV, "tool", "run", "--quiet", "--from", PIP_AUDIT, "pip-audit", *options,
         "--requirement", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (json.JSONDecodeError, KeyError):
        print(done.stderr.strip(), file=sys.stderr)
        return []


def report(packages: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each vulnerability, and one for the packages that were not looked up."""
    for package in packages:
        for found in package.get("vulns", []):
            fixed = ", ".join(found.get("fix_versions", [])) or "no version yet"
            yield f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}"
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped or not packages:
        which = f"{len(skipped)} of {len(packages)} packages" if packages else "the packages"
        yield f"the advisory service was not reached, or does not know {which}: nothing is known"


def verdict(packages: list[Mapping[str, Any]]) -> int:
    """Return the exit code for one lockfile."""
    if any(package.get("vulns") for package in packages):
        return VULNERABLE
    unknown = not packages or any("skip_reason" in package for package in packages)
    return UNKNOWN if unknown else CLEAN


def main() -> int:
    """Audit both lockfiles, print the results and return the exit code."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    codes = set()
    with tempfile.TemporaryDirectory() as folder:
        for lock in LOCKS:
            print(age(lock))
            packages = look_up(requirements(lock, Path(folder)))
            lines = list(report(packages)) or [f"{len(packages)} packages, nothing known"]
            print(*(f"  {line}" for line in lines), sep="\n")
            codes.add(verdict(packages))
    return VULNERABLE if VULNERABLE in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
