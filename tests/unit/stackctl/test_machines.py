"""The machines as an EC2 API shows them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml
from botocore.exceptions import ClientError

from plainpillar import ROOT
from saltext.ec2.tags import DEPLOY_TAG, HOST_KEY_TAG
from stackctl.deployment import Deployment
from stackctl.errors import LaunchError, NotUpError
from stackctl.machines import (
    START_SECONDS,
    Machine,
    find_ended,
    find_machines,
    list_machines,
    require_master,
    start_machines,
)

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGkbQBpO2s3MoOYRT0nsTu7cTyL1ZRjPnz9d8yKdHyW6"
IMAGE = "ami-12c6146b"  # one of those that moto knows


LOCAL = Deployment("local", ROOT)
OWNER = {"project": "airflow-stack", "deployment": "local"}


def launch(client: EC2Client, name: str | None, **owner: str) -> str:
    """Launch a machine with the profiles' tags, or with others, and return its instance id."""
    given = owner or OWNER
    tags: list[Any] = [{"Key": key, "Value": value} for key, value in given.items()]
    tags += [{"Key": "Name", "Value": name}] if name else []
    answer = client.run_instances(
        ImageId=IMAGE,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    return answer["Instances"][0]["InstanceId"]


def machine(
    name: str, instance_id: str = "i-1", state: str = "running", public: str = ""
) -> Machine:
    return Machine(name, instance_id, state, "10.20.1.9", public)


# -- list_machines ---------------------------------------------------------------------------------


def test_list_machines_of_empty_account(client: EC2Client) -> None:
    assert list_machines(client, LOCAL) == {}
    assert client.meta.region_name == "eu-west-1"


def test_list_machines_by_name(client: EC2Client) -> None:
    web, lb = launch(client, "web-1"), launch(client, "lb-1")
    found = list_machines(client, LOCAL)
    assert list(found) == ["lb-1", "web-1"]
    assert (found["web-1"].instance_id, found["lb-1"].instance_id) == (web, lb)
    described = client.describe_instances(InstanceIds=[web])["Reservations"][0]["Instances"][0]
    assert found["web-1"].state == "running"
    assert found["web-1"].private_address == described["PrivateIpAddress"]
    assert found["web-1"].public_address == described["PublicIpAddress"]


def test_list_machines_omits_terminated_but_not_stopped(client: EC2Client) -> None:
    client.stop_instances(InstanceIds=[launch(client, "web-1")])
    client.terminate_instances(InstanceIds=[launch(client, "web-2")])
    assert {name: machine.state for name, machine in list_machines(client, LOCAL).items()} == {
        "web-1": "stopped"
    }


def test_machine_that_does_not_run_has_the_reason_of_ec2(client: EC2Client) -> None:
    stopped, running = launch(client, "web-1"), launch(client, "lb-1")
    client.stop_instances(InstanceIds=[stopped])
    machines = list_machines(client, LOCAL)
    assert re.fullmatch(
        r"Client\.UserInitiatedShutdown: User initiated shutdown \(20.* UTC\)",
        machines["web-1"].reason,
    )
    assert machines["lb-1"].reason == ""
    client.terminate_instances(InstanceIds=[running])
    assert find_ended(client, LOCAL)["lb-1"].reason.startswith("Client.UserInitiatedShutdown")


@pytest.mark.parametrize(
    ("transition", "message", "reason"),
    [
        ("", "", ""),
        (
            "User initiated (2026-01-31 10:00:00 GMT)",
            "",
            "User initiated (2026-01-31 10:00:00 GMT)",
        ),
        ("", "Server.InternalError: gone", "Server.InternalError: gone"),
        ("User initiated", "Client: stopped", "Client: stopped"),
        ("User initiated (10:00 GMT)", "Client: stopped", "Client: stopped (10:00 GMT)"),
    ],
)
def test_reason_has_the_time_where_ec2_gives_one(
    transition: str, message: str, reason: str
) -> None:
    instance: Any = {
        "InstanceId": "i-1",
        "LaunchTime": 0,
        "State": {"Name": "stopped"},
        "StateTransitionReason": transition,
        "Tags": [{"Key": "deployment", "Value": "local"}],
        "StateReason": {"Message": message},
    }
    assert only(described(instance)) == Machine("i-1", "i-1", "stopped", "", "", "", reason)
    del instance["StateReason"]
    assert only(described(instance)).reason == transition
    instance["State"] = {"Name": "pending"}
    assert only(described(instance)).reason == ""


class Pages:
    """The answers of an API to `describe_instances`."""

    def __init__(self, *instances: Any) -> None:
        self.instances = instances

    def get_paginator(self, name: str) -> Pages:
        assert name == "describe_instances"
        return self

    def paginate(self, **_: object) -> list[Any]:
        return [{"Reservations": [{"Instances": [instance]}]} for instance in self.instances]


def described(*instances: Any) -> EC2Client:
    return cast("EC2Client", Pages(*instances))


def only(client: EC2Client) -> Machine:
    (found,) = find_machines(client, LOCAL)
    return found


@pytest.mark.parametrize(("deploy", "deployed"), [("", False), ("pending", False), ("done", True)])
def test_tag_of_the_driver_tells_whether_a_machine_is_deployed(
    deploy: str, *, deployed: bool
) -> None:
    tags = [{"Key": "deployment", "Value": "local"}]
    tags += [{"Key": DEPLOY_TAG, "Value": deploy}] if deploy else []
    instance = {"InstanceId": "i-1", "LaunchTime": 0, "State": {"Name": "running"}, "Tags": tags}
    found = only(described(instance))
    assert (found.deploy, found.deployed) == (deploy, deployed)


@pytest.mark.parametrize(
    ("tag", "key"),
    [
        (ED25519, ED25519),
        ("", ""),
        ("ssh-ed25519", ""),
        (f"{ED25519} and more", ""),
        (f"@cert-authority * {ED25519}", ""),
        (f"{ED25519}\nssh-ed25519 AAAA", ""),
    ],
)
def test_machine_has_the_host_key_of_its_tag(tag: str, key: str) -> None:
    tags = [{"Key": "deployment", "Value": "local"}]
    tags += [{"Key": HOST_KEY_TAG, "Value": tag}] if tag else []
    instance = {"InstanceId": "i-1", "LaunchTime": 0, "State": {"Name": "running"}, "Tags": tags}
    assert only(described(instance)).host_key == key


def test_newest_ended_machine_of_a_name_counts() -> None:
    def instance(instance_id: str, launched: int, state: str) -> Any:
        tags = [{"Key": "Name", "Value": "web-1"}, {"Key": "deployment", "Value": "local"}]
        return {
            "InstanceId": instance_id,
            "LaunchTime": launched,
            "State": {"Name": state},
            "Tags": tags,
        }

    client = described(
        instance("i-c", 3, "terminated"),
        instance("i-d", 2, "shutting-down"),
        instance("i-a", 1, "terminated"),
        instance("i-b", 4, "running"),
    )
    assert find_ended(client, LOCAL)["web-1"].instance_id == "i-c"
    assert [machine.instance_id for machine in find_machines(client, LOCAL)] == ["i-b"]


class Starting:
    """An API that starts machines, and keeps what it is asked."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.asked: list[tuple[str, str]] = []

    def get_waiter(self, name: str) -> Starting.Waiter:
        return Starting.Waiter(self, name)

    def start_instances(self, **request: Any) -> None:
        (instance,) = request["InstanceIds"]
        if instance == self.refuses:
            answer: Any = {
                "Error": {"Code": "InsufficientInstanceCapacity", "Message": "none left"}
            }
            raise ClientError(answer, "StartInstances")
        self.asked.append(("start", instance))

    class Waiter:
        """What waits for the state of a machine."""

        def __init__(self, client: Starting, name: str) -> None:
            self.client = client
            self.name = name

        def wait(self, **request: Any) -> None:
            patience = request["WaiterConfig"]
            assert patience["Delay"] * patience["MaxAttempts"] == START_SECONDS
            self.client.asked.append((self.name, *request["InstanceIds"]))


def test_machine_that_stops_is_started_when_it_has_stopped() -> None:
    client = Starting()
    assert start_machines(cast(Any, client), [machine("web-1", state="stopping")]) == {}
    assert client.asked == [
        ("instance_stopped", "i-1"),
        ("start", "i-1"),
        ("instance_running", "i-1"),
    ]


def test_machine_that_does_not_start_is_named_and_others_start() -> None:
    client = Starting(refuses="i-2")
    machines = [machine("web-2", "i-2", "stopped"), machine("web-1", "i-1", "stopped")]
    (refused,) = start_machines(cast(Any, client), machines).items()
    assert refused[0] == "web-2"
    assert "none left" in refused[1]
    assert client.asked == [("start", "i-1"), ("instance_running", "i-1")]


@pytest.mark.parametrize("owner", [{"project": "wiki"}, {"deployment": "prod"}])
def test_machines_of_others_are_left_out(client: EC2Client, owner: dict[str, str]) -> None:
    launch(client, "web-1", **{**OWNER, **owner})
    client.terminate_instances(InstanceIds=[launch(client, "web-2", **{**OWNER, **owner})])
    assert list_machines(client, LOCAL) == {}
    assert find_ended(client, LOCAL) == {}


@pytest.mark.parametrize(
    ("key", "found"), [(f"{ED25519} deploy", True), (f"{ED25519[:-1]}7", False), ("", False)]
)
def test_machines_of_an_earlier_version_are_known_by_its_key_pair(
    client: EC2Client, checkout: Path, key: str, *, found: bool
) -> None:
    deployment = Deployment("local", checkout)
    deployment.pillar_dir.mkdir(parents=True, exist_ok=True)
    deployment.settings_path.write_text(yaml.safe_dump({"settings": {"ssh_public_key": ED25519}}))
    launch(client, "web-1", project="airflow-stack")
    own = launch(client, "web-2")
    if key:
        client.import_key_pair(KeyName="airflow-deploy", PublicKeyMaterial=key.encode())
    try:
        machines = list_machines(client, deployment)
    finally:
        client.delete_key_pair(KeyName="airflow-deploy")
    assert machines["web-2"].instance_id == own
    assert ("web-1" in machines) is found


def test_machine_without_name_has_its_id(client: EC2Client) -> None:
    instance = launch(client, None)
    assert list(list_machines(client, LOCAL)) == [instance]


def test_two_machines_of_a_name_are_an_error_with_both_ids(client: EC2Client) -> None:
    ids = {launch(client, "web-1"), launch(client, "web-1")}
    with pytest.raises(
        LaunchError, match=r"Two machines are called web-1: .*\. Terminate the one"
    ) as caught:
        list_machines(client, LOCAL)
    assert all(instance in str(caught.value) for instance in ids)


def test_terminated_machine_of_same_name_is_ignored(client: EC2Client) -> None:
    client.terminate_instances(InstanceIds=[launch(client, "web-1")])
    instance = launch(client, "web-1")
    assert list_machines(client, LOCAL)["web-1"].instance_id == instance


# -- the environment -------------------------------------------------------------------------------


def test_require_master_refuses_stopped_or_missing_master(deployment: Deployment) -> None:
    running = machine("salt-1")
    assert require_master(deployment, {"salt-1": running}) == running
    stopped = machine("salt-1", state="stopped")
    for reason, said in (("", ""), ("Server.ScheduledStop", ", says EC2: Server.ScheduledStop")):
        with pytest.raises(NotUpError) as caught:
            require_master(deployment, {"salt-1": replace(stopped, reason=reason)})
        assert str(caught.value) == (
            f"salt-1, the Salt master, is stopped{said}. This starts it: stackctl up"
        )
    prod = Deployment("prod", deployment.root)
    with pytest.raises(NotUpError, match=r"no salt-1\. This launches it: stackctl up -d prod"):
        require_master(prod, {"web-1": machine("web-1")})
