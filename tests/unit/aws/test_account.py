"""An account with other things in it: nothing of anybody else's is taken, changed or removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from accounts import Client, Foreign, dump, missing, specification, tagged
from localcloud import catalog
from memorycloud import Running, emptied
from plainpillar import DEPLOYMENT

States = dict[str, dict[str, Any]]
# The key of the deployment `test`, and that of another.
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGkbQBpO2s3MoOYRT0nsTu7cTyL1ZRjPnz9d8yKdHyW6"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINd0Jc4hVCdCRRmqoOgqZ0Kp3wyyl4HVUMpcKUaU4R6t"
KINDS = (
    "vpc", "subnet", "internet_gateway", "route_table", "key_pair", "elastic_ip", "role",
    "instance_profile", "bucket",
)  # fmt: skip


@pytest.fixture(autouse=True)
def account(cloud: Running) -> None:
    """An empty account."""
    emptied(cloud)


def comments(states: States) -> dict[str, str]:
    """Return why states failed, by their ids."""
    return {one["__id__"]: one["comment"] for one in states.values() if one["result"] is False}


def changes(states: States) -> list[str]:
    """Return what states changed."""
    return [text for one in states.values() for text in one["changes"].get("new", ())]


def assert_complete(states: States) -> None:
    assert comments(states) == {}


# -- somebody else's things ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_thing_of_our_name_stops_the_run(
    apply: Callable[..., States], client: Client, pillar: dict[str, Any], kind: str
) -> None:
    foreign = getattr(Foreign(client, pillar["aws"]), kind)()
    before = dump(client)
    for test in (True, False):
        states = apply(test=test)
        failed = comments(states)
        assert f"{foreign} (" in failed["aws-names"]
        assert "it is somebody else's, and is left alone" in failed["aws-names"]
        assert "If it is this deployment's, tag it: aws " in failed["aws-names"]
        # Everything else has waited for it.
        assert set(failed) == {one["__id__"] for one in states.values()}
        assert dump(client) == before


def test_all_foreign_things_are_named_at_once(
    apply: Callable[..., States], client: Client, pillar: dict[str, Any]
) -> None:
    foreign = Foreign(client, pillar["aws"], project="wiki")
    names = [getattr(foreign, kind)() for kind in KINDS]
    before = dump(client)
    comment = comments(apply())["aws-names"]
    assert all(name in comment for name in names)
    assert dump(client) == before


def test_tag_of_the_command_in_the_message_is_enough(
    apply: Callable[..., States], client: Client, pillar: dict[str, Any]
) -> None:
    vpc = Foreign(client, pillar["aws"]).vpc()
    (words,) = [line for line in comments(apply())["aws-names"].splitlines() if vpc in line]
    _, _, given = words.rpartition(" --tags ")
    pairs = [dict(part.split("=") for part in one.split(",")) for one in given.split()]
    client("ec2").create_tags(Resources=[vpc], Tags=pairs)
    assert_complete(apply())
    assert {vpc["VpcId"] for vpc in own(client, "describe_vpcs", "Vpcs")} == {vpc}


def own(client: Client, call: str, key: str, deployment: str = "test") -> list[dict[str, Any]]:
    """Return the deployment's things of a kind."""
    filters = [{"Name": "tag:deployment", "Values": [deployment]}]
    return list(getattr(client("ec2"), call)(Filters=filters)[key])


@pytest.mark.parametrize("tags", [{}, {"project": "wiki"}])
def test_foreign_things_with_the_earlier_names_are_no_obstacle(
    apply: Callable[..., States], client: Client, pillar: dict[str, Any], tags: dict[str, str]
) -> None:
    foreign = Foreign(client, with_earlier_names(pillar["aws"]), **tags)
    vpc = foreign.vpc()
    subnet = foreign.subnet(vpc)
    foreign.internet_gateway(vpc)
    foreign.route_table(vpc)
    for kind in ("key_pair", "elastic_ip", "role", "instance_profile"):
        getattr(foreign, kind)()
    foreign.machine("lb-1", subnet, catalog.IMAGE_ID)
    before = dump(client)
    assert_complete(apply())
    assert missing(before, dump(client)) == []
    again = apply()
    assert_complete(again)
    assert changes(again) == []


def with_earlier_names(aws: dict[str, Any]) -> dict[str, Any]:
    earlier = aws["earlier"]
    return {
        **aws,
        **{
            key: earlier[key]
            for key in ("internet_gateway", "route_table", "key_pair", "salt_role")
        },
        **{key: {**aws[key], "name": earlier[key]} for key in ("vpc", "subnet", "edge_address")},
    }


