"""The file of results, the arithmetic over it, and the figures that have to be reached."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bench import capacity, figures
from bench.results import Missing, Results
from bench.scenarios import BY_NAME, SCENARIOS


def made(**scenarios: list[dict[str, Any]]) -> Results:
    found = Results()
    for name, runs in scenarios.items():
        found.put(name.replace("_", "-"), runs, "abc")
    return found


def test_median_and_spread() -> None:
    found = made(health=[{"web": {"rate": rate}} for rate in (10, 30, 20)])
    assert found.number("health", "web", "rate") == 20
    assert found.spread("health", "web", "rate") == pytest.approx(1.0)


def test_missing_numbers_are_named() -> None:
    found = made(health=[{"web": {"rate": 1}}])
    with pytest.raises(Missing, match="health/stock/rate"):
        found.number("health", "stock", "rate")
    with pytest.raises(Missing, match="sweep"):
        found.number("sweep", "web")


def test_file_keeps_other_scenarios(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "results.json"
    made(health=[{"a": 1}]).save(path)
    again = Results.load(path)
    again.put("sweep", [{"a": 2}], "def")
    again.save(path)
    found = Results.load(path)
    assert found.has("health", "abc")
    assert not found.has("sweep", "abc"), "another commit has measured it"
    assert found.number("health", "a") == 1


def costs(stock: float, web: float, edge: float) -> dict[str, Any]:
    return {
        "stock": {"cpu_ms": {"bench-stock": stock, "postgres-1": 1000}},
        "web": {"cpu_ms": {"web-1": web, "postgres-1": 1000}},
        "edge1": {"cpu_ms": {"web-1": web, "lb-1": edge, "postgres-1": 1000}},
    }


def value(name: str, results: Results) -> float:
    (figure,) = [one for one in figures.FIGURES if one.name == name]
    return figure.value(results)


def test_cost_of_a_visit_is_that_of_web_and_edge_without_the_stores() -> None:
    found = made(first_visit=[costs(1200, 250, 50)])
    assert value("first visit CPU", found) == pytest.approx(4.0)


def test_dearest_request_decides() -> None:
    light = {name.replace("-", "_"): [costs(10, 5, 1)] for name in figures.LIGHT}
    found = made(**light | {"health": [costs(10, 12, 1)]})
    assert value("CPU per request", found) == pytest.approx(1.2)


def test_missed_and_missing_figures_are_named() -> None:
    found = made(static=[costs(200, 2, 1)], database=[{"back_s": 2.5, "longest_s": 16}])
    asked = {"static", "database", "new-machine"}
    assert figures.misses(found, asked) == [
        "static: 100, to reach ≥ 200",
        "database wait: 16, to reach ≤ 15",
        "new machine: not measured ('new-machine')",
    ]


def test_reached_figures_are_silent() -> None:
    found = made(static=[costs(200, 1, 1)], database=[{"back_s": 3, "longest_s": 15}])
    assert figures.misses(found, {"static", "database"}) == []


def test_every_figure_has_one_limit_and_scenarios_that_exist() -> None:
    for figure in figures.FIGURES:
        assert (figure.at_least is None) != (figure.at_most is None), figure.name
        assert set(figure.scenarios) <= set(BY_NAME), figure.name
    assert len({figure.name for figure in figures.FIGURES}) == len(figures.FIGURES)
    assert all(scenario.what for scenario in SCENARIOS)


def test_peak_is_the_largest_share_of_any_machine_but_stock() -> None:
    level = {"peak_mib": {"web-1": 600, "bench-stock": 1000}}
    found = made(
        endless_reading=[{"peak_share": 0.5, "machine_mib": 1000}],
        overload=[{"10x": level, "100x": {"peak_mib": {"lb-1": 700}}}],
    )
    assert value("memory peak", found) == pytest.approx(0.7)


def test_ratios_compare_what_one_run_measured() -> None:
    """The host was three times as slow in the second run, and twice as slow for stock's third."""
    runs = [costs(10, 5, 1), costs(30, 15, 3), costs(20, 5, 1)]
    found = made(**{name.replace("-", "_"): runs for name in figures.LIGHT})
    assert value("CPU per request", found) == pytest.approx(0.5)


def test_machines_for_visitors() -> None:
    need = capacity.Demand(capacity.Use(600), capacity.Use(60), capacity.Use(150))
    assert need.web.visits(1.0) == pytest.approx(70)
    few = capacity.plan(need, 10, 1.0)
    assert (few.web, few.edge) == (2, 1)
    assert few.postgres == pytest.approx(10 / 280)
    busy = capacity.plan(need, 300, 1.0)
    assert (busy.web, busy.edge, busy.possible) == (5, 1, False)
    slow = capacity.plan(need, 28, 0.1)
    assert (slow.web, slow.edge, slow.possible) == (4, 1, True)
    assert slow.cost(Decimal(10), Decimal(20)) == 80 + 10 * (slow.edge + 1)


def test_machines_are_busy_at_rest() -> None:
    use = capacity.Use(600, rest=0.05)
    assert use.visits(0.1) == pytest.approx(2)
    assert use.visits(1.0) == pytest.approx(65)
    never = capacity.Use(600, rest=0.07)
    need = capacity.Demand(never, use, use)
    assert not capacity.plan(need, 1, 0.1).possible
    assert capacity.plan(need, 1, 1.0).possible


def test_demand_is_that_of_all_machines_of_a_role() -> None:
    cpu = {"web-1": 300, "web-2": 200, "lb-1": 40, "postgres-1": 90}
    rest = {"web-1": 12, "web-2": 20, "lb-1": 5, "postgres-1": 30}
    found = made(first_visit=[{"edge2": {"cpu_ms": cpu, "rest_ms": rest}}])
    assert capacity.demand(found, "first-visit") == capacity.Demand(
        capacity.Use(500, 0.02), capacity.Use(40, 0.005), capacity.Use(90, 0.03)
    )
    with pytest.raises(Missing):
        capacity.demand(found, "repeat-visit")


def test_launch_credits() -> None:
    assert capacity.burst_minutes(0.7) == pytest.approx(50)
    assert capacity.burst_minutes(0.1) == float("inf")
