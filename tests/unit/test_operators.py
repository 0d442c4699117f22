"""The networks of operators are read as EC2 keeps them, and refused where that makes no sense."""

from __future__ import annotations

from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load

networks = load("_modules", "operators").networks


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ([], []),
        (["198.51.100.7/32"], ["198.51.100.7/32"]),
        (["198.51.100.7"], ["198.51.100.7/32"]),
        (["198.51.100.7/24"], ["198.51.100.0/24"]),
        (["198.51.100.7/255.255.255.0"], ["198.51.100.0/24"]),
        (["203.0.113.9/32", "198.51.100.7/32"], ["198.51.100.7/32", "203.0.113.9/32"]),
        (["198.51.100.7/32", "198.51.100.7/32"], ["198.51.100.7/32"]),
        (["198.51.100.7/32", "198.51.100.0/24"], ["198.51.100.0/24"]),
        (["198.51.100.9/24", "198.51.100.7/24"], ["198.51.100.0/24"]),
        (["10.0.0.0/8"], ["10.0.0.0/8"]),
        (("198.51.100.7/32",), ["198.51.100.7/32"]),
    ],
)
def test_networks_are_as_ec2_keeps_them(given: Any, read: list[str]) -> None:
    assert networks(given) == read
    assert networks(read) == read


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("198.51.100.7/32", "is '198.51.100.7/32' and not a list"),
        ({"office": "198.51.100.7/32"}, "not a list"),
        (["0.0.0.0/0"], "opens 0.0.0.0/0"),
        (["198.51.100.7/0"], "opens 0.0.0.0/0"),
        (["0.0.0.0/1", "128.0.0.0/1"], "opens 0.0.0.0/0"),
        (["64.0.0.0/7"], "opens 64.0.0.0/7"),
        (["2001:db8::/32"], "names 2001:db8::/32, but the machines have IPv4 addresses only"),
        (["::/0"], "IPv4 addresses only"),
        (["office"], "names 'office', which is no IPv4 network such as"),
        (["198.51.100.7/33"], "no IPv4 network"),
        (["198.51.100.256/32"], "no IPv4 network"),
        ([""], "no IPv4 network"),
        ([None], "names None, which is no IPv4 network"),
        ([10], "names 10, which is no IPv4 network"),
        (["127.0.0.1/32"], "from which nobody comes"),
        (["224.0.0.1"], "from which nobody comes"),
        (["169.254.169.254"], "from which nobody comes"),
    ],
)
def test_what_nobody_can_mean_is_refused(given: Any, reason: str) -> None:
    with pytest.raises(CommandExecutionError) as caught:
        networks(given)
    assert str(caught.value).startswith("settings:operator_cidrs ")
    assert reason in str(caught.value)