# -- a group in the deployment's own VPC -----------------------------------------------------------


def test_foreign_group_in_our_vpc_stops_the_run(
    apply: Callable[..., States], client: Client, pillar: dict[str, Any]
) -> None:
    vpc = client("ec2").create_vpc(
        CidrBlock=pillar["aws"]["vpc"]["cidr"],
        TagSpecifications=specification(
            "vpc", Name=pillar["aws"]["vpc"]["name"], **DEPLOYMENT.owner()
        ),
    )["Vpc"]["VpcId"]
    group = client("ec2").create_security_group(
        GroupName="airflow-web", Description="theirs", VpcId=vpc
    )["GroupId"]
    before = dump(client)
    assert group in comments(apply())["aws-names"]
    assert dump(client) == before


# -- several deployments ---------------------------------------------------------------------------


@pytest.mark.usefixtures("founded")
def test_two_deployments_share_an_account(
    apply: Callable[..., States],
    operator_of: Callable[..., Callable[..., States]],
    client: Client,
    pillar: dict[str, Any],
) -> None:
    first = dump(client)
    second = operator_of("second", OTHER_KEY)
    assert_complete(second())
    both = dump(client)
    assert missing(first, both) == []
    for again in (apply, second):
        states = again()
        assert_complete(states)
        assert changes(states) == []
    assert dump(client) == both
    assert len(own(client, "describe_vpcs", "Vpcs")) == 1
    assert len(own(client, "describe_vpcs", "Vpcs", "second")) == 1
    names = {role["RoleName"] for role in client("iam").list_roles()["Roles"]}
    assert names == {
        f"airflow-stack-{deployment}-{role}"
        for deployment in ("test", "second")
        for role in ("salt", "lb", "postgres")
    }
    assert {bucket["Name"] for bucket in client("s3").list_buckets()["Buckets"]} == {
        f"airflow-stack-{deployment}-123456789012-eu-west-1" for deployment in ("test", "second")
    }


# -- what an earlier version has made --------------------------------------------------------------


def earlier_stack(client: Client, pillar: dict[str, Any], key: str) -> dict[str, str]:
    """Make what the states made before they knew of deployments; return the ids by kind."""
    aws = with_earlier_names(pillar["aws"])
    ec2, foreign = client("ec2"), Foreign(client, aws)
    made = {"vpc": foreign.vpc()}
    made["subnet"] = foreign.subnet(made["vpc"])
    made["internet-gateway"] = foreign.internet_gateway(made["vpc"])
    made["route-table"] = foreign.route_table(made["vpc"])
    ec2.create_route(
        RouteTableId=made["route-table"], DestinationCidrBlock="0.0.0.0/0",
        GatewayId=made["internet-gateway"],
    )  # fmt: skip
    ec2.associate_route_table(RouteTableId=made["route-table"], SubnetId=made["subnet"])
    made["key-pair"] = foreign.key_pair(key)
    project = {"project": "airflow-stack"}
    for name in aws["security_groups"].values():
        made[name] = ec2.create_security_group(
            GroupName=name, Description=f"machines of role {name}", VpcId=made["vpc"],
            TagSpecifications=specification("security-group", Name=name, **project),
        )["GroupId"]  # fmt: skip
    tagged = Foreign(client, aws, **project)
    made["elastic-ip"] = tagged.elastic_ip()
    iam, role = client("iam"), aws["salt_role"]
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps({"Statement": []}))
    iam.create_instance_profile(InstanceProfileName=role)
    iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
    made["machine"] = tagged.machine("lb-1", made["subnet"], catalog.IMAGE_ID)
    return made


def ids(client: Client, deployment: str) -> set[str]:
    """Return the ids of everything in EC2 that has the tags of a deployment."""
    owner = {"project": "airflow-stack", "deployment": deployment}
    return {thing for _, thing, tags in tagged(client("ec2")) if owner.items() <= tags.items()}


