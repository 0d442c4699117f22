"""A Salt master on this host, and machines in containers that run as in production.

The machines boot the local cloud's image. Their minion is the systemd service of the deploy
script, and the master knows its key before it starts. States, modules, pillar and top files are
the production ones; only the secrets belong to the test.
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from tarfile import TarFile, TarInfo
from typing import Any

import docker
import docker.errors
import jinja2
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool
from pytestshellutils.utils.processes import ProcessResult
from salt.client import LocalClient
from salt.utils.args import parse_input
from saltfactories.daemons.container import Container
from saltfactories.daemons.master import SaltMaster
from saltfactories.manager import FactoriesManager

import builtrelease
import inside
from evidence import Evidence
from localcloud.config import TIME_ADDRESS
from localcloud.machines import container_options, cpu_limits
from localcloud.ntp import TimeServer
from localcloud.sizes import baseline, memory_left
from memory import oom_kills
from plainpillar import DEPLOYMENT, PlainPillar
from stackctl.states import StateRun, read_orchestration

# Two runs at the same time on one host need two subnets; each worker of a run has one of its own.
FIRST_SUBNET = ipaddress.ip_network(os.environ.get("STATES_SUBNET", "10.30.0.0/24"))
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
SUBNET = ipaddress.ip_network(
    (FIRST_SUBNET[0] + WORKER * FIRST_SUBNET.num_addresses, FIRST_SUBNET.prefixlen)
)
NETWORK = f"stack-states-{SUBNET.network_address}"
PREFIX = f"{NETWORK}-"
# On this host; nft's names have no dots.
TABLE = NETWORK.replace(".", "-")
BACKUPS = f"{NETWORK}-backups"
HIGHSTATE_SECONDS = 600
MACHINE_MEBIBYTES = memory_left("t2.micro", 1024)
MINION_START_SECONDS = 60
MINION = "salt/minion/files"
HOSTS = "/etc/hosts"
# Beside the machines of the map: builds the release of Airflow that the master serves.
BUILDER = "salt-2"
# Of a role that no machine serves, and that the test's pillar has.
SPARE = "spare-1"
# Of the production map: while the others know it, they tell it how they are.
MONITOR = "monitor-1"
# Of the production map. Like the builder, they are in the others' names and firewalls
# from their boot until `retire`.
LATER = ("postgres-2", "postgres-3", "redis-2", "redis-3", "lb-2", MONITOR)
# What the deploy script installs, and where.
MINION_FILES = {
    "salt-minion.service": "/etc/systemd/system",
    "stack.conf": "/etc/salt/minion.d",
}

POSTGRES_USER = """
groupadd --system --gid 900 postgres
useradd --system --uid 900 --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres
"""

MASTER = yaml.safe_load((DEPLOYMENT.root / "salt/master/defaults.yaml").read_text())["master"]

States = dict[str, dict[str, Any]]


def address_plan() -> dict[str, str]:
    """Return minion id -> address of every machine of the map and of a spare.

    The master's is the gateway.
    """
    hosts = SUBNET.hosts()
    return {minion_id: str(next(hosts)) for minion_id in (*DEPLOYMENT.machines(), SPARE)}


def _address(minion_id: str) -> str:
    beside = (BUILDER, *LATER)
    if minion_id in beside:
        return str(SUBNET.broadcast_address - 1 - beside.index(minion_id))
    return address_plan()[minion_id]


def open_network(client: docker.DockerClient) -> Network:
    """Create the machines' network; remove what an aborted run has left."""
    close_network(client)
    pool = IPAMPool(subnet=str(SUBNET), gateway=address_plan()[DEPLOYMENT.master()])
    return client.networks.create(NETWORK, driver="bridge", ipam=IPAMConfig(pool_configs=[pool]))


