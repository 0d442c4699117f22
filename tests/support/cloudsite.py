"""A local cloud of machines in memory, and a Salt configuration with which salt-cloud uses it.

A script replaces OpenSSH. It runs the remote command on this host, in the folder that stands for
the machine's disk, and fails if the machine has no sshd or no authorized key.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from localcloud.delays import INSTANT, Delays
from localcloud.machines import Machine
from memorycloud import MemoryHost, Running, running
from saltprograms import run

HOST_KEY = """-----BEGIN SSH HOST KEY KEYS-----
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOne root@machine
-----END SSH HOST KEY KEYS-----
"""
# The driver names the machine by its instance id, as HostKeyAlias. The script waits until the
# machine has been made or has failed, so that a short timeout of the driver does not decide the
# outcome.
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
_PROVIDER_AND_PROFILE = {
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


class DiskHost(MemoryHost):
    """Machines with a host key on their console and a folder as their disk."""

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

    def repair(self) -> None:
        """Give every machine an sshd and an authorized key, as an operator at its console would."""
        for disk in self.disks.iterdir():
            (disk / "sshd").touch()
            (disk / "authorized_keys").write_text("the right one")

    def console(self, instance_id: str, until: datetime) -> str:  # noqa: ARG002
        return HOST_KEY


@dataclass
class Site:
    """A cloud, and a Salt configuration that uses it.

    The configuration has one provider and the profile `web`; the cloud has the subnets `a` and `b`.
    """

    cloud: Running
    host: DiskHost
    folder: Path

    @property
    def map(self) -> Path:
        """The file of the last map."""
        return self.folder / "web.map"

    def salt_cloud(self, *args: str) -> subprocess.CompletedProcess[str]:
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
        return run(
            "salt-cloud",
            [f"--config-dir={self.folder}", "--out=json", "--assume-yes", *args],
            environment,
            seconds=500,
        )

    def apply(self, machines: Mapping[str, Mapping[str, Any]], *args: str) -> Applied:
        """Apply a map of machines and their options, in this order."""
        self.map.write_text(
            yaml.safe_dump({"web": [{name: dict(options)} for name, options in machines.items()]})
        )
        return Applied(self.salt_cloud(f"--map={self.map}", *args))

    def instances(self, *states: str) -> dict[str, list[str]]:
        """Return the ids of the instances in these states, or in any state, by name."""
        filters = [{"Name": "instance-state-name", "Values": list(states)}] if states else []
        found: dict[str, list[str]] = {}
        for group in self.cloud.ec2.describe_instances(Filters=filters)["Reservations"]:
            for instance in group["Instances"]:
                name = next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == "Name")
                found.setdefault(name, []).append(instance["InstanceId"])
        return found

    def accepted(self) -> dict[str, str]:
        """Return the accepted keys of the master, by minion id."""
        folder = self.folder / "pki_dir/minions"
        return {path.name: path.read_text() for path in folder.iterdir()} if folder.is_dir() else {}


@dataclass
class Applied:
    """The result of a map run."""

    done: subprocess.CompletedProcess[str]

    @property
    def output(self) -> dict[str, dict[str, Any]]:
        """The output of salt-cloud, by machine."""
        assert self.done.stdout, self.done.stderr
        output: dict[str, dict[str, Any]] = json.loads(self.done.stdout)
        return output

    @property
    def errors(self) -> dict[str, str]:
        """The errors, by machine."""
        return {name: item["Error"] for name, item in self.output.items() if "Error" in item}


@contextmanager
def site(
    folder: Path, script: str = "true\n", *, delays: Delays = INSTANT, **options: Any
) -> Iterator[Site]:
    """Serve a cloud while the block runs.

    Args:
        folder: gets all files.
        script: the deploy script.
        delays: the times of the cloud.
        options: options of the main cloud configuration file.
    """
    host = DiskHost(folder / "disks")
    settled = folder / "settled"
    settled.mkdir()
    with running(folder / "cloud", host, delays) as cloud:
        settle = cloud.cloud._settle

        def settle_and_mark(instance_id: str) -> None:
            try:
                settle(instance_id)
            finally:  # otherwise the script waits for a minute and refuses the connection
                (settled / instance_id).touch()

        cloud.cloud._settle = settle_and_mark  # type: ignore[method-assign]
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
    files: dict[str, Any] = {"cloud": {**_main_options(folder), **options}, **_PROVIDER_AND_PROFILE}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(content))
    # A master has the folders below pki_dir; without them, the processes of a parallel map race
    # for them.
    minions = [f"pki_dir/{name}" for name in ("minions", "minions_pre", "minions_rejected")]
    for name in ("sock_dir", "bin", *minions):
        (folder / name).mkdir(parents=True)
    (folder / "key").touch(mode=0o600)
    (folder / "deploy.sh").write_text(script)
    (folder / "bin/ssh").write_text(ssh)
    (folder / "bin/ssh").chmod(0o755)


def _main_options(folder: Path) -> dict[str, Any]:
    return {
        **{key: str(folder / key) for key in ("pki_dir", "cachedir", "sock_dir", "log_file")},
        "keysize": 2048,  # a key of the default size takes a second of CPU
        "script": "deploy",
        "deploy_scripts_search_path": [str(folder)],
        "private_key": str(folder / "key"),
        "ssh_interface": "private_ips",
        "ssh_gateway": "gate",  # no address of the machines answers
        "ssh_username": "admin",
        "tmp_dir": "tmp",
        "display_ssh_output": False,
        "sudo": False,
        "wait_for_ip_interval": 0.1,
        "minion": {"master": "127.0.0.1"},
    }
