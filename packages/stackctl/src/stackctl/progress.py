"""The steps of a run as the operator sees them: a line each, with outcome and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape

from stackctl.run import Log

MARKS = {"green": "✓", "yellow": "●", "red": "✗"}


@dataclass
class Step:
    """The outcome of a step, which the step fills in while it runs.

    Attributes:
        changed: whether it changed anything.
        detail: what it changed.
        warning: what the operator should know although the step succeeded.
        report: receives a line of progress at a time.
    """

    changed: bool = False
    detail: str = ""
    warning: str = ""
    report: Callable[[str], None] = field(default=lambda _: None, repr=False)


class Progress:
    """Prints each step when it ends, and on a terminal what the current step reports."""

    def __init__(self, console: Console, log: Log) -> None:
        self._console = console
        self._log = log
        self._start = time.monotonic()
        self._noted = ""
        self.changes = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the first step could start."""
        return time.monotonic() - self._start

    def note(self, line: str) -> None:
        """Print a sentence that the operator has to see during a step, once in a row."""
        if line != self._noted:
            self._noted = line
            self._log.write(line)
            self._console.print(f"[dim]… {escape(line)}[/]", highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run a step: `with progress.step("machine image") as step: ...; step.changed = True`."""
        begin = time.monotonic()
        self._log.write(f"== {title}")
        with self._console.status(f"{title} …") as status:

            def report(line: str) -> None:
                self._log.write(line)
                status.update(f"{title}: {escape(line)} ({time.monotonic() - begin:.0f} s)")

            step = Step(report=report)
            try:
                yield step
            except BaseException:
                self._line(title, begin, "", "red")
                raise
        self.changes += step.changed
        detail = step.detail or ("done" if step.changed else "unchanged")
        self._line(title, begin, detail, "yellow" if step.changed else "green")
        if step.warning:
            self._log.write(f"warning: {step.warning}")
            self._console.print(
                f"[yellow]! {title}: {escape(step.warning)}[/]", highlight=False, soft_wrap=True
            )

    def _line(self, title: str, begin: float, detail: str, colour: str) -> None:
        seconds = time.monotonic() - begin
        self._log.write(f"== {title}: {detail or 'failed'} ({seconds:.1f} s)")
        self._console.print(
            f"[{colour}]{MARKS[colour]}[/] {title:<18} {escape(detail)} [dim]{seconds:.1f} s[/]",
            highlight=False,
        )
