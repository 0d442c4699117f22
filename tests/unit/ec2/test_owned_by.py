"""Two deployments in one account: the driver sees, finds and tags those of `owned_by` only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from saltext.ec2 import _client
from saltext.ec2 import options as _options
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import ConfigurationError, NotFound

Machine = Callable[..., dict[str, Any]]
Deployment = Callable[[str], None]
OWNERS = ("prod", "test")


@pytest.fixture
def deployment(ec2: Any, opts: dict[str, Any]) -> Deployment:
    """A function that makes the driver work for another deployment; each has a network."""
    opts["wait_for_ip_interval"] = 0
    for owner in OWNERS:
        vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
        ec2.create_subnet(
            VpcId=vpc, CidrBlock="10.20.1.0/24", TagSpecifications=tagged("subnet", "own", owner)
        )
        ec2.create_security_group(
            VpcId=vpc, GroupName="own", Description=owner,
            TagSpecifications=tagged("security-group", "own", owner),
        )  # fmt: skip
        ec2.allocate_address(Domain="vpc", TagSpecifications=tagged("elastic-ip", "own", owner))

    def become(owner: str) -> None:
        opts["owned_by"] = {"project": "stack", "deployment": owner}

    return become


def tagged(kind: str, name: str, owner: str) -> Any:
    tags = {"Name": name, "project": "stack", "deployment": owner}
    given = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": kind, "Tags": given}]


def tags_of(ec2: Any, *resources: str) -> list[dict[str, str]]:
    filters = [{"Name": "resource-id", "Values": list(resources)}]
    found: dict[str, dict[str, str]] = {resource: {} for resource in resources}
    for tag in ec2.describe_tags(Filters=filters)["Tags"]:
        found[tag["ResourceId"]][tag["Key"]] = tag["Value"]
    return list(found.values())


def states(ec2: Any) -> dict[str, str]:
    """Return instance -> its state."""
    return {
        instance["InstanceId"]: instance["State"]["Name"]
        for group in ec2.describe_instances()["Reservations"]
        for instance in group["Instances"]
    }


@pytest.mark.covers("owned_by", "subnetname", "securitygroup")
def test_each_deployment_has_machines_of_the_same_names(
    ec2: Any, machine: Machine, deployment: Deployment
) -> None:
    made = {}
    for owner in OWNERS:
        deployment(owner)
        given = machine("web-1", subnetname="own", securitygroup="own")
        made[owner] = driver.create(given)
        assert driver.create(given)["id"] == made[owner]["id"]
    assert len(states(ec2)) == 2
    for owner, node in made.items():
        deployment(owner)
        assert {name: found["id"] for name, found in driver.list_nodes().items()} == {
            "web-1": node["id"]
        }
        volumes = [one["Ebs"]["VolumeId"] for one in node["BlockDeviceMappings"]]
        for tags in tags_of(ec2, node["id"], *volumes):
            assert (tags["project"], tags["deployment"]) == ("stack", owner)
        (subnet,) = ec2.describe_subnets(SubnetIds=[node["SubnetId"]])["Subnets"]
        assert {"Key": "deployment", "Value": owner} in subnet["Tags"]
        (group,) = node["SecurityGroups"]
        assert tags_of(ec2, group["GroupId"])[0]["deployment"] == owner


@pytest.mark.covers("owned_by")
def test_machine_of_another_deployment_is_not_there(
    ec2: Any, machine: Machine, deployment: Deployment
) -> None:
    deployment("prod")
    theirs = driver.create(machine("web-1", subnetname="own", securitygroup="own"))["id"]
    deployment("test")
    assert driver.list_nodes() == {}
    assert driver.list_nodes_full() == {}
    for name in ("web-1", theirs):
        for action in (driver.stop, driver.reboot, driver.show_instance):
            with pytest.raises(NotFound, match=f"there is no machine called {name}"):
                action(name, call="action")
        with pytest.raises(NotFound, match=f"there is no machine called {name}"):
            driver.destroy(name, call="action")
    assert states(ec2) == {theirs: "running"}
    own = driver.create(machine("web-1", subnetname="own", securitygroup="own"))["id"]
    driver.destroy("web-1")
    assert states(ec2)[theirs] == "running"
    assert states(ec2)[own] != "running"


@pytest.mark.covers("owned_by", "associate_eip")
def test_things_of_others_are_not_found_by_name(
    ec2: Any, machine: Machine, deployment: Deployment
) -> None:
    deployment("nobody")
    for options, kind in (
        ({"subnetname": "own"}, "subnets"),
        ({"subnetname": None, "securitygroup": "own"}, "security groups"),
        ({"subnetname": None, "securitygroup": None, "associate_eip": "own"}, "elastic addresses"),
    ):
        with pytest.raises(
            NotFound,
            match=rf"no {kind} are called own .*only what has the tags deployment=nobody, project",
        ):
            driver.create(machine("web-1", **options))
    assert states(ec2) == {}


@pytest.mark.covers("owned_by", "keyname", "iam_profile", "subnetname", "associate_eip")
def test_names_have_the_words_of_the_tags(machine: Machine, deployment: Deployment) -> None:
    deployment("prod")
    names = ("keyname", "iam_profile", "subnetname", "securitygroupname", "associate_eip")
    given = machine("web-1", **dict.fromkeys(names, "{project}-{deployment}-a"))
    resolved = _options.resolve(given, driver.__opts__)
    assert {name: resolved[name] for name in names} == {
        **dict.fromkeys(names, "stack-prod-a"),
        "securitygroupname": resolved["securitygroupname"],
    }
    assert resolved["securitygroupname"] in ("stack-prod-a", ["stack-prod-a"])
    several = _options.resolve(
        machine("web-1", subnetname=["{deployment}-a", "b"]), driver.__opts__
    )
    assert several["subnetname"] == ["prod-a", "b"]


@pytest.mark.covers("owned_by")
def test_other_word_in_a_name_is_refused(machine: Machine, deployment: Deployment) -> None:
    deployment("prod")
    with pytest.raises(
        ConfigurationError, match=r"keyname is '\{stage\}', but owned_by has the words project, dep"
    ):
        driver.create(machine("web-1", keyname="{stage}"))


@pytest.mark.covers("owned_by")
def test_braces_stay_without_owner(machine: Machine, opts: dict[str, Any]) -> None:
    assert _options.resolve(machine("web-1", keyname="{a}"), opts)["keyname"] == "{a}"


@pytest.mark.covers("owned_by")
def test_owner_may_be_the_providers(ec2: Any, opts: dict[str, Any], machine: Machine) -> None:
    opts["wait_for_ip_interval"] = 0
    opts["providers"]["cloud"]["ec2"]["owned_by"] = {"deployment": 7}
    node = driver.create(machine("web-1", subnetname=None, securitygroup=None))
    assert node["tags"]["deployment"] == "7"
    assert list(driver.list_nodes()) == ["web-1"]
    provider = opts["providers"]["cloud"]["ec2"]
    accounts = {
        _client.connect({**provider, "owned_by": owner}, opts["cachedir"]).account
        for owner in (None, {"deployment": "7"}, {"deployment": "8"})
    }
    assert len(accounts) == 3


@pytest.mark.covers("owned_by")
def test_owner_that_is_no_mapping_is_refused(machine: Machine, opts: dict[str, Any]) -> None:
    opts["owned_by"] = "prod"
    with pytest.raises(ConfigurationError, match="owned_by must be a mapping, not 'prod'"):
        driver.create(machine("web-1"))
