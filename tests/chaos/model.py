"""When writes work again, by the settings of Patroni and HAProxy: how long each step takes.

The ten classes of faults and the steps are those of https://pigsty.io/docs/concept/ha/failure/,
with the settings of this stack in place of Pigsty's.
"""

from __future__ import annotations

from dataclasses import dataclass

START_SECONDS = 300  # primary_start_timeout, Patroni's default
ELECTION = (0.0, 1.0, 2.0)  # members ask each other, for 2 s at most, and one is promoted
COMMAND = (0.0, 1.0, 3.0)  # of a switchover


@dataclass(frozen=True)
class Settings:
    """What decides, in seconds.

    Attributes:
        ttl: for which a leader keeps its place without renewing it.
        loop: between two looks of a Patroni.
        retry: for which Patroni asks etcd again.
        check: between two checks of a server by a web machine's HAProxy; one good one suffices.
        start: for which Patroni tries to start a server that has crashed.
    """

    ttl: float
    loop: float
    retry: float
    check: float
    start: float = START_SECONDS


@dataclass(frozen=True)
class Range:
    """Seconds at best, on average and at worst."""

    best: float
    average: float
    worst: float

    def __add__(self, other: Range) -> Range:
        return Range(self.best + other.best, self.average + other.average, self.worst + other.worst)

    def __str__(self) -> str:
        return f"{self.best:.0f} / {self.average:.0f} / {self.worst:.0f}"


def _up_to(seconds: float) -> Range:
    return Range(0, seconds / 2, seconds)


def restarted(of: Settings) -> Range:
    """Return when the same server serves again, which Patroni starts at its next look."""
    return _up_to(of.loop) + _up_to(of.check)


def given_up(of: Settings) -> Range:
    """Return when another server leads, after Patroni could not start the one that has crashed."""
    wait = Range(of.start, of.start, of.start)
    return restarted(of) + wait + _up_to(of.loop) + Range(*ELECTION)


def expired(of: Settings) -> Range:
    """Return when another server leads, after the leader was silent.

    A leader that etcd does not hear gives up sooner, and its place is free no sooner.
    """
    place = Range(of.ttl - of.loop, of.ttl - of.loop / 2, of.ttl)
    return place + _up_to(of.loop) + Range(*ELECTION) + _up_to(of.check)


def commanded(of: Settings) -> Range:
    """Return when another server leads, after a command."""
    return Range(*COMMAND) + _up_to(of.check)


WAYS = {
    "Patroni starts it again": restarted,
    "Patroni gives up": given_up,
    "the leader's place expires": expired,
    "a command": commanded,
}
CLASSES = {
    1: ("the server crashes", "Patroni starts it again"),
    2: ("the server refuses connections", "Patroni starts it again"),
    3: ("the server stands still", "Patroni gives up"),
    4: ("Patroni is gone", "the leader's place expires"),
    5: ("Patroni stands still", "the leader's place expires"),
    6: ("the machine is gone", "the leader's place expires"),
    7: ("the machine stands still", "the leader's place expires"),
    8: ("the primary does not reach etcd", "the leader's place expires"),
    9: ("the disk takes no writes", "Patroni gives up"),
    10: ("a switchover", "a command"),
}
"""Pigsty's number of a class -> what happens, and the way back of WAYS."""
