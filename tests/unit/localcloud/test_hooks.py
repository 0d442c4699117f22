"""What the wrappers around moto's classes refuse, keep and undo."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError
from moto import settings
from moto.ec2.models.instance_types import InstanceTypeBackend, InstanceTypeOfferingBackend
from moto.ec2.models.instances import Instance, InstanceBackend
from moto.ec2.models.subnets import Subnet
from moto.ec2.responses.instances import InstanceResponse
from moto.servicequotas.models import ServiceQuotasBackend

from localcloud import hooks
from localcloud.account import Account
from localcloud.cloud import Cloud
from localcloud.delays import INSTANT
from memorycloud import Running

Launch = Callable[..., Any]


def of_moto() -> list[dict[str, Any]]:
    owners = (
        settings, Instance, InstanceBackend, InstanceResponse, InstanceTypeBackend,
        InstanceTypeOfferingBackend, ServiceQuotasBackend, Subnet,
    )  # fmt: skip
    return [dict(vars(owner)) for owner in owners]


@pytest.mark.parametrize("load_images", ["true", "false"])
def test_moto_is_itself_again_after_the_cloud(
    monkeypatch: pytest.MonkeyPatch, load_images: str
) -> None:
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", load_images)
    before = of_moto()
    made = hooks.Hooks(cast(Cloud, SimpleNamespace(account=Account(), delays=INSTANT)))
    assert all(now != then for now, then in zip(of_moto(), before, strict=True))
    assert os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] == "false"
    assert hasattr(Instance, "terminate_quietly")
    made.remove()
    assert of_moto() == before
    assert os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] == load_images
    made.remove()
    assert of_moto() == before


def test_moto_is_itself_again_after_half_of_the_hooks() -> None:
    before = of_moto()
    with pytest.raises(AttributeError):
        hooks.Hooks(cast(Cloud, SimpleNamespace(account=Account())))  # without delays
    assert of_moto() == before


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as error:
        call()
    return str(error.value.response["Error"]["Code"])


@pytest.mark.parametrize(
    "other", [{"InstanceType": "t3.micro"}, {"UserData": "x"}, {"MaxCount": 2}]
)
def test_client_token_belongs_to_one_request(
    local: Running, launch: Launch, other: dict[str, Any]
) -> None:
    first = launch(ClientToken="one")["InstanceId"]
    if "MaxCount" not in other:
        assert refused(lambda: launch(ClientToken="one", **other)) == "IdempotentParameterMismatch"
    assert launch(ClientToken="two")["InstanceId"] != first
    assert launch()["InstanceId"] != launch()["InstanceId"], "no token is no token"


def test_machine_is_stopped_and_started_only_from_the_right_state(
    local: Running, launch: Launch
) -> None:
    ids = [launch()["InstanceId"]]
    local.settle()
    started = local.ec2.start_instances(InstanceIds=ids)["StartingInstances"][0]
    assert started["PreviousState"]["Name"] == local.state(*ids) == "running"
    local.host.gate.clear()
    local.ec2.stop_instances(InstanceIds=ids)
    stopping = local.ec2.stop_instances(InstanceIds=ids)["StoppingInstances"][0]
    assert stopping["PreviousState"]["Name"] == "stopping"
    for call in (local.ec2.start_instances, local.ec2.reboot_instances):
        assert refused(partial(call, InstanceIds=ids)) == "IncorrectInstanceState"
    local.host.gate.set()
    local.settle()
    assert [line.split()[0] for line in local.host.log].count("stop") == 1
    local.ec2.terminate_instances(InstanceIds=ids)
    local.settle()
    assert refused(lambda: local.ec2.stop_instances(InstanceIds=ids)) == "IncorrectInstanceState"


def test_console_shows_the_end_of_a_long_output(
    local: Running, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = launch()["InstanceId"]
    text = "first" + "x" * hooks.CONSOLE_BYTES + "last"
    monkeypatch.setattr(local.host, "console", lambda *_: text)
    shown = local.ec2.get_console_output(InstanceId=instance)["Output"]
    assert len(shown) == hooks.CONSOLE_BYTES
    assert shown.endswith("xlast")


def test_launched_machine_has_the_root_volume_of_the_image(local: Running, launch: Launch) -> None:
    launch()
    (volume,) = local.ec2.describe_volumes()["Volumes"]
    assert (volume["Size"], volume["VolumeType"]) == (8, "gp3")
    (image,) = local.ec2.describe_images(Owners=["136693071363"])["Images"]
    assert image["ImageOwnerAlias"] == image["ImageLocation"].partition("/")[0] == "amazon"
    (root,) = image["BlockDeviceMappings"]
    assert root["DeviceName"] == image["RootDeviceName"]
    assert (root["Ebs"]["VolumeSize"], root["Ebs"]["DeleteOnTermination"]) == (8, True)


def test_new_interface_has_the_tags_of_the_launch(local: Running, launch: Launch) -> None:
    tags = [{"Key": "project", "Value": "own"}]
    launch(TagSpecifications=[{"ResourceType": "network-interface", "Tags": tags}])
    (interface,) = local.ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert interface["TagSet"] == tags
