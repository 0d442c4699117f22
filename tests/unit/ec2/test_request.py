"""The requests and machines that result from the options of a profile.

After `create`, moto describes the machine. What moto does not keep is checked in the request, after
botocore has validated it against EC2's description of RunInstances.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import salt.config
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from saltext.ec2 import _client, _request
from saltext.ec2._images import Image
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import ApiError, ConfigurationError, NotFound

ELSEWHERE = {"subnetname": None, "securitygroup": None}  # instead of the fixture's subnet and group
ROOT = 15  # GiB of every root volume in moto
PROFILE_ARN = "arn:aws:iam::123456789012:instance-profile/web"


@dataclass
class Launch:
    """A machine that was launched.

    Attributes:
        id: the instance.
        instance: EC2's description of it.
        sent: the parameters of RunInstances, as `{"Placement.Tenancy": "dedicated"}`.
    """

    id: str
    instance: dict[str, Any]
    sent: dict[str, str]


Launcher = Callable[..., Launch]


@pytest.fixture
def connection(opts: dict[str, Any], ec2: Any) -> _client.Connection:
    return _client.connect(opts["providers"]["cloud"]["ec2"], opts["cachedir"])


@pytest.fixture
def launch(
    ec2: Any,
    connection: _client.Connection,
    machine: Callable[..., dict[str, Any]],
    opts: dict[str, Any],
) -> Launcher:
    """Return a function that launches a machine with some options.

    The machine has an image, a size, a subnet and a group without them.
    """
    opts["wait_for_ip_interval"] = 0
    sent: list[dict[str, str]] = []
    before_call(connection, "RunInstances", sent.append)

    def make(name: str = "web-1", **options: Any) -> Launch:
        created = driver.create(machine(name, **options))
        answer = ec2.describe_instances(InstanceIds=[created["id"]])
        return Launch(
            created["id"], answer["Reservations"][0]["Instances"][0], sent[-1] if sent else {}
        )

    return make


@pytest.fixture
def subnet(ec2: Any) -> str:
    """Return the id of the subnet `a`."""
    found: str = ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": ["a"]}])["Subnets"][
        0
    ]["SubnetId"]
    return found


def before_call(
    connection: _client.Connection, action: str, do: Callable[[dict[str, str]], Any]
) -> None:
    """Pass the parameters of each call to `do`; its result, unless None, replaces EC2's answer."""

    def handle(params: Mapping[str, Any], **_: Any) -> Any:
        return do({key: str(value) for key, value in params["body"].items()})

    events: Any = connection.ec2.meta.events
    events.register(f"before-call.ec2.{action}", handle)


def tags(resource: Mapping[str, Any], key: str = "Tags") -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in resource.get(key, [])}


def volumes(ec2: Any, launched: Launch) -> dict[str, dict[str, Any]]:
    """Return a machine's volumes by device."""
    found = {each["DeviceName"]: each["Ebs"] for each in launched.instance["BlockDeviceMappings"]}
    answer = ec2.describe_volumes(VolumeIds=[each["VolumeId"] for each in found.values()])[
        "Volumes"
    ]
    by_id = {volume["VolumeId"]: volume for volume in answer}
    return {device: {**each, **by_id[each["VolumeId"]]} for device, each in found.items()}


def specified_tags(sent: Mapping[str, str], resource: str) -> dict[str, str]:
    """Return the tags in a launch request for one type of resource."""
    (number,) = [
        key.split(".")[1] for key, value in sent.items() if value == resource and "TagSpec" in key
    ]
    prefix = f"TagSpecification.{number}.Tag."
    keys = {key.removeprefix(prefix).split(".")[0] for key in sent if key.startswith(prefix)}
    return {sent[f"{prefix}{key}.Key"]: sent[f"{prefix}{key}.Value"] for key in keys}


def build_from(options: dict[str, Any]) -> dict[str, Any]:
    """Return the request for web-2 with these options alone."""
    return _request.build(_request.Launch(driver._context().connect(), options, "web-2"))


# -- the machine -----------------------------------------------------------------------------------


@pytest.mark.covers(
    "image", "size", "keyname", "iam_profile", "monitoring", "hibernation", "ebs_optimized"
)
@pytest.mark.covers("shutdown_behavior")
@pytest.mark.parametrize("iam_profile", ["web", PROFILE_ARN])
def test_machine_has_options_of_profile(
    ec2: Any, launch: Launcher, image: str, iam_profile: str
) -> None:
    iam = _client._new_session(region_name="eu-west-1").client("iam")
    iam.create_instance_profile(InstanceProfileName="web")
    launched = launch(
        size="t3.nano",
        keyname="deploy",
        iam_profile=iam_profile,
        monitoring=True,
        hibernation=True,
        ebs_optimized=True,
        shutdown_behavior="terminate",
    )
    described = {
        "ImageId": image,
        "InstanceType": "t3.nano",
        "KeyName": "deploy",
        "Monitoring": {"State": "enabled"},
        "HibernationOptions": {"Configured": True},
        "EbsOptimized": True,
    }
    assert {key: launched.instance[key] for key in described} == described
    assert launched.instance["IamInstanceProfile"]["Arn"] == PROFILE_ARN
    attribute = "instanceInitiatedShutdownBehavior"
    behaviour = ec2.describe_instance_attribute(InstanceId=launched.id, Attribute=attribute)
    assert behaviour["InstanceInitiatedShutdownBehavior"] == {"Value": "terminate"}


