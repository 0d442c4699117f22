"""An EC2 that throttles, refuses, hangs up and forgets: what becomes of a map, and what the next run makes of it.

The API is the local cloud's, over machines that exist in memory; between it and the driver stands a faulty proxy.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from faultproxy import Fault, FaultProxy, faulty
from memorycloud import MemoryHost, Running, running
from saltcloud import salt_cloud

NAMES = ["web-1", "web-2", "web-3"]
# Runs here what it would run there. The first machine that it is to reach refuses the key, until `healed` is there.
SSH = """#!/bin/sh
cd "$(dirname "$0")"
machine=$(echo "$*" | grep -o 'HostKeyAlias=[^ ]*')
mkdir refused 2>/dev/null && touch "refused/$machine"
if [ -e "refused/$machine" ] && [ ! -e healed ]; then
  echo 'Permission denied (publickey).' >&2
  exit 255
fi
for remote; do :; done
exec sh -c "$remote"
"""
HOST_KEY = """-----BEGIN SSH HOST KEY KEYS-----
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOne root@machine
-----END SSH HOST KEY KEYS-----
"""


class Host(MemoryHost):
    """Machines whose console shows a host key."""

    def console(self, instance_id: str) -> str:  # noqa: ARG002
        return HOST_KEY


@dataclass
class Site:
    """A cloud, the faults before it, and a Salt configuration that uses it."""

    cloud: Running
    host: MemoryHost
    proxy: FaultProxy
    folder: Path

    def salt_cloud(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run salt-cloud."""
        keys = self.cloud.credentials
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        environment = {
            **kept,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        }
        return salt_cloud([f"--config-dir={self.folder}", "--out=json", *arguments], environment)

    def map(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """Run the map, and return what salt-cloud says of each machine."""
        done = self.salt_cloud("--assume-yes", f"--map={self.folder}/web.map", *arguments)
        assert done.returncode == 0, done.stderr
        said: dict[str, dict[str, Any]] = json.loads(done.stdout)
        return said

    def deploying(self) -> None:
        """Have minions installed from now on, over a false ssh."""
        main = self.folder / "cloud"
        wanted = {
            "deploy": True,
            "script": "nothing",
            "deploy_scripts_search_path": [str(self.folder)],
            "private_key": str(self.folder / "key"),
            "ssh_gateway": "gate",  # the machines have no address that answers
            "ssh_connect_timeout": 1,
            "tmp_dir": str(self.folder / "machine"),
            "display_ssh_output": False,
            "sudo": False,
            "minion": {"master": "127.0.0.1"},
        }
        main.write_text(yaml.safe_dump({**yaml.safe_load(main.read_text()), **wanted}))
        (self.folder / "key").touch()
        (self.folder / "nothing.sh").write_text("true\n")
        (self.folder / "bin").mkdir()
        (self.folder / "bin/ssh").write_text(SSH)
        (self.folder / "bin/ssh").chmod(0o755)

    def errors(self, *arguments: str) -> dict[str, str]:
        """Run the map, and return the errors."""
        return {name: said["Error"] for name, said in self.map(*arguments).items() if "Error" in said}

    def living(self) -> list[str]:
        """Return the names of the instances that live, as EC2 itself tells."""
        self.cloud.settle()
        groups = self.cloud.ec2.describe_instances()["Reservations"]
        return sorted(
            tag["Value"]
            for group in groups
            for instance in group["Instances"]
            for tag in instance["Tags"]
            if tag["Key"] == "Name" and instance["State"]["Name"] == "running"
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    host = Host()
    with running(tmp_path / "cloud", host) as cloud, faulty(cloud.url) as proxy:
        vpc = cloud.ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
        name = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "a"}]}]
        cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/24", TagSpecifications=name)
        cloud.ec2.create_security_group(VpcId=vpc, GroupName="web", Description="web")
        folder = tmp_path / "salt"
        files: dict[str, Any] = {
            "cloud": {
                **{key: str(folder / key) for key in ("pki_dir", "cachedir", "sock_dir", "log_file")},
                "deploy": False,
                "ssh_interface": "private_ips",
                "wait_for_ip_interval": 0.1,
            },
            "cloud.providers.d/cloud.conf": {
                "cloud": {"driver": "ec2", "location": "eu-west-1", "max_attempts": 3, "api_timeout": 1}
            },
            "cloud.profiles.d/web.conf": {
                "web": {
                    "provider": "cloud",
                    "image": "ssm:/aws/service/debian/release/13/latest/amd64",
                    "size": "t2.micro",
                    "subnetname": "a",
                    "securitygroup": "web",
                }
            },
            "web.map": {"web": NAMES},
        }
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(yaml.safe_dump(content))
        (folder / "sock_dir").mkdir()
        yield Site(cloud, host, proxy, folder)


