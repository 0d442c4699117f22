"""Injected faults of calls and of machines: their effect, their limits, their end."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from localcloud import faults
from localcloud.faults import Fault, Seen
from memorycloud import Running
from waiting import until

Launch = Callable[..., Any]
NAMED = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web-1"}]}]


def code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "no error"


def test_throttled_call_fails_given_times_then_works(local: Running) -> None:
    with local.faults.inject(faults.throttled("DescribeInstances", times=2, skip=1)):
        codes = [code_of(local.ec2.describe_instances) for _ in range(4)]
        assert code_of(local.ec2.describe_vpcs) == "no error"
    assert codes == ["no error", "RequestLimitExceeded", "RequestLimitExceeded", "no error"]


def test_fault_without_limit_ends_with_its_block(local: Running) -> None:
    with local.faults.inject(faults.throttled()):
        assert {code_of(local.ec2.describe_instances) for _ in range(5)} == {"RequestLimitExceeded"}
    assert code_of(local.ec2.describe_instances) == "no error"


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (faults.no_capacity(), 500),
        (faults.limit_exceeded(), 400),
        (faults.expired("Run*"), 400),
        (faults.denied("RunInstances"), 403),
        (Fault("error", "RunInstances", code="Unavailable", status=503), 503),
    ],
)
def test_refused_launch_has_no_effect(
    local: Running, launch: Launch, fault: Fault, status: int
) -> None:
    with local.faults.inject(fault), pytest.raises(ClientError) as error:
        launch()
    assert error.value.response["Error"]["Code"] == fault.code
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert local.ec2.describe_instances()["Reservations"] == []


def test_call_with_lost_answer_has_its_effect(local: Running, launch: Launch) -> None:
    with local.faults.inject(Fault("lost", "RunInstances", times=1)):
        with pytest.raises(ConnectionClosedError):
            launch(ClientToken="once")
        again = launch(ClientToken="once")
    (reservation,) = local.ec2.describe_instances()["Reservations"]
    assert [found["InstanceId"] for found in reservation["Instances"]] == [again["InstanceId"]]


def test_slow_call_is_delayed(local: Running) -> None:
    with local.faults.inject(Fault("slow", "DescribeVpcs", seconds=0.5)):
        began = time.monotonic()
        local.ec2.describe_vpcs()
        assert time.monotonic() - began >= 0.5


def test_slow_call_is_executed_when_caller_disconnects(local: Running) -> None:
    known = len(local.ec2.describe_vpcs()["Vpcs"])
    with (
        local.faults.inject(Fault("slow", "CreateVpc", seconds=600)),
        pytest.raises(ReadTimeoutError),
    ):
        local.client("ec2", patience=0.5).create_vpc(CidrBlock="10.50.0.0/16")
    until(lambda: len(local.ec2.describe_vpcs()["Vpcs"]) > known, "the VPC exists")


def test_slow_call_delays_no_other_call(local: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    others = threading.Event()
    monkeypatch.setattr(faults, "wait", lambda *_: others.wait(60))
    with local.faults.inject(Fault("slow", "DescribeVpcs")), ThreadPoolExecutor() as pool:
        slow = pool.submit(local.ec2.describe_vpcs)
        until(lambda: local.faults.seen().met == [1], "the slow call has arrived")
        try:
            assert code_of(local.ec2.describe_instances) == "no error"
            assert not slow.done()
        finally:
            others.set()
        assert slow.result()["Vpcs"]


def test_fault_of_one_machine_spares_other_machines(local: Running, launch: Launch) -> None:
    refused = replace(faults.denied("*"), machine="web-*")
    with local.faults.inject(refused), pytest.raises(ClientError, match="RunInstances"):
        launch(TagSpecifications=NAMED)
    made = launch(TagSpecifications=NAMED)
    web, interface = made["InstanceId"], made["NetworkInterfaces"][0]["NetworkInterfaceId"]
    with local.faults.inject(refused):
        other = launch()["InstanceId"]
        local.ec2.create_tags(Resources=[other], Tags=[{"Key": "Name", "Value": "db-1"}])
        local.ec2.delete_tags(Resources=[other], Tags=[{"Key": "Name"}])
        assert code_of(local.ec2.describe_instances) == "no error"
        assert code_of(lambda: local.ec2.get_console_output(InstanceId=other)) == "no error"
        for call in (
            lambda: local.ec2.get_console_output(InstanceId=web),
            lambda: local.ec2.describe_instances(
                Filters=[{"Name": "instance-id", "Values": [other, web]}]
            ),
            lambda: local.ec2.create_tags(Resources=[web], Tags=[{"Key": "role", "Value": "web"}]),
            lambda: local.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface]),
        ):
            assert code_of(call) == "UnauthorizedOperation"


def test_machine_that_never_runs_can_be_terminated(local: Running, launch: Launch) -> None:
    with local.faults.inject(Fault("never-runs", machine="web-*")):
        stuck = launch(TagSpecifications=NAMED)["InstanceId"]
        other = launch()["InstanceId"]
        until(lambda: local.state(other) == "running", "the other machine runs")
        until(lambda: local.faults.seen().met == [1], "the machine has met its fault")
        assert local.state(stuck) == "pending"
        local.ec2.terminate_instances(InstanceIds=[stuck])
        local.settle()
        assert local.state(stuck) == "terminated"


def test_pending_machine_runs_when_fault_ends(local: Running, launch: Launch) -> None:
    with local.faults.inject(Fault("never-runs")):
        stuck = launch()["InstanceId"]
        until(lambda: local.faults.seen().met == [1], "the machine has met its fault")
        assert local.state(stuck) == "pending"
    local.settle()
    assert local.state(stuck) == "running"


def test_machine_that_cannot_run_is_terminated(local: Running, launch: Launch) -> None:
    with local.faults.inject(Fault("cannot-run", machine="web-1", times=1)):
        first = launch(TagSpecifications=NAMED)["InstanceId"]
        local.settle()
        second = launch(TagSpecifications=NAMED)["InstanceId"]
        local.settle()
    assert (local.state(first), local.state(second)) == ("terminated", "running")


def test_faults_remove_sshd_or_key(local: Running, launch: Launch) -> None:
    local.ec2.create_key_pair(KeyName="deploy", KeyType="ed25519")
    with local.faults.inject(Fault("no-sshd", times=1), Fault("no-key", times=1)):
        ids = [launch(KeyName="deploy")["InstanceId"] for _ in range(3)]
        local.settle()
    machines = [local.host.machines[instance_id] for instance_id in ids]
    assert sorted((machine.sshd, bool(machine.authorized_key)) for machine in machines) == [
        (False, True),
        (True, False),
        (True, True),
    ]


def test_calls_and_hits_of_faults_are_counted(local: Running, launch: Launch) -> None:
    broken = Fault("cannot-run", times=1)
    with local.faults.inject(
        faults.throttled("DescribeInstances", skip=1), faults.denied("*Vpcs"), broken
    ) as client:
        for _ in range(3):
            code_of(local.ec2.describe_instances)
        launch()
        local.settle()
        seen = client.seen()
    assert seen.calls == {"DescribeInstances": 3, "RunInstances": 1}
    assert seen.met == [2, 0, 1]
    assert local.faults.seen() == Seen({}, [])


@pytest.mark.parametrize(
    ("key", "body", "status"),
    [("wrong", b"[]", 404), (None, b"{}", 400), (None, b'[{"a": 1}]', 400)],
)
def test_faults_need_owner_key_and_valid_body(
    local: Running, key: str | None, body: bytes, status: int
) -> None:
    headers = {faults.KEY_HEADER: key or local.credentials.secret_access_key}
    request = urllib.request.Request(local.url + faults.PATH, body, headers, method="PUT")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60)
    assert error.value.code == status
