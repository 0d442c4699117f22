"""TIMELOG.md: hours follow from rows, estimates come first, and no work is missing at the end.

The rule on estimates holds from the fifth stage on; the stages before it were written as they were,
and the log says of one after it why it has none.
Commits by somebody who goes on with this repository later are no part of a stage.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from saltmodules import load_file

ROOT = Path(__file__).parents[3]
timelog: Any = load_file(ROOT / "scripts" / "timelog.py")

OWN = {"TIMELOG.md", "README.md"}  # the files that scripts/timelog.py writes
GRACE = timedelta(minutes=30)  # after the last row of a stage
BREAK = timedelta(hours=3)  # what comes later belongs to nobody's stage
FIRST_STAGE_WITH_RULE = 5
WITHOUT_ESTIMATE = ("Ninth",)  # the log says why
FOREVER = datetime(9999, 1, 1)  # noqa: DTZ001 - times of the log have no zone


@dataclass(frozen=True)
class Commit:
    """A commit.

    Attributes:
        when: its author's time, in UTC, without a zone as in the log.
        files: what it changes.
    """

    when: datetime
    files: frozenset[str]

    @property
    def is_work(self) -> bool:
        """Whether it changes more than the log."""
        return not ("TIMELOG.md" in self.files and self.files <= OWN)


def git(*args: str) -> str:
    """Return git's answer; skip the test where there is no history."""
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this is no git checkout with a history: {done.stderr.strip()}")
    return done.stdout


def commits(*args: str) -> list[Commit]:
    """Return the commits of this history without merges, oldest first."""
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("this clone is shallow: the commits that the log speaks of are not in it")
    answer = git("log", "--no-merges", "--format=%x00%at", "--name-only", *args)
    found = []
    for entry in filter(str.strip, answer.split("\0")):
        seconds, *files = filter(None, entry.split("\n"))
        when = datetime.fromtimestamp(int(seconds), UTC).replace(tzinfo=None)
        found.append(Commit(when, frozenset(files)))
    return sorted(found, key=lambda commit: commit.when)


def stages() -> list[Any]:
    return list(timelog.stages((ROOT / "TIMELOG.md").read_text()))


def estimated_at(stage: Any) -> datetime | None:
    """Return when the heading of a stage's estimate was committed; None: not in this history."""
    added = commits("-S", f"## {stage.name} stage, estimate", "--", "TIMELOG.md")
    return added[0].when if added else None


# -- the rules -------------------------------------------------------------------------------------


def first_work(history: Sequence[Commit], after: datetime, begin: datetime) -> datetime | None:
    """Return when the first commit of a stage was made.

    Args:
        history: all commits.
        after: the end of the stage before it.
        begin: its own first row, or its estimate while it has none.
    """
    earliest = max(after + GRACE, begin - BREAK)
    return next((one.when for one in history if one.is_work and one.when > earliest), None)


def unlogged(history: Sequence[Commit], end: datetime, until: datetime) -> timedelta:
    """Return how long work went on after the end of a stage's last row.

    Args:
        history: all commits.
        end: of the last row.
        until: when the next stage began.
    """
    newest = end
    for one in history:
        if one.is_work and newest < one.when < until:
            if one.when - newest > BREAK:
                break
            newest = one.when
    return newest - end


# -- this log --------------------------------------------------------------------------------------


def test_hours_are_those_of_the_rows() -> None:
    texts = [(ROOT / name).read_text() for name in ("TIMELOG.md", "README.md")]
    assert list(timelog.written(*texts)) == texts, "run scripts/timelog.py"


def test_every_stage_since_the_fifth_has_an_estimate() -> None:
    late = stages()[FIRST_STAGE_WITH_RULE - 1 :]
    assert late
    without = [stage.name for stage in late if stage.estimate is None]
    assert [name for name in without if name not in WITHOUT_ESTIMATE] == []


def test_estimate_was_committed_before_the_work() -> None:
    history, found = commits(), stages()
    for number, stage in enumerate(found[FIRST_STAGE_WITH_RULE - 1 :], FIRST_STAGE_WITH_RULE - 1):
        if stage.name in WITHOUT_ESTIMATE:
            continue
        written = estimated_at(stage)
        if written is None:
            pytest.skip(f"this history does not have the estimate of the {stage.name} stage")
        begin = stage.begin if stage.pieces else written
        # Rows have minutes.
        assert written < begin + timedelta(minutes=1), f"the {stage.name} stage began before it"
        first = first_work(history, found[number - 1].end, begin)
        assert first is None or written <= first, f"the {stage.name} stage: work at {first}"


