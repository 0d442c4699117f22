"""The machines of a run: pinned, with a stock machine and many visitors; restored afterwards."""

from __future__ import annotations

import fcntl
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import docker

from bench import addresses, load, machines, player, stock
from bench.edge import Edge
from bench.load import Address, Answers, Load
from bench.machines import Machine
from bench.progress import say
from bench.span import Span
from stackctl import local
from stackctl.account import enter
from stackctl.deployment import Deployment
from stackctl.errors import NotUpError
from stackctl.machines import ec2_client

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

PLAYER = Path(player.__file__)
PLAYER_SECONDS = 300.0
WARM_SECONDS = 1.0
REST_SECONDS = 20.0
LOOPBACK = "http://127.0.0.1:8080"  # of a web machine, in its own network


class Unsuitable(Exception):
    """The stack cannot be measured; the text says why, and what to do."""


class PlayerFailed(Exception):
    """The player ended with an error; the text has it."""


@dataclass(frozen=True)
class Target:
    """What a scenario loads.

    Attributes:
        name: `stock`, `web`, `edge1`, `edge2` …: the key in the results.
        address: how it is reached.
        machines: those whose counters count.
        serving: the web machines that get requests.
    """

    name: str
    address: Address
    machines: tuple[Machine, ...]
    serving: tuple[str, ...] = ()
    cookie: str = ""

    def visitor(self, **headers: str) -> Address:
        """Return the address with the cookies of somebody who has logged in."""
        return _with(self.address, {"cookie": self.cookie} | headers)

    def program(self) -> Address:
        """Return the address with a token in a header, whose answers nobody shares."""
        cookies = dict(one.strip().split("=", 1) for one in self.cookie.split(";"))
        return _with(self.address, {"authorization": f"Bearer {cookies['_token']}"})


def _with(address: Address, headers: Mapping[str, str]) -> Address:
    return Address(address.base, dict(address.headers) | dict(headers), address.namespace)


