"""Count and time the EC2 driver's calls, and compare them with the old driver's pattern.

Calls and large maps use machines that exist in memory, so that only the driver and salt-cloud are
measured; deployments use real machines. The API is the local cloud's, with the delay of EC2's. The
old driver's pattern (old_pattern.py) runs under the same salt-cloud. Compare figures of one run
only. The exit code is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from localcloud import engine, image, service
from localcloud.config import CloudConfig, Endpoint
from localcloud.faults import Fault, FaultClient
from localcloud.machines import Machine

ROOT = Path(__file__).parents[1]
for folder in ("tests/support", "packages/saltext-ec2/tests/support"):
    sys.path.insert(0, str(ROOT / folder))

from cloudsite import HOST_KEY  # noqa: E402
from memorycloud import MemoryHost, running  # noqa: E402
from realcloud import KEY_PAIR, PROMPT, SUBNET, Place, RealCloud, free_port  # noqa: E402

IMAGE = "/aws/service/debian/release/13/latest/amd64"
FALSE_SSH = '#!/bin/sh\nfor remote; do :; done\nexec sh -c "$remote"\n'
MAP_SECONDS = 300
PARTS = ("calls", "size", "deployments")


@dataclass(frozen=True)
class Figures:
    """What one map took.

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
    """A measured value, and the limit that it must not exceed."""

    text: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit


class Bench:
    """A Salt configuration for a cloud behind a slow line."""

    def __init__(
        self,
        endpoint: Endpoint,
        latency: float,
        folder: Path,
        environment: Mapping[str, str],
        profile: Mapping[str, Any],
        main: Mapping[str, Any],
        clear: Callable[[], None],
    ) -> None:
        """Write the configuration.

        Args:
            endpoint: the cloud's.
            latency: seconds that a call takes.
            folder: where to write.
            environment: the way to false programs.
            profile: what the machines are.
            main: how they are reached.
            clear: terminates every machine and sees them gone.
        """
        self._faults, self._folder, self._clear = FaultClient(endpoint), folder, clear
        self._line = Fault("slow", seconds=latency)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        self._environment = {**kept, **endpoint.environment, **environment}
        self._maps = 0
        files: dict[str, Any] = {
            "cloud": {
                **{
                    key: str(folder / key)
                    for key in ("pki_dir", "cachedir", "sock_dir", "log_file")
                },
                "extension_modules": str(folder / "extensions"),
                "ssh_interface": "private_ips",
                "wait_for_ip_interval": 1,
                "deploy_scripts_search_path": [str(folder)],
                "script": "nothing",
                "display_ssh_output": False,
                "minion": {"master": "127.0.0.1"},
                **main,
            },
            "cloud.providers.d/cloud.conf": {
                "new": {"driver": "ec2", "location": "eu-west-1"},
                "old": {"driver": "old_pattern", "location": "eu-west-1"},
            },
            "cloud.profiles.d/cloud.conf": {
                name: {"provider": name, **profile} for name in ("new", "old")
            },
        }
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(yaml.safe_dump(content))
        (folder / "sock_dir").mkdir()
        (folder / "nothing.sh").write_text("true\n")
        (folder / "extensions/clouds").mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("old_pattern.py"), folder / "extensions/clouds")

    def run(
        self, profile: str, machines: int, *, parallel: bool = True, deploy: bool = False
    ) -> Figures:
        """Apply a map of new machines with salt-cloud.

        Args:
            profile: `new`, by our driver; `old`, by the old one's pattern.
            machines: how many.
            parallel: with `-P`.
            deploy: with a deployment, whose script does nothing.

        Raises:
            RuntimeError: a machine was not made.
        """
        path = self._folder / "bench.map"
        self._maps += 1
        names = [f"map-{self._maps}-{number}" for number in range(1, machines + 1)]
        path.write_text(yaml.safe_dump({profile: [{name: {"deploy": deploy}} for name in names]}))
        options = ["--assume-yes", f"--map={path}", *(["--parallel"] if parallel else [])]
        shutil.rmtree(
            self._folder / "cachedir", ignore_errors=True
        )  # what the run before has learnt
        done, figures = self._timed(options, machines)
        output = yaml.safe_load(done.stdout) or {}
        if (
            done.returncode
            or sorted(output) != sorted(names)
            or any("Error" in result for result in output.values())
        ):
            raise RuntimeError(
                f"the map of {machines} machines failed: {done.stderr or done.stdout}"
            )
        self._clear()
        return figures

    def cycle(self, machines: int) -> dict[str, Figures]:
        """Plan, launch and destroy a map with `-P`, and return the figures of each.

        Raises:
            RuntimeError: one of them failed, or a machine is left.
        """
        path = self._folder / "cycle.map"
        self._maps += 1
        # The old pattern lists the same machines, and salt-cloud would destroy them by it.
        providers = self._folder / "cloud.providers.d/cloud.conf"
        providers.write_text(yaml.safe_dump({"new": {"driver": "ec2", "location": "eu-west-1"}}))
        profiles = self._folder / "cloud.profiles.d/cloud.conf"
        profiles.write_text(yaml.safe_dump({"new": yaml.safe_load(profiles.read_text())["new"]}))
        names = [f"cycle-{self._maps}-{number}" for number in range(1, machines + 1)]
        path.write_text(yaml.safe_dump({"new": [{name: {"deploy": False}} for name in names]}))
        shutil.rmtree(self._folder / "cachedir", ignore_errors=True)
        found = {}
        for task, options, answer in (
            ("plan", [], "n\n"),  # salt-cloud prints what it would do, and asks
            ("launch", ["--parallel", "--assume-yes"], ""),
            ("destroy", ["--parallel", "--assume-yes", "--destroy"], ""),
        ):
            done, found[task] = self._timed([f"--map={path}", *options], machines, answer)
            if not all(name in done.stdout for name in names):
                raise RuntimeError(f"{task} of {machines} machines: {done.stderr or done.stdout}")
        self._clear()
        return found

    def _timed(
        self, options: Sequence[str], machines: int, answer: str = ""
    ) -> tuple[subprocess.CompletedProcess[str], Figures]:
        """Run salt-cloud; return what it printed, and its figures."""
        command = [
            str(Path(sys.executable).with_name("salt-cloud")),
            f"--config-dir={self._folder}",
            "--out=json",
            *options,
        ]
        with self._faults.inject(self._line) as client:
            begin = time.monotonic()
            done = subprocess.run(
                command,
                env=self._environment,
                input=answer,
                capture_output=True,
                text=True,
                check=False,
                timeout=MAP_SECONDS,
            )
            seconds, calls = time.monotonic() - begin, sum(client.seen().calls.values())
        return done, Figures(machines, seconds, calls)


# -- machines in memory ----------------------------------------------------------------------------


class Host(MemoryHost):
    """Machines that take some seconds to boot, and whose console shows a host key."""

    def __init__(self) -> None:
        super().__init__()
        self.boot = 0.0

    def create(self, machine: Machine) -> None:
        """Start a machine."""
        time.sleep(self.boot)
        super().create(machine)

    def console(self, instance_id: str, until: datetime) -> str:  # noqa: ARG002
        """Return the same output for all machines."""
        return HOST_KEY


@contextmanager
def in_memory(folder: Path, latency: float) -> Iterator[tuple[Bench, Host]]:
    """Serve a cloud whose machines exist in memory; a script replaces OpenSSH and runs locally."""
    host = Host()
    with running(folder / "cloud", host) as cloud:
        vpc = cloud.ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
        tags = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "a"}]}]
        cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/24", TagSpecifications=tags)
        cloud.ec2.create_security_group(VpcId=vpc, GroupName="web", Description="web")
        (folder / "bin").mkdir()
        (folder / "bin/ssh").write_text(FALSE_SSH)
        (folder / "bin/ssh").chmod(0o755)
        (folder / "key").touch(mode=0o600)

        def clear() -> None:
            cloud.settle()
            if host.machines:
                cloud.ec2.terminate_instances(InstanceIds=list(host.machines))
            cloud.settle()

        keys = cloud.credentials
        endpoint = Endpoint(cloud.url, cloud.url, keys.access_key_id, keys.secret_access_key)
        environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        profile = {
            "image": _image(cloud.client("ssm")),
            "size": "t2.micro",
            "subnetname": "a",
            "securitygroup": "web",
        }
        reached = {
            "private_key": str(folder / "key"),
            "ssh_gateway": "gate",  # so the machines need no address that answers
            "tmp_dir": str(folder / "machine"),
            "sudo": False,
        }
        yield Bench(endpoint, latency, folder / "salt", environment, profile, reached, clear), host


