"""salt-cloud as a user calls it, against the local cloud: API calls, exit codes and messages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudsite import Site, site
from localcloud import faults
from saltext.ec2 import _cache

NAMES = ["web-1", "web-2", "web-3"]
MACHINES: dict[str, dict[str, Any]] = {name: {"deploy": False} for name in NAMES}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def test_map_makes_two_calls_per_machine_and_shares_queries(
    tmp_path: Path,
) -> None:
    machines: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    interval, shared = (
        2,
        ("GetParameters", "DescribeImages", "DescribeSubnets", "DescribeSecurityGroups"),
    )
    with site(tmp_path, wait_for_ip_interval=interval) as place:
        begin = time.monotonic()
        with place.cloud.faults.inject() as client:
            assert place.apply(machines, "--parallel").errors == {}
            calls = client.seen().calls
        looks = {
            "consoles": calls.pop("GetConsoleOutput"),
            "instances": calls.pop("DescribeInstances"),
        }
        took = time.monotonic() - begin
        assert all(1 <= calls.pop(action) <= 1 + took / _cache.SECONDS for action in shared)
        assert calls.pop("RunInstances:DryRun") == 1
        assert calls == dict.fromkeys(("RunInstances", "CreateTags"), len(NAMES))
        passed = took / interval
        assert looks["consoles"] <= len(NAMES) * (1 + passed)
        assert looks["instances"] <= 1 + 1 + passed, (
            "the first query of the map, and then one for all machines"
        )
        with place.cloud.faults.inject() as client:
            assert all(
                "already exists" in output["Message"]
                for output in place.apply(machines).output.values()
            )
            assert client.seen().calls == {"DescribeInstances": 1}


def test_misconfiguration_launches_nothing(place: Site) -> None:
    profile = place.folder / "cloud.profiles.d/web.conf"
    good = profile.read_text()
    with place.cloud.faults.inject() as client:
        for bad, message in (
            (
                "  sizes: t2.micro\n",
                "profile web: unknown option sizes; did you mean size?",
            ),
            ("  win_installer: x\n", "win_installer is not supported"),
        ):
            profile.write_text(good + bad)
            done = place.salt_cloud("--profile=web", "web-1")
            assert done.returncode != 0
            assert message in done.stderr
            assert place.accepted() == {}
        profile.write_text(good)
        provider = place.folder / "cloud.providers.d/cloud.conf"
        provider.write_text(provider.read_text() + "  allowed_regions: [eu-west-2]\n")
        done = place.salt_cloud("--query")
        assert done.returncode != 0
        assert "region eu-west-1 is refused: allowed_regions names eu-west-2" in done.stderr
        assert client.seen().calls.get("RunInstances", 0) == 0


@pytest.mark.parametrize("how", [(), ("--parallel",)])
def test_broken_script_stops_map_before_launch(place: Site, how: tuple[str, ...]) -> None:
    broken = place.folder / "broken.sh"
    broken.write_text("{% if %}\n")
    applied = place.apply({"web-1": {"script": "broken"}, "web-2": {}}, *how)
    assert applied.done.returncode == 1
    assert f": web-1: script {broken} cannot be rendered: " in applied.done.stderr
    assert list(place.instances()) == list(place.accepted()) == []


@pytest.mark.parametrize("how", [(), ("--parallel",)])
def test_duplicate_name_is_reported_and_left_alone(place: Site, how: tuple[str, ...]) -> None:
    twins = [
        place.apply({"web-1": {}}).output["web-1"]["id"],
        place.apply({"twin": {}}).output["twin"]["id"],
    ]
    place.cloud.ec2.create_tags(Resources=twins[1:], Tags=[{"Key": "Name", "Value": "web-1"}])
    key = place.accepted()["web-1"]
    applied = place.apply({"web-1": {}, "web-2": {}}, *how)
    assert "already exists" in applied.output["web-1"]["Message"]
    assert applied.output["web-2"]["deployed"] is True
    ids = ", ".join(sorted(twins))
    warning = f"2 machines are called web-1: {ids}; none is launched or deployed by that name"
    assert warning in applied.done.stderr
    assert place.accepted()["web-1"] == key
    assert warning in place.salt_cloud("--profile=web", "web-1").stderr
    assert place.accepted()["web-1"] == key
    listed = json.loads(place.salt_cloud("--query").stdout)["cloud"]["ec2"]
    assert set(listed) == {*twins, "web-2"}


def test_failed_query_action_and_destroy_exit_nonzero(place: Site) -> None:
    place.apply(MACHINES, "--parallel")
    with place.cloud.faults.inject(faults.expired("DescribeInstances")):
        done = place.salt_cloud("--query")
    assert done.returncode != 0
    assert "the machines of cloud:ec2 cannot be listed: " in done.stderr
    assert "DescribeInstances: RequestExpired" in done.stderr
    for option, listed, action in (
        ("--list-locations", "regions", "DescribeRegions"),
        ("--list-sizes", "instance types", "DescribeInstanceTypes"),
        ("--list-images", "images", "DescribeImages"),
    ):
        with place.cloud.faults.inject(faults.expired(action)):
            done = place.salt_cloud(f"{option}=cloud")
        assert done.returncode != 0
        assert f"the {listed} of cloud:ec2 cannot be listed: " in done.stderr
        assert f"{action}: RequestExpired" in done.stderr
    with place.cloud.faults.inject(faults.denied("StopInstances")):
        done = place.salt_cloud("--action=stop", "web-1")
    assert done.returncode != 0
    assert "stopping web-1 failed: StopInstances: UnauthorizedOperation" in done.stderr
    with place.cloud.faults.inject(replace(faults.denied("TerminateInstances"), machine="web-1")):
        done = place.salt_cloud("--destroy", "web-1")
    assert done.returncode != 0
    assert "destroying web-1 failed: TerminateInstances: UnauthorizedOperation" in done.stderr
    assert sorted(place.instances()) == NAMES
    assert place.salt_cloud("--destroy", *NAMES).returncode == 0
    place.cloud.settle()
    assert place.instances("pending", "running", "stopping", "stopped") == {}


def test_destroy_reports_leftovers_and_removes_key(place: Site) -> None:
    interface = {"SubnetName": "a", "SecurityGroupId": "web", "allocate_new_eip": True}
    options = {"subnetname": None, "securitygroup": None, "network_interfaces": [interface]}
    assert place.apply({"web-1": options}).errors == {}
    assert sorted(place.accepted()) == ["web-1"]
    (address,) = place.cloud.ec2.describe_addresses()["Addresses"]
    with place.cloud.faults.inject(faults.throttled("DescribeAddresses")):
        done = place.salt_cloud("--destroy", "web-1")
    assert done.returncode != 0
    assert (
        "looking up the elastic addresses of web-1 failed: DescribeAddresses: RequestLimitExceeded"
        in done.stderr
    )
    assert sorted(place.accepted()) == sorted(place.instances("running")) == ["web-1"], (
        "it can be destroyed again"
    )

    config = place.folder / "cloud"
    config.write_text(config.read_text() + "rename_on_destroy: true\n")
    with place.cloud.faults.inject(faults.denied("ReleaseAddress"), faults.throttled("CreateTags")):
        done = place.salt_cloud("--destroy", "web-1")
    place.cloud.settle()
    assert done.returncode == 0
    assert place.instances() == {"web-1": place.instances("terminated")["web-1"]}
    assert place.accepted() == {}
    message = (
        f"releasing {address['AllocationId']} ({address['PublicIp']}) of web-1 failed:"
        " ReleaseAddress: Unauthorized"
    )
    assert message in done.stdout
    assert message in done.stderr
    assert "web-1 is destroyed, but keeps its name: tagging" in done.stderr
