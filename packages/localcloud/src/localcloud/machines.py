"""The machines of instances, as Docker containers."""

from __future__ import annotations

import io
import ipaddress
import logging
import os
import socket
import tarfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.models.networks import Network

from localcloud.errors import MachineError, MachineGone
from localcloud.reachability import Policy
from localcloud.ruleset import Places

log = logging.getLogger(__name__)

CLOUD_LABEL = "localcloud.cloud"
FOLDER_LABEL = "localcloud.folder"
INSTANCE_LABEL = "localcloud.instance"
SUBNET_LABEL = "localcloud.subnet"
NAME_LABEL = "localcloud.name"
STOP_SECONDS = 30
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
PEER = "/proc/{pid}/root/sys/class/net/eth0/iflink"
"""A file that has the number of the host's device at the other end of a container's cable."""
CPU_PERIOD = 100_000
MOST_PROCESSES = 2048
"""Threads count too. A machine that makes more takes none from the host, or from other machines."""
ADMIN_UID = 1000

HALTED = (0, 130)
"""Exit codes of a container that has powered itself off: of systemd, or of reboot(2) where systemd
may call it."""
REBOOTED = 129
"""Exit code of a container that reboots itself. Where systemd may not call reboot(2), it exits
with 0, and the last lines of its log tell a reboot from a shutdown."""
_REBOOT_LINE = b"Rebooting."


@dataclass(frozen=True)
class Machine:
    """The machine of an instance, as its host has to make it.

    Args:
        memory: MiB that programs have, see `localcloud.sizes`.
        cpus: virtual CPUs.
        sshd: whether its sshd starts; an injected fault prevents it.
        broken: the injected fault that prevents the machine from running, or an empty text.
    """

    instance_id: str
    name: str
    subnet_id: str
    cidr: str
    address: str
    hostname: str
    domain: str
    cpus: int
    memory: int
    authorized_key: str = ""
    user_data: bytes = b""
    sshd: bool = True
    broken: str = ""


@dataclass(frozen=True)
class Observed:
    """The state of a container."""

    running: bool
    exit_code: int = 0


class Loads(Protocol):
    """Keeps machines to a policy: `firewall.Firewall`, or what tests have in its place."""

    def load(self, policy: Policy, places: Places) -> bool:
        """Replace the rules where they differ, and return whether they did."""


class MachineHost(Protocol):
    """Runs machines. `DockerHost` runs them in Docker; tests replace it."""

    def create(self, machine: Machine) -> None:
        """Make the machine with an empty disk and start it. Raises MachineError."""

    def start(self, machine: Machine) -> None:
        """Start a machine with the size of its current type. Raises MachineGone, MachineError."""

    def stop(self, instance_id: str) -> None:
        """Shut a machine down and keep its disk. Raises MachineGone, MachineError."""

    def reboot(self, instance_id: str) -> None:
        """Shut a machine down and start it again. Raises MachineGone, MachineError."""

    def limit_cpu(self, instance_id: str, cpus: float) -> None:
        """Give a running machine so many CPUs. Raises MachineGone, MachineError."""

    def remove(self, instance_id: str) -> None:
        """Remove a machine and its disk, if it exists. Raises MachineError."""

    def drop_network(self, subnet_id: str) -> None:
        """Remove the network of a subnet, if it exists. Raises MachineError."""

    def enforce(self, policy: Policy) -> None:
        """Let machines connect, and be connected to, as a policy says. Raises MachineError."""

    def console(self, instance_id: str, until: datetime) -> str:
        """Return what a machine has printed on its console; an empty text if it is gone.

        Args:
            instance_id: which one.
            until: what came later is left out.
        """

    def observe(self) -> dict[str, Observed]:
        """Return the state of every machine of this cloud, by instance id."""

    def events(self) -> Iterator[str]:
        """Yield the id of each instance whose container ends or is removed.

        Raises MachineError when the engine ends.
        """