@pytest.mark.covers(
    "tenancy", "placementgroup", "cpu_options", "credit_specification", "termination_protection"
)
def test_request_has_options_of_profile(launch: Launcher) -> None:
    """The request shows these options, which moto does not keep."""
    sent = launch(
        tenancy="dedicated",
        placementgroup="rack",
        cpu_options={"core_count": 1, "ThreadsPerCore": 2},
        credit_specification="unlimited",
        termination_protection=True,
    ).sent
    wanted = {
        "Placement.Tenancy": "dedicated",
        "Placement.GroupName": "rack",
        "CpuOptions.CoreCount": "1",
        "CpuOptions.ThreadsPerCore": "2",
        "CreditSpecification.CpuCredits": "unlimited",
        "DisableApiTermination": "true",
    }
    assert {key: sent.get(key) for key in wanted} == wanted


def test_request_contains_false(launch: Launcher) -> None:
    """A launch template or the account may set these to true."""
    sent = launch(
        monitoring=False, hibernation=False, ebs_optimized=False, termination_protection=False
    ).sent
    for key in (
        "Monitoring.Enabled",
        "HibernationOptions.Configured",
        "EbsOptimized",
        "DisableApiTermination",
    ):
        assert sent[key] == "false"


def test_request_omits_what_profile_omits(launch: Launcher) -> None:
    asked = {key.split(".")[0] for key in launch().sent} - {"Action", "Version"}
    assert asked == {
        "BlockDeviceMapping", "ClientToken", "ImageId", "InstanceType", "MaxCount",
        "MetadataOptions", "MinCount", "SecurityGroupId", "SubnetId", "TagSpecification",
    }  # fmt: skip


@pytest.mark.covers("metadata_options")
@pytest.mark.parametrize(
    ("given", "described"),
    [
        ({}, {"HttpTokens": "required", "HttpEndpoint": "enabled"}),
        ({"HttpPutResponseHopLimit": 2}, {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}),
        ({"http_tokens": "optional"}, {"HttpTokens": "optional", "HttpEndpoint": "enabled"}),
    ],
)
def test_imdsv2_is_required_by_default(
    launch: Launcher, given: dict[str, Any], described: dict[str, Any]
) -> None:
    answer = launch(metadata_options=given).instance["MetadataOptions"]
    assert {key: answer[key] for key in described} == described


@pytest.mark.covers("spot_config")
def test_spot_config_requests_spot_instance(launch: Launcher) -> None:
    spot = {"spot_price": 0.1, "type": "persistent", "interruption": "stop", "tag": {"bid": "low"}}
    launched = launch(spot_config=spot, tag={"project": "p"})
    assert launched.instance["InstanceLifecycle"] == "spot"
    # moto does not keep the other spot options.
    options = "InstanceMarketOptions.SpotOptions"
    wanted = {
        "MaxPrice": "0.1",
        "SpotInstanceType": "persistent",
        "InstanceInterruptionBehavior": "stop",
    }
    assert {key: launched.sent.get(f"{options}.{key}") for key in wanted} == wanted
    assert specified_tags(launched.sent, "spot-instances-request") == {
        "Name": "web-1",
        "project": "p",
        "bid": "low",
    }
    assert tags(launched.instance) == {"Name": "web-1", "project": "p"}


@pytest.mark.covers("spot_config")
def test_spot_config_needs_no_price(launch: Launcher) -> None:
    launched = launch(spot_config={})
    assert launched.instance["InstanceLifecycle"] == "spot"
    assert specified_tags(launched.sent, "spot-instances-request") == {"Name": "web-1"}
    with pytest.raises(
        ConfigurationError, match="spot_config: unknown: price; it knows spot_price"
    ):
        _request.spot_options({"price": 1})


@pytest.mark.covers("launch_template")
def test_launch_template_replaces_image_and_size(ec2: Any, launch: Launcher, image: str) -> None:
    data = {"ImageId": image, "InstanceType": "t3.small", "KeyName": "deploy"}
    template = ec2.create_launch_template(LaunchTemplateName="web", LaunchTemplateData=data)[
        "LaunchTemplate"
    ]
    ec2.create_launch_template_version(
        LaunchTemplateName="web", LaunchTemplateData=data | {"InstanceType": "t3.large"}
    )
    by_id = {"id": template["LaunchTemplateId"]}
    for given, version, size in (
        (by_id, "1", "t3.small"),
        (by_id | {"version": 2}, "2", "t3.large"),
        ({"name": "web", "version": "2"}, "2", "t3.large"),
    ):
        launched = launch(launch_template=given, image=None, size=None)
        described = tags(launched.instance)
        assert described["aws:ec2launchtemplate:id"] == template["LaunchTemplateId"]
        assert described["aws:ec2launchtemplate:version"] == version
        assert described["Name"] == "web-1"
        assert (launched.instance["ImageId"], launched.instance["InstanceType"]) == (image, size)
        driver.destroy("web-1")
    assert launch(launch_template=by_id, size="t3.nano").instance["InstanceType"] == "t3.nano"


