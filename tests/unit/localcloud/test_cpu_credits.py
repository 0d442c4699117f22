"""Machines without CPU credits have the CPU that EC2 leaves their type."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Callable
from typing import Any

import pytest

from localcloud import cpu_credits
from localcloud.cpu_credits import cpus_of
from memorycloud import Running

Launch = Callable[..., Any]


def named(name: str, kind: str = "t2.micro") -> dict[str, Any]:
    tags = [{"Key": "Name", "Value": name}]
    return {
        "InstanceType": kind,
        "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}],
    }


@pytest.mark.parametrize(
    ("name", "kind", "cpus", "expected"),
    [
        ("web-1", "t2.micro", 1, 0.1),
        ("web-2", "t3.micro", 2, 0.2),
        ("web-3", "m5.large", 2, 2.0),
        ("lb-1", "t2.micro", 1, 1.0),
    ],
)
def test_type_decides_what_is_left(name: str, kind: str, cpus: int, expected: float) -> None:
    assert cpus_of(name, kind, cpus, ["web-*", "redis-1"]) == expected


def test_running_machines_of_the_names_lose_their_credits(local: Running, launch: Launch) -> None:
    ids = {name: launch(**named(name))["InstanceId"] for name in ("web-1", "web-2", "lb-1")}
    local.settle()
    local.ec2.stop_instances(InstanceIds=[ids["web-2"]])
    local.settle()
    with local.faults.without_credits("web-*"):
        assert local.host.cpus == {ids["web-1"]: 0.1, ids["lb-1"]: 1.0}
    assert local.host.cpus == {ids["web-1"]: 1.0, ids["lb-1"]: 1.0}


def test_machine_that_ends_meanwhile_keeps_no_other_from_it(local: Running, launch: Launch) -> None:
    gone, web = (launch(**named(name))["InstanceId"] for name in ("gone-1", "web-1"))
    local.settle()
    local.host.machines.pop(gone)
    local.faults.spend_credits("*")
    assert local.host.cpus == {web: 0.1}


@pytest.mark.parametrize("body", [{"web-1": 1}, [1], "web-1"])
def test_only_a_list_of_names_is_taken(local: Running, body: Any) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        local.faults._ask("PUT", cpu_credits.PATH, body)
    with pytest.raises(TypeError):
        cpu_credits.parse(json.dumps(body).encode())
