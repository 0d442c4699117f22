"""Tables and plots hold what the results give, and those of docs/ are not stale."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench import render, svg
from bench.results import ROOT, Results


def costs(stock: float, web: float) -> dict[str, Any]:
    return {"stock": {"cpu_ms": {"bench-stock": stock}}, "web": {"cpu_ms": {"web-1": web}}}


def test_documents_are_those_of_the_results() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in render.files().items()
        if not path.exists() or path.read_text() != text
    ]
    assert stale == [], "PYTHONPATH=scripts .venv/bin/python -m bench --render"


def test_plots_are_well_formed_and_show_every_value() -> None:
    series = {"a<b": [1.0, 3.0], "c": [2.0, 4.0]}
    for text in (svg.lines("T", "u", ["x", "y"], series), svg.bars("T", "u", ["x", "y"], series)):
        root = ET.fromstring(text)
        shown = "".join(root.itertext())
        assert "a<b" in shown
        assert "x" in shown
    assert svg.lines("T", "u", ["x", "y"], series).count("<circle") == 4


@pytest.mark.parametrize(
    ("largest", "top"), [(0, 1), (0.05, 0.1), (7, 8), (10, 10), (42, 50), (512, 600), (999, 1000)]
)
def test_axis_ends_above_the_largest_value(largest: float, top: float) -> None:
    assert svg._top([largest]) == pytest.approx(top)


def test_figures_of_both_columns() -> None:
    before, now = Results(), Results()
    before.put("static", [costs(200, 200)], "a")
    now.put("static", [costs(200, 0.5)], "b")
    table = render.figures_table({"before": before, "now": now})
    (row,) = [line for line in table.splitlines() if "largest script" in line]
    assert row.endswith("| 1 | 400 | ≥ 200 |")
    assert "| \N{EN DASH} | \N{EN DASH} | ≤ 3 |" in table


def test_document_without_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="bench:origin"):
        render.document("nothing", {"before": Results(), "now": Results()})


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (42.123, "42.1"), (0.01234, "0.0123"), (0, "0")]
)
def test_number(value: float, text: str) -> None:
    assert render.number(value) == text