@pytest.mark.covers("launch_template", "del_root_vol_on_destroy")
def test_keeping_root_volume_of_launch_template_is_refused(
    ec2: Any, launch: Launcher, image: str
) -> None:
    data = {"ImageId": image, "InstanceType": "t3.small"}
    ec2.create_launch_template(LaunchTemplateName="web", LaunchTemplateData=data)
    kept = {"launch_template": {"name": "web"}, "del_root_vol_on_destroy": False}
    with pytest.raises(ConfigurationError, match="web-1: del_root_vol_on_destroy needs image"):
        launch(image=None, **kept)
    launch(image=image, **kept)
    driver.destroy("web-1")
    assert [volume["Size"] for volume in ec2.describe_volumes()["Volumes"]] == [ROOT]


def test_launch_without_template_needs_image_and_size(ec2: Any, launch: Launcher) -> None:
    for option in ("image", "size"):
        with pytest.raises(ConfigurationError, match=f"web-1: {option} is not set"):
            launch(**{option: None})
    with pytest.raises(ConfigurationError, match="launch_template must be a mapping, not 'lt-1'"):
        launch(launch_template="lt-1")
    with pytest.raises(ConfigurationError, match="launch_template is a mapping with id or name"):
        launch(launch_template={"arn": "lt-1"})
    assert ec2.describe_instances()["Reservations"] == []


# -- the image -------------------------------------------------------------------------------------


@pytest.mark.covers("image")
def test_image_by_owner_and_name_is_the_newest(ec2: Any, launch: Launcher, image: str) -> None:
    owner = ec2.describe_images(ImageIds=[image])["Images"][0]["OwnerId"]
    newest = max(
        (ec2.register_image(Name=f"debian-13-{number}")["ImageId"] for number in (2, 3)),
        key=lambda image_id: (
            ec2.describe_images(ImageIds=[image_id])["Images"][0]["CreationDate"],
            image_id,
        ),
    )
    ec2.register_image(Name="fedora-50")
    assert launch(image={"owner": owner, "name": "debian-13-?"}).instance["ImageId"] == newest
    for wrong, message in (
        ({"owner": owner, "name": "gentoo*"}, "owns no image called gentoo"),
        ({"owner": "amazon", "name": "debian-13-*"}, "amazon owns no image"),
    ):
        with pytest.raises(NotFound, match=message):
            build_from({"image": wrong, "size": "t2.micro"})
    with pytest.raises(ConfigurationError, match="needs both owner and name"):
        build_from({"image": {"name": "debian-13-*"}, "size": "t2.micro"})


@pytest.mark.covers("image")
def test_image_comes_from_ssm_parameter(
    connection: _client.Connection, launch: Launcher, image: str
) -> None:
    connection.ssm.put_parameter(Name="/images/web", Value=image, Type="String")
    assert launch(image="ssm:/images/web").instance["ImageId"] == image


@pytest.mark.covers("image")
def test_image_name_without_owner_is_refused(ec2: Any, launch: Launcher) -> None:
    with pytest.raises(
        ConfigurationError,
        match="image 'debian-13-amd64-1' is not ami-…, ssm:/parameter, or a mapping",
    ):
        launch(image="debian-13-amd64-1")
    assert ec2.describe_instances()["Reservations"] == []


# -- tags ------------------------------------------------------------------------------------------


@pytest.mark.covers("tag")
def test_launch_tags_machine_volumes_and_interfaces(
    ec2: Any, launch: Launcher, connection: _client.Connection
) -> None:
    later: list[dict[str, str]] = []
    before_call(connection, "CreateTags", later.append)
    launched = launch(
        tag={"project": "p", "number": 7}, volumes=[{"device": "/dev/sdf", "size": 1}]
    )
    wanted = {"Name": "web-1", "project": "p", "number": "7"}
    assert tags(launched.instance) == wanted
    assert [tags(volume) for volume in volumes(ec2, launched).values()] == [wanted, wanted]
    assert specified_tags(launched.sent, "network-interface") == wanted, "moto does not keep these"
    assert later == [], "a tag that is set after the launch can be lost"


@pytest.mark.covers("tag")
def test_tag_refuses_other_name_and_other_types(launch: Launcher) -> None:
    with pytest.raises(ConfigurationError, match="the tag Name"):
        launch(tag={"Name": "other"})
    with pytest.raises(ConfigurationError, match=r"tag must be a mapping, not \['project'\]"):
        launch(tag=["project"])


