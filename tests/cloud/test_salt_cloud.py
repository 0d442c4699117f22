"""salt-cloud with the production map, profiles, provider and deploy script against real machines.

Endpoint, credentials, subnet, the master's address and the key differ from production.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from plainpillar import DEPLOYMENT
from realcloud import KEY_PAIR, ROOT, SHARED, RealCloud, free_port
from saltext.ec2.tags import DEPLOY_TAG
from stackctl.salt import file_map
from waiting import until

MAP = ROOT / "cloud.maps.d/small.map"
NAMES = sorted(DEPLOYMENT.machines())
SALT_ADDRESS = DEPLOYMENT.base_pillar("aws")["salt_address"]


def salt_address(cloud: RealCloud) -> str:
    """Return the profile's fixed address, moved to this cloud's subnet."""
    return f"{cloud.place.subnet.rpartition('.')[0]}.{SALT_ADDRESS.rpartition('.')[2]}"


APT_OF_THE_FIRST_BOOT = """
import fcntl, pathlib, time

def running(command):
    found = set()
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if command in path.read_bytes().replace(b"\\0", b" "):
                found.add(path.parent.name)
        except OSError:
            pass
    return found

def held(path):
    lock = open(path, "w")
    fcntl.lockf(lock, fcntl.LOCK_EX)
    return lock

lists = held("/var/lib/apt/lists/lock")
packages = [held(f"/var/lib/dpkg/{name}") for name in ("lock-frontend", "lock")]
pathlib.Path("/run/apt-is-held").touch()
updates = set()
while len(updates) < 2:  # the first one was refused
    updates |= running(b"apt-get update")
    time.sleep(0.05)
lists.close()
installs = set()
while not installs & (waiting := running(b"apt-get install")):
    installs = waiting
    time.sleep(1)
