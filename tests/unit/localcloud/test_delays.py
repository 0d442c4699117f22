"""What EC2 does late: it shows a copy of a console, and keeps the addresses of what shuts down."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud import catalog
from localcloud.config import CloudConfig
from localcloud.delays import INSTANT, Delays
from memorycloud import MemoryHost, Running, running
from waiting import until

NOW = datetime(2026, 1, 31, 10, tzinfo=UTC)


class Printing(MemoryHost):
    """Machines that print a number on their consoles when they boot and when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.printed: list[tuple[datetime, str]] = []

    def print(self, text: str) -> datetime:
        """Print a text, and return the time just after that."""
        self.printed.append((datetime.now(UTC), text))
        return datetime.now(UTC)

    def console(self, instance_id: str, until: datetime) -> str:  # noqa: ARG002
        return "".join(text for when, text in self.printed if when <= until)


Cloud = Callable[[Delays], AbstractContextManager[Running]]


@pytest.fixture
def host() -> Printing:
    return Printing()


@pytest.fixture
def cloud(tmp_path: Path, host: Printing) -> Cloud:
    return lambda delays: running(tmp_path, host, delays)


def launch(local: Running, size: str = "t2.micro", **more: Any) -> str:
    answer = local.ec2.run_instances(
        ImageId=catalog.IMAGE_ID, InstanceType=size, MinCount=1, MaxCount=1, **more
    )
    instance: str = answer["Instances"][0]["InstanceId"]
    local.settle()
    return instance


def shown(local: Running, instance: str, **how: bool) -> str:
    return str(local.ec2.get_console_output(InstanceId=instance, **how).get("Output", ""))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as error:
        call()
    return str(error.value.response["Error"]["Code"])


# -- consoles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passed", "post"),
    [(0, None), (2.9, None), (3, 3), (9, 3), (10, 10), (99, 10), (110, 10), (110.1, None)],
)
def test_last_copy_is_shown_for_a_time(passed: float, post: float | None) -> None:
    delays = Delays(console_posts=(3, 10), console_kept=100)
    found = delays.last_post(NOW, NOW + timedelta(seconds=passed))
    assert found == (None if post is None else NOW + timedelta(seconds=post))


def test_keys_that_come_after_the_copy_are_never_shown(cloud: Cloud, host: Printing) -> None:
    with cloud(Delays((0,), 3600, 0)) as local:
        host.print("kernel")
        instance = launch(local)
        host.print("host keys")
        assert shown(local, instance) == "kernel", "the copy is older"
        local.ec2.reboot_instances(InstanceIds=[instance])
        until(lambda: "host keys" in shown(local, instance), "the next boot shows them")


def test_console_is_empty_before_the_copy_and_after_it_was_forgotten(
    cloud: Cloud, host: Printing
) -> None:
    with cloud(Delays((60,), 3600, 0)) as local:
        host.printed.append((NOW, "host keys"))
        instance = launch(local)
        assert shown(local, instance) == ""
        local.age(60)
        assert shown(local, instance) == "host keys"
        local.age(3600)
        assert shown(local, instance) == ""


@pytest.mark.parametrize("verb", ["stop", "start"])
def test_each_transition_makes_a_copy(cloud: Cloud, host: Printing, verb: str) -> None:
    with cloud(Delays((0,), 3600, 0)) as local:
        instance = launch(local)
        if verb == "start":
            local.ec2.stop_instances(InstanceIds=[instance])
            local.settle()
        host.print("more")
        assert shown(local, instance) == ""
        getattr(local.ec2, f"{verb}_instances")(InstanceIds=[instance])
        local.settle()
        assert shown(local, instance) == "more"


def test_latest_console_exists_on_nitro_alone(cloud: Cloud, host: Printing) -> None:
    with cloud(Delays((60,), 3600, 0)) as local:
        host.print("now")
        xen, nitro = launch(local), launch(local, "t3.micro")
        assert refused(partial(shown, local, xen, Latest=True)) == "UnsupportedOperation"
        assert shown(local, nitro, Latest=True) == "now"
        assert shown(local, nitro, Latest=False) == shown(local, nitro) == shown(local, xen) == ""


def test_instance_of_an_earlier_version_shows_its_console(cloud: Cloud, host: Printing) -> None:
    with cloud(INSTANT) as local:
        instance = launch(local)
        (found,) = local.cloud.instances()
        del found.transition
        host.print("now")
        assert shown(local, instance) == "now"


# -- addresses -------------------------------------------------------------------------------------


@pytest.fixture
def slow(cloud: Cloud) -> Iterator[Running]:
    """A cloud in which an end takes an hour."""
    with cloud(Delays((0,), 3600, 3600)) as local:
        yield local