# -- disks -----------------------------------------------------------------------------------------


@pytest.mark.covers("block_device_mappings")
def test_volumes_are_gp3_and_encrypted_by_default(ec2: Any, launch: Launcher) -> None:
    given = [
        {"DeviceName": "/dev/sdf", "Ebs.VolumeSize": 3, "Ebs.VolumeType": "gp2"},
        {
            "DeviceName": "/dev/sdg",
            "Ebs": {"VolumeSize": 4, "Encrypted": False, "DeleteOnTermination": False},
        },
    ]
    launched = launch(block_device_mappings=given)
    described = {
        device: tuple(
            volume[key] for key in ("VolumeType", "Encrypted", "Size", "DeleteOnTermination")
        )
        for device, volume in volumes(ec2, launched).items()
    }
    assert described == {
        "/dev/sda1": ("gp3", True, ROOT, True),
        "/dev/sdf": ("gp2", True, 3, True),
        "/dev/sdg": ("gp3", False, 4, False),
    }


@pytest.mark.covers("block_device_mappings")
def test_block_device_mappings_change_root_volume(ec2: Any, launch: Launcher) -> None:
    given = {
        "DeviceName": "/dev/sda1",
        "Ebs.VolumeSize": 20,
        "Ebs.Iops": 4000,
        "Ebs.Throughput": 200,
    }
    launched = launch(block_device_mappings=[given])
    (volume,) = volumes(ec2, launched).values()
    assert (volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (20, "gp3", True)
    # moto gives every gp3 volume the same speed.
    assert launched.sent["BlockDeviceMapping.1.Ebs.Iops"] == "4000"
    assert launched.sent["BlockDeviceMapping.1.Ebs.Throughput"] == "200"


def test_mapping_without_ebs_is_unchanged() -> None:
    store = {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}
    none = {"DeviceName": "/dev/sdc", "NoDevice": ""}
    assert _request.block_devices([store, none], Image("ami-1")) == [store, none]


@pytest.mark.covers("block_device_mappings")
def test_tag_of_block_device_is_tag_of_its_volume(ec2: Any, launch: Launcher) -> None:
    device = {"DeviceName": "/dev/sdf", "Ebs.VolumeSize": 1, "tag": {"tier": "log"}}
    found = volumes(ec2, launch(block_device_mappings=[device]))
    assert {device: tags(volume).get("tier") for device, volume in found.items()} == {
        "/dev/sda1": None,
        "/dev/sdf": "log",
    }


@pytest.mark.covers("block_device_mappings")
def test_block_device_mapping_needs_name(launch: Launcher) -> None:
    with pytest.raises(ConfigurationError, match="an entry has no DeviceName"):
        launch(block_device_mappings=[{"Ebs.VolumeSize": 3}])


@pytest.mark.covers("block_device_mappings")
def test_block_device_mapping_refuses_root_of_other_images(ec2: Any, launch: Launcher) -> None:
    with pytest.raises(
        ConfigurationError, match=r"/dev/xvda would be a second volume: .* is /dev/sda1"
    ):
        launch(block_device_mappings=[{"DeviceName": "/dev/xvda", "Ebs.VolumeSize": 3}])
    assert ec2.describe_instances()["Reservations"] == []


@pytest.mark.covers("volumes")
def test_launch_creates_volumes(ec2: Any, launch: Launcher) -> None:
    made = ec2.create_volume(AvailabilityZone="eu-west-1a", Size=5)["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=made)["SnapshotId"]
    key = "arn:aws:kms:eu-west-1:123456789012:key/1"
    given = [
        {
            "device": "/dev/sdf",
            "size": 10,
            "tags": {"tier": "log"},
            "iops": 3500,
            "throughput": 150,
        },
        {"device": "/dev/sdg", "size": 10, "type": "gp2", "encrypted": False},
        {"device": "/dev/sdh", "snapshot": snapshot, "kmskeyid": key},
        {"device": "/dev/sdi", "volume_id": made, "tags": {"tier": "old"}},
    ]
    launched = launch(volumes=given, tag={"project": "p"})
    found = volumes(ec2, launched)
    described = {
        device: (volume["VolumeType"], volume["Encrypted"], volume["Size"])
        for device, volume in found.items()
    }
    assert described == {
        "/dev/sda1": ("gp3", True, ROOT),
        "/dev/sdf": ("gp3", True, 10),
        "/dev/sdg": ("gp2", False, 10),
        "/dev/sdh": ("gp3", True, 5),
        "/dev/sdi": ("gp2", False, 5),
    }
    assert (found["/dev/sdh"]["SnapshotId"], found["/dev/sdh"]["KmsKeyId"]) == (snapshot, key)
    assert found["/dev/sdi"]["VolumeId"] == made
    assert tags(found["/dev/sdf"]) == {"Name": "web-1", "project": "p", "tier": "log"}
    assert tags(found["/dev/sdi"]) == {"tier": "old"}
    # moto does not keep the speed of a volume.
    assert launched.sent["BlockDeviceMapping.2.Ebs.Iops"] == "3500"
    assert launched.sent["BlockDeviceMapping.2.Ebs.Throughput"] == "150"


@pytest.mark.covers("volumes")
def test_launch_refuses_malformed_volume(ec2: Any, launch: Launcher) -> None:
    for wrong, message in (
        (
            {"device": "/dev/sdf", "Size": 3},
            "volumes: unknown: Size; it knows device, volume_id, tags, size",
        ),
        ({"size": 3}, "an entry has no device"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            launch(volumes=[wrong])
    assert ec2.describe_instances()["Reservations"] == []


@pytest.mark.covers("del_root_vol_on_destroy", "del_all_vols_on_destroy")
@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, []),
        ({"del_root_vol_on_destroy": False}, [ROOT]),
        ({"del_all_vols_on_destroy": False}, [3]),
    ],
)
def test_destroy_deletes_volumes_unless_configured(
    ec2: Any, launch: Launcher, given: dict[str, Any], left: list[int]
) -> None:
    launch(volumes=[{"device": "/dev/sdf", "size": 3}], **given)
    driver.destroy("web-1")
    assert [volume["Size"] for volume in ec2.describe_volumes()["Volumes"]] == left


# -- the network -----------------------------------------------------------------------------------


@pytest.mark.covers(
    "subnetname", "subnetid", "securitygroup", "securitygroupname", "securitygroupid", "private_ip"
)
def test_subnet_and_groups_have_name_or_id(ec2: Any, launch: Launcher, subnet: str) -> None:
    by_name = launch(subnetname="a", securitygroup="web", private_ip="10.40.1.9").instance
    assert (by_name["SubnetId"], by_name["PrivateIpAddress"]) == (subnet, "10.40.1.9")
    assert [group["GroupName"] for group in by_name["SecurityGroups"]] == ["web"]
    driver.destroy("web-1")
    ids = {group["GroupName"]: group["GroupId"] for group in by_name["SecurityGroups"]}
    by_id = launch(
        subnetname=None,
        subnetid=subnet,
        securitygroup=None,
        securitygroupid=[ids["web"]],
        securitygroupname="db",
    ).instance
    assert by_id["SubnetId"] == subnet
    assert sorted(group["GroupName"] for group in by_id["SecurityGroups"]) == ["db", "web"]


@pytest.mark.covers("subnetid")
def test_launch_refuses_subnet_by_name_and_id(launch: Launcher, subnet: str) -> None:
    with pytest.raises(ConfigurationError, match="web-1: a subnet is given by name and by id"):
        launch(subnetname="a", subnetid=subnet)


@pytest.mark.covers("availability_zone")
def test_launch_accepts_zone_without_subnet(launch: Launcher) -> None:
    assert (
        launch(**ELSEWHERE, availability_zone="eu-west-1c").instance["Placement"][
            "AvailabilityZone"
        ]
        == "eu-west-1c"
    )


@pytest.mark.covers("associate_public_ip")
@pytest.mark.parametrize("subnet_says", [True, False])
def test_associate_public_ip_overrides_subnet(
    ec2: Any, launch: Launcher, subnet: str, *, subnet_says: bool
) -> None:
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": subnet_says})
    launched = launch(associate_public_ip=not subnet_says)
    assert ("PublicIpAddress" in launched.instance) is not subnet_says
    (interface,) = launched.instance["NetworkInterfaces"]
    assert interface["SubnetId"] == subnet
    assert [group["GroupName"] for group in interface["Groups"]] == ["web"]
    assert launched.sent["NetworkInterface.1.DeleteOnTermination"] == "true", (
        "moto does not keep this"
    )


def test_associate_public_ip_needs_subnet(launch: Launcher) -> None:
    with pytest.raises(
        ConfigurationError, match="associate_public_ip needs subnetname or subnetid"
    ):
        launch(**ELSEWHERE, associate_public_ip=True)


ADDRESSES = [
    {"PrivateIpAddress": "10.40.1.20", "Primary": True},
    {"PrivateIpAddress": "10.40.1.21", "Primary": False},
]
FIRST = {
    "DeviceIndex": 0,
    "SubnetName": "a",
    "SecurityGroupId": "web",
    "PrivateIpAddresses": ADDRESSES,
}


@pytest.mark.covers("network_interfaces")
def test_launch_creates_several_interfaces(launch: Launcher, subnet: str) -> None:
    second = {
        "DeviceIndex": 1,
        "subnetname": "a",
        "securitygroupname": ["web", "db"],
        "SecondaryPrivateIpAddressCount": 2,
        "SourceDestCheck": False,
        "Description": "behind",
        "DeleteOnTermination": False,
    }
    launched = launch(**ELSEWHERE, network_interfaces=[FIRST, second])
    front, behind = sorted(
        launched.instance["NetworkInterfaces"],
        key=lambda interface: interface["Attachment"]["DeviceIndex"],
    )
    assert (front["PrivateIpAddress"], front["SubnetId"], front["SourceDestCheck"]) == (
        "10.40.1.20",
        subnet,
        True,
    )
    assert (behind["Description"], behind["SubnetId"], behind["SourceDestCheck"]) == (
        "behind",
        subnet,
        False,
    )
    assert [group["GroupName"] for group in front["Groups"]] == ["web"]
    assert sorted(group["GroupName"] for group in behind["Groups"]) == ["db", "web"]
    # moto does not keep these.
    wanted = {
        "1.PrivateIpAddresses.2.PrivateIpAddress": "10.40.1.21",
        "1.PrivateIpAddresses.2.Primary": "false",
        "2.SecondaryPrivateIpAddressCount": "2",
        "1.DeleteOnTermination": "true",
        "2.DeleteOnTermination": "false",
    }
    assert {key: launched.sent.get(f"NetworkInterface.{key}") for key in wanted} == wanted


@pytest.mark.covers("network_interfaces")
def test_interfaces_of_old_documentation_are_accepted(launch: Launcher, subnet: str) -> None:
    given = {
        "DeviceIndex": 0,
        "PrivateIpAddresses": [{"Primary": True}],
        "AssociatePublicIpAddress": True,
        "SubnetId": subnet,
        "SecurityGroupId": ["web"],
    }
    launched = launch(**ELSEWHERE, network_interfaces=[given])
    assert launched.instance["PublicIpAddress"]
    assert [each["SubnetId"] for each in launched.instance["NetworkInterfaces"]] == [subnet]
    assert not [key for key in launched.sent if "PrivateIpAddresses" in key], (
        "EC2 refuses an entry without an address"
    )


@pytest.mark.covers("network_interfaces")
def test_launch_refuses_malformed_interface(launch: Launcher) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"network_interfaces: unknown: Subnet; it knows DeviceIndex, .*SubnetId",
    ):
        launch(**ELSEWHERE, network_interfaces=[{"Subnet": "a"}])


