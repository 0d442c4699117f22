"""Deployments that fail on real machines: what salt-cloud says, what stays, and what the same command makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from realcloud import ROOT, RealCloud

NAME = "web-9"
SCRIPT = (ROOT / "cloud.deploy.d/salt-minion.sh").read_text()
LINES = SCRIPT.splitlines(keepends=True)
MIDDLE = next(number for number, line in enumerate(LINES) if line.startswith("install -d -m 0755 /etc/salt"))
FOREIGN = "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43  # a host key that no machine has

Map = Callable[[], dict[str, Any]]


@pytest.fixture
def folder(cloud: RealCloud, tmp_path: Path) -> Path:
    """A Salt configuration with the production provider and profiles, and a deploy script to spoil."""
    for name in ("cloud.providers.d", "cloud.profiles.d"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "cloud.deploy.d").mkdir()
    (tmp_path / "run").mkdir()
    configuration = {
        "pki_dir": str(tmp_path / "pki"),
        "cachedir": str(tmp_path / "cache"),
        "sock_dir": str(tmp_path / "run"),
        "log_file": str(tmp_path / "log"),
        "private_key": str(cloud.key),
        "ssh_interface": "private_ips",
        "file_map": {str(ROOT / "requirements/salt.txt"): "/opt/salt-deploy/requirements.txt"},
        "minion": {"master": "127.0.0.1"},
    }
    (tmp_path / "cloud").write_text(yaml.safe_dump(configuration))
    (tmp_path / "one.map").write_text(yaml.safe_dump({"web": [NAME]}))
    (tmp_path / "cloud.deploy.d/salt-minion.sh").write_text(SCRIPT)
    return tmp_path


def salt_cloud(cloud: RealCloud, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("salt-cloud")
    return subprocess.run(
        [program, f"--config-dir={folder}", "--out=json", "--assume-yes", *arguments],
        env={**os.environ, **cloud.endpoint.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


@pytest.fixture
def apply(cloud: RealCloud, folder: Path) -> Iterator[Map]:
    """Return what applies the map, and says what salt-cloud says of the machine; it is destroyed afterwards."""

    def run() -> dict[str, Any]:
        done = salt_cloud(cloud, folder, f"--map={folder}/one.map", "--parallel")
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)[NAME]
        return said

    yield run
    assert salt_cloud(cloud, folder, "--destroy", NAME).returncode == 0
    assert list((folder / "pki/minions").iterdir()) == []


def living(cloud: RealCloud) -> list[dict[str, Any]]:
    """Return the instances of the name that live."""
    filters = [
        {"Name": "tag:Name", "Values": [NAME]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]
    groups = cloud.client("ec2").describe_instances(Filters=filters)["Reservations"]
    return [instance for group in groups for instance in group["Instances"]]


@pytest.mark.parametrize("line", [2, MIDDLE, len(LINES)], ids=["start", "middle", "end"])
def test_a_deploy_script_that_dies_is_said_and_repaired(cloud: RealCloud, folder: Path, apply: Map, line: int) -> None:
    script = folder / "cloud.deploy.d/salt-minion.sh"
    script.write_text("".join([*LINES[:line], "echo the mirror is down; exit 3\n", *LINES[line:]]))
    error = apply()["Error"]
    assert "the deploy script ended with 3" in error
    assert "the mirror is down" in error
    assert "run the same command again" in error
    (before,) = living(cloud)

    script.write_text(SCRIPT)
    assert apply()["deployed"] is True
    (after,) = living(cloud)
    assert after["InstanceId"] == before["InstanceId"]
    assert "already exists" in apply()["Message"]


def test_a_machine_that_shows_another_host_key_is_not_spoken_to(cloud: RealCloud, folder: Path, apply: Map) -> None:
    (folder / "cloud.deploy.d/salt-minion.sh").write_text("exit 3\n")
    apply()
    known = folder / "cache/ec2/known_hosts"
    learnt = known.read_text()
    known.write_text("".join(f"{line.split()[0]} ssh-ed25519 {FOREIGN}\n" for line in learnt.splitlines()[:1]))
    assert f"shows another host key than the console of {NAME}" in apply()["Error"]
    known.write_text(learnt)
    (folder / "cloud.deploy.d/salt-minion.sh").write_text(SCRIPT)
    assert apply()["deployed"] is True


def test_a_machine_in_which_nobody_listens_is_given_up_in_time(cloud: RealCloud, folder: Path, apply: Map) -> None:
    main = folder / "cloud"
    good = main.read_text()
    main.write_text(good + "ssh_port: 2222\nssh_connect_timeout: 2\n")
    assert "nothing listens at" in apply()["Error"]
    main.write_text(good)
    assert apply()["deployed"] is True
    assert len(living(cloud)) == 1