class DockerHost:
    """The machines of one cloud, as containers in Docker."""

    def __init__(
        self, client: docker.DockerClient, cloud: str, folder: Path, image: str, firewall: Loads
    ) -> None:
        self._client = client
        self._cloud = cloud
        self._folder = folder
        self._image = image
        self._making_network = threading.Lock()
        self._firewall = firewall
        self._enforcing = threading.RLock()
        self._policy = Policy()
        self._bridges: dict[str, str] = {}  # by subnet
        self._ports: dict[str, str] = {}  # by instance

    def create(self, machine: Machine) -> None:
        """Make the container, write the first-boot data to its disk, and start it."""
        try:
            self._remove(machine.instance_id)  # left over from a killed process
            network = self._network(machine.subnet_id, machine.cidr)
            container = self._create(machine, network)
            container.put_archive("/", _seed(machine))
            self._run(container, machine.instance_id)
        except DockerException as error:
            raise MachineError(_reason(error)) from error

    def start(self, machine: Machine) -> None:
        """Start the container with the limits of the instance's current type."""
        container = self._container(machine.instance_id)
        try:
            container.update(**size_limits(machine.cpus, machine.memory))
            container.put_archive(
                "/", _tar({"var/lib/cloud/seed/resolv.conf": (0o644, 0, resolver().encode())})
            )
            self._run(container, machine.instance_id)
        except DockerException as error:
            raise MachineError(_reason(error)) from error

    def stop(self, instance_id: str) -> None:
        """Have systemd shut the machine down; kill it after STOP_SECONDS."""
        try:
            self._container(instance_id).stop(timeout=STOP_SECONDS)
        except DockerException as error:
            raise MachineError(_reason(error)) from error

    def reboot(self, instance_id: str) -> None:
        """Stop and start the container."""
        try:
            container = self._container(instance_id)
            container.restart(timeout=STOP_SECONDS)
            self._guard(container, instance_id)
        except DockerException as error:
            raise MachineError(_reason(error)) from error

    def limit_cpu(self, instance_id: str, cpus: float) -> None:
        """Change the quota of the container; its start sets that of the type again."""
        try:
            self._container(instance_id).update(**cpu_limits(cpus))
        except DockerException as error:
            raise MachineError(_reason(error)) from error

    def remove(self, instance_id: str) -> None:
        """Remove the container and its volumes."""
        try:
            self._remove(instance_id)
        except DockerException as error:
            raise MachineError(_reason(error)) from error

    def drop_network(self, subnet_id: str) -> None:
        """Remove the subnet's network."""
        try:
            for network in self._client.networks.list(
                filters={"label": self._labels(SUBNET_LABEL, subnet_id)}
            ):
                network.remove()
                self._bridges.pop(subnet_id, None)
        except NotFound:
            return
        except DockerException as error:
            raise MachineError(_reason(error)) from error

    def enforce(self, policy: Policy) -> None:
        """Load the rules for a policy into the kernel of this host."""
        try:
            with self._enforcing:
                self._policy = policy
                self._bridges = self._bridges or self._find_bridges()
                self._load()
        except DockerException as error:
            raise MachineError(_reason(error)) from error

    def console(self, instance_id: str, until: datetime) -> str:
        """Return the container's log since its last start, as EC2 guarantees no older output."""
        try:
            container = self._container(instance_id)
            started = datetime.fromisoformat(container.attrs["State"]["StartedAt"])
            if started > until:
                return ""
            shown = container.logs(since=started.timestamp(), until=until.timestamp())
            return shown.decode(errors="replace")
        except (DockerException, MachineGone):
            return ""

    def observe(self) -> dict[str, Observed]:
        """Return the state of every container of this cloud."""
        try:
            found = self._client.containers.list(
                all=True, filters={"label": self._labels()}, ignore_removed=True
            )
        except DockerException as error:
            raise MachineError(_reason(error)) from error
        self._find_ports(found)
        return {
            container.labels[INSTANCE_LABEL]: self._observed(container)
            for container in found
            if container.attrs["State"]["Status"] not in ("created", "removing")
        }

    def events(self) -> Iterator[str]:
        """Yield the id of each instance whose container ends or is removed."""
        filters = {"type": "container", "event": ["die", "destroy"], "label": self._labels()}
        try:
            for event in self._client.events(decode=True, filters=filters):
                yield event["Actor"]["Attributes"][INSTANCE_LABEL]
        except (DockerException, requests.RequestException) as error:
            raise MachineError(_reason(error)) from error
        raise MachineError("Docker's event stream ended")

    def _observed(self, container: Container) -> Observed:
        state = container.attrs["State"]
        code = int(state["ExitCode"])
        if not state["Running"] and code in HALTED and _REBOOT_LINE in container.logs(tail=3):
            code = REBOOTED
        return Observed(running=state["Running"], exit_code=code)

    def _run(self, container: Container, instance_id: str) -> None:
        """Start a container; its bridge is guarded before, and its port of the bridge after that.

        A port is there once the container runs. Until it is guarded, a machine can send from
        another machine's address, but only as its groups let that one.
        """
        with self._enforcing:
            self._load()
        container.start()
        self._guard(container, instance_id)

    def _guard(self, container: Container, instance_id: str) -> None:
        container.reload()
        with self._enforcing:
            if port := _port(container):
                self._ports[instance_id] = port
            self._load()

    def _load(self) -> None:
        self._firewall.load(self._policy, Places(dict(self._bridges), dict(self._ports)))

    def _find_bridges(self) -> dict[str, str]:
        found = self._client.networks.list(filters={"label": self._labels()})
        return {network.attrs["Labels"][SUBNET_LABEL]: _bridge(network) for network in found}

    def _find_ports(self, containers: Iterable[Container]) -> None:
        """Learn the ports of machines that an earlier process of the API has started."""
        found = {
            container.labels[INSTANCE_LABEL]: port
            for container in containers
            if (port := _port(container))
        }
        with self._enforcing:
            if found != self._ports:
                self._ports = found
                self._load()

    def _labels(self, *more: str) -> list[str]:
        return [f"{CLOUD_LABEL}={self._cloud}"] + (["=".join(more)] if more else [])

    def _container(self, instance_id: str) -> Container:
        try:
            return self._client.containers.get(f"{self._cloud}-{instance_id}")
        except NotFound as error:
            raise MachineGone(f"container {self._cloud}-{instance_id} does not exist") from error
        except DockerException as error:
            raise MachineError(_reason(error)) from error

    def _remove(self, instance_id: str) -> None:
        try:
            self._container(instance_id).remove(force=True, v=True)
        except (MachineGone, NotFound):
            return
        except APIError as error:
            if error.status_code != 409:  # its removal is under way
                raise

    def _network(self, subnet_id: str, cidr: str) -> str:
        """Return the name of the subnet's network; make the network for the first machine.

        The lock keeps two machines from making it at once.
        """
        name = f"{self._cloud}-{subnet_id}"
        with self._making_network:
            found = self._client.networks.list(
                filters={"label": self._labels(SUBNET_LABEL, subnet_id)}
            )
            if not found:
                gateway = str(next(ipaddress.ip_network(cidr).hosts()))
                made = self._client.networks.create(
                    name,
                    driver="bridge",
                    check_duplicate=True,
                    ipam=docker.types.IPAMConfig(
                        pool_configs=[docker.types.IPAMPool(subnet=cidr, gateway=gateway)]
                    ),
                    labels={
                        CLOUD_LABEL: self._cloud,
                        FOLDER_LABEL: str(self._folder),
                        SUBNET_LABEL: subnet_id,
                    },
                )
                found = [made]
        with self._enforcing:
            self._bridges[subnet_id] = _bridge(found[0])
        return name

    def _create(self, machine: Machine, network: str) -> Container:
        options = container_options(machine.cpus, machine.memory)
        endpoint = self._client.api.create_endpoint_config(ipv4_address=machine.address)
        options["environment"] |= {"TERM": "dumb", "SYSTEMD_COLORS": "0"}
        return self._client.containers.create(
            self._image,
            name=f"{self._cloud}-{machine.instance_id}",
            hostname=machine.hostname,
            domainname=machine.domain,
            tty=True,  # gives systemd a console to write to
            labels={
                CLOUD_LABEL: self._cloud,
                INSTANCE_LABEL: machine.instance_id,
                NAME_LABEL: machine.name,
            },
            network=network,
            networking_config={network: endpoint},
            log_config=docker.types.LogConfig(
                type="json-file", config={"max-size": "1m", "max-file": "2"}
            ),
            **options,
        )