def test_stack_of_an_earlier_version_is_taken_over(
    apply: Callable[..., States], client: Client, cloud: Running, pillar: dict[str, Any]
) -> None:
    made = earlier_stack(client, pillar, KEY)
    cloud.settle()
    predicted = apply(test=True)
    assert f"take over {made['vpc']} of an earlier version" in changes(predicted)
    states = apply()
    assert_complete(states)
    assert set(made.values()) <= ids(client, "test")
    ec2 = client("ec2")
    new = [one for one in changes(states) if one.startswith(("create ", "upload ", "allocate "))]
    assert sorted(new) == [
        "create the bucket airflow-stack-test-123456789012-eu-west-1",
        "create the endpoint airflow-stack-test-s3",
        *(
            f"create the {kind} airflow-stack-test-{role}"
            for kind in ("instance profile", "role")
            for role in ("lb", "postgres", "salt")
        ),
        "create the route table airflow-stack-test-private",
        # Its machines stay where they are.
        *(
            f"create the subnet airflow-stack-test-{name}"
            for name in ("b", "c", "private-a", "private-b", "private-c")
        ),
        f"upload the key {KEY} as airflow-stack-test",
    ]
    (instance,) = ec2.describe_instances(InstanceIds=[made["machine"]])["Reservations"][0][
        "Instances"
    ]
    volumes = [one["Ebs"]["VolumeId"] for one in instance["BlockDeviceMappings"]]
    interfaces = [one["NetworkInterfaceId"] for one in instance["NetworkInterfaces"]]
    assert {*volumes, *interfaces} <= ids(client, "test")
    # The machine that has the earlier role may do what a new one may.
    roles = ("airflow-salt", "airflow-stack-test-salt")
    policies = [
        client("iam").get_role_policy(RoleName=name, PolicyName="salt-cloud")["PolicyDocument"]
        for name in roles
    ]
    assert policies[0] == policies[1]
    after = dump(client)
    again = apply()
    assert_complete(again)
    assert changes(again) == []
    assert dump(client) == after


@pytest.mark.parametrize(
    "kind",
    [
        "vpc",
        *(
            pytest.param(kind, marks=pytest.mark.long)
            for kind in ("subnet", "route-table", "airflow-web", "machine")
        ),
    ],
)
def test_takeover_that_was_interrupted_is_finished(
    apply: Callable[..., States], client: Client, cloud: Running, pillar: dict[str, Any], kind: str
) -> None:
    made = earlier_stack(client, pillar, KEY)
    cloud.settle()
    tags = [{"Key": key, "Value": value} for key, value in DEPLOYMENT.owner().items()]
    for done in list(made)[: list(made).index(kind) + 1]:
        client("ec2").create_tags(Resources=[made[done]], Tags=tags)
    # The Name comes with the tags.
    aws = pillar["aws"]
    names = {
        "subnet": aws["subnet"]["name"], "internet-gateway": aws["internet_gateway"],
        "route-table": aws["route_table"], "elastic-ip": aws["edge_address"]["name"],
    }  # fmt: skip
    for done, name in names.items():
        if list(made).index(done) <= list(made).index(kind):
            named = [{"Key": "Name", "Value": name}]
            client("ec2").create_tags(Resources=[made[done]], Tags=named)
    assert_complete(apply())
    assert set(made.values()) <= ids(client, "test")
    assert len(client("ec2").describe_addresses()["Addresses"]) == 1


def test_earlier_stack_of_another_deployment_stops_the_run(
    operator_of: Callable[..., Callable[..., States]],
    client: Client,
    cloud: Running,
    pillar: dict[str, Any],
) -> None:
    made = earlier_stack(client, pillar, KEY)
    cloud.settle()
    before = dump(client)
    failed = comments(operator_of("second", OTHER_KEY)())
    assert "If it is another deployment's, bring that one up first" in failed["aws-names"]
    assert made["vpc"] in failed["aws-names"]
    assert dump(client) == before


def test_second_deployment_after_the_takeover(
    apply: Callable[..., States],
    operator_of: Callable[..., Callable[..., States]],
    client: Client,
    cloud: Running,
    pillar: dict[str, Any],
) -> None:
    earlier_stack(client, pillar, KEY)
    cloud.settle()
    assert_complete(apply())
    first = dump(client)
    assert_complete(operator_of("second", OTHER_KEY)())
    assert missing(first, dump(client)) == []


def test_earlier_address_is_known_by_the_url(
    operator_of: Callable[..., Callable[..., States]], client: Client, pillar: dict[str, Any]
) -> None:
    aws = with_earlier_names(pillar["aws"])
    allocation = Foreign(client, aws, project="airflow-stack").elastic_ip()
    other = Foreign(client, aws, project="airflow-stack").elastic_ip()
    (address,) = client("ec2").describe_addresses(AllocationIds=[allocation])["Addresses"]
    third = operator_of("third", KEY, base_url=f"https://{address['PublicIp']}")
    assert_complete(third())
    assert allocation in ids(client, "third")
    assert other not in ids(client, "third")
