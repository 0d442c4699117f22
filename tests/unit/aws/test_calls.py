"""How many calls a run makes: AWS throttles them, and an operator waits for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memorycloud import Running, emptied

States = dict[str, dict[str, Any]]
Apply = Callable[..., States]


def calls(cloud: Running, apply: Apply) -> dict[str, int]:
    """Apply the states; return how often each call was made."""
    with cloud.faults.inject() as injected:
        assert all(one["result"] for one in apply().values())
        return injected.seen().calls


def test_run_from_nothing(cloud: Running, apply: Apply) -> None:
    emptied(cloud)
    assert sum(calls(cloud, apply).values()) < 400


@pytest.mark.usefixtures("founded")
def test_run_with_nothing_to_do(cloud: Running, apply: Apply) -> None:
    made = calls(cloud, apply)
    assert sum(made.values()) < 65
    assert made["GetCallerIdentity"] == 1
    # At the beginning, and at the end of the network's states.
    assert (made["DescribeInternetGateways"], made["DescribeSubnets"]) == (2, 2)
