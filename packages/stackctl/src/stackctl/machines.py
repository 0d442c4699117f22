"""The machines as the EC2 API shows them, and the way in to them by SSH."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3

from stackctl.catalogue import CLOUD_SSH
from stackctl.deployment import Deployment
from stackctl.driver import DEPLOY_TAG, from_console
from stackctl.errors import LaunchError, NotUpError
from stackctl.files import write_private
from stackctl.run import Log, run
from stackctl.secret_store import SecretStore

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

SSH_USER = "admin"


@dataclass(frozen=True)
class Machine:
    """One instance.

    Attributes:
        name: its Name tag.
        instance_id: its id.
        state: in the API's words.
        private_address: empty when it has none.
        public_address: empty when it has none.
        deploy: the driver's mark: `pending` until its minion is installed, then `done`.
    """

    name: str
    instance_id: str
    state: str
    private_address: str
    public_address: str
    deploy: str = ""

    @property
    def deployed(self) -> bool:
        """Whether its minion was installed to the end."""
        return self.deploy == "done"


def ec2_client(deployment: Deployment) -> EC2Client:
    """Return a client for the deployment's region; boto3 finds credentials and endpoint itself."""
    return boto3.client("ec2", region_name=deployment.region())


def find_machines(client: EC2Client) -> list[Machine]:
    """Return the project's machines that are not terminated, in order of their names, which need not differ."""
    pages = client.get_paginator("describe_instances").paginate(
        Filters=[
            {"Name": "tag:project", "Values": ["airflow-stack"]},
            {
                "Name": "instance-state-name",
                "Values": ["pending", "running", "stopping", "stopped"],
            },
        ]
    )
    found: list[Machine] = []
    for page in pages:
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
                found.append(
                    Machine(
                        tags.get("Name", instance["InstanceId"]),
                        instance["InstanceId"],
                        instance["State"]["Name"],
                        instance.get("PrivateIpAddress", ""),
                        instance.get("PublicIpAddress", ""),
                        tags.get(DEPLOY_TAG, ""),
                    )
                )
    return sorted(found, key=lambda machine: (machine.name, machine.instance_id))


def list_machines(client: EC2Client) -> dict[str, Machine]:
    """Return the project's machines that are not terminated, by name.

    Raises:
        LaunchError: two have the same name.
    """
    found: dict[str, Machine] = {}
    for machine in find_machines(client):
        if machine.name in found:
            raise LaunchError(
                f"Two machines are called {machine.name}: {found[machine.name].instance_id} and {machine.instance_id}.",
                "Terminate the one that is not wanted.",
            )
        found[machine.name] = machine
    return found


def host_keys(client: EC2Client, machine: Machine, deadline: float) -> list[str]:
    """Return the machine's SSH host keys as its console printed them at first boot.

    Args:
        client: the EC2 API.
        machine: whose keys.
        deadline: `time.monotonic()` at which to give up. EC2 shows the console minutes after boot.

    Raises:
        LaunchError: the console never showed them.
    """
    while True:
        output = client.get_console_output(InstanceId=machine.instance_id).get("Output", "")
        if keys := from_console(output):
            return keys
        if time.monotonic() > deadline:
            raise LaunchError(
                f"The console of {machine.name} does not show its SSH host keys.",
                "Its identity cannot be verified: look at the console output in EC2, then run again.",
            )
        time.sleep(1)


