"""The ledger finds what is lost, doubled or out of order, and nothing else."""

from __future__ import annotations

from tests.chaos.ledger import Ledger, Write


def ledger(*writes: tuple[int, float, float, str]) -> Ledger:
    made = Ledger()
    for number, began, ended, what in writes:
        made.note(Write(number, began, ended, what))
    return made


def test_history_of_a_quiet_site_is_linear() -> None:
    made = ledger((1, 0, 1, "201"), (2, 1.5, 2, "201"), (3, 3, 4, "201"))
    verdict = made.verdict([(10, 1), (11, 2), (44, 3)])
    assert verdict.linear
    assert verdict.acknowledged == 3


def test_acknowledged_write_that_is_not_there_is_lost() -> None:
    verdict = ledger((1, 0, 1, "201"), (2, 2, 3, "201")).verdict([(10, 1)])
    assert (verdict.lost, verdict.linear) == (1, False)


def test_write_without_an_answer_may_be_there_or_not() -> None:
    made = ledger((1, 0, 1, "TimeoutError"), (2, 2, 3, "502"), (3, 4, 5, "201"))
    verdict = made.verdict([(10, 1), (12, 3)])
    assert verdict.linear
    assert (verdict.acknowledged, verdict.done_unsaid) == (1, 1)


def test_row_that_is_there_twice() -> None:
    verdict = ledger((1, 0, 1, "201")).verdict([(10, 1), (11, 1)])
    assert (verdict.doubled, verdict.linear) == (1, False)


def test_write_that_was_sent_twice_finds_its_row_there() -> None:
    verdict = ledger((1, 0, 1, "409")).verdict([(10, 1)])
    assert (verdict.doubled, verdict.linear) == (1, False)


def test_later_write_stands_before_a_sooner_one() -> None:
    made = ledger((1, 0, 1, "201"), (2, 2, 3, "201"), (3, 4, 5, "201"))
    verdict = made.verdict([(30, 1), (20, 2), (31, 3)])
    assert (verdict.disordered, verdict.linear) == (1, False)


def test_writes_at_the_same_time_have_no_order() -> None:
    made = ledger((1, 0, 3, "201"), (2, 1, 2, "201"), (3, 2, 4, "201"))
    assert made.verdict([(12, 1), (11, 2), (10, 3)]).linear


def test_order_is_checked_against_all_before_and_not_the_last_alone() -> None:
    made = ledger((1, 0, 1, "201"), (2, 2, 3, "201"), (3, 4, 5, "201"))
    assert made.verdict([(30, 1), (20, 2), (21, 3)]).disordered == 2


def test_row_that_nobody_has_written() -> None:
    verdict = ledger((1, 0, 1, "201")).verdict([(10, 1), (11, 7)])
    assert (verdict.unknown, verdict.linear) == (1, False)


def test_read_that_does_not_find_an_acknowledged_row() -> None:
    made = ledger((1, 0, 1, "201"))
    made.reread("200")
    made.reread("503")
    assert made.verdict([(10, 1)]).linear
    made.reread("404")
    assert (made.verdict([(10, 1)]).unseen, made.verdict([(10, 1)]).linear) == (1, False)


def test_numbers_are_given_once() -> None:
    made = Ledger()
    assert [made.number() for _ in range(3)] == [1, 2, 3]
