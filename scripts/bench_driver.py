"""Count and time what the EC2 driver asks for, beside its own serial run and the old driver's pattern of calls.

The API is the local cloud's over machines that exist in memory, so nothing but the driver and salt-cloud is measured.
A call takes as long as one to EC2 does; a machine runs sooner than on EC2, which favours the serial run. The figures of
one run can be compared with each other, and with nothing else. A target that is missed ends it with 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from faultproxy import FaultProxy, faulty  # noqa: E402
from localcloud.machines import Machine  # noqa: E402
from memorycloud import MemoryHost, Running, running  # noqa: E402

IMAGE = "/aws/service/debian/release/13/latest/amd64"
FALSE_SSH = '#!/bin/sh\nfor remote; do :; done\nexec sh -c "$remote"\n'
HOST_KEY = (
    "-----BEGIN SSH HOST KEY KEYS-----\n"
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOne root@bench\n"
    "-----END SSH HOST KEY KEYS-----\n"
)
MAXIMUM_SECONDS = 170


class Host(MemoryHost):
    """Machines that take a while to run, and whose console shows a host key."""

    def __init__(self) -> None:
        super().__init__()
        self.boot = 0.0

    def create(self, machine: Machine) -> None:
        """Start a machine."""
        time.sleep(self.boot)
        super().create(machine)

    def console(self, instance_id: str) -> str:  # noqa: ARG002
        """Return what a machine printed: the same for all."""
        return HOST_KEY


@dataclass(frozen=True)
class Figures:
    """What one way to make machines took.

    Attributes:
        machines: how many were made.
        seconds: from start to end.
        calls: to the API.
    """

    machines: int
    seconds: float
    calls: int


@dataclass(frozen=True)
class Target:
    """A promise: `value` is at most `limit`."""

    text: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return self.value <= self.limit


class Bench:
    """A cloud, the slow line to it, and a Salt configuration."""

    def __init__(self, cloud: Running, proxy: FaultProxy, folder: Path) -> None:
        self._cloud, self._proxy, self._folder = cloud, proxy, folder
        self._deadline = time.monotonic() + MAXIMUM_SECONDS
        keys = cloud.credentials
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }
        self._configure()

    def _configure(self) -> None:
        vpc = self._cloud.ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
        tags = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "a"}]}]
        self._cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/24", TagSpecifications=tags)
        self._cloud.ec2.create_security_group(VpcId=vpc, GroupName="web", Description="web")
        profile = {"provider": "cloud", "image": f"ssm:{IMAGE}", "size": "t2.micro", "subnetname": "a"}
        files: dict[str, Any] = {
            "cloud": {
                **{key: str(self._folder / key) for key in ("pki_dir", "cachedir", "sock_dir", "log_file")},
                "ssh_interface": "private_ips",
                "wait_for_ip_interval": 1,
                "deploy_scripts_search_path": [str(self._folder)],
                "script": "nothing",
                "private_key": str(self._folder / "key"),
                "ssh_gateway": "gate",  # so the machines need no address that answers
                "tmp_dir": str(self._folder / "machine"),
                "display_ssh_output": False,
                "sudo": False,
                "minion": {"master": "127.0.0.1"},
            },
            "cloud.providers.d/cloud.conf": {"cloud": {"driver": "ec2", "location": "eu-west-1"}},
            "cloud.profiles.d/web.conf": {"web": {**profile, "securitygroup": "web"}},
        }
        for path, content in files.items():
            (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / path).write_text(yaml.safe_dump(content))
        for name in ("sock_dir", "bin"):
            (self._folder / name).mkdir()
        (self._folder / "key").touch()
        (self._folder / "nothing.sh").write_text("true\n")
        (self._folder / "bin/ssh").write_text(FALSE_SSH)
        (self._folder / "bin/ssh").chmod(0o755)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        self._proxy.calls.clear()
        yield
        self._cloud.settle()
        self._cloud.ec2.terminate_instances(InstanceIds=list(self._cloud.host.machines))
        self._cloud.settle()

    def driver(self, machines: int, *, parallel: bool, deploy: bool = False) -> Figures:
        """Apply a map of new machines with salt-cloud.

        Args:
            machines: how many.
            parallel: with `-P`.
            deploy: with a deployment; OpenSSH is replaced by a script that runs here what it would run there.

        Raises:
            RuntimeError: a machine was not made.
        """
        path = self._folder / "bench.map"
        stem = f"{'p' if parallel else 's'}{'d' if deploy else ''}{machines}"
        names = [f"{stem}-{number}" for number in range(1, machines + 1)]
        path.write_text(yaml.safe_dump({"web": [{name: {"deploy": deploy}} for name in names]}))
        command = [str(Path(sys.executable).with_name("salt-cloud")), f"--config-dir={self._folder}", "--assume-yes"]
        command += ["--out=json", f"--map={path}", *(["--parallel"] if parallel else [])]
        shutil.rmtree(self._folder / "cachedir", ignore_errors=True)  # what the run before has learnt
        with self._counting():
            begin = time.monotonic()
            done = subprocess.run(
                command,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=max(1, self._deadline - begin),
            )
            seconds = time.monotonic() - begin
            said = yaml.safe_load(done.stdout) or {}
            if done.returncode or sorted(said) != sorted(names) or any("Error" in each for each in said.values()):
                raise RuntimeError(f"the map of {machines} machines failed: {done.stderr or done.stdout}")
            return Figures(machines, seconds, self._proxy.calls.total())

    def old(self, machines: int, *, parallel: bool) -> Figures:
        """Make machines by the old driver's pattern of calls: one for the map, ten for each machine.

        This is an emulation in plain boto3 calls, no code of the old driver. It flatters it: there is no salt-cloud
        around it, no process to start, no pause between two looks, and a thread costs less than a process.
        """
        ec2: Any = self._slow_client("ec2")

        def one(number: int) -> None:
            ec2.describe_availability_zones()
            subnet = ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": ["a"]}])["Subnets"][0]
            groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["web"]}])
            group = groups["SecurityGroups"][0]["GroupId"]
            ec2.describe_images(ImageIds=[image])
            launched = ec2.run_instances(
                ImageId=image,
                InstanceType="t2.micro",
                SubnetId=subnet["SubnetId"],
                SecurityGroupIds=[group],
                MinCount=1,
                MaxCount=1,
            )["Instances"][0]["InstanceId"]
            ec2.describe_instances(InstanceIds=[launched])  # is it there?
            ec2.create_tags(Resources=[launched], Tags=[{"Key": "Name", "Value": f"old-{number}"}])
            ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [launched]}])  # are they set?
            ec2.describe_instances(InstanceIds=[launched])  # has it an address?
            ec2.describe_instances(InstanceIds=[launched])  # the result

        # The old driver knew no SSM parameters: the id stood in the profile.
        image = self._cloud.client("ssm").get_parameters(Names=[IMAGE])["Parameters"][0]["Value"]
        with self._counting():
            begin = time.monotonic()
            ec2.describe_instances()
            with ThreadPoolExecutor(machines if parallel else 1) as pool:
                list(pool.map(one, range(machines)))
            return Figures(machines, time.monotonic() - begin, self._proxy.calls.total())

    def _slow_client(self, service: str) -> Any:
        return Running(self._cloud.cloud, self._cloud.host, self._cloud.credentials, self._proxy.url).client(service)


def measure(bench: Bench, host: Host, boot: float, machines: int, few: int) -> tuple[dict[str, Figures], list[Target]]:
    """Take all figures, and weigh them.

    Machines run after a while where time is taken, and at once where calls are counted: how often a machine that does
    not run yet is looked at again is a matter of `wait_for_ip_interval`, not of the driver.

    Args:
        bench: where.
        host: what the machines run on.
        boot: seconds until a machine runs.
        machines: how many the large maps have.
        few: how many the small ones have.
    """
    host.boot = boot
    figures = {
        "serial": bench.driver(machines, parallel=False),
        "-P": bench.driver(machines, parallel=True),
    }
    host.boot = 0
    figures |= {
        "-P, few": bench.driver(few, parallel=True),
        "-P, twice as many": bench.driver(2 * few, parallel=True),
        "-P, few, deployed": bench.driver(few, parallel=True, deploy=True),
        "-P, twice as many, deployed": bench.driver(2 * few, parallel=True, deploy=True),
        "old pattern*, serial": bench.old(few, parallel=False),
        "old pattern*, threads": bench.old(machines, parallel=True),
    }

    def slope(name: str) -> float:
        return (figures[f"-P, twice as many{name}"].calls - figures[f"-P, few{name}"].calls) / few

    bare, deployed = slope(""), slope(", deployed")
    besides = max(figures["-P, few"].calls - bare * few, figures["-P, few, deployed"].calls - deployed * few)
    targets = [
        Target(f"{machines} machines: -P / serial (time)", figures["-P"].seconds / figures["serial"].seconds, 1 / 4),
        Target("calls for each machine that runs at once", bare, 4),
        Target("the same, deployed", deployed, 4),
        Target("calls for a map, besides those", besides, 6),
        Target("calls, deployed / old pattern*", deployed * few / (figures["old pattern*, serial"].calls - 1), 4 / 10),
    ]
    return figures, targets


def report(figures: dict[str, Figures], targets: list[Target], console: Console) -> None:
    """Print the figures and the targets."""
    table = Table("", "machines", "seconds", "s/machine", "calls", "calls/machine")
    for name, one in figures.items():
        row = (f"{one.seconds:.1f}", f"{one.seconds / one.machines:.2f}", str(one.calls))
        table.add_row(name, str(one.machines), *row, f"{one.calls / one.machines:.1f}")
    console.print(table)
    verdicts = Table("target", "measured", "at most", "")
    for target in targets:
        verdict = "met" if target.met else "MISSED"
        verdicts.add_row(target.text, f"{target.value:.2f}", f"{target.limit:.2f}", verdict)
    console.print(verdicts)
    console.print("* emulated in plain boto3 calls, without salt-cloud around them; the machines run at once.")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--machines", type=int, default=50, help="in the large maps (default: %(default)s)")
    parser.add_argument("--few", type=int, default=4, help="in the small maps (default: %(default)s)")
    parser.add_argument(
        "--boot",
        type=float,
        default=1.0,
        help="seconds until a machine runs, where time is taken (default: %(default)s)",
    )
    parser.add_argument("--latency", type=float, default=0.1, help="seconds that a call takes (default: %(default)s)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-driver-") as name:
        folder, host = Path(name), Host()
        with running(folder / "cloud", host) as cloud, faulty(cloud.url) as proxy:
            bench = Bench(cloud, proxy, folder / "salt")
            proxy.latency = given.latency
            try:
                figures, targets = measure(bench, host, given.boot, given.machines, given.few)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(error, file=sys.stderr)
                return 2
    report(figures, targets, Console())
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