pathlib.Path("/root/apt-waited").touch()
"""
"""Holds apt's locks as apt-daily.service does on a machine's first boot: those of the lists until
somebody has come twice for them, then those of the packages until somebody waits for a second."""


@dataclass
class Master:
    """A Salt master on this host, and the programs that use its configuration."""

    cloud: RealCloud
    folder: Path

    def run(self, program: str, *args: str, seconds: int = 600) -> subprocess.CompletedProcess[str]:
        """Run one of Salt's programs."""
        return subprocess.run(
            [
                str(Path(sys.executable).with_name(program)),
                f"--config-dir={self.folder}",
                "--out=json",
                *args,
            ],
            env={**os.environ, **self.cloud.endpoint.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def map(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run the production map."""
        return self.run("salt-cloud", "--assume-yes", f"--map={MAP}", *args)

    def query(self) -> dict[str, dict[str, Any]]:
        """Return the output of `salt-cloud --query`, by name."""
        done = self.run("salt-cloud", "--query")
        assert done.returncode == 0, done.stderr
        machines: dict[str, dict[str, Any]] = (
            json.loads(done.stdout).get("eu-west-1", {}).get("ec2", {})
        )
        return machines

    def answering(self) -> list[str]:
        """Return the ids of the minions that answer."""
        done = self.run("salt", "--static", "--timeout=10", "*", "test.ping")
        return sorted(name for name, answer in json.loads(done.stdout).items() if answer is True)

    def accepted(self) -> list[str]:
        """Return the ids of the minions whose keys are accepted."""
        return sorted(path.name for path in (self.folder / "pki/minions").iterdir())


@pytest.fixture(scope="module")
def master(cloud: RealCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    """A running master at the address of Docker's bridge, where machines reach it."""
    folder = tmp_path_factory.mktemp("salt", numbered=False)
    _configure(cloud, folder)
    program = Path(sys.executable).with_name("salt-master")
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [program, f"--config-dir={folder}"], stdout=output, stderr=output
        )
    try:
        until(
            lambda: (
                (folder / "pki/master.pem").exists()
                and (folder / "run/master_event_pub.ipc").exists()
            ),
            "the master runs",
            60,
        )
        yield Master(cloud, folder)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()


def _configure(cloud: RealCloud, folder: Path) -> None:
    """Write the configuration of the master, and of salt-cloud with the production files."""
    address = cloud.endpoint.url.split("/")[2].split(":")[0]
    port = free_port(address)
    common = {
        "pki_dir": str(folder / "pki"),
        "cachedir": str(folder / "cache"),
        "sock_dir": str(folder / "run"),
        "log_file": str(folder / "log"),
        "interface": address,
        "ret_port": port,
        "publish_port": free_port(address),
        "worker_threads": 2,
    }
    salt_cloud = {
        "private_key": str(cloud.key),
        "ssh_interface": "private_ips",
        "owned_by": DEPLOYMENT.owner(),
        "file_map": file_map(DEPLOYMENT),
        "enable_cloud_grains": False,
        "minion": {"master": address, "master_port": port},
    }
    (folder / "master").write_text(yaml.safe_dump(common))
    (folder / "cloud").write_text(yaml.safe_dump(common | salt_cloud))
    for name in ("cloud.providers.d", "cloud.maps.d", "cloud.deploy.d"):
        (folder / name).symlink_to(ROOT / name)
    profiles = (ROOT / "cloud.profiles.d/machines.conf").read_text()
    (folder / "cloud.profiles.d").mkdir()
    # This master is outside the machines' VPC, and has no proxy: they need a way out.
    public = profiles.replace("associate_public_ip: false", "associate_public_ip: true")
    (folder / "cloud.profiles.d/machines.conf").write_text(
        public.replace(SALT_ADDRESS, salt_address(cloud))
    )


@pytest.fixture(scope="module")
def launched(master: Master) -> Master:
    """The master after it has launched the map."""
    done = master.map("--parallel")
    assert done.returncode == 0, done.stdout + done.stderr
    return master


def test_map_launches_machines_whose_minions_answer(launched: Master) -> None:
    assert sorted(set(launched.query()) - {SHARED}) == NAMES
    assert launched.accepted() == NAMES
    # For systemd, a minion is started a moment before it has subscribed.
    until(lambda: launched.answering() == NAMES, "every minion answers", 60)


def test_machines_match_profiles(launched: Master) -> None:
    ec2 = launched.cloud.client("ec2")
    named = [(machine.name(), machine.describe()) for machine in launched.cloud.machines()]
    instances = [(name, instance) for name, instance in named if name != SHARED]
    assert sorted(name for name, _ in instances) == NAMES
    (address,) = ec2.describe_addresses()["Addresses"]
    subnets = {subnet["SubnetId"]: subnet for subnet in ec2.describe_subnets()["Subnets"]}
    for name, instance in instances:
        role, _, number = name.rpartition("-")
        zone = "abc"[(int(number) - 1) % 3]
        assert instance["Placement"]["AvailabilityZone"] == f"eu-west-1{zone}"
        (subnet,) = [tag["Value"] for tag in subnets[instance["SubnetId"]]["Tags"]
                     if tag["Key"] == "Name"]  # fmt: skip
        kind = zone if role in ("salt", "lb") else f"private-{zone}"
        assert subnet == DEPLOYMENT.in_account(f"{{project}}-{{deployment}}-{kind}")
        # The site's address is none of the map's: the load balancers take it.
        assert instance["PublicIpAddress"] != address["PublicIp"]
        assert (instance["PrivateIpAddress"] == salt_address(launched.cloud)) == (role == "salt")
        assert instance["InstanceType"] == "t2.micro"
        assert instance["KeyName"] == KEY_PAIR
        assert [group["GroupName"] for group in instance["SecurityGroups"]] == [f"airflow-{role}"]
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        (volume,) = ec2.describe_volumes(
            Filters=[{"Name": "attachment.instance-id", "Values": [instance["InstanceId"]]}]
        )["Volumes"]
        assert (volume["VolumeType"], volume["Size"], volume["Encrypted"]) == ("gp3", 10, True)


def test_second_map_run_changes_nothing(launched: Master) -> None:
    before = launched.query()
    done = launched.map("--parallel")
    assert done.returncode == 0, done.stdout + done.stderr
    assert launched.query() == before


def test_destroy_refuses_protected_database(launched: Master) -> None:
    done = launched.run("salt-cloud", "--assume-yes", "--destroy", "postgres-1")
    assert done.returncode != 0
    assert "termination" in done.stderr.lower()
    assert "postgres-1" in launched.query()
    assert "postgres-1" in launched.accepted()


@pytest.mark.long
def test_machine_without_salt_gets_locked_version(master: Master) -> None:
    """A machine as Debian's AMI boots it: no Salt, and apt's jobs of the first boot.

    Its tags say that it was launched and not deployed.
    """
    given = {"Name": "web-9", DEPLOY_TAG: "pending", **DEPLOYMENT.owner()}
    tags = [{"Key": key, "Value": value} for key, value in given.items()]
    machine = master.cloud.launch(
        "web-9", TagSpecifications=[{"ResourceType": "instance", "Tags": tags}]
    )
    machine.run(
        "rm -rf /opt/salt /var/lib/apt/lists/* "
        "&& apt-get purge --yes --quiet --autoremove python3-venv gnupg"
    )
    # Debian's own jobs, and then one that surely has the locks when they are wanted.
    machine.run("systemctl start --no-block apt-daily.service apt-daily-upgrade.service")
    encoded = b64encode(APT_OF_THE_FIRST_BOOT.encode()).decode()
    machine.run(f"echo {encoded} | base64 -d > /run/apt.py; systemd-run python3 /run/apt.py")
    until(lambda: machine.run("ls /run/apt-is-held || true"), "apt is busy")
    done = master.run("salt-cloud", "--assume-yes", "--profile=web", "web-9", seconds=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.run("ls /root/apt-waited") == "/root/apt-waited"
    until(lambda: "web-9" in master.answering(), "the minion answers")
    assert (
        machine.run("cat /opt/salt/requirements.txt")
        == (ROOT / "requirements/salt.txt").read_text().strip()
    )
    assert master.run("salt-cloud", "--assume-yes", "--destroy", "web-9").returncode == 0


def test_destroy_leaves_only_database_volume(launched: Master, docker_client: Any) -> None:
    lifted = launched.run(
        "salt-cloud", "--assume-yes", "--action", "disable_term_protect", "postgres-1"
    )
    assert lifted.returncode == 0, lifted.stdout + lifted.stderr
    done = launched.map("--destroy")
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: not set(launched.query()) & set(NAMES), "salt-cloud lists none of them")
    assert launched.accepted() == []
    ec2 = launched.cloud.client("ec2")
    left = {
        tag["Value"]
        for volume in ec2.describe_volumes()["Volumes"]
        for tag in volume.get("Tags", [])
        if tag["Key"] == "Name" and tag["Value"] in NAMES
    }
    assert left == {"postgres-1"}
    names = {f"localcloud.name={name}" for name in NAMES}
    cloud = f"localcloud.cloud={launched.cloud.config.name}"
    until(
        lambda: (
            not any(
                docker_client.containers.list(all=True, filters={"label": [cloud, name]})
                for name in names
            )
        ),
        "no container is left",
    )
