"""Compute the hours in TIMELOG.md from its rows, and write them there and into README.md.

With --check, change nothing, and exit with 1 when a number is another. A row of a stage has the
piece, from, to, its hours, and what differed. Pieces went on side by side, so their hours add up to
more than the clock.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOG = ROOT / "TIMELOG.md"
README = ROOT / "README.md"
WHOLE = "wall clock"  # the row of a whole stage
ROW = re.compile(
    r"^\| (?P<piece>[^|]+?) \| (?P<begin>\d\d:\d\d) \| (?P<end>\d\d:\d\d) \|", re.MULTILINE
)
HOURS = re.compile(r"^(\| [^|]+ \| \d\d:\d\d \| \d\d:\d\d \| )([^|]*?)( \|)", re.MULTILINE)
ESTIMATE = re.compile(r"^\| \*\*wall clock\*\*[^|]*\| \*\*([\d.]+) h\*\*", re.MULTILINE)
TABLE = re.compile(r"(?<=<!-- hours -->\n\n).*?(?=\n\n|\Z)", re.DOTALL)
SPENT = re.compile(r"(?<=\*\*Time spent\*\*: )[\d.]+ h by the clock, in [\w-]+ stages?")
NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen", "twenty", "twenty-one", "twenty-two", "twenty-three", "twenty-four"),
)


@dataclass(frozen=True)
class Piece:
    """A row of the log.

    Attributes:
        name: what was done.
        begin: when, in UTC.
        end: until when.
    """

    name: str
    begin: datetime
    end: datetime

    @property
    def hours(self) -> float:
        """How long it took."""
        return (self.end - self.begin) / timedelta(hours=1)


@dataclass
class Stage:
    """A stage of the log.

    Attributes:
        name: such as `Fifth`.
        estimate: hours by the clock, or None without an estimate.
        pieces: its rows.
    """

    name: str
    estimate: float | None = None
    pieces: list[Piece] = field(default_factory=list)

    @property
    def begin(self) -> datetime:
        """When its first piece began."""
        return min(piece.begin for piece in self.pieces)

    @property
    def end(self) -> datetime:
        """When its last piece ended."""
        return max(piece.end for piece in self.pieces)

    @property
    def clock(self) -> float:
        """Its hours by the clock."""
        return (self.end - self.begin) / timedelta(hours=1) if self.pieces else 0.0

    @property
    def work(self) -> float:
        """The hours of all its pieces."""
        return sum(piece.hours for piece in self.pieces if piece.name != WHOLE)


def stages(text: str) -> list[Stage]:
    """Return the stages of a log, in order.

    A stage begins on the first date in its text, or on the date on which the one before it ended.
    """
    found: dict[str, tuple[Stage, date | None]] = {}
    day: date | None = None
    for name, part in _sections(text):
        stage, first = found.get(name, (Stage(name), None))
        dates = re.findall(r"\d{4}-\d\d-\d\d", part)
        first = first or (date.fromisoformat(dates[0]) if dates else None)
        estimate = ESTIMATE.search(part)
        stage.estimate = float(estimate[1]) if estimate else stage.estimate
        if rows := list(ROW.finditer(part)):
            start = first or day
            if start is None:
                raise ValueError(f"the log names no date for the stage '{name}'")
            stage.pieces += _pieces(rows, start)
            day = stage.end.date()
        found[name] = stage, first
    return [stage for stage, _ in found.values()]


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield the sections of stages, each with the name of its stage."""
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    preface = text.partition("\n## ")[0]
    for part in parts:
        heading = part.partition("\n")[0]
        if named := re.match(r"([\w-]+) stage\b", heading):
            yield named[1], part
        elif re.match(r"(Estimate|Actual)\b", heading):
            yield "First", preface + part


def _pieces(rows: Iterable[re.Match[str]], day: date) -> Iterator[Piece]:
    """Yield the rows of a table, which is no longer than half a day.

    A piece that begins half a day before the first row began on the next day, and so did one that
    ends before it begins.
    """
    first = None
    for row in rows:
        begin, end = (
            datetime.combine(day, time.fromisoformat(text)) for text in (row["begin"], row["end"])
        )
        first = first or begin
        if begin < first - timedelta(hours=12):
            begin, end = begin + timedelta(days=1), end + timedelta(days=1)
        yield Piece(row["piece"], begin, end if end >= begin else end + timedelta(days=1))


def table(found: list[Stage]) -> str:
    """Return the table of all stages that have rows."""
    lines = [
        "| stage | estimate, h by the clock | by the clock | all pieces |",
        "| -- | -- | -- | -- |",
    ]
    logged = [stage for stage in found if stage.pieces]
    for stage in logged:
        estimate = "none" if stage.estimate is None else f"{stage.estimate:.1f}"
        name = stage.name.lower()
        lines.append(f"| {name} | {estimate} | {stage.clock:.1f} | {stage.work:.1f} |")
    clock, work = sum(stage.clock for stage in logged), sum(stage.work for stage in logged)
    lines.append(f"| **all** |  | **{clock:.1f}** | **{work:.1f}** |")
    return "\n".join(lines)


def written(log: str, readme: str) -> tuple[str, str]:
    """Return both documents with the hours that the log's rows give.

    Raises:
        ValueError: a row or a place for the hours is missing.
    """
    if not TABLE.search(log) or not SPENT.search(readme):
        raise ValueError("TIMELOG.md has no table after <!-- hours -->, or README.md no time spent")
    found = stages(log)
    pieces = iter([piece for stage in found for piece in stage.pieces])
    log = HOURS.sub(lambda row: f"{row[1]}{next(pieces).hours:.1f}{row[3]}", log)
    log = TABLE.sub(lambda _: table(found), log)
    logged = [stage for stage in found if stage.pieces]
    clock = sum(stage.clock for stage in logged)
    stages_word = "stage" if len(logged) == 1 else "stages"
    spent = f"{clock:.1f} h by the clock, in {NUMBERS[len(logged)]} {stages_word}"
    return log, SPENT.sub(spent, readme)


def main() -> int:
    """Write both documents, or check them, and return the exit code."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--check", action="store_true", help="change nothing")
    check = arguments.parse_args().check
    texts = written(LOG.read_text(), README.read_text())
    code = 0
    for path, text in zip((LOG, README), texts, strict=True):
        if text == path.read_text():
            continue
        if check:
            print(f"{path.name} has other hours than its rows: run scripts/timelog.py")
            code = 1
        else:
            path.write_text(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
