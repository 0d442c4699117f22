"""The price of a machine, from the price file of stackctl."""

from __future__ import annotations

from decimal import Decimal

from bench.results import ROOT
from stackctl.cost import estimate
from stackctl.deployment import LOCAL, Deployment


def of_machine(role: str) -> Decimal:
    """Return what one machine of a role costs in a month: instance, volume and address, in USD."""
    return estimate(Deployment(LOCAL, ROOT), {role: 1}).of(role)
