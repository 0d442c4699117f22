"""The prices of a machine, from the README's table of costs: their one home."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
HOURS = 730  # of a month, as Amazon's calculator has it
ROW = re.compile(
    r"^\| (.+?) \| (\d+) \| ([\d.]+) (an hour|a GB and month) \| ([\d.]+) \|$", re.MULTILINE
)


@dataclass(frozen=True)
class Cost:
    """A row of the table: so many of an item, at a price in USD, of what, and the product."""

    item: str
    quantity: int
    price: Decimal
    unit: str
    product: Decimal

    def monthly(self) -> Decimal:
        """Return what the row costs in a month; the size of a volume is in its first cell."""
        if self.unit == "an hour":
            return self.quantity * self.price * HOURS
        size = re.search(r"(\d+) GB", self.item)
        if size is None:
            raise ValueError(f"no size in {self.item!r}")
        return self.quantity * self.price * int(size[1])


def rows(text: str) -> list[Cost]:
    """Return the rows of the table."""
    return [
        Cost(item, int(quantity), Decimal(price), unit, Decimal(product))
        for item, quantity, price, unit, product in ROW.findall(text)
    ]


def of_machine(text: str | None = None) -> Decimal:
    """Return what one machine costs in a month: instance, volume and address.

    Args:
        text: with the table; by default the README's.
    """
    found = rows(README.read_text() if text is None else text)
    return sum((row.monthly() / row.quantity for row in found), Decimal(0))
