"""What documents say of costs is what the price file and the map give."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from bench.prices import of_machine
from plainpillar import DEPLOYMENT
from stackctl.cost import estimate, machine_counts, prices

ROOT = Path(__file__).parents[3]
TOTAL = re.compile(r"small map costs ([\d.]+) USD a month")


def test_readme_names_the_total_of_the_small_map() -> None:
    (found,) = TOTAL.findall(" ".join((ROOT / "README.md").read_text().split()))
    assert Decimal(found) == estimate(DEPLOYMENT, machine_counts(DEPLOYMENT)).total


def test_public_machines_cost_the_same_and_private_ones_so_capacity_may_count_them() -> None:
    """scripts/bench/capacity.py multiplies the price of one machine of each kind."""
    private, public = of_machine("web"), of_machine("lb")
    assert {role: of_machine(role) for role in machine_counts(DEPLOYMENT)} == {
        "salt": public, "lb": public, "web": private, "postgres": private, "redis": private,
    }  # fmt: skip
    assert public - private == prices().month("ipv4")


def test_capacity_names_the_smallest_stack_as_the_readme_does() -> None:
    text = (ROOT / "docs" / "capacity.md").read_text()
    rows = re.findall(r"^\| [\d,]+ \| 2 \| 1 \| \d+ % \| (\d+) \|$", text, re.MULTILINE)
    assert rows
    total = estimate(DEPLOYMENT, machine_counts(DEPLOYMENT)).total
    assert set(rows) == {f"{total:,.0f}"}


def test_no_other_file_holds_a_price() -> None:
    """One fact, one home: a second table would be forgotten when prices change."""
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/capacity.md")]
    known = {str(entry["hour"]) for entry in prices().instances.values()}
    for text in texts:
        assert not known & set(re.findall(r"0\.\d{4}", text))


def test_each_price_has_a_source_at_amazon() -> None:
    for entry in (*prices().instances.values(), *prices().services.values()):
        assert str(entry["source"]).startswith("https://aws.amazon.com/")
