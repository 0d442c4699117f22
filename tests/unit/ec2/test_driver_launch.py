"""The RunInstances request, option by option, and the choice of a place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from saltext.ec2 import _client, _instance, _launch, _options
from saltext.ec2._errors import ApiError, ConfigurationError, NotFound
from saltext.ec2._lookup import Image

Request = Callable[..., dict[str, Any]]


@pytest.fixture
def connection(opts: dict[str, Any], ec2: Any) -> _client.Connection:
    return _client.connect({"location": "eu-west-1"}, opts["cachedir"])


@pytest.fixture
def options(opts: dict[str, Any], image: str) -> Callable[..., dict[str, Any]]:
    def make(**given: Any) -> dict[str, Any]:
        machine = {"driver": "cloud:ec2", "name": "web-1", "image": image, "size": "t2.micro", **given}
        return _options.resolve(machine, opts)

    return make


@pytest.fixture
def request_for(connection: _client.Connection, options: Callable[..., dict[str, Any]]) -> Request:
    return lambda **given: _launch.request(connection, options(**given), "web-1")


SPOT = {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.1"}}
PROFILE_ARN = "arn:aws:iam::1:instance-profile/p"


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"spot_config": {"spot_price": 0.1}}, "InstanceMarketOptions", SPOT),
        ({"placementgroup": "g", "tenancy": "dedicated"}, "Placement", {"GroupName": "g", "Tenancy": "dedicated"}),
        ({"cpu_options": {"core_count": 1, "ThreadsPerCore": 1}}, "CpuOptions", {"CoreCount": 1, "ThreadsPerCore": 1}),
        ({"credit_specification": "unlimited"}, "CreditSpecification", {"CpuCredits": "unlimited"}),
        ({"iam_profile": PROFILE_ARN}, "IamInstanceProfile", {"Arn": PROFILE_ARN}),
        ({"iam_profile": "p"}, "IamInstanceProfile", {"Name": "p"}),
        ({"hibernation": True}, "HibernationOptions", {"Configured": True}),
        ({"monitoring": False}, "Monitoring", {"Enabled": False}),
        ({"termination_protection": True}, "DisableApiTermination", True),
        ({"shutdown_behavior": "terminate"}, "InstanceInitiatedShutdownBehavior", "terminate"),
        ({}, "MetadataOptions", {"HttpTokens": "required", "HttpEndpoint": "enabled"}),
        (
            {"metadata_options": {"http_tokens": "optional"}},
            "MetadataOptions",
            {"HttpTokens": "optional", "HttpEndpoint": "enabled"},
        ),
        (
            {"launch_template": {"name": "t", "version": 3}},
            "LaunchTemplate",
            {"LaunchTemplateName": "t", "Version": "3"},
        ),
        ({"private_ip": "10.40.1.9", "subnetname": "a"}, "PrivateIpAddress", "10.40.1.9"),
    ],
)
def test_an_option_is_part_of_the_request(request_for: Request, given: dict[str, Any], key: str, value: Any) -> None:
    assert request_for(**given)[key] == value


def test_a_launch_template_stands_for_image_and_size(connection: _client.Connection, opts: dict[str, Any]) -> None:
    machine = {"driver": "cloud:ec2", "name": "web-1", "launch_template": {"id": "lt-1"}}
    request = _launch.request(connection, _options.resolve(machine, opts), "web-1")
    assert not {"ImageId", "InstanceType", "BlockDeviceMappings"} & set(request)
    with pytest.raises(ConfigurationError, match="web-1: image is not set"):
        _launch.request(connection, _options.resolve({**machine, "launch_template": None}, opts), "web-1")


def test_a_public_address_is_asked_for_on_the_interface(request_for: Request) -> None:
    request = request_for(subnetname="a", securitygroup="web", associate_public_ip=True)
    (interface,) = request["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is True
    assert interface["SubnetId"].startswith("subnet-")
    assert [group[:3] for group in interface["Groups"]] == ["sg-"]
    assert "SubnetId" not in request


def test_interfaces_are_written_as_in_the_old_driver(request_for: Request) -> None:
    given = {
        "DeviceIndex": 0,
        "SubnetName": "a",
        "SecurityGroupId": ["web"],
        "PrivateIpAddresses": [{"Primary": True}],
        "AssociatePublicIpAddress": True,
        "allocate_new_eip": True,
    }
    (interface,) = request_for(network_interfaces=[given])["NetworkInterfaces"]
    assert set(interface) == {"DeviceIndex", "SubnetId", "Groups", "AssociatePublicIpAddress", "DeleteOnTermination"}
    with pytest.raises(ConfigurationError, match="network_interfaces: unknown: Subnet"):
        request_for(network_interfaces=[{"Subnet": "a"}])
    with pytest.raises(ConfigurationError, match="set on each interface"):
        request_for(network_interfaces=[given], subnetname="a")


def test_several_interfaces_with_secondary_addresses(request_for: Request) -> None:
    addresses = [
        {"PrivateIpAddress": "10.40.1.20", "Primary": True},
        {"PrivateIpAddress": "10.40.1.21", "Primary": False},
    ]
    given = [
        {"DeviceIndex": 0, "SubnetName": "a", "SecurityGroupId": "web", "PrivateIpAddresses": addresses},
        {"DeviceIndex": 1, "SubnetName": "a", "SecurityGroupId": ["web", "db"], "SecondaryPrivateIpAddressCount": 2},
    ]
    first, second = request_for(network_interfaces=given)["NetworkInterfaces"]
    assert (first["DeviceIndex"], first["PrivateIpAddresses"]) == (0, addresses)
    assert (second["DeviceIndex"], second["SecondaryPrivateIpAddressCount"]) == (1, 2)
    assert "PrivateIpAddresses" not in second
    assert (len(first["Groups"]), len(second["Groups"])) == (1, 2)


def test_volumes_of_the_old_driver_are_part_of_the_launch(request_for: Request) -> None:
    volumes = [
        {"size": 10, "device": "/dev/sdf"},
        {"device": "/dev/sdg", "type": "io1", "iops": 1000, "size": 10, "encrypted": False},
        {"device": "/dev/sdh", "volume_id": "vol-1"},
    ]
    devices = {each["DeviceName"]: each["Ebs"] for each in request_for(volumes=volumes)["BlockDeviceMappings"]}
    assert set(devices) == {"/dev/sda1", "/dev/sdf", "/dev/sdg"}
    assert devices["/dev/sdf"] == {
        "VolumeType": "gp3", "Encrypted": True, "VolumeSize": 10, "DeleteOnTermination": True,
    }  # fmt: skip
    assert (devices["/dev/sdg"]["Iops"], devices["/dev/sdg"]["Encrypted"]) == (1000, False)


@pytest.mark.parametrize(
    ("given", "delete"),
    [
        ({}, {"/dev/xvda": True, "/dev/sdf": True}),
        ({"delete_root": False, "delete_others": True}, {"/dev/xvda": False, "/dev/sdf": True}),
    ],
)
def test_who_goes_with_the_machine(given: dict[str, Any], delete: dict[str, bool]) -> None:
    given = {"delete_root": True, "delete_others": True, **given}
    devices = _launch.block_devices([{"DeviceName": "/dev/sdf"}], Image("ami-1", "/dev/xvda", 8), **given)
    assert {each["DeviceName"]: each["Ebs"]["DeleteOnTermination"] for each in devices} == delete


def test_the_name_is_not_a_tag_to_play_with(request_for: Request) -> None:
    with pytest.raises(ConfigurationError, match="the tag Name"):
        request_for(tag={"Name": "other"})


def test_a_token_is_the_same_for_the_same_attempt_only() -> None:
    def token(name: str = "web-1", size: str = "t2.micro", before: tuple[str, ...] = ()) -> str:
        return _launch.client_token("eu-west-1", name, {"InstanceType": size}, before)

    assert token() == token()
    assert len({token(), token(name="web-2"), token(size="t2.small"), token(before=("i-1",))}) == 4
    assert token(before=("i-1", "i-2")) == token(before=("i-2", "i-1"))
    assert len(token()) <= 64


def test_the_newest_image_of_an_owner_is_taken(connection: _client.Connection, ec2: Any, image: str) -> None:
    owner = ec2.describe_images(ImageIds=[image])["Images"][0]["OwnerId"]
    request = _launch.request(
        connection, {"image": {"owner": owner, "name": "debian-13-*"}, "size": "t2.micro"}, "web-1"
    )
    assert request["ImageId"] == image
    with pytest.raises(NotFound, match="owns no image called fedora"):
        _launch.request(connection, {"image": {"owner": owner, "name": "fedora*"}, "size": "t2.micro"}, "web-1")
    with pytest.raises(ConfigurationError, match="needs both owner and name"):
        _launch.request(connection, {"image": {"name": "debian-13-*"}, "size": "t2.micro"}, "web-1")


def test_a_full_place_is_passed_over(
    connection: _client.Connection, options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def launch_in(_: Any, place: dict[str, Any], *__: Any, **___: Any) -> dict[str, Any]:
        tried.append(place["availability_zone"])
        if place["availability_zone"] != "eu-west-1c":
            raise ApiError("full", "InsufficientInstanceCapacity")
        return {"InstanceId": "i-1"}

    monkeypatch.setattr(_instance, "_launch_in", launch_in)
    zones = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    assert _instance.launch(connection, options(availability_zone=zones), "web-1", [])["InstanceId"] == "i-1"
    assert tried == zones
    with pytest.raises(ApiError, match="full"):
        _instance.launch(connection, options(availability_zone=zones[:2]), "web-1", [])
