"""A place to run salt-cloud in: a local cloud of machines in memory, and a Salt configuration that uses it.

OpenSSH is replaced by a script that runs here what it would run there, and fails where the machine's sshd or its keys
would.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcloud.machines import Machine
from memorycloud import MemoryHost, Running, running
from saltcloud import salt_cloud

HOST_KEY = """-----BEGIN SSH HOST KEY KEYS-----
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOne root@machine
-----END SSH HOST KEY KEYS-----
"""
# The driver names the machine that it means by its instance id: that of the host key. What becomes of a login is asked
# once it is known what became of the machine, however short the time in which the driver wants one.
_SSH = """#!/bin/sh
instance=$(echo "$*" | sed -n 's/.*HostKeyAlias=\\([^ ]*\\).*/\\1/p')
tries=600
until [ -e "{settled}/$instance" ] || [ $((tries -= 1)) = 0 ]; do sleep 0.1; done
cd "{disks}/$instance" 2>/dev/null && [ -e sshd ] || {{
  echo 'ssh: connect to host: Connection refused' >&2
  exit 255
}}
[ -s authorized_keys ] || {{ echo 'admin: Permission denied (publickey).' >&2; exit 255; }}
for remote; do :; done
exec sh -c "$remote"
"""


class DiskHost(MemoryHost):
    """Machines whose console shows a host key, and who have a folder that stands for their disk."""

    def __init__(self, disks: Path) -> None:
        super().__init__()
        self.disks = disks
        disks.mkdir(parents=True)

    def create(self, machine: Machine) -> None:
        super().create(machine)
        disk = self.disks / machine.instance_id
        disk.mkdir()
        (disk / "authorized_keys").write_text(machine.authorized_key)
        if machine.sshd:
            (disk / "sshd").touch()

    def remove(self, instance_id: str) -> None:
        super().remove(instance_id)
        shutil.rmtree(self.disks / instance_id, ignore_errors=True)

    def mend(self) -> None:
        """Give every machine the sshd and the key that it lacks, as somebody at its console would."""
        for disk in self.disks.iterdir():
            (disk / "sshd").touch()
            (disk / "authorized_keys").write_text("the right one")

    def console(self, instance_id: str) -> str:  # noqa: ARG002
        return HOST_KEY


@dataclass
class Site:
    """A cloud, and a Salt configuration that uses it: one provider, the profile `web`, the subnets `a` and `b`."""

    cloud: Running
    host: DiskHost
    folder: Path

    @property
    def map(self) -> Path:
        """The map that was applied last."""
        return self.folder / "web.map"

    def salt_cloud(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run salt-cloud."""
        keys = self.cloud.credentials
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        environment = {
            **kept,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": self.cloud.url,
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        }
        return salt_cloud(
            [f"--config-dir={self.folder}", "--out=json", "--assume-yes", *arguments], environment
        )

    def apply(self, machines: Mapping[str, Mapping[str, Any]], *arguments: str) -> Applied:
        """Apply a map of machines and their options, in this order."""
        self.map.write_text(
            yaml.safe_dump({"web": [{name: dict(options)} for name, options in machines.items()]})
        )
        return Applied(self.salt_cloud(f"--map={self.map}", *arguments))

    def instances(self, *states: str) -> dict[str, list[str]]:
        """Return the ids of the instances in these states, or in any, by name, as EC2 itself tells."""
        filters = [{"Name": "instance-state-name", "Values": list(states)}] if states else []
        found: dict[str, list[str]] = {}
        for group in self.cloud.ec2.describe_instances(Filters=filters)["Reservations"]:
            for instance in group["Instances"]:
                name = next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == "Name")
                found.setdefault(name, []).append(instance["InstanceId"])
        return found

    def accepted(self) -> dict[str, str]:
        """Return the keys that the master accepts, by minion id."""
        folder = self.folder / "pki_dir/minions"
        return {path.name: path.read_text() for path in folder.iterdir()} if folder.is_dir() else {}


@dataclass
class Applied:
    """What came of a map."""

    done: subprocess.CompletedProcess[str]

    @property
    def said(self) -> dict[str, dict[str, Any]]:
        """What salt-cloud says of each machine."""
        assert self.done.stdout, self.done.stderr
        said: dict[str, dict[str, Any]] = json.loads(self.done.stdout)
        return said

    @property
    def errors(self) -> dict[str, str]:
        """The errors, by machine."""
        return {name: each["Error"] for name, each in self.said.items() if "Error" in each}


@contextmanager
def site(folder: Path, script: str = "true\n", **options: Any) -> Iterator[Site]:
    """Serve a cloud, and leave nothing of it running.

    Args:
        folder: where everything lies.
        script: the deploy script.
        options: of the main cloud configuration file.
    """
    host = DiskHost(folder / "disks")
    settled = folder / "settled"
    settled.mkdir()
    with running(folder / "cloud", host) as cloud:
        settle = cloud.cloud._settle

        def tell(instance_id: str) -> None:
            settle(instance_id)
            (settled / instance_id).touch()

        cloud.cloud._settle = tell  # type: ignore[method-assign]
        made = Site(cloud, host, folder / "salt")
        vpc = cloud.ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
        for number, name in enumerate("ab"):
            tags = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": name}]}]
            cloud.ec2.create_subnet(
                VpcId=vpc, CidrBlock=f"10.40.{number}.0/24", TagSpecifications=tags
            )
        cloud.ec2.create_security_group(VpcId=vpc, GroupName="web", Description="web")
        cloud.ec2.create_key_pair(KeyName="deploy", KeyType="ed25519")
        _configure(made.folder, _SSH.format(disks=host.disks, settled=settled), script, options)
        yield made


def _configure(folder: Path, ssh: str, script: str, options: Mapping[str, Any]) -> None:
    files: dict[str, Any] = {
        "cloud": {
            **{key: str(folder / key) for key in ("pki_dir", "cachedir", "sock_dir", "log_file")},
            "keysize": 2048,  # the default takes a second of CPU for each machine
            "script": "deploy",
            "deploy_scripts_search_path": [str(folder)],
            "private_key": str(folder / "key"),
            "ssh_interface": "private_ips",
            "ssh_gateway": "gate",  # the machines have no address that answers
            "ssh_username": "admin",
            "tmp_dir": "tmp",
            "display_ssh_output": False,
            "sudo": False,
            "wait_for_ip_interval": 0.1,
            "minion": {"master": "127.0.0.1"},
            **options,
        },
        "cloud.providers.d/cloud.conf": {
            "cloud": {"driver": "ec2", "location": "eu-west-1", "max_attempts": 2}
        },
        "cloud.profiles.d/web.conf": {
            "web": {
                "provider": "cloud",
                "image": "ssm:/aws/service/debian/release/13/latest/amd64",
                "size": "t2.micro",
                "subnetname": "a",
                "securitygroup": "web",
                "keyname": "deploy",
            }
        },
    }
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(content))
    # A master has the last three. Where they are missing, the processes of a parallel map race for them in Salt's core.
    for name in (
        "sock_dir",
        "bin",
        "pki_dir/minions",
        "pki_dir/minions_pre",
        "pki_dir/minions_rejected",
    ):
        (folder / name).mkdir(parents=True)
    (folder / "key").touch()
    (folder / "deploy.sh").write_text(script)
    (folder / "bin/ssh").write_text(ssh)
    (folder / "bin/ssh").chmod(0o755)
