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
class Use:
    """What the machines of a role use their CPU for.

    Attributes:
        visit: ms of one visit, on all machines of the role.
        rest: the share of a core that one machine uses while nobody visits.
    """

    visit: float
    rest: float = 0.0

    def visits(self, cores: float) -> float:
        """Return how many visits a minute one machine serves; 0: it is busy without any."""
        return max(0.0, 60_000 * (cores * BUSY - self.rest) / self.visit)

    def machines(self, a_minute: float, cores: float) -> float:
        """Return how many machines visits need, in parts of one."""
        each = self.visits(cores)
        return a_minute / each if each else math.inf


@dataclass(frozen=True)
class Demand:
    """What visits need of the web machines, of the edge and of PostgreSQL."""

    web: Use
    edge: Use
    postgres: Use


@dataclass(frozen=True)
class Plan:
    """The machines for some visitors, or the reason that there is none.

    Attributes:
        web, edge: machines of the roles.
        postgres: the share of its CPU that PostgreSQL needs, 1 is all that it may be busy.
    """

    web: float
    edge: float
    postgres: float

    @property
    def possible(self) -> bool:
        """Whether one PostgreSQL suffices, which cannot be doubled, and any number of the rest."""
        return self.postgres <= 1 and math.isfinite(self.web + self.edge)

    def cost(self, private: Decimal, public: Decimal) -> Decimal:
        """Return the USD of a month, of all machines of the stack.

        Args:
            private: of a machine without a public address.
            public: of one with it: the Salt master, and each edge.
        """
        return (int(self.web) + OTHERS - 1) * private + (int(self.edge) + 1) * public


def demand(results: Results, scenario: str) -> Demand:
    """Return the demand of `first-visit` or `repeat-visit`; raise Missing."""
    names = results.runs(scenario)[0].get(TARGET, {}).get("cpu_ms", {})

    def of(role: str) -> Use:
        found = [name for name in names if name.startswith(f"{role}-")] or [role]
        visit = sum(results.number(scenario, TARGET, "cpu_ms", name) for name in found)
        rests = [results.number(scenario, TARGET, "rest_ms", name) for name in found]
        return Use(visit, max(rests) / 1000)

    return Demand(of("web"), of("lb"), of("postgres"))


def plan(need: Demand, a_minute: float, cores: float) -> Plan:
    """Return the machines for visits.

    Args:
        need: of one visit.
        a_minute: visits.
        cores: BURST or BASELINE.
    """
    web, edge = (_whole(use.machines(a_minute, cores)) for use in (need.web, need.edge))
    return Plan(max(LEAST_WEB, web), max(1, edge), need.postgres.machines(a_minute, cores))


def _whole(machines: float) -> float:
    return math.ceil(machines) if math.isfinite(machines) else machines


def burst_minutes(use: float) -> float:
    """Return how long a new machine keeps up a use of its core, by its launch credits.

    Args:
        use: from 0 to 1; at the baseline or below it lasts for ever.
    """
    return math.inf if use <= BASELINE else LAUNCH_CREDITS / (use - BASELINE)
