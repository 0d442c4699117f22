"""salt-cloud against a cloud that forgets consoles, and keeps the addresses of what shuts down."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloudsite import Site, site
from saltext.ec2.tags import DEPLOY_TAG, HOST_KEY_TAG
from waiting import until

HASTY: dict[str, Any] = {"ssh_connect_timeout": 1}
ADDRESS = "10.40.0.9"


def tag(place: Site, key: str) -> list[str]:
    found = place.cloud.ec2.describe_tags(Filters=[{"Name": "key", "Values": [key]}])["Tags"]
    return [one["Value"] for one in found]


def forget(place: Site, *, everywhere: bool) -> None:
    """Make salt-cloud a new master's, which has read no console; EC2 does not show it any more."""
    shutil.rmtree(place.folder / "cachedir", ignore_errors=True)
    (instance,) = place.instances("running")["web-1"]
    tags = [{"Key": DEPLOY_TAG, "Value": "pending"}]
    place.cloud.ec2.create_tags(Resources=[instance], Tags=tags)
    if everywhere:
        place.cloud.ec2.delete_tags(Resources=[instance], Tags=[{"Key": HOST_KEY_TAG}])
    place.cloud.age(7200)


@pytest.mark.parametrize("everywhere", [False, True])
def test_new_master_knows_the_host_keys(tmp_path: Path, everywhere: bool) -> None:
    with site(tmp_path, **HASTY) as place:
        assert place.apply({"web-1": {}}).errors == {}
        assert tag(place, HOST_KEY_TAG) == ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOne"]
        forget(place, everywhere=everywhere)
        errors = place.apply({"web-1": {}}).errors
        if everywhere:
            assert "its console does not show its SSH host keys" in errors["web-1"]
            assert "reboot it: it prints its keys again" in errors["web-1"]
            # As the error says. The machine is the same, and so are its keys.
            (instance,) = place.instances("running")["web-1"]
            place.cloud.ec2.reboot_instances(InstanceIds=[instance])
            errors = place.apply({"web-1": {}}).errors
        assert errors == {}
        assert tag(place, DEPLOY_TAG) == ["done"]
        assert len(place.instances()["web-1"]) == 1


def test_replaced_machine_waits_for_its_address(tmp_path: Path) -> None:
    with site(tmp_path) as place, ThreadPoolExecutor() as pool:
        options = {"web-1": {"private_ip": ADDRESS, "subnetname": "a"}}
        assert place.apply(options).errors == {}
        (first,) = place.instances("running")["web-1"]
        place.host.gate.clear()  # it does not get past shutting-down
        place.cloud.ec2.terminate_instances(InstanceIds=[first])
        with place.cloud.faults.inject() as calls:
            second = pool.submit(place.apply, options)
            until(lambda: calls.seen().calls.get("RunInstances", 0) > 1, "it tries again")
            place.host.gate.set()
            applied = second.result()
        assert applied.errors == {}
        assert applied.output["web-1"]["private_ips"] == [ADDRESS]
        assert f"the private address {ADDRESS} is still held by {first}" in applied.done.stderr