@contextmanager
def time_service(network: Network) -> Iterator[TimeServer]:
    """Tell the machines the time at Amazon's address, as the local cloud does."""
    with TimeServer((address_plan()[DEPLOYMENT.master()], 0)) as server:
        host, port = server.socket.getsockname()
        asked = f'iifname "br-{str(network.id)[:12]}" ip daddr {TIME_ADDRESS} udp dport 123'
        _nft(
            f"table ip {TABLE} {{\nchain clock {{\n"
            "type nat hook prerouting priority -101;\n"
            f"{asked} dnat to {host}:{port}\n}}\n}}\n"
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def _nft(rules: str) -> None:
    """Replace the table of this network on the host."""
    removal = f"table ip {TABLE}\ndelete table ip {TABLE}\n"
    subprocess.run(["nft", "--file", "-"], input=removal + rules, text=True, check=True)


def close_network(client: docker.DockerClient) -> None:
    """Remove the machines' network, and the machines that are still in it."""
    _nft("")
    for container in client.containers.list(all=True, filters={"name": f"^/{PREFIX}"}):
        container.remove(force=True)
    for network in client.networks.list(names=[f"^{NETWORK}$"]):
        network.remove()
    remove_backups(client)


def remove_backups(client: docker.DockerClient) -> None:
    """Remove what the database servers have backed up."""
    for volume in client.volumes.list(filters={"name": BACKUPS}):
        volume.remove()


class Machine:
    """A container with a running minion.

    Attributes:
        id: the minion id.
        address: the private address.
    """

    def __init__(self, minion_id: str, container: Container, master: SaltMaster) -> None:
        self.id = minion_id
        self.address = _address(minion_id)
        self._container = container
        self._settings = master.config
        self._hosts = ""  # the file of names, while the machine is cut off

    def salt(self, function: str, *arguments: str, seconds: int = 60, **keywords: Any) -> Any:
        """Run an execution function on this machine through the master, and return its answer.

        The answer is what `salt --out=json` prints. That command takes a second and a half of CPU
        more, most of it to load Salt. A client is of one thread, so each call has its own.
        """
        with LocalClient(mopts=deepcopy(self._settings)) as client:
            words = parse_input(arguments)
            answers = client.cmd(self.id, function, words, timeout=seconds, kwarg=keywords)
        assert self.id in answers, f"{self.id} did not answer to {function} within {seconds} s"
        return json.loads(json.dumps(answers[self.id]))

    def run(
        self, *command: str, user: str = "root", environment: Mapping[str, str] | None = None
    ) -> ProcessResult:
        """Run a command on this machine, beside Salt.

        The Docker library loses the first bytes of an answer that comes with the headers of HTTP
        (https://github.com/docker/docker-py/issues/3332), so another user's runs by Docker's own
        program.
        """
        container = self._container.container
        if user == "root":
            done = inside.run(container, *command, environment=environment)
        else:
            values = [f"--env={name}={value}" for name, value in (environment or {}).items()]
            options = ["docker", "exec", f"--user={user}", *values, str(container.id)]
            done = subprocess.run([*options, *command], capture_output=True, check=False)
        return ProcessResult(
            returncode=done.returncode,
            stdout=done.stdout.decode(errors="replace"),
            stderr=done.stderr.decode(errors="replace"),
            cmdline=list(command),
        )

    def python(self, source: str, **values: Any) -> Any:
        """Run Python on this machine with `values` as names; return what it assigns to `result`."""
        names = f"import json\nglobals().update(json.loads({json.dumps(values)!r}))"
        program = f"{names}\n{textwrap.dedent(source)}"
        done = self.run("/opt/salt/bin/python", "-c", f"{program}\nprint(json.dumps(result))")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def put(self, path: str, content: str, mode: int = 0o644) -> None:
        """Write a file on this machine."""
        data = content.encode()
        info = TarInfo(Path(path).name)
        info.size, info.mode = len(data), mode
        archive = BytesIO()
        with TarFile(fileobj=archive, mode="w") as tar:
            tar.addfile(info, BytesIO(data))
        self.run("mkdir", "-p", str(Path(path).parent))
        assert self._container.container.put_archive(str(Path(path).parent), archive.getvalue())

    def terminate(self) -> None:
        """Remove the machine."""
        self._container.terminate()

    def cut_off(self) -> None:
        """End the machine as when its power is cut."""
        self._hosts = self.run("cat", HOSTS).stdout
        self._container.container.kill()

    def restart(self) -> None:
        """Stop the machine and boot it again, with its disk."""
        hosts = self._hosts or self.run("cat", HOSTS).stdout
        self._container.container.restart()
        self._give_names(hosts)
        self._hosts = ""

    @contextmanager
    def boots_again(self) -> Iterator[None]:
        """Start the machine whenever it has ended, as EC2 does at a reboot, during the block."""
        container, hosts = self._container.container, self.run("cat", HOSTS).stdout
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.3):
                container.reload()
                if container.status == "exited":
                    container.start()
                    self._give_names(hosts)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _give_names(self, hosts: str) -> None:
        """Restore the file of names, which a disk keeps: Docker writes its own at each start."""
        # Docker has bound the file, so it can be written and not be replaced.
        self.run("sh", "-c", f'printf %s "$1" > {HOSTS}', "sh", hosts)

    def limit_memory(self, size: int) -> None:
        """Give the machine so many bytes of memory, for as long as it runs."""
        self._container.container.update(mem_limit=size, memswap_limit=size)

    @contextmanager
    def without_credits(self) -> Iterator[None]:
        """Give the machine what EC2 leaves a t2.micro without CPU credits, while the block runs."""
        try:
            self._container.container.update(**cpu_limits(baseline("t2.micro")))
            yield
        finally:
            self._container.container.update(**cpu_limits(1))

    def oom_kills(self) -> int:
        """Return how many of this machine's processes the kernel has killed for lack of memory."""
        return oom_kills(self._container.container.id)

    def can_reach(self, address: str, port: int, seconds: float = 2) -> bool:
        """Whether a TCP connection from this machine opens."""
        attempt = """
            import socket
            try:
                socket.create_connection((address, port), seconds).close()
                result = True
            except OSError:
                result = False
        """
        return bool(self.python(attempt, address=address, port=port, seconds=seconds))

    def apply(self, *sls: str, test: bool = False) -> States:
        """Apply states, or the highstate when none is named; return state tag -> return."""
        function = "state.apply" if sls else "state.highstate"
        answer = self.salt(
            function, *sls, seconds=HIGHSTATE_SECONDS, **({"test": True} if test else {})
        )
        assert isinstance(answer, dict), f"{self.id}: {function} failed: {answer}"
        return answer


