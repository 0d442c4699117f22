"""All scenarios in the order in which they run: harmless ones first, ruinous ones last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import abuse, faults, growth, overload, throughput
from bench.lab import Lab, Target
from bench.throughput import page


@dataclass(frozen=True)
class Scenario:
    """A scenario.

    Attributes:
        name: as the command line and the results have it.
        what: in a sentence.
        run: does it and returns what the results keep.
        minutes: that one run takes on a quiet host, with a site that does not freeze.
        stock: whether it needs the stock machine.
        repeated: whether `--runs` repeats it; what takes minutes or breaks machines runs once.
    """

    name: str
    what: str
    run: Callable[[Lab], dict[str, Any]]
    minutes: float
    stock: bool = False
    repeated: bool = False


def _first_line(run: Callable[..., Any]) -> str:
    return (run.__doc__ or "").splitlines()[0].rstrip(".")


def _page(name: str, what: str, run: Any) -> Scenario:
    return Scenario(name, what, run, 0.5, stock=True, repeated=True)


SCENARIOS = (
    _page("health", "Read the health page", page(throughput.HEALTH, throughput.nobody)),
    Scenario("static", _first_line(throughput.static), throughput.static, 0.5, True, True),
    _page(
        "api-dags",
        "Read the list of DAGs of the API, as a program",
        page(throughput.API_DAGS, Target.program),
    ),
    _page(
        "ui-dags", "Read the list of DAGs of the page", page(throughput.UI_DAGS, Target.visitor)
    ),
    Scenario("login", _first_line(throughput.login), throughput.login, 0.4, True, True),
    Scenario(
        "first-visit", _first_line(throughput.first_visit), throughput.first_visit, 0.7, True, True
    ),
    Scenario(
        "repeat-visit", _first_line(throughput.repeat_visit), throughput.repeat_visit, 0.6, True,
        True,
    ),
    Scenario(
        "python-requests", _first_line(throughput.python_requests), throughput.python_requests,
        0.5, True,
    ),
    Scenario("sweep", _first_line(throughput.sweep), throughput.sweep, 5, stock=True),
    Scenario("bypass", _first_line(abuse.bypass), abuse.bypass, 0.6),
    Scenario("lost-requests", _first_line(abuse.lost_requests), abuse.lost_requests, 0.5),
    Scenario("large-bodies", _first_line(abuse.large_bodies), abuse.large_bodies, 0.5),
    Scenario("overload", _first_line(overload.overload), overload.overload, 1.2),
    Scenario("quotas", _first_line(growth.quotas), growth.quotas, 1.8),
    Scenario("endless-reading", _first_line(abuse.endless_reading), abuse.endless_reading, 3.5),
    Scenario("killed", _first_line(faults.killed), faults.killed, 1.5),
    Scenario("frozen", _first_line(faults.frozen), faults.frozen, 1),
    Scenario("cut-off", _first_line(faults.cut_off), faults.cut_off, 1),
    Scenario("database", _first_line(faults.database), faults.database, 1.5),
    Scenario("four-machines", _first_line(growth.four_machines), growth.four_machines, 4),
    Scenario("new-machine", _first_line(growth.new_machine), growth.new_machine, 2),
)  # fmt: skip
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
