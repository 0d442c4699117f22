"""What Salt's own integration tests asked of its EC2 driver, asked of this one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from sandbox import REGION, Run, Sandbox

NO_DEPLOY = "--no-deploy"


def salt_cloud(sandbox: Sandbox, *arguments: str) -> Run:
    """Run salt-cloud with the outputter that people see."""
    return sandbox.salt_cloud("--out=nested", *arguments)


def listed(sandbox: Sandbox) -> set[str]:
    """Return the machines that a query names, with or without colons and spaces around them."""
    return {line.strip(": ") for line in salt_cloud(sandbox, "--query").stdout.splitlines()}


def test_instance_is_created_and_listed(sandbox: Sandbox) -> None:
    done = salt_cloud(sandbox, "-p", "p1", "cloud-test-1")
    assert not done.code, done
    assert "cloud-test-1" in {line.strip(": ") for line in done.stdout.splitlines()}
    assert "cloud-test-1" in listed(sandbox)


def test_answer_to_creation_has_ipv6_address(sandbox: Sandbox) -> None:
    done = salt_cloud(sandbox, "-p", "p1", "cloud-test-1", NO_DEPLOY)
    assert any("ipv6Address:" in line for line in done.stdout.splitlines()), done


def test_destroy_answers_shutting_down_by_provider_driver_and_name(sandbox: Sandbox) -> None:
    sandbox.launch("cloud-test-1")
    done = sandbox.salt_cloud("-d", "cloud-test-1", "--out=yaml")
    answer = yaml.safe_load(done.stdout)["one"]["ec2"]["cloud-test-1"]
    assert answer["currentState"]["name"] == "shutting-down"


def test_destroyed_instance_is_not_listed(sandbox: Sandbox) -> None:
    sandbox.launch("cloud-test-1")
    assert not sandbox.salt_cloud("-d", "cloud-test-1").code
    assert "cloud-test-1" not in listed(sandbox)


def test_instance_without_minion_is_renamed_while_it_runs(sandbox: Sandbox) -> None:
    done = salt_cloud(sandbox, "-p", "p1", "cloud-test-1", NO_DEPLOY)
    assert not done.code, done
    done = salt_cloud(sandbox, "-a", "rename", "cloud-test-1", "newname=cloud-test-1-changed")
    assert not done.code, done
    assert listed(sandbox) >= {"cloud-test-1-changed"}
    assert "cloud-test-1" not in listed(sandbox)
    assert not sandbox.salt_cloud("-d", "cloud-test-1-changed").code
    assert not sandbox.instances()


def test_renamed_instance_shows_what_it_is(sandbox: Sandbox) -> None:
    salt_cloud(sandbox, "-p", "p1", "cloud-test-1", NO_DEPLOY)
    salt_cloud(sandbox, "-a", "rename", "cloud-test-1", "newname=cloud-test-1-changed")
    shown = salt_cloud(sandbox, "-a", "show_instance", "cloud-test-1-changed").stdout
    lines = {line.strip() for line in shown.splitlines()}
    assert {"cloud-test-1-changed:", "size:"} <= lines


def test_volumes_go_with_machine_as_profile_says(sandbox: Sandbox) -> None:
    more = [{"size": 5, "device": "/dev/sdf"}, {"size": 6, "device": "/dev/sdg"}]
    machines = {
        "root-goes": {"del_root_vol_on_destroy": True},
        "root-stays": {"del_root_vol_on_destroy": False},
        "all-go": {"del_all_vols_on_destroy": True, "volumes": more},
        "others-stay": {"del_all_vols_on_destroy": False, "volumes": more},
    }
    done = sandbox.apply({"p1": [{name: options} for name, options in machines.items()]}, NO_DEPLOY)
    assert not done.code, done
    assert {
        name: [volume["DeleteOnTermination"] for _, volume in sorted(sandbox.volumes(name).items())]
        for name in machines
    } == {
        "root-goes": [True],
        "root-stays": [False],
        "all-go": [True, True, True],
        "others-stay": [True, False, False],
    }


def test_root_volume_takes_size_and_type_from_mapping(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"]["block_device_mappings"] = [
        {"DeviceName": "/dev/sda1", "Ebs.VolumeSize": 21, "Ebs.VolumeType": "gp2"}
    ]
    sandbox.salt_cloud("-p", "p1", "n1", NO_DEPLOY)
    (volume,) = sandbox.ec2.describe_volumes()["Volumes"]
    assert (volume["Size"], volume["VolumeType"]) == (21, "gp2")


def test_device_of_mapping_has_its_own_tags(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"]["block_device_mappings"] = [
        {"DeviceName": "/dev/sda1", "tag": {"disk": "root"}}
    ]
    sandbox.salt_cloud("-p", "p1", "n1", NO_DEPLOY)
    (volume,) = sandbox.ec2.describe_volumes()["Volumes"]
    assert {"Key": "disk", "Value": "root"} in volume["Tags"]


def test_volume_is_created_attached_detached_and_deleted(sandbox: Sandbox) -> None:
    sandbox.salt_cloud("-p", "p1", "n1", NO_DEPLOY)
    made = sandbox.salt_cloud("-f", "create_volume", "one", f"zone={REGION}a", "size=10")
    assert not made.code, made
    (volume,) = [
        volume["VolumeId"]
        for volume in sandbox.ec2.describe_volumes()["Volumes"]
        if not volume["Attachments"]
    ]
    for arguments in (
        ("-a", "attach_volume", "n1", f"volume_id={volume}", "device=/dev/sdf"),
        ("-a", "detach_volume", "n1", f"volume_id={volume}"),
        ("-f", "delete_volume", "one", f"volume_id={volume}"),
    ):
        done = sandbox.salt_cloud(*arguments)
        assert not done.code, done
    assert volume not in json.dumps(sandbox.ec2.describe_volumes()["Volumes"], default=str)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("size=10",), {"Size": 10}),
        (("type=io1", "iops=1000", "size=10"), {"VolumeType": "io1", "Iops": 1000}),
        (("encrypted=False", "size=10"), {"Encrypted": False}),
    ],
)
def test_create_volume_takes_arguments_of_old_driver(
    sandbox: Sandbox, arguments: tuple[str, ...], expected: dict[str, Any]
) -> None:
    done = sandbox.salt_cloud("-f", "create_volume", "one", f"zone={REGION}a", *arguments)
    assert not done.code, done
    (volume,) = sandbox.ec2.describe_volumes()["Volumes"]
    assert expected.items() <= volume.items()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("size=10",), "zone"),
        ((f"zone={REGION}a", "size=10", "type=io1"), "iops"),
        ((f"zone={REGION}a", "size=10", "kmskeyid=k", "encrypted=False"), "encrypted"),
    ],
)
def test_create_volume_refuses_incomplete_arguments(
    sandbox: Sandbox, arguments: tuple[str, ...], named: str
) -> None:
    done = sandbox.salt_cloud("-f", "create_volume", "one", *arguments)
    assert done.code
    assert named in done.stderr
    assert "CreateVolume" not in sandbox.server.calls


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_private_key_that_owner_alone_reads_is_taken(sandbox: Sandbox, mode: int) -> None:
    (sandbox.folder / "key.pem").chmod(mode)
    sandbox.launch("n1")


def test_private_key_that_others_read_is_refused_before_launch(sandbox: Sandbox) -> None:
    key = sandbox.folder / "key.pem"
    key.chmod(0o644)
    done = sandbox.salt_cloud("-p", "p1", "n1")
    assert done.code, done
    assert str(key) in done.output
    assert "RunInstances" not in sandbox.server.calls


def test_missing_private_key_is_refused_before_launch(sandbox: Sandbox) -> None:
    (sandbox.folder / "key.pem").unlink()
    done = sandbox.salt_cloud("-p", "p1", "n1")
    assert done.code, done
    assert "private_key" in done.output
    assert "RunInstances" not in sandbox.server.calls


def test_termination_protection_is_part_of_launch(sandbox: Sandbox) -> None:
    requests: list[dict[str, str]] = []
    sandbox.server.answers["RunInstances"] = requests.append
    sandbox.profiles["p1"]["termination_protection"] = True
    sandbox.salt_cloud("-p", "p1", "n1", NO_DEPLOY)
    assert [request["DisableApiTermination"] for request in requests] == ["true"]


def test_boolean_that_is_a_word_is_refused(sandbox: Sandbox) -> None:
    options = ("termination_protection", "del_root_vol_on_destroy", "del_all_vols_on_destroy")
    done = sandbox.apply({"p1": [{name: {name: "not a bool"}} for name in options]}, NO_DEPLOY)
    assert done.code != 0
    assert not sandbox.instances()
    for option in options:
        assert f"{option} must be true or false" in done.output


def test_subnet_is_found_by_name_beside_subnets_without_name(sandbox: Sandbox) -> None:
    vpc = sandbox.ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": ["a"]}])["Subnets"]
    sandbox.ec2.create_subnet(VpcId=vpc[0]["VpcId"], CidrBlock="10.40.9.0/24")
    sandbox.profiles["p1"]["subnetname"] = "b"
    sandbox.salt_cloud("-p", "p1", "n1", NO_DEPLOY)
    (instance,) = sandbox.instances().values()
    assert instance["Placement"]["AvailabilityZone"] == f"{REGION}b"


def test_image_is_found_by_id_and_by_owner_and_name(sandbox: Sandbox) -> None:
    sandbox.profiles["p2"] = sandbox.profiles["p1"] | {"image": {"owner": "self", "name": "deb*"}}
    done = sandbox.apply({"p1": ["n1"], "p2": ["n2"]}, NO_DEPLOY)
    assert not done.code, done
    assert {machine["ImageId"] for machine in sandbox.instances().values()} == {sandbox.image}