def measure_calls(
    bench: Bench, host: Host, boot: float, machines: int, few: int
) -> tuple[dict[str, Figures], list[Target]]:
    """Measure large maps, and how many calls each further machine costs.

    Args:
        bench: where.
        host: what the machines run on.
        boot: seconds until a machine runs.
        machines: how many the large maps have.
        few: how many the small ones have.
    """
    host.boot = boot
    figures = {
        "serial": bench.run("new", machines, parallel=False),
        "-P": bench.run("new", machines),
        "-P, few": bench.run("new", few),
        "-P, twice as many": bench.run("new", 2 * few),
        "-P, few, deployed": bench.run("new", few, deploy=True),
        "-P, twice as many, deployed": bench.run("new", 2 * few, deploy=True),
    }
    host.boot = 0  # the old driver does not wait for its machines to run
    figures |= {
        "-P, running at once": bench.run("new", machines),
        "old pattern, -P": bench.run("old", machines),
    }
    ours, old = figures["-P, running at once"], figures["old pattern, -P"]

    def slope(name: str) -> float:
        return (figures[f"-P, twice as many{name}"].calls - figures[f"-P, few{name}"].calls) / few

    bare, deployed = slope(""), slope(", deployed")
    return figures, [
        Target(
            f"{machines} machines: -P / serial (time)",
            figures["-P"].seconds / figures["serial"].seconds,
            1 / 4,
        ),
        Target(
            f"{machines} machines, -P: ours / old pattern (time)", ours.seconds / old.seconds, 1
        ),
        Target(
            f"{machines} machines, -P: ours / old pattern (calls)", ours.calls / old.calls, 4 / 10
        ),
        Target(
            f"calls for each of {machines} machines, all told", figures["-P"].calls / machines, 4
        ),
        Target("calls for each further machine", bare, 4),
        Target("the same, deployed", deployed, 4),
    ]


def measure_size(
    bench: Bench, sizes: Sequence[int] = (10, 100)
) -> tuple[dict[str, Figures], list[Target]]:
    """Measure planning, launching and destroying at two sizes: both have to grow linearly at most.

    Args:
        bench: where.
        sizes: how many machines the small and the large map have.
    """
    few, many = (bench.cycle(size) for size in sizes)
    growth = 1.1 * sizes[1] / sizes[0]  # how often the driver asks varies from run to run
    figures: dict[str, Figures] = {}
    targets: list[Target] = []
    for task in few:
        figures |= {f"{task} {sizes[0]}": few[task], f"{task} {sizes[1]}": many[task]}
        targets += [
            Target(
                f"{task} {sizes[1]} / {sizes[0]} (time)",
                many[task].seconds / few[task].seconds,
                growth,
            ),
            Target(
                f"{task} {sizes[1]} / {sizes[0]} (calls)",
                many[task].calls / few[task].calls,
                growth,
            ),
            Target(f"{task}, calls for each of {sizes[1]}", many[task].calls / sizes[1], 4),
        ]
    return figures, targets


# -- real machines ---------------------------------------------------------------------------------


