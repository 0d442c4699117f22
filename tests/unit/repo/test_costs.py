"""The README's table of monthly costs adds up, for the machines of the map."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.prices import of_machine, rows
from plainpillar import DEPLOYMENT
from stackctl.edge_address import PRICE

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


def profiles() -> dict[str, dict[str, Any]]:
    text = (ROOT / "cloud.profiles.d" / "machines.conf").read_text()
    return dict(yaml.safe_load(text))


def test_products_and_total_are_right(readme: str) -> None:
    found = rows(readme)
    assert [row.product for row in found] == [
        row.monthly().quantize(Decimal("0.01")) for row in found
    ]
    total = sum((row.product for row in found), Decimal(0))
    assert f"| **total** |  |  | **{total}** |" in readme


def test_quantities_are_those_of_the_map_and_the_profiles(readme: str) -> None:
    machines = DEPLOYMENT.machines()
    base = profiles()["debian-13"]
    assert all(profiles()[role]["extends"] == "debian-13" for role in machines.values())
    (volume,) = base["block_device_mappings"]
    found = {row.item: row.quantity for row in rows(readme)}
    assert len(found) == 3
    assert set(found.values()) == {len(machines)}
    assert base["associate_public_ip"]
    text = " ".join(found)
    assert base["size"] in text
    assert f"{volume['Ebs.VolumeType']} volumes" in text
    assert f"{volume['Ebs.VolumeSize']} GB" in text


def test_price_of_an_address_is_the_one_that_init_names(readme: str) -> None:
    (price,) = [row.price for row in rows(readme) if "IPv4" in row.item]
    assert price == Decimal(str(PRICE))


def test_wrong_product_is_found() -> None:
    row = rows("| volumes of 10 GB | 6 | 0.088 a GB and month | 5.82 |\n")[0]
    assert row.monthly().quantize(Decimal("0.01")) == Decimal("5.28") != row.product


def test_machine_costs_a_part_of_each_row() -> None:
    text = "| t2 | 2 | 0.01 an hour | 14.60 |\n| 10 GB | 3 | 0.1 a GB and month | 3.00 |\n"
    assert of_machine(text) == Decimal("8.30")