def test_address_is_in_use_until_the_instance_is_terminated(slow: Running, host: Printing) -> None:
    vpc = slow.ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
    subnet = slow.ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/24")["Subnet"]["SubnetId"]
    again = partial(launch, slow, SubnetId=subnet, PrivateIpAddress="10.40.1.250")
    instance = again()
    slow.ec2.terminate_instances(InstanceIds=[instance])
    until(lambda: instance not in host.machines, "the machine is gone")
    assert slow.state(instance) == "shutting-down"
    assert refused(again) == "InvalidIPAddress.InUse"
    with slow.cloud.lock:
        (found,) = slow.cloud.instances()
        found.ended -= timedelta(hours=1)
        slow.cloud.follow(found)
    slow.settle()
    assert slow.state(instance) == "terminated"
    assert again()


def test_end_comes_by_itself(cloud: Cloud) -> None:
    with cloud(Delays((0,), 3600, 0.2)) as local:
        instance = launch(local)
        local.ec2.terminate_instances(InstanceIds=[instance])
        local.settle()
        assert local.state(instance) == "terminated"


def test_end_goes_on_after_a_restart_of_the_api(cloud: Cloud) -> None:
    with cloud(Delays((0,), 3600, 60)) as local:
        instance = launch(local)
        local.ec2.terminate_instances(InstanceIds=[instance])
        assert local.state(instance) == "shutting-down"
    with cloud(INSTANT) as local:
        local.settle()
        assert local.state(instance) == "terminated"


# -- settings --------------------------------------------------------------------------------------


def test_settings_survive_the_configuration_file(tmp_path: Path) -> None:
    delays = Delays((1.5, 2), 7, 9)
    config = CloudConfig("demo", tmp_path, 4566, "image", delays=delays)
    assert CloudConfig.load(config.dump()) == config
    before = {key: value for key, value in json.loads(config.dump()).items() if key != "delays"}
    assert CloudConfig.load(json.dumps(before)).delays == Delays()
    assert Delays.load(json.loads(json.dumps(asdict(delays)))) == delays


def test_rehearsal_is_quick_but_not_instant() -> None:
    usual = Delays()
    # Each machine of `make up` waits for the first of these.
    assert (min(usual.console_posts), usual.shutting_down) == (3, 3)
    assert max(usual.console_posts) < 120 < usual.console_kept == 3600


# -- volumes ---------------------------------------------------------------------------------------


def root_volume(local: Running, instance: str) -> str:
    (found,) = local.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    (mapping,) = found["Instances"][0]["BlockDeviceMappings"]
    return str(mapping["Ebs"]["VolumeId"])


def modification(local: Running, volume: str) -> str:
    """Return in which state the last modification of a volume is."""
    found = local.ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"]
    return str(found[-1]["ModificationState"])


def test_volume_grows_and_becomes_no_smaller(cloud: Cloud) -> None:
    with cloud(INSTANT) as local:
        volume = root_volume(local, launch(local))
        local.ec2.modify_volume(VolumeId=volume, Size=12)
        (found,) = local.ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
        assert (found["Size"], modification(local, volume)) == (12, "completed")
        code = refused(lambda: local.ec2.modify_volume(VolumeId=volume, Size=11))
        assert code == "InvalidParameterValue"
        local.ec2.modify_volume(VolumeId=volume, Size=13)


@pytest.mark.parametrize(
    ("delays", "state", "code"),
    [
        (replace(INSTANT, volume_modifying=60), "modifying", "IncorrectModificationState"),
        (replace(INSTANT, volume_optimizing=60), "optimizing", "IncorrectModificationState"),
    ],
)
def test_volume_rests_between_two_modifications(
    cloud: Cloud, delays: Delays, state: str, code: str
) -> None:
    with cloud(delays) as local:
        volume = root_volume(local, launch(local))
        local.ec2.modify_volume(VolumeId=volume, Size=12)
        assert modification(local, volume) == state
        assert refused(lambda: local.ec2.modify_volume(VolumeId=volume, Size=13)) == code


def test_volume_is_modified_four_times_a_day(cloud: Cloud) -> None:
    assert Delays().volume_rest == 24 * 3600
    with cloud(replace(INSTANT, volume_rest=60)) as local:
        volume = root_volume(local, launch(local))
        for size in (12, 13, 14, 15):
            local.ec2.modify_volume(VolumeId=volume, Size=size)
        code = refused(lambda: local.ec2.modify_volume(VolumeId=volume, Size=16))
        assert code == "VolumeModificationRateExceeded"


def test_volume_can_grow_again_after_its_rest(cloud: Cloud) -> None:
    with cloud(replace(INSTANT, volume_rest=0.3)) as local:
        volume = root_volume(local, launch(local))
        for size in (12, 13, 14, 15):
            local.ec2.modify_volume(VolumeId=volume, Size=size)

        def grows() -> bool:
            with contextlib.suppress(ClientError):
                local.ec2.modify_volume(VolumeId=volume, Size=16)
                return True
            return False

        until(grows, "it may be modified again")
