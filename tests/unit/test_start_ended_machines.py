"""Machines that ended by themselves are started, and those that somebody stopped are not.

The cloud is the local one, with machines in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from memorycloud import MemoryHost, Running, running
from plainpillar import ROOT
from saltmodules import load_file
from stackctl import locks
from waiting import until

PROGRAM = ROOT / "salt" / "master" / "files" / "start_ended_machines.py"
IMAGE = "/aws/service/debian/release/13/latest/amd64"
KILLED, POWERED_OFF = 137, 130  # exit codes of a container


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, as a module."""
    return load_file(PROGRAM)


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A local cloud in memory, in which an ended machine is noticed at once."""
    monkeypatch.setattr("localcloud.cloud.GRACE_SECONDS", 0)
    with running(tmp_path / "cloud", MemoryHost()) as made:
        yield made


OWNER = {"project": "airflow-stack", "deployment": "test"}


def launch(cloud: Running, name: str, **owner: str) -> str:
    """Launch a machine, wait until it runs, and return its id."""
    ec2 = cloud.ec2
    vpc = ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/24")["Subnet"]["SubnetId"]
    given = {"Name": name, **OWNER, **owner}
    tags = [{"Key": key, "Value": value} for key, value in given.items()]
    instance: str = ec2.run_instances(
        ImageId=cloud.client("ssm").get_parameter(Name=IMAGE)["Parameter"]["Value"],
        InstanceType="t2.micro",
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )["Instances"][0]["InstanceId"]
    cloud.settle()
    return instance


def end(cloud: Running, instance: str, exit_code: int) -> None:
    """Have a machine end by itself."""
    cloud.host.end(instance, exit_code)
    until(lambda: cloud.state(instance) == "stopped", "the API has noticed")


@pytest.mark.parametrize(
    ("exit_code", "reason"),
    [(KILLED, "Server.InternalError"), (POWERED_OFF, "Client.InstanceInitiatedShutdown")],
)
def test_machine_that_ended_is_started(
    program: ModuleType,
    cloud: Running,
    capsys: pytest.CaptureFixture[str],
    exit_code: int,
    reason: str,
) -> None:
    web = launch(cloud, "web-1")
    assert program.start_ended(cloud.ec2, OWNER, {"web-1"})
    assert capsys.readouterr().out == ""
    end(cloud, web, exit_code)
    assert program.start_ended(cloud.ec2, OWNER, {"web-1"})
    assert capsys.readouterr().out.startswith(f"started web-1 ({web}), which ended: {reason}: ")
    cloud.settle()
    assert cloud.state(web) == "running"


def test_machine_that_was_stopped_by_request_stays_stopped(
    program: ModuleType, cloud: Running
) -> None:
    web = launch(cloud, "web-1")
    cloud.ec2.stop_instances(InstanceIds=[web])
    cloud.settle()
    assert program.start_ended(cloud.ec2, OWNER, {"web-1"})
    assert cloud.state(web) == "stopped"


@pytest.mark.parametrize(
    ("owner", "names"),
    [({"project": "wiki"}, {"web-1"}), ({"deployment": "prod"}, {"web-1"}), ({}, {"web-2"})],
)
def test_machine_of_another_stack_is_left_alone(
    program: ModuleType, cloud: Running, owner: dict[str, str], names: set[str]
) -> None:
    web = launch(cloud, "web-1", **owner)
    end(cloud, web, KILLED)
    assert program.start_ended(cloud.ec2, OWNER, names)
    assert cloud.state(web) == "stopped"


def test_machine_that_ec2_does_not_start_does_not_stop_the_others(
    program: ModuleType,
    cloud: Running,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused, web = launch(cloud, "web-1"), launch(cloud, "web-2")
    for instance in (refused, web):
        end(cloud, instance, KILLED)
    start = cloud.ec2.start_instances
    answer: Any = {"Error": {"Code": "InsufficientInstanceCapacity", "Message": "none left"}}

    def start_instances(**args: Any) -> Any:
        if args["InstanceIds"] == [refused]:
            raise ClientError(answer, "StartInstances")
        return start(**args)

    monkeypatch.setattr(cloud.ec2, "start_instances", start_instances)
    assert not program.start_ended(cloud.ec2, OWNER, {"web-1", "web-2"})
    assert f"cannot start web-1 ({refused})" in capsys.readouterr().err
    cloud.settle()
    assert cloud.state(web) == "running"


def test_only_machines_with_an_accepted_key_may_be_started(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web-1").touch()
    called: list[Any] = []

    def start_ended(*args: Any) -> bool:
        called.append(args)
        return len(called) == 1

    monkeypatch.setattr(boto3, "client", lambda *args, **options: (args, options))
    monkeypatch.setattr(program, "start_ended", start_ended)
    assert program.main("eu-west-1", "airflow-stack", "test", str(tmp_path)) == 0
    client = (("ec2",), {"region_name": "eu-west-1"})
    assert called == [(client, OWNER, {"web-1"})]
    assert program.main("eu-west-1", "airflow-stack", "test", str(tmp_path)) == 1


def test_ec2_that_does_not_answer_is_one_line(
    program: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start_ended(*_: Any) -> bool:
        raise EndpointConnectionError(endpoint_url="https://ec2.eu-west-1.amazonaws.com")

    monkeypatch.setattr(program, "start_ended", start_ended)
    assert program.main("eu-west-1", "airflow-stack", "test", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert said.startswith("EC2 cannot be asked: Could not connect")
    assert said.count("\n") == 1


def test_unit_waits_for_what_stackctl_has_running() -> None:
    unit = PROGRAM.with_name("start-ended-machines.service.j2").read_text()
    assert f"--conflict-exit-code 0 {locks.JOB_FILE} " in unit