def changed(states: States) -> list[str]:
    """Return the tags of states that changed something, or would with `test=True`."""
    return [tag for tag, state in states.items() if state["changes"] or state["result"] is None]


def failed(states: States) -> list[str]:
    """Return tag and comment of each failed state."""
    return [
        f"{tag}: {state['comment']}" for tag, state in states.items() if state["result"] is False
    ]


class Fleet(Evidence):
    """The master and the machines, which boot when a test first asks for them.

    Attributes:
        clock: tells the machines the time.
    """

    def __init__(
        self,
        factories: FactoriesManager,
        client: docker.DockerClient,
        image: str,
        pillar: PlainPillar,
        clock: TimeServer,
    ) -> None:
        self.pillar = pillar
        self.clock = clock
        self._factories = factories
        self._client = client
        self._image = image
        self._machines: dict[str, Machine] = {}
        self._failures: dict[str, str] = {}
        self._converged: set[str] = set()
        self._migrated = False
        self._keys: dict[str, tuple[str, str]] = {}
        self._containers: list[Container] = []
        self._addresses: dict[str, str] = {}
        self._record = pillar.path / "addresses.json"
        self.master = self._new_master()

    def _new_master(self) -> SaltMaster:
        plan = address_plan()
        root = DEPLOYMENT.root
        template = (root / "salt/master/files/master.conf.j2").read_text()
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
        config = environment.from_string(template).render(
            id=DEPLOYMENT.master(),
            tree=root,
            archives=builtrelease.folder(),
            addresses=self._record,
            deployment=DEPLOYMENT.name,
            master=MASTER,
        )
        overrides = yaml.safe_load(config) | {
            "interface": plan[DEPLOYMENT.master()],
            "publish_port": 4505,
            "ret_port": 4506,
            # Not encrypted.
            "pillar_roots": {"base": [str(self.pillar.path), str(root / "pillar/base")]},
            "log_level_logfile": "warning",
            # salt-factories lets all machines command `test`, and keeps that beside a list of ours.
            "peer": {".*": None},
        }
        # salt-factories has its own folders.
        del overrides["gpg_keydir"]
        # Without this callback, salt-factories accepts any key.
        master = self._factories.salt_master_daemon(
            DEPLOYMENT.master(),
            overrides=overrides,
            on_auth_event_callback=lambda _master, _payload: None,
        )
        assert isinstance(master, SaltMaster)
        accepted = Path(master.config["pki_dir"]) / "minions"
        for minion_id in (*plan, BUILDER, *LATER):
            self._keys[minion_id] = _key_pair()
            (accepted / minion_id).write_text(self._keys[minion_id][1])
        return master

    def orchestrate(self, name: str, seconds: int = 900, **pillar: Any) -> list[StateRun]:
        """Run an orchestration on the master and return its state runs."""
        words = [f"pillar={json.dumps(pillar)}"]
        done = self.master.salt_run_cli().run("state.orchestrate", name, *words, _timeout=seconds)
        assert isinstance(done.data, dict), done.stdout + done.stderr
        (steps,) = done.data.get("data", done.data).values()
        return read_orchestration(steps)

    def publish_address(self, *minion_ids: str) -> None:
        """Give the pillar the addresses of machines, also before they run."""
        self._write_addresses(self._addresses | {name: _address(name) for name in minion_ids})

    def withdraw_address(self, minion_id: str) -> None:
        """Take the address of a machine out of the pillar."""
        self._write_addresses(
            {name: found for name, found in self._addresses.items() if name != minion_id}
        )

    @contextmanager
    def without_address(self, minion_id: str) -> Iterator[None]:
        """Have no machine know another one for a while, also after a failure.

        Machines may have been configured meanwhile, so that each one converges before the next use.
        """
        self.withdraw_address(minion_id)
        try:
            yield
        finally:
            self.publish_address(minion_id)
            self._converged.clear()

    @contextmanager
    def monitored(self) -> Iterator[Machine]:
        """Have a monitor machine while the block runs; each machine converges for it, and after."""
        self._converged.clear()
        try:
            yield self.machine(MONITOR)
        finally:
            self.retire(MONITOR)
            self._converged.clear()

    def _write_addresses(self, addresses: Mapping[str, str]) -> None:
        self._addresses = dict(addresses)
        scratch = self._record.with_suffix(".new")
        scratch.write_text(json.dumps(self._addresses))
        scratch.replace(self._record)

    def machine(self, minion_id: str) -> Machine:
        """Return the machine, booted and with its minion connected.

        Raises:
            AssertionError: it did not boot, with the end of its journal. A later call says the same
                and does not try again: the first failure would be lost behind those that follow.
        """
        if minion_id in self._failures:
            raise AssertionError(self._failures[minion_id])
        if minion_id not in self._machines:
            try:
                self._machines[minion_id] = self._boot(minion_id)
            except Exception as error:
                self._failures[minion_id] = (
                    f"{minion_id} did not boot: {error}\n{self._journal(minion_id)}"
                )
                raise AssertionError(self._failures[minion_id]) from error
        return self._machines[minion_id]

    def web_app(self) -> Machine:
        """Return web-1 with the web app, after a migration of the database as in the orchestration.

        No secret is in what the migration returns.
        """
        for store in ("postgres-1", "redis-1"):
            self.converged(store)
        if not self._migrated:
            self.ensure_release()
            migrated = self.machine("web-1").apply("airflow.migrate")
            assert not failed(migrated), failed(migrated)
            returned = json.dumps(migrated)
            assert not [name for name, value in self.pillar.values().items() if value in returned]
            self._migrated = True
        return self.converged("web-1")

    def ensure_release(self) -> None:
        """Have a machine build the release of Airflow, unless an earlier run has left it."""
        if builtrelease.is_kept():
            return
        builder = self.machine(BUILDER)
        states = builder.apply("airflow.artefact")
        assert not failed(states), failed(states)
        builtrelease.keep(self._client.containers.get(PREFIX + BUILDER))
        # A test gives its address to another machine.
        self.retire(BUILDER)

    def retire(self, minion_id: str, *, keep_backups: bool = False) -> None:
        """Remove a machine with its disk; the others no longer know it. It may boot again.

        Args:
            minion_id: the machine.
            keep_backups: whether the next database server finds those of the last one.
        """
        if minion_id in self._machines:
            self._machines.pop(minion_id).terminate()
        self._converged.discard(minion_id)
        self._migrated = self._migrated and minion_id != "postgres-1"
        if not keep_backups and not any(_keeps_backups(name) for name in self._machines):
            remove_backups(self._client)
        if minion_id not in address_plan():
            self.withdraw_address(minion_id)

    def logs(self) -> list[tuple[str, str]]:
        """Return the end of the journal of each machine that runs, after a title."""
        return [(f"the journal of {name}", self._journal(name, 40)) for name in self._machines]

    def _journal(self, minion_id: str, lines: int = 100) -> str:
        """Return the end of a machine's journal, or why there is none."""
        try:
            container = self._client.containers.get(PREFIX + minion_id)
            _, output = container.exec_run(["journalctl", "--no-pager", f"--lines={lines}"])
            assert isinstance(output, bytes)
            return output.decode(errors="replace")
        except (docker.errors.DockerException, OSError) as error:
            return f"its journal is lost: {error}"

    def converged(self, minion_id: str) -> Machine:
        """Return the machine after its first highstate, in which everything succeeded."""
        machine = self.machine(minion_id)
        if minion_id not in self._converged:
            self.converge(machine)
            self._converged.add(minion_id)
        return machine

    @staticmethod
    def converge(machine: Machine) -> States:
        """Apply the highstate; every state succeeds."""
        states = machine.apply()
        assert not failed(states), "\n".join([f"{machine.id}: highstate failed", *failed(states)])
        return states

    def assert_idempotent(self, machine: Machine) -> None:
        """A highstate changes nothing, and `test=True` after it predicts no change."""
        assert not (again := changed(self.converge(machine))), again
        predicted = machine.apply(test=True)
        assert not (failures := failed(predicted)), failures
        assert not (would := changed(predicted)), would

    def terminate(self) -> None:
        """Remove every machine, also when the removal of another one fails."""
        with ExitStack() as stack:
            for container in self._containers:
                stack.callback(container.terminate)

    def _boot(self, minion_id: str) -> Machine:
        container = self._factories.get_container(
            PREFIX + minion_id,
            self._image,
            docker_client=self._client,
            pull_before_start=False,
            container_run_kwargs=_machine_options(minion_id, self._client),
        )
        container.container_start_check(
            lambda _timeout_at: container.run("systemctl", "is-system-running").returncode == 0
        )
        self._containers.append(container)
        container.start()
        machine = Machine(minion_id, container, self.master)
        machine.put(
            "/etc/salt/minion",
            f"id: {minion_id}\n"
            f"master: {address_plan()[DEPLOYMENT.master()]}\n"
            "autoload_dynamic_modules: false\n",
        )
        if _keeps_backups(minion_id):
            # The owner of the backups has one number on all machines.
            done = machine.run("sh", "-ec", POSTGRES_USER)
            assert done.returncode == 0, done.stderr
        private, public = self._keys[minion_id]
        machine.put("/etc/salt/pki/minion/minion.pem", private, mode=0o400)
        machine.put("/etc/salt/pki/minion/minion.pub", public)
        for name, folder in MINION_FILES.items():
            machine.put(f"{folder}/{name}", (DEPLOYMENT.root / MINION / name).read_text())
        started = time.time()
        done = machine.run("systemctl", "enable", "--now", "salt-minion")
        assert done.returncode == 0, done.stderr
        events = self._factories.event_listener.wait_for_events(
            [(self.master.id, f"salt/minion/{minion_id}/start")],
            after_time=started,
            timeout=MINION_START_SECONDS,
        )
        assert events.found_all_events, "its minion has not connected"
        self.publish_address(minion_id)
        machine.salt("saltutil.sync_all")  # as the orchestration begins
        return machine


def _keeps_backups(minion_id: str) -> bool:
    return minion_id.startswith("postgres-")


def _key_pair() -> tuple[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode().rstrip("\n")


def _machine_options(minion_id: str, client: docker.DockerClient) -> dict[str, Any]:
    """Return the options of a container with systemd and the size of a t2.micro."""
    endpoint = client.api.create_endpoint_config(ipv4_address=_address(minion_id))
    return {
        "hostname": minion_id,
        "network": NETWORK,
        "networking_config": {NETWORK: endpoint},
        # In the place of a bucket.
        "volumes": {BACKUPS: {"bind": "/var/lib/pgbackrest", "mode": "rw"}}
        if _keeps_backups(minion_id)
        else {},
        **container_options(1, MACHINE_MEBIBYTES),
    }
