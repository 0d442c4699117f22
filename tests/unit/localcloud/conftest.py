"""A fresh local cloud for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from localcloud import catalog, cloud
from memorycloud import MemoryHost, Running, running


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A fresh local cloud."""
    monkeypatch.setattr(cloud, "GRACE_SECONDS", 0.01)
    with running(tmp_path, MemoryHost()) as made:
        yield made


@pytest.fixture
def subnet(local: Running) -> str:
    """A subnet of 16 addresses, eleven of them usable."""
    vpc = local.ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
    return str(local.ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/28")["Subnet"]["SubnetId"])


@pytest.fixture
def launch(local: Running, subnet: str) -> Callable[..., Any]:
    """Return a function that launches a machine and returns its description by RunInstances."""

    def run(**more: Any) -> Any:
        options: dict[str, Any] = {
            "ImageId": catalog.IMAGE_ID,
            "InstanceType": "t2.micro",
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": subnet,
        }
        return local.ec2.run_instances(**options | more)["Instances"][0]

    return run
