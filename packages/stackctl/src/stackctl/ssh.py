"""Root's shell on the machines, over SSH."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stackctl.catalogue import CLOUD_SSH
from stackctl.deployment import Deployment
from stackctl.errors import CommandError
from stackctl.files import write_private
from stackctl.machines import Machine, host_keys
from stackctl.run import Log, run
from stackctl.secret_store import SecretStore

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

SSH_USER = "admin"


class Shell:
    """Root's shell on the machines, over SSH as `admin`, with host keys from the EC2 API."""

    def __init__(self, deployment: Deployment, client: EC2Client, log: Log) -> None:
        self._deployment = deployment
        self._client = client
        self._log = log
        self._known_hosts = deployment.state_dir / "ssh" / "known_hosts"
        # A short path: the path of a socket holds 107 bytes at most.
        self._sockets = Path(tempfile.mkdtemp(prefix="stackctl-"))
        self._learning = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for socket in self._sockets.iterdir():
            with contextlib.suppress(CommandError):
                close = ["ssh", "-S", str(socket), "-O", "exit", socket.name]
                run(close, log=self._log, what="closing SSH")
        shutil.rmtree(self._sockets, ignore_errors=True)

    def trust(self, machine: Machine, timeout: float = 300) -> None:
        """Learn a machine's host keys from the API, unless they are known.

        Args:
            machine: whose keys. A replaced machine has another instance id, and is learnt again.
            timeout: seconds to wait for its console.
        """
        with self._learning:
            known = (
                self._known_hosts.read_text().splitlines() if self._known_hosts.is_file() else []
            )
            if any(line.endswith(f" {machine.instance_id}") for line in known):
                return
            keys = host_keys(self._client, machine, time.monotonic() + timeout)
            lines = [line for line in known if not line.startswith(f"{machine.name} ")]
            lines += [f"{machine.name} {key} {machine.instance_id}" for key in keys]
            write_private(self._known_hosts, "\n".join(lines) + "\n")

    def write_key(self) -> Path:
        """Write the deployment's SSH key to this host, unless it is there, and return its path."""
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
            "-F",
            "none",
            *(part for key in keys for part in ("-i", str(key))),
            *_ssh_options(options),
        ]

    def command(
        self,
        machine: Machine,
        args: Sequence[str],
        *,
        master: Machine | None = None,
        tty: bool = False,
    ) -> list[str]:
        """Return the local command that runs a program as root on a machine.

        Args:
            machine: where it runs.
            args: the program and its arguments.
            master: the Salt master, unless `machine` is it: other machines accept SSH only from it.
            tty: ask for a terminal.
        """
        control = f"{self._sockets}/%n"
        options = self._options(machine.name)
        if master and master.name != machine.name:
            address = machine.private_address
            jump = ["ssh", *self._options(master.name), *_ssh_options({"ControlPath": control})]
            jump += ["-W", "%h:%p", self.address(master)]
            options += _ssh_options({"ProxyCommand": shlex.join(jump)})
        else:
            address = self.address(machine)
            options += _ssh_options(
                {"ControlMaster": "auto", "ControlPath": control, "ControlPersist": "60"}
            )
        remote = shlex.join(["sudo", "-n", *args])
        return ["ssh", *options, *(["-t"] if tty else []), address, remote]

    def address(self, machine: Machine) -> str:
        """Return the address at which this host reaches the machine."""
        if self._deployment.is_local or not machine.public_address:
            return machine.private_address
        return machine.public_address

    def run(
        self,
        machine: Machine,
        args: Sequence[str],
        *,
        what: str,
        master: Machine | None = None,
        stdin: str | bytes | None = None,
        accept: Sequence[int] = (0,),
        timeout: float = 900,
    ) -> str:
        """Run a program as root on a machine and return its output; see `command` and `run.run`."""
        return run(
            self.command(machine, args, master=master),
            log=self._log,
            what=what,
            stdin=stdin,
            accept=accept,
            timeout=timeout,
        )

    def script(
        self,
        machine: Machine,
        args: Sequence[str],
        *,
        what: str,
        master: Machine | None = None,
        stdin: str | bytes | None = None,
        accept: Sequence[int] = (0,),
    ) -> str:
        """Run a script of `stackctl/remote` as root on a machine and return its output.

        Args:
            machine: where it runs.
            args: the script's name without its ending, and its arguments; none may be secret.
            what: see `run.run`.
            master: see `command`.
            stdin: what the script reads.
            accept: the exit codes that mean success.
        """
        command = script_command(args)
        return self.run(machine, command, what=what, master=master, stdin=stdin, accept=accept)


def script_command(args: Sequence[str]) -> list[str]:
    """Return the command that runs a script of `stackctl/remote` anywhere.

    The command holds the script's text, so that standard input is free for what the script reads.
    """
    name, *rest = args
    text = (files("stackctl") / "remote" / f"{name}.sh").read_text()
    # The log shows the command, so the comments are left out.
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return ["sh", "-c", "\n".join(lines), name, *rest]


def _ssh_options(options: dict[str, str]) -> list[str]:
    return [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