def test_a_map_in_parallel_takes_four_calls_for_each_machine_and_a_few_for_all(site: Site) -> None:
    assert site.errors("--parallel") == {}
    assert site.living() == NAMES
    shared = {"GetParameters", "DescribeImages", "DescribeSubnets", "DescribeSecurityGroups"}
    assert {action: site.proxy.calls[action] for action in shared} == dict.fromkeys(shared, 1)
    assert site.proxy.calls.total() <= 4 * len(NAMES) + len(shared) + 1
    site.proxy.calls.clear()
    assert all("already exists" in said["Message"] for said in site.map("--parallel").values())
    assert site.proxy.calls == {"DescribeInstances": 1}


@pytest.mark.parametrize("how", [(), ("--parallel",)], ids=["serial", "parallel"])
def test_passing_faults_are_passed_over(site: Site, how: tuple[str, ...]) -> None:
    site.proxy.faults = [
        Fault("DescribeInstances", times=1, code="RequestLimitExceeded", status=503),
        Fault("GetParameters", times=1, code="InternalFailure", status=500),
        Fault("RunInstances", times=1, code="RequestLimitExceeded", status=503),
        Fault("RunInstances", times=1, lost=True),
        Fault("DescribeSubnets", times=1, seconds=1.2),
    ]
    assert site.errors(*how) == {}
    assert site.living() == NAMES, "an answer was lost: one machine may be there twice"


def test_a_map_is_not_launched_again_because_its_machines_cannot_be_listed(site: Site) -> None:
    site.map("--parallel")
    site.cloud.ec2.terminate_instances(InstanceIds=[next(iter(site.host.machines))])
    before = site.living()
    for fault in (
        Fault("DescribeInstances", code="RequestLimitExceeded", status=503),
        Fault("DescribeInstances", code="AuthFailure", status=401),
        Fault("DescribeInstances", seconds=1.2),
    ):
        site.proxy.faults = [fault]
        done = site.salt_cloud(f"--map={site.folder}/web.map", "--assume-yes", "--parallel")
        assert done.returncode != 0
        assert "the machines of cloud:ec2 cannot be listed" in done.stderr
    assert site.salt_cloud("--query").returncode != 0
    assert site.living() == before


def test_what_failed_is_said_and_made_good_by_a_second_run(site: Site) -> None:
    codes = ["InsufficientInstanceCapacity", "InstanceLimitExceeded", "UnauthorizedOperation", "RequestExpired"]
    names = [f"web-{number}" for number in range(1, 7)]
    (site.folder / "web.map").write_text(yaml.safe_dump({"web": names}))
    # web-1 passes; each of the others meets one fault; the last one's machine runs, but no answer ever tells.
    site.proxy.faults = [Fault("RunInstances", skip=1, times=1, code=codes[0])]
    site.proxy.faults += [Fault("RunInstances", times=1, code=code) for code in codes[1:]]
    site.proxy.faults += [Fault("RunInstances", lost=True)]
    errors = site.errors()
    assert list(errors) == names[1:]
    for code, (name, text) in zip([*codes, "closed"], errors.items(), strict=True):
        assert text.startswith(f"launching {name} failed: ")
        assert code in text
    assert site.living() == ["web-1", "web-6"]
    site.proxy.faults = []
    assert site.errors() == {}
    assert site.living() == names


