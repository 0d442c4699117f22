"""The README's table of monthly costs adds up, for the machines of the map."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from plainpillar import DEPLOYMENT
from stackctl.edge_address import PRICE

ROOT = Path(__file__).parents[3]
HOURS = 730  # of a month, as Amazon's calculator has it
ROW = re.compile(
    r"^\| (.+?) \| (\d+) \| ([\d.]+) (an hour|a GB and month) \| ([\d.]+) \|$", re.MULTILINE
)
Row = tuple[str, int, Decimal, str, Decimal]


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


def rows(text: str) -> list[Row]:
    """Return the rows of the table: item, quantity, price, of what, and the product."""
    return [
        (item, int(quantity), Decimal(price), unit, Decimal(product))
        for item, quantity, price, unit, product in ROW.findall(text)
    ]


def monthly(row: Row) -> Decimal:
    """Return what a row costs in a month; the size of a volume is in its first cell."""
    item, quantity, price, unit, _ = row
    if unit == "an hour":
        return quantity * price * HOURS
    size = re.search(r"(\d+) GB", item)
    assert size
    return quantity * price * int(size[1])


def profiles() -> dict[str, dict[str, Any]]:
    text = (ROOT / "cloud.profiles.d" / "machines.conf").read_text()
    return dict(yaml.safe_load(text))


def test_products_and_total_are_right(readme: str) -> None:
    found = rows(readme)
    assert [product for *_, product in found] == [
        monthly(row).quantize(Decimal("0.01")) for row in found
    ]
    total = sum((product for *_, product in found), Decimal(0))
    assert f"| **total** |  |  | **{total}** |" in readme


def test_quantities_are_those_of_the_map_and_the_profiles(readme: str) -> None:
    machines = DEPLOYMENT.machines()
    base = profiles()["debian-13"]
    assert all(profiles()[role]["extends"] == "debian-13" for role in machines.values())
    (volume,) = base["block_device_mappings"]
    found = {row[0]: row[1] for row in rows(readme)}
    assert len(found) == 3
    assert set(found.values()) == {len(machines)}
    assert base["associate_public_ip"]
    text = " ".join(found)
    assert base["size"] in text
    assert f"{volume['Ebs.VolumeType']} volumes" in text
    assert f"{volume['Ebs.VolumeSize']} GB" in text


def test_price_of_an_address_is_the_one_that_init_names(readme: str) -> None:
    (price,) = [price for item, _, price, *_ in rows(readme) if "IPv4" in item]
    assert price == Decimal(str(PRICE))


def test_wrong_product_is_found() -> None:
    row = rows("| volumes of 10 GB | 6 | 0.088 a GB and month | 5.82 |\n")[0]
    assert monthly(row).quantize(Decimal("0.01")) == Decimal("5.28") != row[-1]
