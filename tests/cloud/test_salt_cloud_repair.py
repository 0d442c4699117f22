"""Deployments that fail on real machines: what salt-cloud says, what stays, and what the same command makes of it.

Each machine of one map has a fault of its own. The faults of the API itself need no real machines: they are in
tests/unit/ec2/test_faults.py.
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
from realcloud import ROOT, Machine, RealCloud

SCRIPT = (ROOT / "cloud.deploy.d/salt-minion.sh").read_text()
LINES = SCRIPT.splitlines(keepends=True)
PLACES = {
    "script-dies-at-start": 2,
    "script-dies-at-middle": next(
        n for n, line in enumerate(LINES) if line.startswith("install -d -m 0755 /etc/salt")
    ),
    "script-dies-at-end": len(LINES),
    "impostor": 2,
}
FAULTS = {
    "deaf": Fault("no-sshd", machine="deaf"),
    "key-refused": Fault("no-key", machine="key-refused"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    # Both wait it out, side by side; by its end they run and refuse, though six machines are made at once.
    "deaf": {"ssh_connect_timeout": 60, "on_failure": "destroy"},
    "key-refused": {"ssh_connect_timeout": 60},
}
SAID = {
    **dict.fromkeys(
        PLACES,
        ("running", "the deploy script ended with 3", "the mirror is down", "run the same command"),
    ),
    "deaf": (
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
NAMES = sorted(SAID)
FOREIGN = "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43  # a host key that no machine has


@dataclass
class Runs:
    """The map, applied three times, until its machines were destroyed.

    Attributes:
        said: what salt-cloud said, by machine.
        living: the instances that lived then, by name.
        keys: the minion's key on the machine and the one that the master accepts, by name, after the last run.
        litter: what lay about on the machines in the end, by name.
        accepted: the keys that the master accepted after the first run, and in the end.
    """

    said: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    living: list[dict[str, list[str]]] = field(default_factory=list)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    litter: dict[str, str] = field(default_factory=dict)
    accepted: list[list[str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def runs(
    cloud: RealCloud, docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    folder = _configure(cloud, tmp_path_factory.mktemp("repair"))
    script, known = folder / "cloud.deploy.d/salt-minion.sh", folder / "cache/ec2/known_hosts"
    made = Runs()

    def salt_cloud(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                Path(sys.executable).with_name("salt-cloud"),
                f"--config-dir={folder}",
                "--out=json",
                "-y",
                *arguments,
            ],
            env={**os.environ, **cloud.endpoint.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )

    def apply() -> None:
        done = salt_cloud(f"--map={folder}/faults.map", "--parallel")
        assert done.returncode == 0, done.stderr
        made.said.append(json.loads(done.stdout))
        made.living.append(
            {
                name: [one.instance_id for one in machines]
                for name, machines in living(cloud).items()
            }
        )

    script.write_text("".join(_spoilt()))
    with FaultClient(cloud.endpoint).inject(*FAULTS.values()) as client:
        apply()
        assert client.seen().met == [1, 1]
    made.accepted.append(_accepted(folder))

    script.write_text(SCRIPT)
    (impostor,) = living(cloud)["impostor"]
    learnt = known.read_text()
    known.write_text(
        re.sub(
            rf"^({impostor.instance_id} ssh-ed25519) .*$",
            rf"\1 {FOREIGN}",
            learnt,
            flags=re.MULTILINE,
        )
    )
    (locked,) = living(cloud)["key-refused"]
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", cloud.key], capture_output=True, text=True, check=True
    ).stdout
    docker_client.containers.get(locked.container).exec_run(
        ["sh", "-c", f"echo '{public.strip()}' > /home/admin/.ssh/authorized_keys"], user="admin"
    )
    apply()

    known.write_text(learnt)
    apply()
    for name, (machine,) in living(cloud).items():
        on_disk = machine.run("cat /etc/salt/pki/minion/minion.pub")
        made.keys[name] = (on_disk, (folder / "pki/minions" / name).read_text().strip())
        made.litter[name] = machine.run(
            "ls -d /tmp/.saltcloud* /opt/salt-deploy 2>/dev/null || true"
        )
    done = salt_cloud(f"--map={folder}/faults.map", "--destroy")
    assert done.returncode == 0, done.stderr
    made.living.append(
        {name: [one.instance_id for one in machines] for name, machines in living(cloud).items()}
    )
    made.accepted.append(_accepted(folder))
    return made


def _configure(cloud: RealCloud, folder: Path) -> Path:
    """Write a Salt configuration with the production provider and profiles, and a deploy script to spoil."""
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
        "file_map": {str(ROOT / "requirements/salt.txt"): "/opt/salt-deploy/requirements.txt"},
        "minion": {"master": "127.0.0.1"},
    }
    (folder / "cloud").write_text(yaml.safe_dump(configuration))
    (folder / "faults.map").write_text(
        yaml.safe_dump({"web": [{name: OPTIONS.get(name, {})} for name in NAMES]})
    )
    return folder


def _spoilt() -> list[str]:
    """Return the deploy script with a line in which it dies on the machines that are named for it."""
    lines = list(LINES)
    for name, place in sorted(PLACES.items(), key=lambda item: -item[1]):
        lines.insert(
            place,
            f"{{% if vm['name'] == '{name}' %}}echo the mirror is down; exit 3{{% endif %}}\n",
        )
    return lines


def _accepted(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "pki/minions").iterdir())


def living(cloud: RealCloud) -> dict[str, list[Machine]]:
    """Return the living machines of the map, by name."""
    found: dict[str, list[Machine]] = {}
    for machine in cloud.machines():
        found.setdefault(machine.name(), []).append(machine)
    return {name: machines for name, machines in found.items() if name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_user_reads_what_is_wrong_with_which_machine(runs: Runs, name: str) -> None:
    error = runs.said[0][name]["Error"]
    assert f"deploying {name} (i-" in error
    assert re.search(".*".join(map(re.escape, SAID[name])), error), error


@pytest.mark.parametrize("name", NAMES)
def test_the_same_command_makes_it_good(runs: Runs, name: str) -> None:
    second, third = (said[name] for said in runs.said[1:])
    if name == "impostor":
        assert f"shows another host key than the console of {name}" in second["Error"]
        assert third["deployed"] is True
    else:
        assert second["deployed"] is True
        assert "already exists" in third["Message"]
    before, after, last = (there.get(name, []) for there in runs.living[:3])
    assert after == last
    assert len(last) == 1
    assert before == ([] if name == "deaf" else last)
    on_disk, accepted = runs.keys[name]
    assert on_disk == accepted
    assert runs.litter[name] == ""


def test_no_key_is_accepted_of_a_machine_that_is_gone(runs: Runs) -> None:
    assert runs.accepted == [sorted(set(NAMES) - {"deaf"}), []]
    assert runs.living[3] == {}
