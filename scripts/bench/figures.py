"""What has to be reached: each figure, its limit, and how the results give it.

This is the one home of the limits. Ratios compare what one run measured side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.results import Missing, Results

Value = Callable[[Results], float]


@dataclass(frozen=True)
class Figure:
    """A figure that has to be reached.

    Attributes:
        name: of few words, for messages.
        what: in a table's cell.
        scenarios: whose results it needs.
        value: computes it; raises Missing.
        at_least, at_most: its limit; one of them is given.
    """

    name: str
    what: str
    scenarios: tuple[str, ...]
    value: Value
    at_least: float | None = None
    at_most: float | None = None

    def limit(self) -> str:
        """Return the limit as a table shows it."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def reached(self, value: float) -> bool:
        """Return whether a value is within the limit."""
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most


def _of(scenario: str, *path: str) -> Value:
    return lambda results: results.number(scenario, *path)


def _sum(scenario: str, *paths: tuple[str, ...]) -> Value:
    return lambda results: sum(results.number(scenario, *path) for path in paths)


def _errors(scenario: str, *path: str) -> Value:
    def value(results: Results) -> float:
        total = 0.0
        for run in results.runs(scenario):
            found = run
            for key in (*path, "errors"):
                if key not in found:
                    raise Missing("/".join((scenario, *path)))
                found = found[key]
            total += sum(found.values())
        return total

    return value


def costs(results: Results, scenario: str, target: str) -> list[float]:
    """Return the CPU ms of a request or visit on the machines that serve it, without the stores.

    Args:
        results: of a run.
        scenario: whose.
        target: `stock`, `web`, `edge1` or `edge2`.

    Returns:
        a number for each run of the scenario.

    Raises:
        Missing: a run lacks it.
    """
    found = [
        sum(
            cost
            for name, cost in run.get(target, {}).get("cpu_ms", {}).items()
            if not name.startswith(("postgres-", "redis-"))
        )
        for run in results.runs(scenario)
    ]
    if not all(found):
        raise Missing(f"{scenario}/{target}/cpu_ms")
    return found


def _over(results: Results, scenario: str, above: str, below: str) -> float:
    """Return what a request costs at one target ÷ at another.

    Each run compares what it measured a few seconds apart, and the median of the runs counts:
    between two runs the host may have become twice as slow.
    """
    pairs = zip(costs(results, scenario, above), costs(results, scenario, below), strict=True)
    return median(one / other for one, other in pairs)


def _stock_over(scenario: str, target: str) -> Value:
    """Return how many times cheaper a target is than stock."""
    return lambda results: _over(results, scenario, "stock", target)


def _dearest(scenarios: tuple[str, ...]) -> Value:
    return lambda results: max(_over(results, one, "web", "stock") for one in scenarios)


def _ratio(scenario: str, above: tuple[str, ...], below: tuple[str, ...]) -> Value:
    return lambda results: results.number(scenario, *above) / results.number(scenario, *below)


def _peak(results: Results) -> float:
    """Return the largest share of its memory that a machine held under the heaviest load."""
    shares = [results.number("endless-reading", "peak_share")]
    size = results.number("endless-reading", "machine_mib")
    for level in ("10x", "100x"):
        for run in results.runs("overload"):
            peaks = run[level]["peak_mib"]
            shares += [mib / size for name, mib in peaks.items() if not name.startswith("bench-")]
    return max(shares)