@pytest.mark.covers("network_interfaces", "subnetname", "subnetid", "securitygroup", "private_ip")
@pytest.mark.covers("associate_public_ip", "securitygroupname", "securitygroupid")
@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("subnetname", "a", "SubnetName"),
        ("subnetid", "subnet-1", "SubnetId"),
        ("securitygroup", ["web"], "SecurityGroupId"),
        ("securitygroupname", "web", "SecurityGroupId"),
        ("securitygroupid", "sg-1", "SecurityGroupId"),
        ("private_ip", "10.40.1.9", "PrivateIpAddress"),
        ("associate_public_ip", True, "AssociatePublicIpAddress"),
        ("associate_public_ip", False, "AssociatePublicIpAddress"),
        ("associate_eip", "edge", "associate_eip"),
    ],
)
def test_launch_refuses_option_beside_network_interfaces(
    ec2: Any, launch: Launcher, option: str, value: Any, key: str
) -> None:
    with pytest.raises(
        ConfigurationError,
        match=f"web-1: with network_interfaces, {option} is set on each interface: {key}",
    ):
        launch(**{**ELSEWHERE, option: value}, network_interfaces=[FIRST])
    assert ec2.describe_instances()["Reservations"] == []


@pytest.mark.covers("network_interfaces")
def test_launch_accepts_existing_interface(ec2: Any, launch: Launcher, subnet: str) -> None:
    ready = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    launched = launch(**ELSEWHERE, network_interfaces=[{"NetworkInterfaceId": ready}])
    assert [each["NetworkInterfaceId"] for each in launched.instance["NetworkInterfaces"]] == [
        ready
    ]
    assert "network-interface" not in launched.sent.values(), (
        "EC2 refuses tags for existing interfaces"
    )
    driver.destroy("web-1")
    ready = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    new = {"DeviceIndex": 1, "SubnetName": "a"}
    launched = launch(**ELSEWHERE, network_interfaces=[{"NetworkInterfaceId": ready}, new])
    assert specified_tags(launched.sent, "network-interface") == {"Name": "web-1"}


