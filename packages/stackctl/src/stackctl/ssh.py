"""Root's shell on the machines, over SSH."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stackctl import host_keys
from stackctl.catalogue import CLOUD_SSH
from stackctl.deployment import Deployment
from stackctl.errors import CommandError, LaunchError, UnreachableError
from stackctl.files import write_private
from stackctl.machines import Machine
from stackctl.run import Log, last_reason, run
from stackctl.secret_store import SecretStore

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

SSH_USER = "admin"
SSH_FAILED = 255  # exit code of ssh itself
CONNECT_SECONDS = 15
CONSOLE_SECONDS = 300  # that a console has to show the keys, where no tag has them
BOOT_SECONDS = 90  # that a machine needs at most from its start to its sshd
MOVED = (
    "If your address has changed, the security group drops what you send:"
    " docs/runbooks.md, 'My address has changed'."
)
_SSH_ERROR = re.compile(
    r"ssh: |ssh_|kex_|client_loop|packet_write|mux_client|banner exchange"
    r"|(Connection|Timeout|Host key|Permission|Received disconnect|Write failed|Read from)\b"
    rf"|{SSH_USER}@"
)


class Shell:
    """Root's shell on the machines, over SSH as `admin`, with host keys from the EC2 API."""

    def __init__(
        self,
        deployment: Deployment,
        client: EC2Client | None,
        log: Log,
        *,
        connect_seconds: int = CONNECT_SECONDS,
    ) -> None:
        """Keep the context.

        Args:
            deployment: whose machines.
            client: the EC2 API; None: it does not answer, and no new machine can be trusted.
            log: keeps commands and their output.
            connect_seconds: that a machine has to answer SSH.
        """
        self._connect_seconds = connect_seconds
        self._deployment = deployment
        self._client = client
        self._log = log
        self._known_hosts = deployment.state_dir / "ssh" / "known_hosts"
        # A short path: the path of a socket holds 107 bytes at most.
        self._sockets = Path(tempfile.mkdtemp(prefix="stackctl-"))
        self._learning = threading.Lock()

    @property
    def deployment(self) -> Deployment:
        """The deployment whose machines it reaches."""
        return self._deployment

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for socket in self._sockets.iterdir():
            with contextlib.suppress(CommandError):
                close = ["ssh", "-S", str(socket), "-O", "exit", socket.name]
                run(close, log=self._log, what="closing SSH")
        shutil.rmtree(self._sockets, ignore_errors=True)

    def trust(self, machine: Machine, timeout: float = CONSOLE_SECONDS) -> None:
        """Learn a machine's host keys from the API, unless they are known.

        Args:
            machine: whose keys. A replaced machine has another instance id, and is learnt again.
            timeout: seconds to wait for its console.
        """
        with self._learning:
            known = self._known_lines()
            if any(line.endswith(f" {machine.instance_id}") for line in known):
                return
            if self._client is None:
                raise LaunchError(f"The host keys of {machine.name} are not known here.")
            keys = host_keys.learn(self._client, machine, time.monotonic() + timeout)
            lines = [line for line in known if not line.startswith(f"{machine.name} ")]
            lines += [f"{machine.name} {key} {machine.instance_id}" for key in keys]
            write_private(self._known_hosts, "\n".join(lines) + "\n")

    def known_keys(self) -> dict[str, list[str]]:
        """Return instance id -> the host keys that were learnt, as `type key`."""
        found: dict[str, list[str]] = {}
        for line in self._known_lines():
            name, _, rest = line.partition(" ")
            key, _, instance_id = rest.rpartition(" ")
            if name and key:
                found.setdefault(instance_id, []).append(key)
        return found

    def _known_lines(self) -> list[str]:
        return self._known_hosts.read_text().splitlines() if self._known_hosts.is_file() else []

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
            "ConnectTimeout": str(self._connect_seconds),
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
        shared: bool = True,
    ) -> list[str]:
        """Return the local command that runs a program as root on a machine.

        Args:
            machine: where it runs.
            args: the program and its arguments.
            master: the Salt master, unless `machine` is it: other machines accept SSH only from it.
            tty: ask for a terminal.
            shared: use the connection that other commands use.
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
            if shared:
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
        try:
            return run(
                self.command(machine, args, master=master),
                log=self._log,
                what=what,
                stdin=stdin,
                accept=accept,
                timeout=timeout,
            )
        except CommandError as error:
            if error.code != SSH_FAILED:
                raise
            failure = unreachable(machine, what, error.errors, self._log)
            if not self._deployment.is_local and "timed out" in failure.what:
                failure.hint = f"{MOVED} {failure.hint}"
            raise failure from None

    def wait_for(self, machine: Machine, master: Machine, seconds: float = BOOT_SECONDS) -> None:
        """Wait until a machine that boots lets this host in.

        Raises:
            UnreachableError: it does not, after so many seconds.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.run(machine, ["true"], master=master, what=f"SSH to {machine.name}")
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                return

    def script(
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
        """Run a script of `stackctl/remote` as root on a machine and return its output.

        Args:
            machine: where it runs.
            args: the script's name without its ending, and its arguments; none may be secret.
            what: see `run.run`.
            master: see `command`.
            stdin: what the script reads.
            accept: the exit codes that mean success.
            timeout: see `run.run`.

        Raises:
            UnreachableError: SSH does not reach the machine.
            CommandError: see `run.run`.
        """
        return self.run(
            machine,
            script_command(args),
            what=what,
            master=master,
            stdin=stdin,
            accept=accept,
            timeout=timeout,
        )


def unreachable(machine: Machine, what: str, errors: str, log: Log) -> UnreachableError:
    """Return the error for a command that SSH could not run, or not to its end.

    Args:
        machine: where it should run.
        what: what it does.
        errors: what SSH printed; its first line is the cause, also behind the master.
        log: the log.
    """
    # What the remote program printed before the end is not the reason.
    lines = [line.strip() for line in errors.splitlines() if _SSH_ERROR.match(line.strip())]
    reason = lines[0] if lines else last_reason(errors) or "the connection ended"
    return UnreachableError(
        f"{what} failed: SSH has no connection to {machine.name}: {reason.rstrip('.')}.",
        "See: stackctl status. stackctl up starts and repairs machines.",
        log.path,
        SSH_FAILED,
        errors,
    )


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