LIGHT = ("login", "health", "api-dags", "ui-dags")
FIGURES = (
    Figure(
        "64 connections, web", "64 connections on `/ui/dags`, one web machine: kept of the maximum",
        ("sweep",), _of("sweep", "web", "kept"), at_least=0.95,
    ),
    Figure(
        "64 connections, edge", "the same through the edge",
        ("sweep",), _of("sweep", "edge1", "kept"), at_least=0.95,
    ),
    Figure(
        "64 connections, errors", "errors of both, and seconds that a machine was down",
        ("sweep",),
        lambda results: _errors("sweep", "web", "64")(results)
        + _errors("sweep", "edge1", "64")(results)
        + results.number("sweep", "edge1", "64", "down_seconds"),
        at_most=0,
    ),
    Figure(
        "overload 10x", "500 connections through the edge: kept of the maximum",
        ("overload",), _of("overload", "10x", "kept"), at_least=0.95,
    ),
    Figure(
        "overload errors", "errors other than an honest 503, of 500 and of 5,000 at once",
        ("overload",), _sum("overload", ("10x", "other_errors"), ("100x", "other_errors")),
        at_most=0,
    ),
    Figure(
        "overload recovery", "seconds until the site is well after it",
        ("overload",), _of("overload", "10x", "recovery_s"), at_most=5,
    ),
    Figure(
        "static", "largest script from the web machine: requests per CPU second ÷ stock",
        ("static",), _stock_over("static", "web"), at_least=200,
    ),
    Figure(
        "first visit CPU", "first visits per CPU second, web and edge ÷ stock",
        ("first-visit",), _stock_over("first-visit", "edge1"), at_least=3,
    ),
    Figure(
        "first visit in Python", "requests of a first visit that reach Python ÷ stock",
        ("python-requests",),
        _ratio("python-requests", ("edge1", "python"), ("stock", "python")), at_most=0.45,
    ),
    Figure(
        "first visit bytes", "bytes of a first visit ÷ stock",
        ("first-visit",), _ratio("first-visit", ("edge1", "bytes"), ("stock", "bytes")),
        at_most=0.8,
    ),
    Figure(
        "CPU per request", "CPU per request ÷ stock, the dearest of login, health and both lists",
        LIGHT, _dearest(LIGHT), at_most=1,
    ),
    Figure(
        "/ui/dags", "`/ui/dags`: times cheaper than stock",
        ("ui-dags",), _stock_over("ui-dags", "web"), at_least=1.5,
    ),
    Figure(
        "cache tricks", "tricks against the cache that cost Python anything",
        ("bypass",), _of("bypass", "costly"), at_most=0,
    ),
    Figure(
        "memory peak", "memory peak of any machine ÷ its memory",
        ("endless-reading", "overload"), _peak, at_most=0.75,
    ),
    Figure(
        "memory growth", "growth over the second 5,000 of 10,000 list reads ÷ memory",
        ("endless-reading",), _of("endless-reading", "grown_share"), at_most=0.02,
    ),
    Figure(
        "kills", "workers killed or given up in 10,000 reads and in overload",
        ("endless-reading", "overload"),
        lambda results: results.number("endless-reading", "kills")
        + results.number("overload", "10x", "kills")
        + results.number("overload", "100x", "kills"),
        at_most=0,
    ),
    Figure(
        "lost GETs", "GETs without an answer or with an error, 200 errors in between",
        ("lost-requests",),
        _sum("lost-requests", ("GET", "lost"), ("GET", "failed")), at_most=0,
    ),
    Figure(
        "lost POSTs", "POSTs without any answer",
        ("lost-requests",), _of("lost-requests", "POST", "lost"), at_most=0,
    ),
    Figure(
        "large bodies", "anonymous bodies of 60 MB: workers killed",
        ("large-bodies",), _of("large-bodies", "kills"), at_most=0,
    ),
    Figure(
        "two machines", "two web machines ÷ one, at 0.25 CPU each",
        ("quotas",), _of("quotas", "0.25", "ratio"), at_least=1.9,
    ),
    Figure(
        "four machines", "four web machines ÷ one, at 0.2 CPU each",
        ("four-machines",), _of("four-machines", "ratio"), at_least=3.6,
    ),
    *(
        figure
        for name, what in (
            ("killed", "killed"), ("frozen", "frozen"), ("cut-off", "cut off"),
        )
        for figure in (
            Figure(
                f"{name}, failed", f"a web machine {what} under load: requests failed",
                (name,), _of(name, "failed"), at_most=0,
            ),
            Figure(
                f"{name}, wait", "longest wait in seconds",
                (name,), _of(name, "longest_s"), at_most=5,
            ),
        )
    ),
    Figure(
        "database back", "database frozen for 20 s: seconds until both web machines serve",
        ("database",), _of("database", "back_s"), at_most=3,
    ),
    Figure(
        "database wait", "longest wait meanwhile in seconds",
        ("database",), _of("database", "longest_s"), at_most=15,
    ),
    Figure(
        "new machine", "seconds until a new web machine serves",
        ("new-machine",), _of("new-machine", "serves_s"), at_most=60,
    ),
)  # fmt: skip


def misses(results: Results, scenarios: set[str]) -> list[str]:
    """Return a line for each figure that is missed or was not measured.

    Args:
        results: of a run.
        scenarios: those that were asked for; figures of others do not count.
    """
    found = []
    for figure in FIGURES:
        if not set(figure.scenarios) <= scenarios:
            continue
        try:
            value = figure.value(results)
        except (Missing, ZeroDivisionError) as error:
            found.append(f"{figure.name}: not measured ({error})")
            continue
        if not figure.reached(value):
            found.append(f"{figure.name}: {value:.3g}, to reach {figure.limit()}")
    return found