@pytest.mark.covers("network_interfaces")
def test_elastic_addresses_are_associated_once_and_released(
    ec2: Any, launch: Launcher, connection: _client.Connection
) -> None:
    own = ec2.allocate_address(Domain="vpc")["AllocationId"]
    interfaces = [
        {**FIRST, "allocate_new_eips": True},
        {"DeviceIndex": 1, "SubnetName": "a", "SecurityGroupId": "web", "associate_eip": own},
        {"DeviceIndex": 2, "SubnetName": "a", "SecurityGroupId": "web", "allocate_new_eip": True},
    ]

    given: list[str] = []
    before_call(
        connection, "AssociateAddress", lambda asked: given.append(asked["PrivateIpAddress"])
    )

    launched = launch(**ELSEWHERE, network_interfaces=interfaces)
    network = sorted(
        launched.instance["NetworkInterfaces"],
        key=lambda interface: interface["Attachment"]["DeviceIndex"],
    )
    holders = {
        each["NetworkInterfaceId"]: each["AllocationId"]
        for each in ec2.describe_addresses()["Addresses"]
    }
    assert set(holders) == {each["NetworkInterfaceId"] for each in network}
    assert holders[network[1]["NetworkInterfaceId"]] == own
    assert given == [each["PrivateIpAddress"] for each in network]
    # moto drops secondary addresses at launch. The next run associates those that it gets later.
    for each in network:
        ec2.assign_private_ip_addresses(
            NetworkInterfaceId=each["NetworkInterfaceId"], SecondaryPrivateIpAddressCount=1
        )
    given.clear()
    again = launch(**ELSEWHERE, network_interfaces=interfaces)
    (front,) = [
        one for one in again.instance["NetworkInterfaces"] if one["Attachment"]["DeviceIndex"] == 0
    ]
    assert given == [
        one["PrivateIpAddress"] for one in front["PrivateIpAddresses"] if not one["Primary"]
    ]
    driver.destroy("web-1")
    assert [each["AllocationId"] for each in ec2.describe_addresses()["Addresses"]] == [own]


