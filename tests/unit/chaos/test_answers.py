"""What answers say: failures, pauses, and whether visitors are served."""

from __future__ import annotations

import pytest
from tests.chaos.answers import Answer, away, figures, served

PACE = 0.5


def answers(*ends: float, good: bool = True, took: float = 0.1) -> list[Answer]:
    return [Answer(end - took, end, "200" if good else "503", good) for end in ends]


def every(pace: float, begin: float, end: float) -> list[float]:
    return [begin + pace * number for number in range(int((end - begin) / pace) + 1)]


def test_steady_answers_are_no_pause() -> None:
    assert away(answers(*every(PACE, 0, 20)), 5, PACE) == 0


def test_pauses_add_up_without_the_pace() -> None:
    ends = [*every(PACE, 0, 5), *every(PACE, 9, 12), *every(PACE, 14, 20)]
    assert away(answers(*ends), 4, PACE) == pytest.approx((9 - 5 - PACE) + (14 - 12 - PACE))


def test_pause_of_a_second_beside_the_pace_is_none() -> None:
    assert away(answers(1, 2.4, 3.9), 0.5, PACE) == 0
    assert away(answers(1, 2.6), 0.5, PACE) == 1.1


def test_failed_answers_end_no_pause() -> None:
    found = answers(1, 9) + answers(3, 4, 5, good=False)
    assert away(found, 2, PACE) == 7.5


def test_pause_before_the_moment_does_not_count() -> None:
    assert away(answers(1, 9, 9.5, 10), 9.2, PACE) == 0


def test_pause_goes_on_to_the_last_failure() -> None:
    assert away(answers(1) + answers(2, 11, good=False), 0.5, PACE) == 9.5


def test_nobody_was_answered() -> None:
    assert away(answers(3, 11, good=False), 1, PACE) == 9.5
    assert away([], 1, PACE) == 0


def test_slow_answers_that_come_at_last_leave_no_pause_behind() -> None:
    slow = answers(10, took=8)
    assert away(answers(1) + slow, 0.5, PACE) == 8.5


def test_who_is_served() -> None:
    found = answers(8, 9, 10)
    assert served(found, 10, 3)
    assert not served([*found, *answers(9.5, good=False)], 10, 3)
    assert not served(found, 20, 3), "nobody has come"
    assert served([*answers(2, good=False), *found], 10, 3), "that was long ago"


def test_figures_of_what_ended_after_the_moment() -> None:
    found = answers(1, 2, good=False) + answers(3, 4) + answers(9, good=False, took=5)
    kept = figures(found, 2.5, PACE)
    assert kept == {
        "asked": 3, "failed": 1, "errors": {"503": 1}, "away_s": 4.5, "longest_s": 5.0
    }  # fmt: skip
    assert figures([], 2.5, PACE)["longest_s"] == 0
