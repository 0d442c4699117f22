"""The operator sees every step with its outcome, and the log keeps what it reported."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stackctl.progress import Progress
from stackctl.run import Log


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def progress(screen: io.StringIO, log: Log) -> Progress:
    return Progress(Console(file=screen, width=120), log)


def test_unchanged_step(progress: Progress, screen: io.StringIO) -> None:
    with progress.step("EC2 API"):
        pass
    assert screen.getvalue().startswith("✓ EC2 API            unchanged ")
    assert progress.changes == 0


def test_changed_step(progress: Progress, screen: io.StringIO, log: Log) -> None:
    with progress.step("machines") as step:
        step.report("launching [web-1] [/tmp]")
        step.changed, step.detail = True, "launched [web-1] [/tmp]"
    assert screen.getvalue().startswith("● machines           launched [web-1] [/tmp] ")
    assert progress.changes == 1
    assert "launching [web-1] [/tmp]" in log.path.read_text()


def test_warning_is_below_its_step(progress: Progress, screen: io.StringIO, log: Log) -> None:
    with progress.step("Salt master") as step:
        step.warning = "not deployed: [draft]"
    assert screen.getvalue().splitlines()[1] == "! Salt master: not deployed: [draft]"
    assert "warning: not deployed: [draft]" in log.path.read_text()
    assert progress.changes == 0


def test_failed_step_is_marked_and_raises(
    progress: Progress, screen: io.StringIO, log: Log
) -> None:
    def fail() -> None:
        with progress.step("states"):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert screen.getvalue().startswith("✗ states ")
    assert "== states: failed" in log.path.read_text()
    assert progress.changes == 0