@contextmanager
def real(folder: Path, latency: float) -> Iterator[Bench]:
    """Serve a cloud of real machines, of which nothing is left afterwards."""
    client = engine.ensure(print)
    machine_image = image.ensure(client, print, ROOT / "requirements/salt.txt")
    with ExitStack() as stack:
        place = stack.enter_context(Place.take())
        # The driver's time is measured, not a cloud's that shows consoles late.
        config = CloudConfig(place.name, folder / "state", free_port(), machine_image, {}, PROMPT)
        service.destroy(config, print)  # what a killed run left
        stack.callback(service.destroy, config, lambda _: None)
        cloud = RealCloud(place, config, service.start(config, lambda _: None), folder / "key")
        cloud.make_network()
        profile = {
            "image": _image(cloud.client("ssm")),
            "size": "t2.micro",
            "subnetname": SUBNET,
            "securitygroup": "airflow-web",
            "keyname": KEY_PAIR,
        }
        reached = {"private_key": str(cloud.key), "ssh_username": "admin"}

        def clear() -> None:
            for machine in cloud.machines():
                machine.terminate()

        yield Bench(cloud.endpoint, latency, folder / "salt", {}, profile, reached, clear)


def measure_deployments(bench: Bench, few: int) -> tuple[dict[str, Figures], list[Target]]:
    """Measure launching and deploying without the deploy script, which does nothing here."""
    figures = {
        "real, -P, deployed": bench.run("new", few, deploy=True),
        "real, old pattern, -P, deployed": bench.run("old", few, deploy=True),
    }
    ours, old = figures.values()
    return figures, [
        Target(f"{few} real machines deployed, besides the script (s)", ours.seconds, 12),
        Target(
            f"{few} real machines deployed: ours / old pattern (time)",
            ours.seconds / old.seconds,
            1,
        ),
    ]


# --------------------------------------------------------------------------------------------------


def _image(ssm: Any) -> str:
    # The old driver knew no SSM parameters: the id stood in the profile.
    return str(ssm.get_parameters(Names=[IMAGE])["Parameters"][0]["Value"])


def report(figures: Mapping[str, Figures], targets: list[Target], console: Console) -> None:
    """Print the figures and the targets."""
    table = Table("", "machines", "seconds", "s/machine", "calls", "calls/machine")
    for name, figure in figures.items():
        row = (
            f"{figure.seconds:.1f}",
            f"{figure.seconds / figure.machines:.2f}",
            str(figure.calls),
        )
        table.add_row(name, str(figure.machines), *row, f"{figure.calls / figure.machines:.1f}")
    console.print(table)
    verdicts = Table("target", "measured", "at most", "")
    for target in targets:
        verdict = "met" if target.met else "MISSED"
        verdicts.add_row(target.text, f"{target.value:.2f}", f"{target.limit:.2f}", verdict)
    console.print(verdicts)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--machines", type=int, default=50, help="in the large maps (default: %(default)s)"
    )
    parser.add_argument(
        "--few", type=int, default=4, help="in the small maps (default: %(default)s)"
    )
    parser.add_argument(
        "--boot",
        type=float,
        default=1.0,
        help="seconds until a machine in memory runs (default: %(default)s)",
    )
    parser.add_argument(
        "--latency",
        type=float,
        default=0.1,
        help="seconds that a call takes (default: %(default)s)",
    )
    parser.add_argument("--only", choices=PARTS, help="measure one part (default: all)")
    given = parser.parse_args(arguments)
    figures: dict[str, Figures] = {}
    targets: list[Target] = []
    try:
        for part in (given.only,) if given.only else PARTS:
            measured, weighed = _measure(part, given)
            figures |= measured
            targets += weighed
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return 2
    report(figures, targets, Console())
    return 0 if all(target.met for target in targets) else 1


def _measure(part: str, given: argparse.Namespace) -> tuple[dict[str, Figures], list[Target]]:
    """Measure one of `PARTS`."""
    with tempfile.TemporaryDirectory() as name:
        if part == "deployments":
            with real(Path(name), given.latency) as bench:
                return measure_deployments(bench, given.few)
        with in_memory(Path(name), given.latency) as (bench, host):
            if part == "size":
                return measure_size(bench)
            return measure_calls(bench, host, given.boot, given.machines, given.few)


if __name__ == "__main__":
    sys.exit(main())
