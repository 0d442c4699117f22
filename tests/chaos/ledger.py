"""The ledger of a writer: what the site has acknowledged, and what the database has of it.

Each write makes one row with a number of its own. The history is linear when every acknowledged
write is there once, and a write that began after another one was acknowledged comes after it in the
database, which numbers its rows as they are made.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

CREATED, CONFLICT, MISSING = "201", "409", "404"


@dataclass(frozen=True)
class Write:
    """A write.

    Attributes:
        number: of its row.
        began, ended: in seconds since 1970.
        what: the status of its answer, or the name of the error.
    """

    number: int
    began: float
    ended: float
    what: str

    @property
    def acknowledged(self) -> bool:
        """Whether the site said that it is done."""
        return self.what == CREATED


@dataclass(frozen=True)
class Verdict:
    """What became of the writes.

    Attributes:
        acknowledged: how many the site said were done.
        lost: those of them that the database does not have.
        doubled: rows that are there more than once, or whose write was done twice.
        disordered: acknowledged writes that come before one which was acknowledged sooner.
        unseen: reads of an acknowledged row, through the site, that did not find it.
        unknown: rows nobody has written.
        done_unsaid: writes that are there although the site gave no answer or an error.
    """

    acknowledged: int
    lost: int
    doubled: int
    disordered: int
    unseen: int
    unknown: int
    done_unsaid: int

    @property
    def linear(self) -> bool:
        """Whether nothing contradicts a linear history."""
        wrong = (self.lost, self.doubled, self.disordered, self.unseen, self.unknown)
        return not any(wrong)

    def as_dict(self) -> dict[str, int]:
        """Return the verdict for the results."""
        return asdict(self)


class Ledger:
    """What the writers have noted, in any order; several threads may write."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.unseen = 0
        self._next = 0
        self._lock = threading.Lock()

    def number(self) -> int:
        """Return a number that no other write has."""
        with self._lock:
            self._next += 1
            return self._next

    def note(self, write: Write) -> None:
        """Note what became of a write."""
        with self._lock:
            self.writes.append(write)

    def reread(self, what: str) -> None:
        """Note how a read of an acknowledged row was answered."""
        if what == MISSING:
            with self._lock:
                self.unseen += 1

    def verdict(self, rows: Iterable[tuple[int, int]]) -> Verdict:
        """Compare the ledger with the database.

        Args:
            rows: place in the database, and number of the write, of each row.
        """
        found = sorted(rows)
        counts = Counter(number for _, number in found)
        places = {number: place for place, number in reversed(found)}
        done = [write for write in self.writes if write.acknowledged]
        begun = {write.number for write in self.writes}
        conflicts = sum(write.what == CONFLICT for write in self.writes)
        return Verdict(
            acknowledged=len(done),
            lost=sum(write.number not in counts for write in done),
            doubled=sum(count - 1 for count in counts.values()) + conflicts,
            disordered=disordered(done, places),
            unseen=self.unseen,
            unknown=sum(number not in begun for number in counts),
            done_unsaid=sum(
                write.number in counts and not write.acknowledged for write in self.writes
            ),
        )


def disordered(writes: Sequence[Write], places: dict[int, int]) -> int:
    """Return how many writes come before one that had ended when they began.

    Args:
        writes: acknowledged ones.
        places: number of a write -> its place in the database; those that are lost are not there.
    """
    there = [write for write in writes if write.number in places]
    ended = sorted(there, key=lambda write: write.ended)
    highest, sooner, found = -1, 0, 0
    for write in sorted(there, key=lambda write: write.began):
        while sooner < len(ended) and ended[sooner].ended < write.began:
            highest = max(highest, places[ended[sooner].number])
            sooner += 1
        found += places[write.number] < highest
    return found
