"""How many t2.micro a number of visitors needs, and what these cost: arithmetic over the results.

A t2.micro earns 6 CPU credits an hour, each a minute of a core, so it may use 10 % of its core for
ever; it begins with 30 credits:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-credits-baseline-concepts.html
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-performance-instances-standard-mode-concepts.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from bench.results import Results

BURST = 1.0  # cores that a t2.micro with credits has
BASELINE = 0.1  # and without
LAUNCH_CREDITS = 30  # minutes of a core
# Of its CPU a machine may be busy on average, so that people seldom wait for each other.
BUSY = 0.7
LEAST_WEB = 2  # so that one may fail
OTHERS = 3  # the Salt master and the two stores
TARGET = "edge2"


@dataclass(frozen=True)
class Demand:
    """CPU ms of one visit on all web machines, on the edge and on PostgreSQL."""

    web: float
    edge: float
    postgres: float


@dataclass(frozen=True)
class Plan:
    """The machines for some visitors, or the reason that there is none.

    Attributes:
        web, edge: machines of the roles.
        postgres: the share of its CPU that PostgreSQL needs, 1 is all that it may be busy.
    """

    web: int
    edge: int
    postgres: float

    @property
    def possible(self) -> bool:
        """Whether one PostgreSQL suffices; it cannot be doubled."""
        return self.postgres <= 1

    def cost(self, private: Decimal, public: Decimal) -> Decimal:
        """Return the USD of a month, of all machines of the stack.

        Args:
            private: of a machine without a public address.
            public: of one with it: the Salt master, and each edge.
        """
        return (self.web + OTHERS - 1) * private + (self.edge + 1) * public


def demand(results: Results, scenario: str) -> Demand:
    """Return the demand of `first-visit` or `repeat-visit`; raise Missing."""
    names = results.runs(scenario)[0].get(TARGET, {}).get("cpu_ms", {})

    def of(role: str) -> float:
        found = [name for name in names if name.startswith(f"{role}-")]
        return sum(results.number(scenario, TARGET, "cpu_ms", name) for name in found or [role])

    return Demand(of("web"), of("lb"), of("postgres"))


def visits(ms: float, cores: float) -> float:
    """Return how many visits a minute one machine serves, of a demand in CPU ms."""
    return 60_000 * cores * BUSY / ms


def plan(need: Demand, a_minute: float, cores: float) -> Plan:
    """Return the machines for visits.

    Args:
        need: of one visit.
        a_minute: visits.
        cores: BURST or BASELINE.
    """
    web = math.ceil(a_minute / visits(need.web, cores))
    edge = math.ceil(a_minute / visits(need.edge, cores))
    return Plan(max(LEAST_WEB, web), max(1, edge), a_minute / visits(need.postgres, cores))


def burst_minutes(use: float) -> float:
    """Return how long a new machine keeps up a use of its core, by its launch credits.

    Args:
        use: from 0 to 1; at the baseline or below it lasts for ever.
    """
    return math.inf if use <= BASELINE else LAUNCH_CREDITS / (use - BASELINE)
