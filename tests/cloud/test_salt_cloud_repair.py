"""Deployments that fail on real machines: salt-cloud's errors, and the repair by a second run.

Each machine of one map has a fault of its own. The faults of the API need no real machines; they
are in tests/unit/ec2/test_faults.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from localcloud.faults import Fault, FaultClient
from plainpillar import DEPLOYMENT
from realcloud import ROOT, Machine, RealCloud
from stackctl.salt import file_map

SCRIPT = (ROOT / "cloud.deploy.d/salt-minion.sh").read_text()
LINES = SCRIPT.splitlines(keepends=True)
FAILS_AT = {
    "script-dies-at-start": 2,
    "script-dies-at-middle": next(
        n for n, line in enumerate(LINES) if line.startswith("install -d -m 0755 /etc/salt")
    ),
    "script-dies-at-end": len(LINES),
    "wrong-host-key": 2,
}
"""The line of the deploy script at which it fails, by machine."""
FAULTS = {
    "unreachable": Fault("no-sshd", machine="unreachable"),
    "key-refused": Fault("no-key", machine="key-refused"),
}
# Six machines are made at once. After 60 seconds both run, and refuse connection or key.
OPTIONS: dict[str, dict[str, Any]] = {
    "unreachable": {"ssh_connect_timeout": 60, "on_failure": "destroy"},
    "key-refused": {"ssh_connect_timeout": 60},
}
ERRORS = {
    **dict.fromkeys(
        FAILS_AT,
        ("running", "the deploy script ended with 3", "the mirror is down", "run the same command"),
    ),
    "unreachable": (
        "running",
        "nothing listens at",
        "Connection refused",
        "it was destroyed, and its key removed",
    ),
    "key-refused": (
        "running",
        "no login to",
        "as admin",
        "Permission denied (publickey)",
        "run the same command",
    ),
}
"""Parts of the error of the first run, in order, by machine."""
NAMES = sorted(ERRORS)
WRONG_HOST_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43


@dataclass
class Runs:
    """The results of three runs of the map, and of its destruction.

    Attributes:
        outputs: the output of salt-cloud, by machine, of each run.
        instances: the ids of the living instances, by name, after each run and at the end.
        keys: the minion's key on the machine and its accepted key, by name, after the third run.
        leftovers: paths of deployment files on the machines, by name, after the third run.
        accepted: the names of the accepted keys after the first run and at the end.
    """

    outputs: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    instances: list[dict[str, list[str]]] = field(default_factory=list)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    leftovers: dict[str, str] = field(default_factory=dict)
    accepted: list[list[str]] = field(default_factory=list)


class Site:
    """A Salt configuration for the cloud; it records the results of its runs."""

    def __init__(self, cloud: RealCloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = _configure(cloud, folder)
        self.script = folder / "cloud.deploy.d/salt-minion.sh"
        self.known_hosts = folder / "cache/ec2/known_hosts"
        self.runs = Runs()

    def salt_cloud(self, *args: str) -> str:
        """Run salt-cloud with the map and return its output."""
        program = Path(sys.executable).with_name("salt-cloud")
        common = [f"--config-dir={self.folder}", "--out=json", "-y"]
        done = subprocess.run(
            [program, *common, f"--map={self.folder}/faults.map", *args],
            env={**os.environ, **self.cloud.endpoint.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self) -> None:
        """Apply the map."""
        self.runs.outputs.append(json.loads(self.salt_cloud("--parallel")))
        self.record_instances()

    def record_instances(self) -> None:
        """Record the living instances."""
        living = self.living().items()
        self.runs.instances.append(
            {name: [machine.instance_id for machine in machines] for name, machines in living}
        )

    def record_accepted(self) -> None:
        """Record the accepted keys."""
        accepted = (self.folder / "pki/minions").iterdir()
        self.runs.accepted.append(sorted(path.name for path in accepted))

    def record_machines(self) -> None:
        """Record what is on the machines."""
        for name, (machine,) in self.living().items():
            on_disk = machine.run("cat /etc/salt/pki/minion/minion.pub")
            accepted = (self.folder / "pki/minions" / name).read_text().strip()
            self.runs.keys[name] = (on_disk, accepted)
            find = "ls -d /tmp/.saltcloud* /opt/salt-deploy 2>/dev/null || true"
            self.runs.leftovers[name] = machine.run(find)

    def living(self) -> dict[str, list[Machine]]:
        """Return the living machines of the map, by name."""
        found: dict[str, list[Machine]] = {}
        for machine in self.cloud.machines():
            found.setdefault(machine.name(), []).append(machine)
        return {name: machines for name, machines in found.items() if name in NAMES}


@pytest.fixture(scope="module")
def runs(
    cloud: RealCloud, docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    """The map applied with faults, without them but with a wrong host key, and without any."""
    site = Site(cloud, tmp_path_factory.mktemp("repair"))
    site.script.write_text("".join(_failing_script()))
    with FaultClient(cloud.endpoint).inject(*FAULTS.values()) as client:
        site.apply()
        assert client.seen().met == [1, 1]
    site.record_accepted()

    site.script.write_text(SCRIPT)
    right = site.known_hosts.read_text()
    (changed,) = site.living()["wrong-host-key"]
    wrong = re.compile(rf"^({changed.instance_id} ssh-ed25519) .*$", re.MULTILINE)
    site.known_hosts.write_text(wrong.sub(rf"\1 {WRONG_HOST_KEY}", right))
    (locked,) = site.living()["key-refused"]
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", cloud.key], capture_output=True, text=True, check=True
    ).stdout
    docker_client.containers.get(locked.container).exec_run(
        ["sh", "-c", f"echo '{public.strip()}' > /home/admin/.ssh/authorized_keys"], user="admin"
    )
    site.apply()

    site.known_hosts.write_text(right)
    site.apply()
    site.record_machines()
    site.salt_cloud("--destroy")
    site.record_instances()
    site.record_accepted()
    return site.runs


def _configure(cloud: RealCloud, folder: Path) -> Path:
    """Write a Salt configuration with the production provider and profiles; return its folder."""
    for name in ("cloud.providers.d", "cloud.profiles.d"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "cloud.deploy.d").mkdir()
    (folder / "run").mkdir()
    configuration = {
        "pki_dir": str(folder / "pki"),
        "cachedir": str(folder / "cache"),
        "sock_dir": str(folder / "run"),
        "log_file": str(folder / "log"),
        "private_key": str(cloud.key),
        "ssh_interface": "private_ips",
        "owned_by": DEPLOYMENT.owner(),
        "file_map": file_map(DEPLOYMENT),
        "minion": {"master": "127.0.0.1"},
    }
    (folder / "cloud").write_text(yaml.safe_dump(configuration))
    (folder / "faults.map").write_text(
        yaml.safe_dump({"web": [{name: OPTIONS.get(name, {})} for name in NAMES]})
    )
    return folder


def _failing_script() -> list[str]:
    """Return the lines of the deploy script, which fails on the machines of FAILS_AT."""
    lines = list(LINES)
    for name, line in sorted(FAILS_AT.items(), key=lambda item: -item[1]):
        failure = "echo the mirror is down; exit 3"
        lines.insert(line, f"{{% if vm['name'] == '{name}' %}}{failure}{{% endif %}}\n")
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_error_names_machine_and_reason(runs: Runs, name: str) -> None:
    error = runs.outputs[0][name]["Error"]
    assert f"deploying {name} (i-" in error
    assert re.search(".*".join(map(re.escape, ERRORS[name])), error), error


@pytest.mark.parametrize("name", NAMES)
def test_second_run_repairs_machines(runs: Runs, name: str) -> None:
    second, third = (output[name] for output in runs.outputs[1:])
    if name == "wrong-host-key":
        assert f"shows another host key than the console of {name}" in second["Error"]
        assert third["deployed"] is True
    else:
        assert second["deployed"] is True
        assert "already exists" in third["Message"]
    before, after, last = (living.get(name, []) for living in runs.instances[:3])
    assert after == last
    assert len(last) == 1
    assert before == ([] if name == "unreachable" else last)
    on_disk, accepted = runs.keys[name]
    assert on_disk == accepted
    assert runs.leftovers[name] == ""


def test_keys_of_destroyed_machines_are_removed(runs: Runs) -> None:
    assert runs.accepted == [sorted(set(NAMES) - {"unreachable"}), []]
    assert runs.instances[3] == {}
