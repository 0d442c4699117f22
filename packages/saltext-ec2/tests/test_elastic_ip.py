"""An Elastic IP is waited for while its holder shuts down, and never taken from one that runs."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from moto.backends import get_backend

from sandbox import REGION, Sandbox

ACCOUNT = "123456789012"


@pytest.fixture
def holder(sandbox: Sandbox) -> Any:
    """A machine `n1` of moto's that holds an Elastic IP; the profile asks for that address."""
    allocation = sandbox.ec2.allocate_address(Domain="vpc")["AllocationId"]
    del sandbox.profiles["p1"]["subnetname"], sandbox.profiles["p1"]["securitygroup"]
    sandbox.profiles["p1"]["network_interfaces"] = [
        {
            "DeviceIndex": 0,
            "subnetname": "a",
            "securitygroupname": "web",
            "associate_eip": allocation,
        }
    ]
    done = sandbox.salt_cloud("-p", "p1", "n1", "--no-deploy")
    assert not done.code, done
    backend = get_backend("ec2")[ACCOUNT][REGION]
    instance = backend.get_instance(sandbox.instances()["n1"]["InstanceId"])
    (address,) = backend.describe_addresses()
    address.instance = instance  # as EC2 tells it, and moto does not
    return instance


def ends(instance: Any, state: str, code: int) -> None:
    """Set the state of an instance of moto's."""
    instance._state.name, instance._state.code = state, code  # noqa: SLF001


def shuts_down(sandbox: Sandbox, instance: Any, seconds: float) -> None:
    """Have an instance shut down, and be terminated some time after somebody looks at addresses."""
    ends(instance, "shutting-down", 32)
    (address,) = get_backend("ec2")[ACCOUNT][REGION].describe_addresses()
    looks: list[dict[str, str]] = []

    def terminated() -> None:
        ends(instance, "terminated", 48)
        address.instance = address.eni = address.association_id = None

    def look(given: dict[str, str]) -> None:
        looks.append(given)
        if len(looks) == 1:
            threading.Timer(seconds, terminated).start()

    sandbox.server.answers |= {"DescribeAddresses": look, "AssociateAddress": look}


def holders(sandbox: Sandbox) -> list[str]:
    """Return the interfaces with an Elastic IP."""
    return [
        address["NetworkInterfaceId"]
        for address in sandbox.ec2.describe_addresses()["Addresses"]
        if address.get("NetworkInterfaceId")
    ]


def interface(sandbox: Sandbox, name: str) -> str:
    """Return the interface of a machine."""
    found = sandbox.instances()[name]["NetworkInterfaces"][0]["NetworkInterfaceId"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("name", ["n1", "n2"], ids=["same-name", "another-name"])
def test_address_of_machine_that_shuts_down_is_waited_for(
    sandbox: Sandbox, holder: Any, name: str
) -> None:
    shuts_down(sandbox, holder, 3)
    done = sandbox.salt_cloud("-p", "p1", name, "--no-deploy")
    assert not done.code, done
    assert holders(sandbox) == [interface(sandbox, name)]


@pytest.mark.usefixtures("holder")
def test_address_of_machine_that_runs_is_not_taken(sandbox: Sandbox) -> None:
    before = interface(sandbox, "n1")
    done = sandbox.salt_cloud("-p", "p1", "n2", "--no-deploy")
    assert done.code, done
    assert holders(sandbox) == [before]


@pytest.mark.parametrize("state", [("stopped", 80), ("stopping", 64)], ids=["stopped", "stopping"])
def test_address_of_machine_that_is_stopped_is_not_taken(
    sandbox: Sandbox, holder: Any, state: tuple[str, int]
) -> None:
    before = interface(sandbox, "n1")
    ends(holder, *state)
    done = sandbox.salt_cloud("-p", "p1", "n2", "--no-deploy")
    assert done.code, done
    assert holders(sandbox) == [before]


def test_address_of_machine_that_runs_is_refused_before_launch(
    sandbox: Sandbox, holder: Any
) -> None:
    sandbox.server.calls.clear()
    done = sandbox.salt_cloud("-p", "p1", "n2", "--no-deploy")
    assert done.code, done
    assert "associate_eip" in done.output
    assert holder.id in done.output
    assert "RunInstances" not in sandbox.server.calls
