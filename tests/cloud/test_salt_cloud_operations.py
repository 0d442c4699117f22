"""The driver's operations on real machines, which packages/saltext-ec2/tests runs on moto.

The deploy script is short: what installs a minion is in test_salt_cloud.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import saltprograms
from localcloud.config import REGION
from realcloud import IMAGE, KEY_PAIR, SUBNET, Machine, RealCloud
from waiting import until

SCRIPT = "id -u > /root/deployed\necho printed-by-script\n"
NAMES = ["op-1", "op-2"]


@dataclass
class Site:
    """A Salt configuration for the cloud, with the provider `own` and the profile `small`."""

    cloud: RealCloud
    folder: Path

    def salt_cloud(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run salt-cloud."""
        return saltprograms.run(
            "salt-cloud",
            [f"--config-dir={self.folder}", "--out=json", "--assume-yes", *args],
            {**os.environ, **self.cloud.endpoint.environment},
            seconds=300,
        )

    def answer(self, *args: str) -> Any:
        """Run salt-cloud, and return its answer."""
        done = self.salt_cloud(*args)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def action(self, action: str, name: str, *args: str) -> Any:
        """Run an action, and return its answer for a machine."""
        return self.answer("--action", action, name, *args)["own"]["ec2"][name]

    def call(self, function: str, *args: str) -> Any:
        """Call a function of the provider, and return its answer."""
        return self.answer("--function", function, "own", *args)["own"]["ec2"]

    def machines(self) -> dict[str, Machine]:
        """Return the machines of this module, by name."""
        found = {machine.name(): machine for machine in self.cloud.machines()}
        return {name: machine for name, machine in found.items() if name.startswith("op-")}

    def accepted(self) -> list[str]:
        """Return the ids of the minions whose keys are accepted."""
        return sorted(path.name for path in (self.folder / "pki/minions").iterdir())


@pytest.fixture(scope="module")
def site(cloud: RealCloud, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The configuration, and the machines of a map."""
    folder = tmp_path_factory.mktemp("operations")
    profile = {
        "provider": "own",
        "image": f"ssm:{IMAGE}",
        "size": "t2.micro",
        "subnetname": SUBNET,
        "securitygroup": "airflow-web",
        "keyname": KEY_PAIR,
        "ssh_username": "admin",
    }
    files: dict[str, Any] = {
        "cloud": {
            "pki_dir": str(folder / "pki"),
            "cachedir": str(folder / "cache"),
            "sock_dir": str(folder / "run"),
            "log_file": str(folder / "log"),
            "keysize": 2048,
            "script": "deploy",
            "deploy_scripts_search_path": [str(folder)],
            "display_ssh_output": False,
            "private_key": str(cloud.key),
            "ssh_interface": "private_ips",
            "minion": {"master": "127.0.0.1"},
        },
        "cloud.providers.d/own.conf": {"own": {"driver": "ec2", "location": REGION}},
        "cloud.profiles.d/small.conf": {"small": profile},
        "operations.map": {"small": NAMES},
    }
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(content))
    for name in ("run", "pki/minions", "pki/minions_pre", "pki/minions_rejected"):
        (folder / name).mkdir(parents=True)
    (folder / "deploy.sh").write_text(SCRIPT)
    made = Site(cloud, folder)
    answer = made.answer(f"--map={folder}/operations.map", "--parallel")
    assert {name: answer[name]["deployed"] for name in answer} == dict.fromkeys(NAMES, True)
    return made


def test_map_launches_and_deploys_machines(site: Site) -> None:
    machines = site.machines()
    assert sorted(machines) == site.accepted() == NAMES
    for machine in machines.values():
        assert machine.run("cat /root/deployed") == "0"
        assert machine.run("ls -d /tmp/.saltcloud* 2>/dev/null || true") == ""


def test_second_map_run_launches_nothing(site: Site) -> None:
    before = {name: machine.instance_id for name, machine in site.machines().items()}
    site.answer(f"--map={site.folder}/operations.map")
    assert {name: machine.instance_id for name, machine in site.machines().items()} == before


def test_queries_list_machines(site: Site) -> None:
    machine = site.machines()["op-1"]
    for query in ("--query", "--full-query"):
        node = site.answer(query)["own"]["ec2"]["op-1"]
        assert (node["id"], node["state"]) == (machine.instance_id, "running")
        assert node["private_ips"] == [machine.address]
    assert site.action("show_instance", "op-1")["id"] == machine.instance_id


def test_console_shows_host_keys(site: Site) -> None:
    output = site.action("get_console_output", "op-1")["output"]
    keys = site.machines()["op-1"].host_keys()
    assert keys
    assert [key for key in keys if key not in output] == []


def test_tags_are_set(site: Site) -> None:
    site.action("set_tags", "op-1", "tier=front")
    assert site.action("get_tags", "op-1")["tier"] == "front"
    assert {"Key": "tier", "Value": "front"} in site.machines()["op-1"].describe()["Tags"]


def test_volume_is_created_attached_and_deleted(site: Site) -> None:
    volume = site.call("create_volume", f"zone={REGION}a", "size=1")["VolumeId"]
    site.action("attach_volume", "op-1", f"volume_id={volume}", "device=/dev/sdf")
    assert volume in site.action("show_volumes", "op-1")
    site.action("detach_volume", "op-1", f"volume_id={volume}")
    site.call("delete_volume", f"volume_id={volume}")
    left = site.cloud.client("ec2").describe_volumes()["Volumes"]
    assert volume not in [each["VolumeId"] for each in left]


def test_stopped_machine_starts_with_its_disk(site: Site) -> None:
    machine = site.machines()["op-1"]
    site.action("stop", "op-1")
    machine.is_in("stopped")
    site.action("start", "op-1")
    machine.ready()
    assert machine.run("cat /root/deployed") == "0"


def test_rebooted_machine_answers(site: Site) -> None:
    machine = site.machines()["op-2"]

    def started() -> str:
        """Return when the machine's first process was started; empty: no login works."""
        return machine.ssh("cut -d' ' -f22 /proc/1/stat", check=False).stdout.strip()

    before = started()
    assert before
    site.action("reboot", "op-2")
    until(lambda: started() not in ("", before), "the machine has rebooted")


def test_unknown_gateway_is_named_and_machine_without_minion_renamed(site: Site) -> None:
    gateway = site.machines()["op-2"].address
    options = {"ssh_gateway": gateway, "ssh_gateway_username": "admin", "ssh_connect_timeout": 60}
    (site.folder / "gateway.map").write_text(yaml.safe_dump({"small": [{"op-3": options}]}))
    answer = site.answer(f"--map={site.folder}/gateway.map")
    assert f"the gateway {gateway} has no host key in known_hosts" in answer["op-3"]["Error"]
    instance_id = site.machines()["op-3"].instance_id
    site.action("rename", "op-3", "newname=op-4")
    assert site.machines()["op-4"].instance_id == instance_id
    site.answer("--destroy", "op-4")
    assert sorted(site.machines()) == site.accepted() == NAMES


def test_destroy_removes_machines_and_keys(site: Site) -> None:
    site.answer("--destroy", *NAMES)
    assert site.machines() == {}
    assert site.accepted() == []
