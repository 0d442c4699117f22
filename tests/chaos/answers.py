"""What the answers to visitors say: how many failed, and how long nobody got a good one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Answer:
    """An answer, or that there was none.

    Attributes:
        began, ended: in seconds since 1970.
        what: the status, or the name of the error.
        good: whether the visitor got what he or she had asked for.
    """

    began: float
    ended: float
    what: str
    good: bool


def away(answers: Sequence[Answer], since: float, pace: float) -> float:
    """Return how many seconds in all nobody got a good answer.

    A pause counts when it is a second longer than the pace, without the pace.

    Args:
        answers: of one kind, in any order.
        since: what ended before does not count, but for the last one.
        pace: seconds between two requests.
    """
    good = sorted(one.ended for one in answers if one.good)
    before = [end for end in good if end < since]
    times = [*before[-1:], *good[len(before) :]]
    if answers and not times:
        times = [since]
    if times:
        times.append(max(times[-1], *(one.ended for one in answers)))
    pauses = (later - sooner - pace for sooner, later in pairwise(times))
    return round(sum(pause for pause in pauses if pause > 1), 1)


def served(answers: Sequence[Answer], since: float, seconds: float) -> bool:
    """Return whether visitors who came in the last seconds got good answers, and nobody another.

    Args:
        answers: of one kind.
        since: the time now.
        seconds: how far to look back; a request that is still open counts for nothing.
    """
    last = [one for one in answers if one.began >= since - seconds]
    return bool(last) and all(one.good for one in last)


def figures(answers: Sequence[Answer], since: float, pace: float) -> dict[str, Any]:
    """Return what the results keep of a kind of request, from a moment on."""
    counted = [one for one in answers if one.ended >= since]
    failed = Counter(one.what for one in counted if not one.good)
    return {
        "asked": len(counted),
        "failed": failed.total(),
        "errors": dict(sorted(failed.items())),
        "away_s": away(answers, since, pace),
        "longest_s": round(max((one.ended - one.began for one in counted), default=0.0), 1),
    }
