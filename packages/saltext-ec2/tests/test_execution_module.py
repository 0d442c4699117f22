"""Salt's execution module `cloud`, which adds names of its own to every call (`__pub_fun` …)."""

from __future__ import annotations

import pytest

from sandbox import REGION, Run, Sandbox


def salt_call(sandbox: Sandbox, *arguments: str) -> Run:
    return sandbox.run("salt-call", "--local", *arguments)


def test_create_launches_machine(sandbox: Sandbox) -> None:
    options = [f"image={sandbox.image}", "size=t3.micro", "subnetname=a", "securitygroup=web"]
    done = salt_call(sandbox, "cloud.create", "one", "n1", *options)
    assert not done.failed, done
    assert set(sandbox.instances()) == sandbox.accepted_keys() == {"n1"}
    tags = {tag["Key"] for tag in sandbox.instances()["n1"]["Tags"]}
    assert [tag for tag in tags if tag.startswith("__")] == []


def test_create_names_wrong_option(sandbox: Sandbox) -> None:
    options = [f"image={sandbox.image}", "size=t3.micro", "rubbish=1"]
    done = salt_call(sandbox, "cloud.create", "one", "n1", *options)
    assert "rubbish" in done.output, done
    assert "__pub" not in done.output, done
    assert sandbox.instances() == {}


def test_volume_is_created(sandbox: Sandbox) -> None:
    zone = f"zone={REGION}a"
    done = salt_call(sandbox, "cloud.action", "create_volume", "provider=one", zone, "size=3")
    assert not done.failed, done
    (volume,) = sandbox.ec2.describe_volumes(
        Filters=[{"Name": "volume-id", "Values": [done.answer["local"]["one"]["ec2"]["VolumeId"]]}]
    )["Volumes"]
    assert volume["Size"] == 3


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        ("create_keypair", "keyname=other"),
        ("describe_volumes", ""),
        ("show_image", "image={image}"),
    ],
)
def test_function_of_provider_takes_its_arguments_only(
    sandbox: Sandbox, function: str, argument: str
) -> None:
    arguments = [argument.format(image=sandbox.image)] if argument else []
    done = salt_call(sandbox, "cloud.action", function, "provider=one", *arguments)
    assert not done.failed, done
    assert "__pub" not in done.output, done


def test_action_of_machine_takes_its_arguments_only(sandbox: Sandbox) -> None:
    done = salt_call(sandbox, "cloud.profile", "p1", "n1")
    assert not done.failed, done
    done = salt_call(sandbox, "cloud.action", "set_tags", "instance=n1", "tier=front")
    assert not done.failed, done
    tags = {tag["Key"]: tag["Value"] for tag in sandbox.instances()["n1"]["Tags"]}
    assert tags == {"Name": "n1", "tier": "front", "salt-cloud:deploy": "done"}
    done = salt_call(sandbox, "cloud.destroy", "n1")
    assert not done.failed, done
    assert sandbox.instances() == {}


def test_set_tags_of_resource_sets_its_arguments_only(sandbox: Sandbox) -> None:
    volume = sandbox.ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1)["VolumeId"]
    arguments = ["provider=one", f"resource_id={volume}", "tier=front"]
    done = salt_call(sandbox, "cloud.action", "set_tags", *arguments)
    assert not done.failed, done
    (found,) = sandbox.ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
    assert found["Tags"] == [{"Key": "tier", "Value": "front"}]