def container_options(cpus: int, memory: int) -> dict[str, Any]:
    """Return the options of `docker.containers.create` that a machine needs, whatever its network.

    They hold the privileges with which systemd boots as PID 1 of the image's container, and the
    size of the machine. Docker's own AppArmor profile forbids systemd's mounts; its seccomp profile
    stays. Who is root on a machine has CAP_SYS_ADMIN on the host's kernel: it keeps honest programs
    apart, not attackers.

    Args:
        cpus: virtual CPUs; a machine gets no more than the host has.
        memory: MiB; a machine has no swap.
    """
    return {
        "cap_add": ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"],
        "security_opt": ["apparmor=unconfined"],
        "pids_limit": MOST_PROCESSES,
        "cgroupns": "private",
        "tmpfs": {"/run": "", "/run/lock": ""},
        "environment": {"container": "docker"},
        **size_limits(cpus, memory),
    }


def size_limits(cpus: int, memory: int) -> dict[str, Any]:
    """Return the options of a container that cut it to a machine's size; they can be updated."""
    return {
        **cpu_limits(cpus),
        "mem_limit": f"{memory}m",
        "memswap_limit": f"{memory}m",
    }


def cpu_limits(cpus: float) -> dict[str, Any]:
    """Return the options of a container that has so many CPUs, or a part of one."""
    return {
        "cpu_period": CPU_PERIOD,
        "cpu_quota": int(CPU_PERIOD * min(cpus, os.cpu_count() or cpus)),
    }