@dataclass
class Lab:
    """A run's machines and targets; `open_lab` makes it."""

    deployment: Deployment
    client: docker.DockerClient
    machines: dict[str, Machine]
    username: str
    password: str
    targets: dict[str, Target] = field(default_factory=dict)
    seconds: float = 5.0

    @property
    def web(self) -> list[Machine]:
        """The web machines, by name."""
        return [one for name, one in self.machines.items() if name.startswith("web-")]

    @property
    def edges(self) -> list[Machine]:
        """The edge machines, by name."""
        return [one for name, one in self.machines.items() if name.startswith("lb-")]

    @property
    def postgres(self) -> Machine:
        """The machine of the metadata."""
        return self.machines["postgres-1"]

    @property
    def edge(self) -> Edge:
        """The edge that the targets use."""
        return Edge(self.edges[0])

    @property
    def host(self) -> str:
        """The name under which users know the site, with its port."""
        return urlsplit(str(self.deployment.settings()["base_url"])).netloc

    def span(self, *more: Machine) -> Span:
        """Return a span over all machines."""
        return Span([*self.machines.values(), *more])

    def refresh(self) -> None:
        """Look the machines up again, after one was replaced or added."""
        found = machines.of_cloud(self.client, local.cloud_name(self.deployment))
        stock_machine = self.machines.get(stock.NAME)
        for name, machine in self.machines.items():
            if name in found:
                found[name].rest = machine.rest
        self.machines = {name: one for name, one in found.items() if name != "salt-1"}
        if stock_machine is not None:
            self.machines[stock.NAME] = stock_machine

    @contextmanager
    def serving(self, names: Iterable[str]) -> Iterator[None]:
        """Let the edge use these web machines only, meanwhile."""
        names = set(names)
        everyone = {machine.name for machine in self.web}
        if not names or names == everyone:
            self.edge.serve_with(everyone)
            yield
            return
        self.edge.serve_with(names)
        try:
            yield
        finally:
            self.edge.serve_with(everyone)

    def load(self, what: Load, address: Address, *, warm: bool = True) -> Answers:
        """Load an address; first shortly, without counting."""
        if warm and what.seconds:
            load.run(Load(what.paths, what.clients, WARM_SECONDS, what.streams), address)
        return load.run(what, address, timeout=what.seconds + 60)

    def measure(self, what: Load, target: Target, address: Address) -> dict[str, Any]:
        """Load a target for some seconds and return the figures of answers and machines."""
        load.run(Load(what.paths, what.clients, WARM_SECONDS, what.streams), address)
        with Span(target.machines) as span:
            answers = self.load(what, address, warm=False)
        figures = answers.figures()
        if not answers.answers:  # of a site that stands still, h2load logs nothing
            figures["errors"] = {"none": what.clients * what.streams}
        return figures | span.figures(answers.good)

    @property
    def root(self) -> Path:
        """The checkout."""
        return self.deployment.root

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> Any:
        """Return the answer of a player that was started with `playing`.

        Raises:
            PlayerFailed: it ended with an error.
        """
        output, errors = process.communicate(timeout=PLAYER_SECONDS)
        if process.returncode:
            raise PlayerFailed(errors[-2000:])
        return json.loads(output)

    def play(self, address: Address, task: str, **more: Any) -> Any:
        """Let the player do a task, on the core of the load, and return its answer."""
        with self.playing(address, task, **more) as process:
            return self.finish(process)

    @contextmanager
    def playing(self, address: Address, task: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
        """Let the player do a task meanwhile; `communicate` of the process gives its answer."""
        todo = {"task": task, "base": address.base, "headers": dict(address.headers), **more}
        command = [*address.prefix(), sys.executable, str(PLAYER)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                if process.stdin is not None:
                    process.stdin.write(json.dumps(todo))
                    process.stdin.close()
                    process.stdin = None  # `communicate` would flush it
                yield process
            finally:
                process.kill()

    def log_in(self, target: Target, count: int = 1) -> Any:
        """Log in at a target as `count` visitors; return the player's answer."""
        forwarded = {"forwarded": True} if target.name == "web" else {}
        return self.play(
            target.address,
            "log_in",
            count=count,
            username=self.username,
            password=self.password,
            **forwarded,
        )


def _targets(lab: Lab) -> dict[str, Target]:
    """Return the targets without cookies."""
    edge, web = lab.edges[0], lab.web
    proxied = {
        "host": lab.host,
        "x-forwarded-for": "198.18.255.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": lab.host,
    }
    # A web machine answers others over TLS, and only the edge.
    direct = Address(LOOPBACK, proxied, web[0].pid)
    through = Address(f"https://{edge.address}", {"host": lab.host})
    stores = (lab.postgres,)
    found = [
        Target("web", direct, (web[0], *stores), (web[0].name,)),
        Target("edge1", through, (edge, web[0], *stores), (web[0].name,)),
        Target("edge2", through, (edge, *web[:2], *stores), tuple(one.name for one in web[:2])),
    ]
    if stock.NAME in lab.machines:
        machine = lab.machines[stock.NAME]
        plain = Address(f"http://{machine.address}:{stock.PORT}")
        found.insert(0, Target("stock", plain, (machine, *stores)))
    return {target.name: target for target in found}


def _find(deployment: Deployment, client: docker.DockerClient) -> dict[str, Machine]:
    found = machines.of_cloud(client, local.cloud_name(deployment))
    needed = {"lb-1", "web-1", "web-2", "postgres-1", "redis-1", "salt-1"}
    if missing := needed - set(found):
        raise Unsuitable(
            f"These machines do not run: {', '.join(sorted(missing))}. Bring them up: make up"
        )
    # The master is no part of what is measured; it may be needed to start a machine again.
    return {name: one for name, one in found.items() if name != "salt-1"}


def _ec2(deployment: Deployment) -> EC2Client | None:
    """Return a client of the local cloud's API; None: it does not run."""
    try:
        with enter(deployment):
            return ec2_client(deployment)
    except NotUpError:
        return None


def _running(ec2: EC2Client | None) -> EC2Client:
    if ec2 is None:
        raise Unsuitable("The local cloud's API does not run. Bring the stack up: make up")
    return ec2


def _bridge(client: docker.DockerClient, machine: Machine) -> tuple[str, str]:
    """Return the interface and the address of this host in the machines' network."""
    network = client.networks.get(machine.network)
    gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
    name = (network.attrs.get("Options") or {}).get("com.docker.network.bridge.name", "")
    return name or f"br-{str(network.id)[:12]}", str(gateway)


def clean(deployment: Deployment) -> None:
    """Remove everything that a run leaves when it is killed; without a stack there is nothing."""
    client = docker.from_env()
    found = machines.of_cloud(client, local.cloud_name(deployment))
    for machine in found.values():
        if machine.container.status == "paused":
            machine.container.unpause()
        machine.restore()
    for name, machine in found.items():
        if name.startswith("web-"):
            machine.mend()
    stock.remove(client, found.get("postgres-1"), _ec2(deployment))
    if found:
        addresses.remove(*_bridge(client, next(iter(found.values()))))
    if "lb-1" in found:
        names = {name for name in found if name.startswith("web-")}
        with suppress(TimeoutError):
            Edge(found["lb-1"]).serve_with(names, 30)


def admin_password(deployment: Deployment) -> str:
    """Return the password of the site's administrator."""
    command = [sys.executable, "-m", "stackctl", "secrets", "show", "-d", deployment.name]
    return subprocess.run(
        [*command, "airflow-admin", "password"], capture_output=True, text=True, check=True
    ).stdout.strip()


@contextmanager
def alone(deployment: Deployment) -> Iterator[None]:
    """Be the only run meanwhile; raise Unsuitable when another one measures or cleans up."""
    with (deployment.state_dir / "bench.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unsuitable("another run measures, or removes what it has made") from None
        yield


@contextmanager
def open_lab(deployment: Deployment, *, with_stock: bool, seconds: float) -> Iterator[Lab]:
    """Pin the machines, make the stock machine, log in everywhere; restore all at the end.

    Args:
        deployment: the local one, which runs.
        with_stock: whether a scenario needs the stock machine.
        seconds: of each load.

    Raises:
        Unsuitable: the stack does not run.
    """
    load.install()
    client = docker.from_env()
    found = _find(deployment, client)
    with ExitStack() as stack:
        stack.enter_context(alone(deployment))
        clean(deployment)
        stack.callback(clean, deployment)
        for machine in found.values():
            machine.pin(machines.MACHINES_CORE)
        lab = Lab(
            deployment,
            client,
            found,
            username=deployment.base_pillar("airflow")["admin"]["username"],
            password=admin_password(deployment),
            seconds=seconds,
        )
        if with_stock:
            say("making the stock machine")
            found[stock.NAME] = stock.create(
                stock.Account(client, _running(_ec2(deployment))),
                lab.web[0],
                lab.postgres,
                secrets.token_hex(16),
            )
        stack.enter_context(addresses.visitors(*_bridge(client, lab.postgres)))
        _log_in_everywhere(lab)
        _rest(lab)
        yield lab


def _rest(lab: Lab) -> None:
    """Learn what each machine uses while nobody asks: checks, Salt's minion, timers."""
    say("measuring the machines at rest")
    with lab.span() as span:
        time.sleep(REST_SECONDS)
    for name, cpu in span.cpu.items():
        lab.machines[name].rest = cpu / span.seconds


def _log_in_everywhere(lab: Lab) -> None:
    for name, target in _targets(lab).items():
        cookie = lab.log_in(target)["cookie"]
        if "_token=" not in cookie:
            raise Unsuitable(f"the login at {name} gave no token, but: {cookie!r}")
        lab.targets[name] = Target(
            target.name, target.address, target.machines, target.serving, cookie
        )
