"""Calls of the EC2 API change machines, and events of machines change instances."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud import catalog, cloud
from localcloud.sizes import memory_left
from memorycloud import Running
from waiting import until

Launch = Callable[..., Any]


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def describe(local: Running, instance_id: str) -> Any:
    return local.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][
        0
    ]


# -- launch


def test_launch_answers_pending_before_machine_runs(local: Running, launch: Launch) -> None:
    local.host.gate.clear()
    instance = launch()
    assert instance["State"]["Name"] == "pending"
    assert local.state(instance["InstanceId"]) == "pending"
    local.host.gate.set()
    local.settle()
    assert local.state(instance["InstanceId"]) == "running"


def test_machine_matches_description_of_instance(local: Running, launch: Launch) -> None:
    key = local.ec2.create_key_pair(KeyName="deploy", KeyType="ed25519")
    instance = launch(
        KeyName="deploy",
        UserData="#!/bin/sh\ntrue\n",
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "lb-1"}]}
        ],
    )
    local.settle()
    machine = local.host.machines[instance["InstanceId"]]
    assert machine.address == instance["PrivateIpAddress"] == "10.40.1.4"
    assert f"{machine.hostname}.{machine.domain}" == instance["PrivateDnsName"]
    assert (machine.cidr, machine.cpus, machine.memory) == ("10.40.1.0/28", 1, 950)
    assert machine.name == "lb-1"
    assert machine.user_data == b"#!/bin/sh\ntrue\n"
    assert machine.authorized_key.startswith("ssh-ed25519 ")
    assert key["KeyMaterial"]


def test_launch_makes_max_count_machines(local: Running, launch: Launch) -> None:
    launch(MinCount=1, MaxCount=3)
    local.settle()
    assert len({machine.address for machine in local.host.machines.values()}) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"ImageId": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
        ({"InstanceType": "t2.pico"}, "InvalidInstanceType.NotFound"),
        ({"PrivateIpAddress": "10.40.1.3"}, "InvalidParameterValue"),
        ({"PrivateIpAddress": "10.40.1.15"}, "InvalidParameterValue"),
        ({"PrivateIpAddress": "10.40.2.4"}, "InvalidParameterValue"),
        ({"SubnetId": "subnet-00000000000000000"}, "InvalidSubnetID.NotFound"),
    ],
)
def test_refused_launch_leaves_nothing(
    local: Running, launch: Launch, arguments: dict[str, str], expected: str
) -> None:
    with pytest.raises(ClientError) as error:
        launch(**arguments)
    assert code(error) == expected
    assert local.ec2.describe_instances()["Reservations"] == []
    assert local.host.log == []


def test_launch_that_exceeds_subnet_leaves_nothing(local: Running, launch: Launch) -> None:
    with pytest.raises(ClientError) as error:
        launch(MinCount=12, MaxCount=12)
    assert code(error) == "InsufficientFreeAddressesInSubnet"
    assert local.ec2.describe_instances()["Reservations"] == []
    launch(MinCount=11, MaxCount=11)  # no address was lost


def test_other_region_has_no_images(local: Running) -> None:
    elsewhere = local.client("ec2", region="us-east-1")
    assert elsewhere.describe_images()["Images"] == []
    with pytest.raises(ClientError) as error:
        elsewhere.run_instances(
            ImageId=catalog.IMAGE_ID, InstanceType="t2.micro", MinCount=1, MaxCount=1
        )
    assert code(error) == "InvalidAMIID.NotFound"


def test_debian_image_is_found_by_owner_and_parameter(local: Running) -> None:
    images = local.ec2.describe_images(
        Owners=["136693071363"], Filters=[{"Name": "name", "Values": ["debian-13-amd64-*"]}]
    )["Images"]
    parameter = local.client("ssm").get_parameter(
        Name="/aws/service/debian/release/13/latest/amd64"
    )["Parameter"]
    assert [image["ImageId"] for image in images] == [parameter["Value"]]
    assert images[0]["RootDeviceName"] == "/dev/xvda"


def test_failed_machine_creation_terminates_instance_with_reason(
    local: Running, launch: Launch
) -> None:
    local.host.broken = "no space left on device"
    instance = launch()
    local.settle()
    found = describe(local, instance["InstanceId"])
    assert found["State"]["Name"] == "terminated"
    assert "no space left on device" in found["StateReason"]["Message"]
    local.host.broken = None
    assert (
        launch(PrivateIpAddress=instance["PrivateIpAddress"])["InstanceId"]
        != instance["InstanceId"]
    )
    assert len(local.ec2.describe_volumes()["Volumes"]) == 1


def test_client_token_launches_once(local: Running, launch: Launch) -> None:
    first = launch(ClientToken="once")
    local.settle()
    second = launch(ClientToken="once")
    assert first["InstanceId"] == second["InstanceId"]
    assert (first["State"]["Name"], second["State"]["Name"]) == ("pending", "running"), (
        "the answer has the current state"
    )
    with pytest.raises(ClientError) as error:
        launch(ClientToken="once", InstanceType="t2.small")
    assert code(error) == "IdempotentParameterMismatch"
    assert launch(ClientToken="twice")["InstanceId"] != first["InstanceId"]


def test_client_token_of_terminated_instance_is_refused(
    local: Running, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = launch(ClientToken="once")["InstanceId"]
    local.settle()
    local.ec2.terminate_instances(InstanceIds=[instance_id])
    local.settle()
    for remembered in (cloud.REMEMBER, timedelta(0)):
        monkeypatch.setattr(cloud, "REMEMBER", remembered)
        local.cloud.reconcile()
        assert bool(local.ec2.describe_instances()["Reservations"]) is bool(remembered)
        with pytest.raises(ClientError) as error:
            launch(ClientToken="once")
        assert code(error) == "IdempotentInstanceTerminated"


def test_root_volume_is_deleted_with_instance(local: Running, launch: Launch) -> None:
    instance = launch()
    local.settle()
    (mapping,) = describe(local, instance["InstanceId"])["BlockDeviceMappings"]
    assert mapping["DeviceName"] == "/dev/xvda"
    local.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    assert local.ec2.describe_volumes()["Volumes"] == []
    assert local.ec2.describe_network_interfaces()["NetworkInterfaces"] == []


def test_root_volume_is_as_the_image_has_it_in_all_that_is_not_said(
    local: Running, launch: Launch
) -> None:
    extra = {"DeviceName": "/dev/xvdf", "Ebs": {"VolumeSize": 20, "VolumeType": "gp3"}}
    root = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp3"}}
    instance = launch(BlockDeviceMappings=[root, extra])
    local.settle()
    found = describe(local, instance["InstanceId"])["BlockDeviceMappings"]
    kept = {one["DeviceName"]: one["Ebs"]["DeleteOnTermination"] for one in found}
    assert kept == {"/dev/xvda": True, "/dev/xvdf": False}
    sizes = {
        volume["Attachments"][0]["Device"]: volume["Size"]
        for volume in local.ec2.describe_volumes()["Volumes"]
    }
    assert sizes == {"/dev/xvda": 8, "/dev/xvdf": 20}


@pytest.mark.parametrize(
    ("device", "ebs", "expected"),
    [
        ("/dev/xvda", {"VolumeSize": 7}, "InvalidBlockDeviceMapping"),
        ("/dev/xvdf", {"VolumeType": "gp3"}, "MissingParameter"),
    ],
)
def test_volume_that_cannot_be_made_is_refused(
    local: Running, launch: Launch, device: str, ebs: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ClientError) as error:
        launch(BlockDeviceMappings=[{"DeviceName": device, "Ebs": ebs}])
    assert code(error) == expected
    assert local.ec2.describe_instances()["Reservations"] == []


def test_volume_kept_on_termination_stays(local: Running, launch: Launch) -> None:
    ebs = {"VolumeSize": 10, "DeleteOnTermination": False}
    instance = launch(BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": ebs}])
    local.settle()
    local.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    local.settle()
    (volume,) = local.ec2.describe_volumes()["Volumes"]
    assert (volume["State"], volume["Attachments"]) == ("available", [])


@pytest.mark.parametrize("by_interface", [True, False])
def test_instance_has_groups_of_launch(
    local: Running, launch: Launch, subnet: str, by_interface: bool
) -> None:
    vpc = local.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
    group = local.ec2.create_security_group(GroupName="web", Description="web", VpcId=vpc)[
        "GroupId"
    ]
    if by_interface:
        options = {
            "ImageId": catalog.IMAGE_ID,
            "InstanceType": "t2.micro",
            "MinCount": 1,
            "MaxCount": 1,
        }
        interface = {
            "DeviceIndex": 0,
            "SubnetId": subnet,
            "Groups": [group],
            "AssociatePublicIpAddress": True,
        }
        instance = local.ec2.run_instances(**options, NetworkInterfaces=[interface])["Instances"][0]
    else:
        instance = launch(SecurityGroupIds=[group])
    assert [
        found["GroupId"] for found in describe(local, instance["InstanceId"])["SecurityGroups"]
    ] == [group]


# -- addresses


def test_requested_address_is_given_once(local: Running, launch: Launch) -> None:
    assert launch(PrivateIpAddress="10.40.1.9")["PrivateIpAddress"] == "10.40.1.9"
    with pytest.raises(ClientError) as error:
        launch(PrivateIpAddress="10.40.1.9")
    assert code(error) == "InvalidIPAddress.InUse"


def test_address_is_free_only_when_machine_is_gone(local: Running, launch: Launch) -> None:
    first = launch()
    local.settle()
    local.host.gate.clear()
    local.ec2.terminate_instances(InstanceIds=[first["InstanceId"]])
    with pytest.raises(ClientError) as error:
        launch(PrivateIpAddress=first["PrivateIpAddress"])
    assert code(error) == "InvalidIPAddress.InUse"
    local.host.gate.set()
    local.settle()
    assert (
        launch(PrivateIpAddress=first["PrivateIpAddress"])["PrivateIpAddress"]
        == first["PrivateIpAddress"]
    )


def test_freed_address_is_reused_only_on_request(local: Running, launch: Launch) -> None:
    given = []
    for _ in range(12):  # the subnet has eleven
        instance = launch()
        given.append(instance["PrivateIpAddress"])
        local.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
        local.settle()
    assert len(set(given)) == 11
    assert given[-1] == given[0]


def test_reserved_address_is_given_on_request_only(
    local: Running, launch: Launch, subnet: str
) -> None:
    reserve = local.ec2.create_subnet_cidr_reservation
    reserve(SubnetId=subnet, Cidr="10.40.1.4/32", ReservationType="explicit")
    given = [launch()["PrivateIpAddress"] for _ in range(10)]  # the subnet has eleven
    assert given[0] == "10.40.1.5"
    with pytest.raises(ClientError) as error:
        launch()
    assert code(error) == "InsufficientFreeAddressesInSubnet"
    assert launch(PrivateIpAddress="10.40.1.4")["PrivateIpAddress"] == "10.40.1.4"


def test_account_has_five_elastic_addresses(local: Running) -> None:
    made = [local.ec2.allocate_address(Domain="vpc") for _ in range(5)]
    with pytest.raises(ClientError) as error:
        local.ec2.allocate_address(Domain="vpc")
    assert code(error) == "AddressLimitExceeded"
    local.ec2.release_address(AllocationId=made[0]["AllocationId"])
    assert local.ec2.allocate_address(Domain="vpc")["PublicIp"]


def test_subnet_with_instances_cannot_be_deleted(
    local: Running, launch: Launch, subnet: str
) -> None:
    instance = launch()
    with pytest.raises(ClientError) as error:
        local.ec2.delete_subnet(SubnetId=subnet)
    assert code(error) == "DependencyViolation"
    local.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    local.settle()
    local.ec2.delete_subnet(SubnetId=subnet)
    until(lambda: local.host.networks_dropped == [subnet], "the network is gone")


# -- lives


def test_stop_and_start_keep_machine(local: Running, launch: Launch) -> None:
    instance_id = launch()["InstanceId"]
    local.settle()
    local.host.gate.clear()
    answer = local.ec2.stop_instances(InstanceIds=[instance_id])["StoppingInstances"][0]
    assert (answer["PreviousState"]["Name"], answer["CurrentState"]["Name"]) == (
        "running",
        "stopping",
    )
    with pytest.raises(ClientError) as error:
        local.ec2.start_instances(InstanceIds=[instance_id])
    assert code(error) == "IncorrectInstanceState"
    local.host.gate.set()
    local.settle()
    assert local.state(instance_id) == "stopped"
    local.ec2.start_instances(InstanceIds=[instance_id])
    local.settle()
    assert local.state(instance_id) == "running"
    assert local.host.log == [f"{verb} {instance_id}" for verb in ("create", "stop", "start")]


def test_instance_type_changes_only_while_stopped(local: Running, launch: Launch) -> None:
    instance_id = launch()["InstanceId"]
    local.settle()
    with pytest.raises(ClientError) as error:
        local.ec2.modify_instance_attribute(
            InstanceId=instance_id, InstanceType={"Value": "t2.small"}
        )
    assert code(error) == "IncorrectInstanceState"
    local.ec2.stop_instances(InstanceIds=[instance_id])
    local.settle()
    local.ec2.modify_instance_attribute(InstanceId=instance_id, InstanceType={"Value": "t2.small"})
    local.ec2.start_instances(InstanceIds=[instance_id])
    local.settle()
    assert local.host.machines[instance_id].memory == memory_left("t2.small", 2048)


def test_failed_start_leaves_instance_stopped_with_disk(local: Running, launch: Launch) -> None:
    instance_id = launch()["InstanceId"]
    local.settle()
    local.ec2.stop_instances(InstanceIds=[instance_id])
    local.settle()
    local.host.broken = "port is already allocated"
    local.ec2.start_instances(InstanceIds=[instance_id])
    local.settle()
    found = describe(local, instance_id)
    assert found["State"]["Name"] == "stopped"
    assert "port is already allocated" in found["StateReason"]["Message"]
    assert instance_id in local.host.observed


def test_reboot_reaches_machine(local: Running, launch: Launch) -> None:
    instance_id = launch()["InstanceId"]
    local.settle()
    local.ec2.reboot_instances(InstanceIds=[instance_id])
    until(lambda: f"reboot {instance_id}" in local.host.log, "the machine reboots")
    assert local.state(instance_id) == "running"


def test_terminate_removes_machine_once(local: Running, launch: Launch) -> None:
    instance_id = launch()["InstanceId"]
    local.settle()
    for _ in range(2):
        local.ec2.terminate_instances(InstanceIds=[instance_id])
        local.settle()
    assert local.state(instance_id) == "terminated"
    assert local.host.machines == {}
    assert local.host.log.count(f"remove {instance_id}") == 1
    with pytest.raises(ClientError) as error:
        local.ec2.start_instances(InstanceIds=[instance_id])
    assert code(error) == "IncorrectInstanceState"


def test_terminate_of_pending_instance_removes_machine(local: Running, launch: Launch) -> None:
    local.host.gate.clear()
    instance_id = launch()["InstanceId"]
    local.ec2.terminate_instances(InstanceIds=[instance_id])
    local.host.gate.set()
    local.settle()
    assert local.state(instance_id) == "terminated"
    assert local.host.machines == {}


def test_protected_instance_prevents_whole_terminate_call(local: Running, launch: Launch) -> None:
    free = launch(DisableApiTermination=False)["InstanceId"]
    protected = launch(DisableApiTermination=True)["InstanceId"]
    local.settle()
    with pytest.raises(ClientError) as error:
        local.ec2.terminate_instances(InstanceIds=[free, protected])
    assert code(error) == "OperationNotPermitted"
    assert set(local.host.machines) == {free, protected}
    local.ec2.modify_instance_attribute(
        InstanceId=protected, DisableApiTermination={"Value": False}
    )
    local.ec2.terminate_instances(InstanceIds=[free, protected])
    local.settle()
    assert local.host.machines == {}


def test_console_output_comes_from_machine(local: Running, launch: Launch) -> None:
    instance_id = launch()["InstanceId"]
    assert (
        local.ec2.get_console_output(InstanceId=instance_id)["Output"]
        == f"console of {instance_id}\n"
    )


def test_credit_mode_is_described(local: Running, launch: Launch) -> None:
    instance_id = launch(CreditSpecification={"CpuCredits": "unlimited"})["InstanceId"]
    (found,) = local.ec2.describe_instance_credit_specifications(InstanceIds=[instance_id])[
        "InstanceCreditSpecifications"
    ]
    assert found["CpuCredits"] == "unlimited"


# -- events of machines


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (("stop", 130), "stopped"),
        (("stop", 137), "stopped"),
        (("terminate", 130), "terminated"),
        (("terminate", 137), "stopped"),
        (("stop", None), "terminated"),
    ],
)
def test_instance_follows_machine_that_ends(
    local: Running, launch: Launch, event: tuple[str, int | None], expected: str
) -> None:
    behaviour, exit_code = event
    instance_id = launch(InstanceInitiatedShutdownBehavior=behaviour)["InstanceId"]
    local.settle()
    local.host.end(instance_id, exit_code)
    until(lambda: local.state(instance_id) == expected, f"the instance is {expected}")


def test_machine_that_reboots_itself_runs_again(local: Running, launch: Launch) -> None:
    instance_id = launch()["InstanceId"]
    local.settle()
    local.host.end(instance_id, 129)
    until(lambda: f"start {instance_id}" in local.host.log, "the machine is started")
    local.settle()
    assert local.state(instance_id) == "running"


# -- elastic addresses


def test_elastic_address_stays_until_its_instance_is_terminated(
    local: Running, launch: Launch
) -> None:
    instance = launch()["InstanceId"]
    local.settle()
    allocated = local.ec2.allocate_address(Domain="vpc")
    (own,) = describe(local, instance)["NetworkInterfaces"]
    local.ec2.associate_address(
        AllocationId=allocated["AllocationId"], NetworkInterfaceId=own["NetworkInterfaceId"]
    )

    def seen() -> tuple[str | None, str | None]:
        (address,) = local.ec2.describe_addresses()["Addresses"]
        return describe(local, instance).get("PublicIpAddress"), address.get("InstanceId")

    assert seen() == (allocated["PublicIp"], instance)
    local.ec2.stop_instances(InstanceIds=[instance])
    local.settle()
    assert seen() == (allocated["PublicIp"], instance)
    local.ec2.start_instances(InstanceIds=[instance])
    local.settle()
    assert seen() == (allocated["PublicIp"], instance)
    local.ec2.terminate_instances(InstanceIds=[instance])
    local.settle()
    (address,) = local.ec2.describe_addresses()["Addresses"]
    assert not address.get("AssociationId")
    assert not address.get("NetworkInterfaceId")
    assert seen()[0] is None