def _bridge(network: Network) -> str:
    """Return the name that Docker gives to the bridge of a network."""
    return f"br-{str(network.id)[:12]}"


def _port(container: Container) -> str:
    """Return the name of a running machine's port of its bridge; empty: it does not run.

    The machine's own end of the cable has the number of the other end.
    """
    pid = container.attrs["State"].get("Pid")
    if not pid or not container.attrs["State"]["Running"]:
        return ""
    try:
        return socket.if_indextoname(int(Path(PEER.format(pid=pid)).read_text()))
    except (OSError, ValueError):
        return ""  # it has ended meanwhile


def container_names(client: docker.DockerClient, cloud: str) -> list[str]:
    """Return the names of a cloud's containers, of running and of stopped machines."""
    found = client.containers.list(
        all=True, filters={"label": f"{CLOUD_LABEL}={cloud}"}, ignore_removed=True
    )
    return sorted(str(container.name) for container in found)


def remove_everything(client: docker.DockerClient, cloud: str) -> list[str]:
    """Remove the containers, networks and volumes of a cloud, and return their names.

    Raises:
        MachineError: Docker refused.
    """
    label: dict[str, str | list[str] | bool] = {"label": f"{CLOUD_LABEL}={cloud}"}
    removed = []
    try:
        for container in client.containers.list(all=True, filters=label, ignore_removed=True):
            try:
                container.remove(force=True, v=True)
            except NotFound:
                continue
            removed.append(str(container.name))
        for network in client.networks.list(filters=label):
            network.remove()
            removed.append(str(network.name))
        for volume in client.volumes.list(filters=label):
            volume.remove()
            removed.append(str(volume.name))
    except DockerException as error:
        raise MachineError(_reason(error)) from error
    return removed


def resolver() -> str:
    """Return the resolv.conf of machines: the host's name servers that a container can reach.

    If there are none, it names Docker's embedded server. That server needs nftables rules inside
    the container, which a machine with a firewall of its own removes.
    """
    return "".join(f"nameserver {server}\n" for server in resolvers() or ["127.0.0.11"])


def resolvers() -> tuple[str, ...]:
    """Return the addresses of the host's name servers that a container can reach."""
    for path in RESOLVERS:
        if not path.exists():
            continue
        lines = [line.split() for line in path.read_text().splitlines()]
        servers = [fields[1] for fields in lines if len(fields) > 1 and fields[0] == "nameserver"]
        servers = [
            server for server in servers if not server.startswith("127.") and ":" not in server
        ]
        if servers:
            return tuple(servers)
    return ()


def _seed(machine: Machine) -> bytes:
    fqdn = f"{machine.hostname}.{machine.domain}"
    hosts = (
        f"127.0.0.1 localhost\n127.0.1.1 {fqdn} {machine.hostname}\n"
        "::1 localhost ip6-localhost ip6-loopback\n"
    )
    content = {
        "var/lib/cloud/seed/hosts": (0o644, 0, hosts.encode()),
        "var/lib/cloud/seed/hostname": (0o644, 0, f"{machine.hostname}\n".encode()),
        "var/lib/cloud/seed/resolv.conf": (0o644, 0, resolver().encode()),
        "var/lib/cloud/seed/user-data": (0o600, 0, machine.user_data),
    }
    if not machine.sshd:
        content["etc/systemd/system/ssh.service.d/fault.conf"] = (
            0o644,
            0,
            b"[Unit]\nConditionPathExists=/nowhere\n",
        )
    if machine.authorized_key:
        content["home/admin/.ssh/authorized_keys"] = (
            0o600,
            ADMIN_UID,
            machine.authorized_key.strip().encode() + b"\n",
        )
    return _tar(content)


def _tar(content: Mapping[str, tuple[int, int, bytes]]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, (mode, owner, body) in content.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.uid, entry.gid, entry.size = mode, owner, owner, len(body)
            tar.addfile(entry, io.BytesIO(body))
    return archive.getvalue()


def _reason(error: Exception) -> str:
    explanation: Any = getattr(error, "explanation", None)
    return str(explanation or error)