@pytest.mark.parametrize("how", [(), ("--parallel",)], ids=["serial", "parallel"])
def test_what_fails_in_a_deployment_is_said_and_repaired_on_the_same_machines(site: Site, how: tuple[str, ...]) -> None:
    site.deploying()
    site.proxy.faults = [
        Fault("GetConsoleOutput", times=1, code="RequestExpired"),
        Fault("CreateTags", times=1, code="UnauthorizedOperation", status=403),
    ]
    errors = site.errors(*how)
    assert sorted(errors) == NAMES
    for said in (
        "GetConsoleOutput: RequestExpired",
        "Permission denied (publickey)",
        "CreateTags: UnauthorizedOperation",
    ):
        assert [text for text in errors.values() if said in text], (said, errors)
    assert all("run the same command again" in text for text in errors.values()), errors
    machines = set(site.host.machines)
    assert site.living() == NAMES

    site.proxy.faults = []
    (site.folder / "bin/healed").touch()
    assert site.errors(*how) == {}
    assert set(site.host.machines) == machines
    assert site.proxy.calls["RunInstances"] == len(NAMES)
    assert sorted(path.name for path in (site.folder / "pki_dir/minions").iterdir()) == NAMES
    assert all("already exists" in said["Message"] for said in site.map(*how).values())


def test_a_launch_whose_tags_are_refused_leaves_nothing(site: Site) -> None:
    # EC2 weighs ec2:CreateTags for the tags of a launch, too, and refuses the launch as a whole.
    site.proxy.faults = [Fault("RunInstances", code="UnauthorizedOperation", status=403)]
    errors = site.errors("--parallel")
    assert sorted(errors) == NAMES
    assert site.living() == []
    assert site.proxy.calls["CreateTags"] == 0, "no tag is set apart from the launch"


def test_credentials_that_expire_while_a_map_is_made(site: Site) -> None:
    site.proxy.faults = [Fault(action, skip=1, code="ExpiredToken", status=403) for action in ("RunInstances",)]
    errors = site.errors()
    assert list(errors) == NAMES[1:]
    assert all("ExpiredToken" in text for text in errors.values())
    site.proxy.faults = []
    assert site.errors() == {}
    assert site.living() == NAMES


def test_an_instance_that_never_runs_is_said_and_replaced(site: Site) -> None:
    site.host.broken = "no room in the rack"
    errors = site.errors("--parallel")
    assert sorted(errors) == NAMES
    assert all("terminated instead of running: Server.InternalError" in text for text in errors.values())
    site.host.broken = None
    assert site.errors("--parallel") == {}
    assert site.living() == NAMES


def test_what_is_misconfigured_costs_nothing(site: Site) -> None:
    profile = site.folder / "cloud.profiles.d/web.conf"
    good = profile.read_text()
    for bad, said in (
        ("  sizes: t2.micro\n", "web-1 (profile web): unknown option sizes; did you mean size?"),
        ("  win_installer: x\n", "win_installer is not supported"),
    ):
        profile.write_text(good + bad)
        done = site.salt_cloud("--profile=web", "web-1")
        assert done.returncode != 0
        assert said in done.stderr
    profile.write_text(good)
    provider = site.folder / "cloud.providers.d/cloud.conf"
    provider.write_text(provider.read_text() + "  allowed_regions: [eu-west-2]\n")
    done = site.salt_cloud("--query")
    assert done.returncode != 0
    assert "region eu-west-1 is refused: allowed_regions names eu-west-2" in done.stderr
    assert site.proxy.calls["RunInstances"] == 0


def test_actions_and_destroy_tell_the_truth(site: Site) -> None:
    site.map("--parallel")
    site.proxy.faults = [Fault("StopInstances", code="UnauthorizedOperation", status=403)]
    done = site.salt_cloud("--assume-yes", "--action=stop", "web-1")
    assert done.returncode != 0
    assert "stopping web-1 failed: StopInstances: UnauthorizedOperation" in done.stderr
    site.proxy.faults = [Fault("TerminateInstances", times=1, code="OperationNotPermitted")]
    done = site.salt_cloud("--assume-yes", "--destroy", "web-1")
    assert done.returncode != 0
    assert "destroying web-1 failed: TerminateInstances: OperationNotPermitted" in done.stderr
    assert site.salt_cloud("--assume-yes", "--destroy", *NAMES).returncode == 0
    assert site.living() == []