class Shell:
    """Root's shell on the machines, over SSH as `admin`, with host keys that the EC2 API vouches for."""

    def __init__(self, deployment: Deployment, client: EC2Client, log: Log) -> None:
        self._deployment = deployment
        self._client = client
        self._log = log
        self._known_hosts = deployment.state_dir / "ssh" / "known_hosts"
        # A short path: a socket's holds 107 bytes at most.
        self._sockets = Path(tempfile.mkdtemp(prefix="stackctl-"))
        self._learning = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for socket in self._sockets.iterdir():
            with contextlib.suppress(Exception):
                run(
                    ["ssh", "-S", str(socket), "-O", "exit", socket.name],
                    log=self._log,
                    what="closing SSH",
                )
        shutil.rmtree(self._sockets, ignore_errors=True)

    def trust(self, machine: Machine, timeout: float = 300) -> None:
        """Learn a machine's host keys from the API, unless they are known already.

        Args:
            machine: which one. A machine made anew has another instance id, and is learnt anew.
            timeout: seconds to wait for its console.
        """
        with self._learning:
            known = (
                self._known_hosts.read_text().splitlines() if self._known_hosts.is_file() else []
            )
            if any(line.endswith(f" {machine.instance_id}") for line in known):
                return
            keys = host_keys(self._client, machine, time.monotonic() + timeout)
            kept = [line for line in known if not line.startswith(f"{machine.name} ")]
            kept += [f"{machine.name} {key} {machine.instance_id}" for key in keys]
            write_private(self._known_hosts, "\n".join(kept) + "\n")

    def write_key(self) -> Path:
        """Put the deployment's SSH key where programs of this host find it, and return that path."""
        key = self._deployment.ssh_key
        if not key.is_file():
            write_private(key, SecretStore(self._deployment).read(CLOUD_SSH)["private_key"])
        return key

    def _options(self, name: str) -> list[str]:
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "User": SSH_USER,
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self._known_hosts),
            "HostKeyAlias": name,
            "LogLevel": "ERROR",
            "ConnectTimeout": "15",
            "ServerAliveInterval": "15",
        }
        before = self._deployment.ssh_key_before
        keys = [self.write_key(), *([before] if before.is_file() else [])]
        return [
            "-F", "none",
            *(part for key in keys for part in ("-i", str(key))),
            *(part for key, value in options.items() for part in ("-o", f"{key}={value}")),
        ]  # fmt: skip

    def command(
        self, machine: Machine, remote: str, *, master: Machine | None = None, tty: bool = False
    ) -> list[str]:
        """Return the local command that runs `remote` as root on the machine.

        Args:
            machine: where to.
            remote: a shell command.
            master: the Salt master, when the machine is another one: only from there does a machine accept SSH.
            tty: ask for a terminal.
        """
        options = self._options(machine.name)
        address = machine.private_address
        if master and master.name != machine.name:
            jump = ["ssh", *self._options(master.name), "-o", f"ControlPath={self._sockets}/%n", "-W", "%h:%p",
                    self.address(master)]  # fmt: skip
            options += ["-o", f"ProxyCommand={shlex.join(jump)}"]
        else:
            address = self.address(machine)
            options += [
                "-o",
                "ControlMaster=auto",
                "-o",
                f"ControlPath={self._sockets}/%n",
                "-o",
                "ControlPersist=60",
            ]
        return [
            "ssh",
            *options,
            *(["-t"] if tty else []),
            address,
            f"sudo -n sh -c {shlex.quote(remote)}",
        ]

    def address(self, machine: Machine) -> str:
        """Return where this host reaches the machine."""
        if self._deployment.is_local or not machine.public_address:
            return machine.private_address
        return machine.public_address

    def run(
        self,
        machine: Machine,
        remote: str,
        *,
        what: str,
        master: Machine | None = None,
        stdin: str | bytes | None = None,
        accept: Sequence[int] = (0,),
        timeout: float = 900,
        quiet: bool = False,
    ) -> str:
        """Run a shell command as root on a machine and return its output; see `command` and `stackctl.run.run`."""
        command = self.command(machine, remote, master=master)
        return run(
            command,
            log=self._log,
            what=what,
            stdin=stdin,
            accept=accept,
            timeout=timeout,
            quiet=quiet,
        )


def is_active(shell: Shell, machine: Machine, unit: str) -> bool:
    """Return whether systemd runs a unit on the machine."""
    answer = shell.run(
        machine, f"systemctl is-active {unit} || true", what=f"looking at {machine.name}"
    )
    return answer.strip() == "active"


def require_master(deployment: Deployment, machines: Mapping[str, Machine]) -> Machine:
    """Return the running Salt master.

    Raises:
        NotUpError: there is none.
    """
    machine = machines.get(deployment.master())
    if machine is None or machine.state != "running":
        state = machine.state if machine else "not there"
        raise NotUpError(f"{deployment.master()} is {state}.", "Bring the stack up first: make up")
    return machine


@contextlib.contextmanager
def aws_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Let boto3 and every command started meanwhile use another account or endpoint."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