def test_no_work_is_missing_after_the_last_row() -> None:
    history = commits()
    *_, last = [stage for stage in stages() if stage.pieces]
    following = [stage for stage in stages() if not stage.pieces]
    until = (estimated_at(following[0]) if following else None) or FOREVER
    missing = unlogged(history, last.end, until)
    assert missing <= GRACE, f"the last row ends at {last.end}, and work went on for {missing}"


# -- the rules trip --------------------------------------------------------------------------------

NIGHT = datetime(2026, 11, 26)  # noqa: DTZ001 - as the log has it
WORK, LOG = frozenset({"salt/top.sls"}), frozenset({"TIMELOG.md", "README.md"})


def at(minutes: int, files: frozenset[str] = WORK) -> Commit:
    return Commit(NIGHT + timedelta(minutes=minutes), files)


@pytest.mark.parametrize(
    ("history", "minutes"),
    [
        ([], 0),
        ([at(100), at(125)], 25),
        ([at(125), at(200)], 100),
        ([at(125), at(400)], 25),  # somebody goes on the next day
        ([at(200, LOG)], 0),
        ([at(200, LOG | WORK)], 100),
        ([at(110), at(300)], 10),  # that is the next stage
    ],
)
def test_unlogged_work(history: list[Commit], minutes: int) -> None:
    until = at(290).when
    assert unlogged(history, at(100).when, until) == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("minutes", "first"),
    [([10, 20, 50], 50), ([20, 35], 35), ([20, 35, 60], 35), ([20], None)],
)
def test_first_work_of_a_stage(minutes: list[int], first: int | None) -> None:
    found = first_work([at(one) for one in minutes], at(0).when, at(45).when)
    assert found == (None if first is None else at(first).when)


def test_first_work_ignores_commits_between_stages() -> None:
    days = 24 * 60
    history = [at(days), at(5 * days - 10), at(5 * days + 5)]
    assert first_work(history, at(0).when, at(5 * days).when) == at(5 * days - 10).when


def test_hours_of_a_night_and_of_pieces_side_by_side() -> None:
    text = """On 2026-11-25.

<!-- hours -->

old

## Fifth stage, estimate

| **wall clock**, side by side | **1.5 h**, until then |

## Fifth stage, actual

| piece | from | to | h | why |
| -- | -- | -- | -- | -- |
| first | 23:30 | 23:45 | 9 | as planned |
| second | 23:40 | 00:10 | 9 | less |
| third | 00:10 | 01:00 | 9 | more |
| wall clock | 23:30 | 01:00 | 9 | as planned |
"""
    text = text.replace("On 2026-11-25.\n\n", "", 1).replace(
        "then |", "then |\n\nOn 2026-11-25.", 1
    )
    (stage,) = timelog.stages(text)
    assert (stage.begin, stage.end) == (datetime(2026, 11, 25, 23, 30), datetime(2026, 11, 26, 1))  # noqa: DTZ001
    assert stage.estimate == stage.clock == 1.5
    log, readme = timelog.written(text, "**Time spent**: 7 h by the clock, in two stages.")
    assert readme == "**Time spent**: 1.5 h by the clock, in one stage."
    assert "| third | 00:10 | 01:00 | 0.8 | more |" in log
    assert "| fifth | 1.5 | 1.5 | 1.6 |\n| **all** |  | **1.5** | **1.6** |\n\n## Fifth" in log
    assert timelog.written(log, readme) == (log, readme)


def test_hours_of_a_piece_that_began_before_the_first_row() -> None:
    rows = "| first | 14:05 | 15:05 | 9 | - |\n| second | 14:04 | 15:10 | 9 | - |\n"
    (stage,) = timelog.stages(f"## Fifth stage, actual\n\nOn 2026-11-25.\n\n{rows}")
    assert [round(piece.hours, 1) for piece in stage.pieces] == [1.0, 1.1]
    assert round(stage.clock, 1) == 1.1