@pytest.mark.covers("associate_eip", "network_interfaces")
@pytest.mark.parametrize("form", ["option", "interface"])
@pytest.mark.parametrize("wanted", ["name", "id"])
def test_elastic_address_has_name_or_id(ec2: Any, launch: Launcher, form: str, wanted: str) -> None:
    value = {"name": "edge", "id": allocate(ec2, "edge")}[wanted]
    given = {"SubnetName": "a", "SecurityGroupId": "web", "associate_eip": value}
    options: dict[str, Any] = {"associate_eip": value}
    if form == "interface":
        options = {**ELSEWHERE, "network_interfaces": [given]}
    launched = launch(**options)
    (address,) = ec2.describe_addresses()["Addresses"]
    (interface,) = launched.instance["NetworkInterfaces"]
    assert address["NetworkInterfaceId"] == interface["NetworkInterfaceId"]
    assert launched.instance["PublicIpAddress"] == address["PublicIp"]
    assert not [key for key in launched.sent if "associate_eip" in key.lower()]
    # A repair gives back what somebody has taken away, and nothing when it is there.
    ec2.disassociate_address(AssociationId=address["AssociationId"])
    for _ in range(2):
        launch(**options)
        (address,) = ec2.describe_addresses()["Addresses"]
        assert address["NetworkInterfaceId"] == interface["NetworkInterfaceId"]


@pytest.mark.covers("associate_eip")
@pytest.mark.parametrize(("count", "found"), [(0, "no"), (2, "2")])
def test_elastic_address_that_is_not_unique_is_refused_before_launch(
    ec2: Any, launch: Launcher, count: int, found: str
) -> None:
    for _ in range(count):
        allocate(ec2, "edge")
    with pytest.raises(NotFound, match=f"{found} elastic addresses are called edge in eu-west-1"):
        launch(associate_eip="edge")
    assert ec2.describe_instances()["Reservations"] == []


def allocate(ec2: Any, name: str) -> str:
    """Allocate an elastic address with this Name tag, and return its allocation id."""
    tags = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "Name", "Value": name}]}]
    return str(ec2.allocate_address(Domain="vpc", TagSpecifications=tags)["AllocationId"])


# -- full places -----------------------------------------------------------------------------------


@pytest.fixture
def full(launch: Launcher, connection: _client.Connection) -> dict[str, str]:
    """Return which places refuse a launch, by zone or subnet, with which code."""
    codes: dict[str, str] = {}

    def answer(asked: dict[str, str]) -> tuple[AWSResponse, dict[str, Any]] | None:
        code = codes.get(asked.get("Placement.AvailabilityZone") or asked["SubnetId"])
        refused = AWSResponse("https://ec2", 400, HTTPHeaders(), None)
        return (refused, {"Error": {"Code": code, "Message": "no"}}) if code else None

    before_call(connection, "RunInstances", answer)
    return codes


@pytest.mark.covers("availability_zone")
def test_launch_skips_full_zone(launch: Launcher, full: dict[str, str]) -> None:
    full |= {"eu-west-1a": "InsufficientInstanceCapacity", "eu-west-1b": "Unsupported"}
    zones = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    launched = launch(**ELSEWHERE, availability_zone=zones)
    assert launched.instance["Placement"]["AvailabilityZone"] == "eu-west-1c"


