"""Host keys are read on the console once, and known to whoever comes after EC2 has forgotten it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from localcloud import catalog
from localcloud.delays import Delays
from localcloud.faults import throttled
from memorycloud import MemoryHost, Running, running
from plainpillar import ROOT
from saltext.ec2.tags import HOST_KEY_TAG
from stackctl import host_keys
from stackctl.deployment import Deployment
from stackctl.errors import LaunchError
from stackctl.machines import Machine, find_machines
from waiting import without_waiting

LOCAL = Deployment("local", ROOT)
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGkbQBpO2s3MoOYRT0nsTu7cTyL1ZRjPnz9d8yKdHyW6"
RSA = "ssh-rsa AAAAB3NzaC1yc2E"
BEGIN, END = (f"-----{word} SSH HOST KEY KEYS-----" for word in ("BEGIN", "END"))
# As cloud-init writes it, amid other output of a console.
CONSOLE = "\r\n".join(
    (
        "[  OK  ] Started ssh.",
        BEGIN,
        f"{ED25519} root@web-1",
        f"{RSA} root@web-1",
        END,
        "web-1 login: ",
    )
)


class Printing(MemoryHost):
    """Machines whose consoles show a text."""

    text = CONSOLE

    def console(self, instance_id: str, until: object) -> str:  # noqa: ARG002
        return self.text


@pytest.fixture
def host() -> Printing:
    return Printing()


@pytest.fixture
def cloud(tmp_path: Path, host: Printing) -> Iterator[Running]:
    """A cloud that copies a console at once, and keeps it for an hour."""
    with running(tmp_path, host) as made:
        yield made


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between two looks, for which nobody waits; the time is their sum."""
    return without_waiting(monkeypatch, host_keys)


def launch(cloud: Running, size: str = "t2.micro") -> Machine:
    """Launch web-1 and wait until it runs."""
    tags = [{"Key": "Name", "Value": "web-1"}, {"Key": "project", "Value": "airflow-stack"}]
    tags.append({"Key": "deployment", "Value": LOCAL.name})
    cloud.ec2.run_instances(
        ImageId=catalog.IMAGE_ID, InstanceType=size, MinCount=1, MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )  # fmt: skip
    cloud.settle()
    return web(cloud)


def web(cloud: Running) -> Machine:
    (machine,) = find_machines(cloud.ec2, LOCAL)
    return machine


@pytest.mark.parametrize("size", ["t2.micro", "t3.micro"])
def test_keys_are_read_on_the_console(cloud: Running, pauses: list[float], size: str) -> None:
    assert host_keys.learn(cloud.ec2, launch(cloud, size), 60) == [ED25519, RSA]
    assert pauses == []


def test_nitro_shows_its_keys_before_the_console_is_copied(
    tmp_path: Path, host: Printing, pauses: list[float]
) -> None:
    with running(tmp_path, host, Delays((3600,), 3600, 0)) as late:
        assert host_keys.learn(late.ec2, launch(late, "t3.micro"), 60) == [ED25519, RSA]
        assert pauses == []


@pytest.mark.parametrize(
    "text", ["Linux version 6.12\n", f"{BEGIN}\n{ED25519} root@web-1\n", f"{BEGIN}\n{END}\n"],
    ids=["none", "half-written", "empty"],
)  # fmt: skip
def test_console_without_keys_is_an_error_with_the_cure(
    cloud: Running, host: Printing, pauses: list[float], text: str
) -> None:
    host.text = text
    machine = launch(cloud)
    with pytest.raises(LaunchError) as caught:
        host_keys.learn(cloud.ec2, machine, 100)
    assert caught.value.what.startswith("The console of web-1 does not show its SSH host keys")
    assert caught.value.hint.startswith("Reboot it: it prints its keys again (aws ec2 ")
    assert f"--instance-ids {machine.instance_id})" in caught.value.hint
    assert 100 < sum(pauses) < 100 + host_keys.LONGEST_PAUSE
    assert max(pauses) <= host_keys.LONGEST_PAUSE
    assert 0.5 <= pauses[0] <= 1 <= pauses[1] <= 2 <= pauses[2] <= 4, "they become longer"


def test_keys_that_come_late_are_awaited(
    cloud: Running, host: Printing, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.text = ""

    def boot(_: float) -> None:
        host.text = CONSOLE

    clock = SimpleNamespace(sleep=boot, monotonic=time.monotonic)
    monkeypatch.setattr(host_keys, "time", clock)
    machine = launch(cloud)
    assert host_keys.learn(cloud.ec2, machine, time.monotonic() + 60) == [ED25519, RSA]


def test_throttled_look_is_repeated(cloud: Running, pauses: list[float]) -> None:
    machine = launch(cloud)
    with cloud.faults.inject(throttled("GetConsoleOutput", times=2)):
        assert host_keys.learn(cloud.ec2, machine, 60) == [ED25519, RSA]
    assert len(pauses) == 2


@pytest.mark.usefixtures("pauses")
def test_refused_look_is_an_error(cloud: Running) -> None:
    machine = launch(cloud)
    role = cloud.client("ec2", key="AKIAIOSFODNN7EXAMPLE", secret="x")
    with pytest.raises(ClientError):
        host_keys.learn(role, machine, 60)


def test_key_is_known_after_ec2_has_forgotten_the_console(
    cloud: Running, pauses: list[float]
) -> None:
    """What a second operator, and a new Salt master, find."""
    machine = launch(cloud)
    keys = host_keys.learn(cloud.ec2, machine, 60)
    cloud.age(7200)
    with pytest.raises(LaunchError):
        host_keys.learn(cloud.ec2, machine, -1)
    known = {machine.instance_id: keys, "i-other": [RSA]}
    assert host_keys.publish(cloud.ec2, find_machines(cloud.ec2, LOCAL), known) == ["web-1"]
    pauses.clear()
    later = web(cloud)
    assert later.host_key == RSA, "the shortest"
    assert host_keys.learn(cloud.ec2, later, -1) == [RSA]
    assert pauses == []
    assert host_keys.publish(cloud.ec2, [later], known) == [], "it has the tag"


@pytest.mark.parametrize("known", [{}, {"i-1": []}, {"i-1": ["ssh-rsa " + "A" * 400]}])
def test_machine_without_a_key_that_fits_gets_no_tag(known: dict[str, list[str]]) -> None:
    machine = Machine("web-1", "i-1", "running", "", "")
    assert host_keys.publish(cast(Any, None), [machine], known) == []


def test_tag_is_the_drivers(cloud: Running) -> None:
    machine = launch(cloud)
    host_keys.publish(cloud.ec2, [machine], {machine.instance_id: [ED25519, "x" * 300]})
    found = cloud.ec2.describe_tags(Filters=[{"Name": "key", "Values": [HOST_KEY_TAG]}])["Tags"]
    assert [(tag["ResourceId"], tag["Value"]) for tag in found] == [(machine.instance_id, ED25519)]
