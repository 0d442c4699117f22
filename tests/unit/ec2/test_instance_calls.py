"""What the driver asks of EC2 about one instance, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from saltext.ec2 import _attachments, _instance, _lookup
from saltext.ec2._client import Connection
from saltext.ec2._machine import Machine
from saltext.ec2.errors import ApiError, LaunchError
from waiting import without_waiting

OPTIONS: dict[str, Any] = {"ssh_interface": "private_ips", "wait_for_ip_timeout": 60}


def refusal(code: str, message: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Call")


class Ec2:
    """Keeps the calls, and answers them in turn; an exception is raised."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(**request: Any) -> Any:
            self.calls.append((name, request))
            answer = self.answers[name].pop(0) if self.answers.get(name) else {}
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def get_waiter(self, name: str) -> Any:
        return SimpleNamespace(wait=lambda **request: self.calls.append((name, request)))


def connected(ec2: Ec2) -> Connection:
    return cast(Connection, SimpleNamespace(ec2=ec2, region="eu-west-1"))


def machine(ec2: Ec2, instance: dict[str, Any] | None = None, **options: Any) -> Machine:
    described: Any = {"InstanceId": "i-1", "State": {"Name": "running"}, **(instance or {})}
    return Machine(connected(ec2), OPTIONS | options, "web-1", described)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of the driver, for which nobody waits."""
    return without_waiting(monkeypatch, _instance)


# -- launching -------------------------------------------------------------------------------------

NEW_PROFILE = refusal("InvalidParameterValue", "Value (web) for IAM instance profile is invalid")


def test_launch_waits_for_a_new_instance_profile(clock: list[float]) -> None:
    answer = {"Instances": [{"InstanceId": "i-1"}]}
    ec2 = Ec2(run_instances=[NEW_PROFILE, NEW_PROFILE, answer])
    found = _instance._run_instance(connected(ec2), "web-1", {"MinCount": 1})
    assert found["InstanceId"] == "i-1"
    assert ec2.calls == [("run_instances", {"MinCount": 1})] * 3
    assert clock == [_instance.PROFILE_INTERVAL] * 2


def test_launch_does_not_wait_for_ever_for_an_instance_profile(clock: list[float]) -> None:
    ec2 = Ec2(run_instances=[NEW_PROFILE] * 100)
    with pytest.raises(ApiError, match="launching web-1 failed"):
        _instance._run_instance(connected(ec2), "web-1", {})
    assert 0 <= sum(clock) - _instance.PROFILE_SECONDS <= _instance.PROFILE_INTERVAL


@pytest.mark.parametrize(
    "error",
    [
        refusal("InvalidParameterValue", "Value (x) for instance type is invalid"),
        refusal("UnauthorizedOperation", "iam instance profile"),
    ],
)
def test_launch_with_another_refusal_is_not_repeated(
    clock: list[float], error: ClientError
) -> None:
    with pytest.raises(ApiError):
        _instance._run_instance(connected(Ec2(run_instances=[error])), "web-1", {})
    assert clock == []


@pytest.mark.parametrize(
    ("launched", "now", "own"),
    [
        ({"State": "pending", "Name": "web-1"}, AssertionError("asked"), True),
        ({"State": "pending", "Name": "web-3"}, "web-3", False),
        ({"State": "pending"}, "web-1", True),
        ({"State": "running", "Name": "web-1"}, "web-3", False),
        ({"State": "running", "Name": "web-1"}, None, True),
    ],
)
def test_answer_of_a_launch_may_be_of_a_renamed_machine(
    monkeypatch: pytest.MonkeyPatch,
    launched: dict[str, str],
    now: str | Exception | None,
    *,
    own: bool,
) -> None:
    def described(name: str) -> Any:
        return {"InstanceId": "i-1", "Tags": [{"Key": "Name", "Value": name}]}

    def ask(_: object, ids: list[str]) -> dict[str, Any]:
        assert ids == ["i-1"]
        if isinstance(now, Exception):
            raise now
        return {"i-1": described(now)} if now else {}

    monkeypatch.setattr(_lookup, "instances_by_id", ask)
    answer: Any = described(launched["Name"]) if "Name" in launched else {"InstanceId": "i-1"}
    answer["State"] = {"Name": launched["State"]}
    assert _instance._has_name(connected(Ec2()), "web-1", answer) is own


# -- a machine that becomes ready ------------------------------------------------------------------


class Booting:
    """A machine with one description after the other; the last one stays."""

    name = "web-1"
    options = OPTIONS

    def __init__(self, *seen: tuple[str, str]) -> None:
        self.seen = list(seen)
        self.refreshed = 0
        self.state = self.address = ""

    def refresh(self) -> Booting:
        self.refreshed += 1
        self.state, self.address = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        return self


@pytest.mark.parametrize("moves", [False, True])
def test_machine_is_ready_when_it_runs_and_has_an_address(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, *, moves: bool
) -> None:
    attached: list[str] = []

    def attach(machine: Booting) -> bool:
        attached.append(machine.state)
        return moves

    monkeypatch.setattr(_attachments, "attach", attach)
    booting = Booting(("pending", "10.0.0.4"), ("running", ""), ("running", "10.0.0.5"))
    ready = _instance.wait_until_ready(cast(Machine, booting))
    assert (ready.state, ready.address) == ("running", "10.0.0.5")
    assert attached == ["running"], "once, and not before it runs"
    assert booting.refreshed == 3
    booting = Booting(("running", "10.0.0.4"), ("running", "10.0.0.5"))
    ready = _instance.wait_until_ready(cast(Machine, booting))
    # What is attached may have changed the address.
    assert ready.address == ("10.0.0.5" if moves else "10.0.0.4")


@pytest.mark.parametrize(
    ("state", "address", "said"),
    [
        ("pending", "", "web-1 is pending and has no address in private_ips after 60 s"),
        ("pending", "10.0.0.4", "web-1 is pending and has an address in private_ips"),
        ("running", "", "web-1 is running and has no address"),
    ],
)
def test_machine_that_does_not_become_ready_is_an_error(
    monkeypatch: pytest.MonkeyPatch, state: str, address: str, said: str
) -> None:
    times = iter([0.0, 60.0, 60.5])
    monkeypatch.setattr(_instance, "time", SimpleNamespace(monotonic=lambda: next(times)))
    monkeypatch.setattr(_attachments, "attach", lambda _: False)
    booting = Booting((state, address))
    with pytest.raises(LaunchError, match=said):
        _instance.wait_until_ready(cast(Machine, booting))
    assert booting.refreshed == 2


# -- states ----------------------------------------------------------------------------------------

CHANGE = {
    "InstanceId": "i-1",
    "PreviousState": {"Name": "stopped"},
    "CurrentState": {"Name": "pending"},
}


@pytest.mark.parametrize(("state", "waits"), [("stopping", True), ("stopped", False)])
def test_machine_is_started_when_it_has_stopped(state: str, *, waits: bool) -> None:
    ec2 = Ec2(start_instances=[{"StartingInstances": [CHANGE]}])
    (change,) = _instance.start(machine(ec2, {"State": {"Name": state}}))
    assert (change["id"], change["currentState"]) == ("i-1", {"name": "pending"})
    ids = {"InstanceIds": ["i-1"]}
    wait = [("instance_stopped", ids)] if waits else []
    assert ec2.calls == [*wait, ("start_instances", ids)]


def test_machine_is_stopped_and_rebooted() -> None:
    ec2 = Ec2(stop_instances=[{"StoppingInstances": [CHANGE]}])
    assert [change["id"] for change in _instance.stop(machine(ec2))] == ["i-1"]
    assert _instance.reboot(machine(ec2)) == {"id": "i-1", "rebooted": True, "Reboot": "Complete"}
    assert [name for name, _ in ec2.calls] == ["stop_instances", "reboot_instances"]


@pytest.mark.parametrize(
    ("protected", "kept", "changes"),
    [
        (None, False, []),
        (False, False, []),
        (True, False, [{"DisableApiTermination": {"Value": False}}]),
        (
            None,
            True,
            [
                {
                    "BlockDeviceMappings": [
                        {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True}}
                    ]
                }
            ],
        ),
    ],
)
def test_only_volumes_of_the_launch_end_with_a_failed_machine(
    protected: bool | None, kept: bool, changes: list[Any]
) -> None:
    mappings = [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeId": "vol-1", "DeleteOnTermination": not kept}},
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeId": "vol-2", "DeleteOnTermination": False}},
        {"DeviceName": "/dev/sdg", "Ebs": {"VolumeId": "vol-3", "DeleteOnTermination": True}},
    ]
    options = {"termination_protection": protected, "volumes": [{"volume_id": "vol-2"}]}
    ec2 = Ec2()
    _instance.allow_termination(machine(ec2, {"BlockDeviceMappings": mappings}, **options))
    wanted = [("modify_instance_attribute", {"InstanceId": "i-1", **each}) for each in changes]
    assert ec2.calls == wanted


def test_spot_request_is_cancelled_unless_it_is_gone() -> None:
    _instance._cancel_spot_request(machine(Ec2(cancel_spot_instance_requests=[refusal("x")])))
    spot = {"SpotInstanceRequestId": "sir-1"}
    ec2 = Ec2(cancel_spot_instance_requests=[{}, refusal("InvalidSpotInstanceRequestID.NotFound")])
    for _ in range(2):
        _instance._cancel_spot_request(machine(ec2, spot))
    assert ec2.calls[0][1] == {"SpotInstanceRequestIds": ["sir-1"]}
    with pytest.raises(ApiError, match="cancelling the spot request of web-1"):
        _instance._cancel_spot_request(
            machine(Ec2(cancel_spot_instance_requests=[refusal("UnauthorizedOperation")]), spot)
        )