@pytest.mark.covers("spread")
@pytest.mark.parametrize(
    ("name", "spread", "full_zone", "zone"),
    [
        ("web-1", True, "", "a"),
        ("web-2", True, "", "b"),
        ("web-3", True, "", "c"),
        ("web-4", True, "", "a"),
        ("web-9", True, "", "c"),
        ("web-2", True, "eu-west-1b", "c"),
        ("web-3", True, "eu-west-1c", "a"),
        ("web-0", True, "", "c"),
        ("web", True, "", "a"),
        ("web-2", False, "", "a"),
        ("web-2", None, "", "a"),
    ],
)
def test_machines_spread_by_number(
    launch: Launcher,
    full: dict[str, str],
    name: str,
    spread: bool | None,
    full_zone: str,
    zone: str,
) -> None:
    full |= {full_zone: "InsufficientInstanceCapacity"}
    zones = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    launched = launch(**ELSEWHERE, name=name, availability_zone=zones, spread=spread)
    assert launched.instance["Placement"]["AvailabilityZone"] == f"eu-west-1{zone}"


@pytest.mark.covers("subnetname", "subnetid")
@pytest.mark.parametrize("option", ["subnetname", "subnetid"])
def test_launch_skips_full_subnet(
    ec2: Any, launch: Launcher, full: dict[str, str], subnet: str, option: str
) -> None:
    vpc = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
    name: Any = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "b"}]}]
    other = ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.2.0/24", TagSpecifications=name)[
        "Subnet"
    ]["SubnetId"]
    full[subnet] = "InsufficientFreeAddressesInSubnet"
    places = {"subnetname": ["a", "b"], "subnetid": [subnet, other]}[option]
    assert launch(**{"subnetname": None, option: places}).instance["SubnetId"] == other


def test_launch_stops_at_other_refusals(ec2: Any, launch: Launcher, full: dict[str, str]) -> None:
    full |= {"eu-west-1a": "UnauthorizedOperation"}
    with pytest.raises(ApiError, match="UnauthorizedOperation"):
        launch(**ELSEWHERE, availability_zone=["eu-west-1a", "eu-west-1b"])
    full |= {"eu-west-1a": "InsufficientInstanceCapacity", "eu-west-1b": "InsufficientHostCapacity"}
    with pytest.raises(ApiError, match="InsufficientHostCapacity"):
        launch(**ELSEWHERE, availability_zone=["eu-west-1a", "eu-west-1b"])
    with pytest.raises(
        ConfigurationError, match="subnetname and availability_zone are lists: one of them can be"
    ):
        launch(subnetname=["a"], availability_zone=["eu-west-1a"])
    assert ec2.describe_instances()["Reservations"] == []


# -- user data -------------------------------------------------------------------------------------


@pytest.mark.covers("userdata", "userdata_file", "userdata_template")
@pytest.mark.parametrize(
    ("source", "main", "profile", "rendered"),
    [
        ("userdata", None, None, False),
        ("userdata", None, "jinja", True),
        ("userdata_file", "jinja", None, True),
        ("userdata_file", "jinja", False, False),
    ],
)
def test_user_data_is_rendered_if_configured(
    ec2: Any,
    launch: Launcher,
    opts: dict[str, Any],
    tmp_path: Path,
    source: str,
    main: str | None,
    profile: str | bool | None,
    *,
    rendered: bool,
) -> None:
    template = "#!/bin/sh\necho {{ opts.name }}\n"
    (tmp_path / "data").write_text(template)
    opts |= {
        key: salt.config.DEFAULT_MASTER_OPTS[key]
        for key in salt.config.DEFAULT_MASTER_OPTS
        if "render" in key
    }
    opts["userdata_template"] = main
    given = {"userdata": template, "userdata_file": str(tmp_path / "data")}[source]
    launched = launch(**{source: given}, userdata_template=profile)
    answer = ec2.describe_instance_attribute(InstanceId=launched.id, Attribute="userData")[
        "UserData"
    ]["Value"]
    expected = template.replace("{{ opts.name }}", "web-1") if rendered else template
    assert base64.b64decode(answer).decode().strip() == expected.strip()


@pytest.mark.covers("userdata_file")
def test_launch_refuses_unreadable_user_data(ec2: Any, launch: Launcher, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"userdata_file cannot be read: .*/nowhere"):
        launch(userdata_file=f"{tmp_path}/nowhere")
    with pytest.raises(ConfigurationError, match="userdata and userdata_file are both set"):
        launch(userdata_file=f"{tmp_path}/nowhere", userdata="x")
    assert ec2.describe_instances()["Reservations"] == []


# -- once ------------------------------------------------------------------------------------------


def test_client_token_is_equal_for_equal_launches_only() -> None:
    def token(name: str = "web-1", size: str = "t2.micro", before: tuple[str, ...] = ()) -> str:
        return _request.client_token("eu-west-1", name, {"InstanceType": size}, before)

    assert token() == token()
    assert len({token(), token(name="web-2"), token(size="t2.small"), token(before=("i-1",))}) == 4
    assert token(before=("i-1", "i-2")) == token(before=("i-2", "i-1"))
    assert len(token()) <= 64
