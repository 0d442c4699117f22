"""`make audit` reports vulnerabilities, and never takes silence for health."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from saltmodules import load_file

ROOT = Path(__file__).parents[3]
audit: Any = load_file(ROOT / "scripts" / "audit.py")

CLEAN = {"name": "a", "version": "1", "vulns": []}
ILL = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1", "3"]}]}
UNFIXED = {"name": "c", "version": "3", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]}
SKIPPED = {"name": "d", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "code", "lines"),
    [
        ([CLEAN], 0, []),
        ([CLEAN, ILL], 1, ["b 2: PYSEC-1, fixed in 2.1, 3"]),
        ([UNFIXED], 1, ["c 3: PYSEC-2, fixed in no version yet"]),
        ([CLEAN, SKIPPED], 2, ["does not know 1 of 2 packages"]),
        ([ILL, SKIPPED], 1, ["b 2: PYSEC-1", "does not know 1 of 2 packages"]),
        ([], 2, ["does not know the packages"]),
    ],
    ids=["clean", "vulnerable", "unfixed", "one skipped", "both", "no answer"],
)
def test_verdict_and_report(packages: list[Any], code: int, lines: list[str]) -> None:
    assert audit.verdict(packages) == code
    reported = list(audit.report(packages))
    assert len(reported) == len(lines)
    assert all(wanted in line for wanted, line in zip(lines, reported, strict=True))


@pytest.mark.parametrize(
    ("answers", "code"), [(["clean", "clean"], 0), (["clean", "none"], 2), (["none", "ill"], 1)]
)
def test_exit_code_is_that_of_the_worst_lockfile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answers: list[str],
    code: int,
) -> None:  # fmt: skip
    known = {"clean": [CLEAN], "none": [], "ill": [ILL]}
    given = iter(answers)
    monkeypatch.setattr(audit, "requirements", lambda lock, _: Path(lock))
    monkeypatch.setattr(audit, "look_up", lambda _: known[next(given)])
    monkeypatch.setattr("sys.argv", ["audit.py"])
    assert audit.main() == code
    printed = capsys.readouterr().out
    assert all(f"{lock}: " in printed for lock in audit.LOCKS)


def test_failure_of_the_tool_is_shown_and_is_no_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "uv"
    broken.write_text("#!/bin/sh\necho 'no route to host' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(audit, "UV", str(broken))
    assert audit.look_up(tmp_path / "requirements.txt") == []
    assert "no route to host" in capsys.readouterr().err


def test_age_is_that_of_the_last_change_in_git(tmp_path: Path) -> None:
    def git(*args: str, days: int = 0) -> None:
        date = f"{int(time.time()) - days * 86400 - 60} +0000"
        when = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(
            ["git", *who, *args], cwd=tmp_path, check=True, capture_output=True,
            env={**os.environ, **when},
        )  # fmt: skip

    git("init")
    for name, days in {"a.lock": 12, "b.lock": 1}.items():
        (tmp_path / name).touch()
        git("add", name)
        git("commit", "-m", name, days=days)
    assert audit.age("a.lock", tmp_path) == "a.lock: last changed 12 days ago"
    assert audit.age("b.lock", tmp_path) == "b.lock: last changed 1 day ago"
    assert audit.age("c.lock", tmp_path) == "c.lock: git does not know when it changed"


def test_export_of_the_lock_has_hashes(tmp_path: Path) -> None:
    if not Path(audit.UV).exists():
        pytest.skip("uv is not in this environment: nothing exports the lock")
    text = audit.requirements("uv.lock", tmp_path).read_text()
    assert "salt==" in text
    assert "--hash=sha256:" in text
