"""Launching: the instance that a profile asks for, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from saltext.ec2 import _deploy, _host_keys, _instance
from saltext.ec2._errors import ApiError, ConfigurationError, DeployError, NotFound
from saltext.ec2.clouds import ec2 as driver

Machine = Callable[..., dict[str, Any]]  # see the fixture `machine`


def instances(ec2: Any) -> list[dict[str, Any]]:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopped"]}]
    return [one for group in ec2.describe_instances(Filters=states)["Reservations"] for one in group["Instances"]]


def tags(resource: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in resource["Tags"]}


def test_a_profile_becomes_the_instance_it_describes(ec2: Any, machine: Machine, image: str) -> None:
    created = driver.create(machine("web-1", keyname="deploy", tag={"project": "p"}, credit_specification="standard"))
    (instance,) = instances(ec2)
    assert created["id"] == instance["InstanceId"]
    assert created["private_ips"] == [instance["PrivateIpAddress"]]
    assert (instance["ImageId"], instance["InstanceType"], instance["KeyName"]) == (image, "t2.micro", "deploy")
    assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["web"]
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert tags(instance) == {"Name": "web-1", "project": "p"}


def test_volumes_are_gp3_encrypted_and_tagged(ec2: Any, machine: Machine) -> None:
    extra = {"DeviceName": "/dev/sdf", "Ebs.VolumeSize": 3, "Ebs.VolumeType": "gp2"}
    driver.create(machine("web-1", tag={"project": "p"}, block_device_mappings=[extra]))
    (instance,) = instances(ec2)
    ids = [mapping["Ebs"]["VolumeId"] for mapping in instance["BlockDeviceMappings"]]
    volumes = ec2.describe_volumes(VolumeIds=ids)["Volumes"]
    assert sorted(volume["VolumeType"] for volume in volumes) == ["gp2", "gp3"]
    assert all(volume["Encrypted"] for volume in volumes)
    assert all(tags(volume) == {"Name": "web-1", "project": "p"} for volume in volumes)


def test_a_name_is_launched_once(ec2: Any, machine: Machine) -> None:
    first = driver.create(machine("web-1"))
    assert driver.create(machine("web-1"))["id"] == first["id"]
    assert len(instances(ec2)) == 1


def test_a_stopped_machine_is_started_not_launched_again(ec2: Any, machine: Machine) -> None:
    first = driver.create(machine("web-1"))
    ec2.stop_instances(InstanceIds=[first["id"]])
    assert driver.create(machine("web-1"))["state"] == "running"
    assert len(instances(ec2)) == 1


def test_a_destroyed_machine_can_be_made_anew(ec2: Any, machine: Machine) -> None:
    first = driver.create(machine("web-1"))
    driver.destroy("web-1")
    assert driver.create(machine("web-1"))["id"] != first["id"]


def test_what_does_not_exist_is_named(ec2: Any, machine: Machine) -> None:
    with pytest.raises(NotFound, match="no subnets are called nowhere"):
        driver.create(machine("web-1", subnetname="nowhere"))
    with pytest.raises(NotFound, match="no security groups are called nobody"):
        driver.create(machine("web-1", securitygroup=["web", "nobody"]))
    with pytest.raises(NotFound, match="/no/such/parameter"):
        driver.create(machine("web-1", image="ssm:/no/such/parameter"))
    assert instances(ec2) == []


def test_an_unknown_option_is_an_error_that_suggests_the_right_one(ec2: Any, machine: Machine) -> None:
    with pytest.raises(ConfigurationError, match="unknown option subnet_name; did you mean subnetname"):
        driver.create(machine("web-1", subnet_name="a"))
    assert instances(ec2) == []


@pytest.fixture
def deploying(opts: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the deployment is to meet: an `Error`, or nothing."""
    outcome: dict[str, Any] = {}
    (tmp_path / "key").touch()
    opts |= {"deploy": True, "private_key": str(tmp_path / "key")}

    def install(*_: Any, **__: Any) -> None:
        if outcome:
            raise DeployError(outcome["Error"])

    monkeypatch.setattr(_deploy, "archive", lambda *_: b"")
    monkeypatch.setattr(_deploy, "wait_for_port", lambda *_: None)
    monkeypatch.setattr(_deploy, "install", install)
    monkeypatch.setattr(_host_keys, "read", lambda *_: ["ssh-ed25519 AAAA"])
    return outcome


def test_a_failed_deployment_is_seen_and_repaired_by_the_next_run(
    ec2: Any, machine: Machine, opts: dict[str, Any], deploying: dict[str, Any]
) -> None:
    opts["map"] = "small.map"
    deploying["Error"] = "no route"
    with pytest.raises(DeployError, match=r"web-1 .*no route.*run the same command again"):
        driver.create(machine("web-1"))
    (instance,) = instances(ec2)
    assert driver.list_nodes_min() == {}, "the core would take it for done"

    del deploying["Error"]
    assert driver.create(machine("web-1"))["id"] == instance["InstanceId"]
    assert list(driver.list_nodes_min()) == ["web-1"]
    assert len(instances(ec2)) == 1


def test_a_machine_that_waits_for_its_deployment_can_be_queried_and_destroyed(
    ec2: Any, machine: Machine, opts: dict[str, Any], deploying: dict[str, Any]
) -> None:
    deploying["Error"] = "no route"
    with pytest.raises(DeployError):
        driver.create(machine("web-1"))
    assert list(driver.list_nodes()) == ["web-1"]
    assert list(driver.list_nodes_min()) == ["web-1"]
    opts |= {"map": "small.map", "destroy": True}
    assert list(driver.list_nodes_min()) == ["web-1"]


def test_on_failure_destroy_leaves_nothing(
    ec2: Any, machine: Machine, opts: dict[str, Any], deploying: dict[str, Any]
) -> None:
    deploying["Error"] = "no route"
    with pytest.raises(DeployError, match="it was destroyed"):
        driver.create(machine("web-1", on_failure="destroy"))
    assert instances(ec2) == []


def test_a_machine_that_cannot_be_destroyed_is_said_to_run(
    ec2: Any, machine: Machine, deploying: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ApiError("destroying web-1 failed: TerminateInstances: ExpiredToken", "ExpiredToken")

    deploying["Error"] = "no route"
    monkeypatch.setattr(_instance, "terminate", refuse)
    with pytest.raises(DeployError, match=r"no route; .*still runs: destroying web-1 failed: .*ExpiredToken"):
        driver.create(machine("web-1", on_failure="destroy"))
    assert len(instances(ec2)) == 1
