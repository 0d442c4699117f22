"""Installing the minion: one archive, one SSH session, one script.

Salt's own `salt.utils.cloud.bootstrap` opens some twenty connections and checks no host key after the first. This
module sends what it sends, in the layout that deploy scripts know (`minion`, `minion.pem`, `minion.pub`, `grains` …
beside the script), through a single connection to a machine whose host key is known.
"""

from __future__ import annotations

import io
import itertools
import logging
import shlex
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import salt.config
import salt.utils.cloud

from saltext.ec2.errors import ConfigurationError, DeployError

log = logging.getLogger(__name__)

LOGIN_SECONDS = 0.5  # between two logins, while nobody answers
# OpenSSH 9.8 and later does not talk to whom it refused some three times in a short while (PerSourcePenalties of
# sshd_config), and the key may only be late: it is knocked less often then.
LOGIN_SECONDS_MAX = 10.0

# Runs as root with the archive on its standard input; $1 is the beginning of the folder's name, $3 the seconds that the
# script may take. When the connection breaks, nobody tells the script: it has to end by itself, and the lock keeps the
# next deployment from running beside it. The parent folder serves as the lock, so that no file is left.
UNPACK = """
set -eu
exec 9<"$(dirname "$1")"
flock --timeout 60 9 || { echo 'another deployment still runs on this machine'; exit 75; }
folder=$(mktemp -d "$1-XXXXXXXXXX")
[ "$2" = keep ] || trap 'rm -rf "$folder"' EXIT
trap 'exit 129' HUP INT TERM
tar -xmf - -C "$folder"
timeout --kill-after=30 "$3" sh "$folder/run" </dev/null 9<&-
"""
TIMED_OUT = (124, 137)  # what `timeout` ends with
GRACE = (
    120  # seconds after which a session is given up whose other side should have ended by itself
)


@dataclass(frozen=True)
class Login:
    """How to log in to a machine.

    Attributes:
        address: where it is.
        port: where its sshd listens.
        users: who to log in as; with several, each is tried in turn.
        host_key_options: OpenSSH's options that say which host key is right.
        private_key: the key's file; empty: an agent holds it.
        proxy: the command that reaches the machine through a gateway; empty: directly.
        sudo: whether root's rights need it.
    """

    address: str
    port: int
    users: Sequence[str]
    host_key_options: Mapping[str, str]
    private_key: str = ""
    proxy: str = ""
    sudo: bool = True

    def command(self, user: str, remote: str) -> list[str]:
        """Return the local command that runs a remote one."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "ForwardAgent": "no",
            "GlobalKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "Port": str(self.port),
            "User": user,
            **self.host_key_options,
        }
        if self.private_key:
            options |= {"IdentityFile": self.private_key, "IdentitiesOnly": "yes"}
        if self.proxy:
            options["ProxyCommand"] = self.proxy
        given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", "-T", *given, "--", self.address, remote]


@dataclass
class Attempt:
    """What one SSH session came to.

    Attributes:
        started: whether the remote side ran at all: before that, trying again is harmless.
        returncode: of ssh, or of what it ran.
        lines: the last lines that it printed.
    """

    started: bool = False
    returncode: int = 255
    lines: list[str] = field(default_factory=list)

    def last_words(self) -> str:
        """Return the end of the output, for an error message."""
        return " | ".join(self.lines[-5:]) or "no output"


# -- what is sent ---------------------------------------------------------------------------------------------------


def archive(machine: Mapping[str, Any], opts: Mapping[str, Any]) -> bytes:
    """Return a tar archive with the deploy script, what it needs beside it, and `run`, which runs it.

    Args:
        machine: what the core handed to `create`, with the keys that it made.
        opts: Salt's configuration.

    Raises:
        ConfigurationError: a script or a file of `file_map` does not exist.
    """

    def setting(name: str, default: Any = None) -> Any:
        return salt.config.get_cloud_config_value(name, machine, opts, default=default)

    minion = salt.utils.cloud.minion_config(opts, machine)
    script_name = setting("script") or "bootstrap-salt"
    script = salt.utils.cloud.os_script(script_name, machine, opts, minion)
    if not script:
        raise ConfigurationError(
            f"there is no deploy script {script_name} in deploy_scripts_search_path"
        )

    files: dict[str, tuple[str, int]] = {
        "deploy.sh": (script, 0o700),
        "minion.pem": (machine.get("priv_key") or "", 0o600),
        "minion.pub": (machine.get("pub_key") or "", 0o644),
    }
    if grains := minion.pop("grains", None):
        files["grains"] = (salt.utils.cloud.salt_config_to_yaml(grains), 0o600)
    if opts.get("enable_cloud_grains", True):
        minion["grains"] = {
            "salt-cloud": {key: machine.get(key) for key in ("driver", "provider", "profile")}
        }
    files["minion"] = (salt.utils.cloud.salt_config_to_yaml(minion), 0o600)
    if setting("make_master") is True:
        files["master"] = (
            salt.utils.cloud.salt_config_to_yaml(salt.utils.cloud.master_config(opts, machine)),
            0o600,
        )
        files["master.pem"] = (machine["master_pem"], 0o600)
        files["master.pub"] = (machine["master_pub"], 0o644)
    for minion_id, key in (machine.get("preseed_minion_keys") or {}).items():
        files[f"preseed-minion-keys/{minion_id}"] = (key, 0o600)
    if path := setting("master_sign_pub_file"):
        files["master_sign.pub"] = (_local(path, "master_sign_pub_file").read_text(), 0o644)

    file_map = setting("file_map") or {}
    files["run"] = (_runner(setting, script, list(file_map.values()), opts), 0o700)

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            data = content.encode()
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        for number, source in enumerate(file_map):
            tar.add(_local(source, "file_map"), f"files/{number}", filter=_owned_by_root)
    return buffer.getvalue()


def _local(path: str, option: str) -> Path:
    if not Path(path).exists():
        raise ConfigurationError(f"{option}: {path} does not exist on this machine")
    return Path(path)


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _runner(
    setting: Callable[..., Any], script: str, destinations: Sequence[str], opts: Mapping[str, Any]
) -> str:
    """Return the script that puts files in place, then runs the deploy script with all that surrounds it."""
    lines = ["#!/bin/sh", "set -eu", 'here=$(cd "$(dirname "$0")" && pwd)']
    for number, destination in enumerate(destinations):
        lines += [
            f"mkdir -p {shlex.quote(str(Path(destination).parent))}",
            f'cp -rT "$here/files/{number}" {shlex.quote(destination)}',
        ]
    lines += [f"sh -c {shlex.quote(command)}" for command in setting("preflight_cmds") or []]
    environment = setting("script_env") or {}
    if not isinstance(environment, Mapping):
        raise ConfigurationError(f"script_env must be a mapping, not {environment!r}")
    lines += [f"export {key}={shlex.quote(str(value))}" for key, value in environment.items()]
    command = '"$here/deploy.sh"'
    if "bootstrap-salt" in script:  # how Salt itself tells its own script from others
        flags = {
            "-F": setting("force_minion_config", default=False),
            "-S": setting("make_syndic", default=False),
            "-M": setting("make_master") is True,
            "-N": setting("make_minion", default=True) is False,
            "-K": setting("keep_tmp", default=False),
        }
        command += ' -c "$here"' + "".join(f" {flag}" for flag, wanted in flags.items() if wanted)
        if setting("preseed_minion_keys"):
            command += ' -k "$here/preseed-minion-keys"'
    lines.append(f"{command} {setting('script_args') or ''}".rstrip())
    inline = setting("inline_script") or []
    lines += [
        f"sh -c {shlex.quote(one)}" for one in ([inline] if isinstance(inline, str) else inline)
    ]
    if opts.get("start_action") and not opts.get(
        "parallel"
    ):  # in parallel runs the core does it, from the master
        lines.append(f"salt-call {opts['start_action']}")
    return "\n".join(lines) + "\n"


# -- how it gets there -------------------------------------------------------------------------------------------------


def proxy_command(options: Mapping[str, Any]) -> str:
    """Return OpenSSH's ProxyCommand for the gateway of these options; empty: there is none."""
    gateway = options.get("ssh_gateway")
    if not gateway:
        return ""
    host, _, port = gateway.partition(":")
    command = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    if key := options.get("ssh_gateway_key") or options.get("private_key"):
        command += ["-o", f"IdentityFile={key}", "-o", "IdentitiesOnly=yes"]
    command += ["-p", port or str(options["ssh_gateway_port"]), "-l", options["ssh_gateway_user"]]
    if through := options.get("ssh_gateway_command"):
        return f"{shlex.join([*command, host])} {through}"
    return shlex.join([*command, "-W", "%h:%p", host])


def wait_for_port(address: str, port: int, deadline: float, alive: Callable[[], None]) -> None:
    """Wait until something listens.

    Args:
        address: where.
        port: which port.
        deadline: when to give up (`time.monotonic()`).
        alive: is called meanwhile, and raises when there is no more hope.

    Raises:
        DeployError: nothing listens in time.
    """
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise DeployError(
                    f"nothing listens at {address}:{port} after ssh_connect_timeout: {error}"
                ) from error
        else:
            return
        alive()
        time.sleep(0.3)


def install(
    name: str,
    login: Login,
    payload: bytes,
    *,
    deadline: float,
    run_timeout: float,
    folder: str = "/tmp/.saltcloud",  # noqa: S108
    keep: bool = False,
    show: Callable[[str], None] = log.debug,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Send the archive to a machine and run it there.

    Args:
        name: the machine, for messages.
        login: how to get in.
        payload: see `archive`.
        deadline: when a login must have worked (`time.monotonic()`); sshd may still be starting.
        run_timeout: seconds that the script may take.
        folder: the beginning of the remote folder's name; random characters follow.
        keep: leave that folder there.
        show: gets each line that the machine prints.
        alive: is called while no login works, and raises when there is no more hope.

    Raises:
        DeployError: no login worked in time, the host key is another one, or the script failed.
    """
    pause, refusal = LOGIN_SECONDS, ""
    for number in itertools.count():
        user = login.users[number % len(login.users)]
        attempt = _session(
            name, login, user, payload, run_timeout, folder=folder, keep=keep, show=show
        )
        if attempt.started:
            break
        words = attempt.last_words()
        if "Host key verification failed" in words or "IDENTIFICATION HAS CHANGED" in words:
            raise DeployError(
                f"{login.address} shows another host key than the console of {name}: it is not trusted"
            )
        log.debug("%s: SSH as %s: %s", name, user, words)
        if "Permission denied" in words:
            refusal, pause = words, min(2 * pause, LOGIN_SECONDS_MAX)
        if time.monotonic() > deadline:
            told = words if refusal in ("", words) else f"{refusal}, then {words}"
            raise DeployError(f"no login to {login.address} as {' or '.join(login.users)}: {told}")
        alive()
        time.sleep(pause)
    if attempt.returncode:
        raise DeployError(
            f"the deploy script ended with {attempt.returncode}: {attempt.last_words()}"
        )


def _session(
    name: str,
    login: Login,
    user: str,
    payload: bytes,
    run_timeout: float,
    *,
    folder: str,
    keep: bool,
    show: Callable[[str], None],
) -> Attempt:
    started = f"started-{uuid.uuid4().hex}"
    unpack = ["sh", "-c", UNPACK, "sh", folder, "keep" if keep else "remove", f"{run_timeout:g}"]
    if login.sudo and user != "root":
        unpack = ["sudo", "-n", *unpack]
    attempt = Attempt()
    with tempfile.TemporaryFile() as stdin:
        stdin.write(payload)
        stdin.seek(0)
        process = subprocess.Popen(
            login.command(user, f"echo {started} && {shlex.join(unpack)}"),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        late = threading.Timer(run_timeout + GRACE, process.kill)
        late.start()
        try:
            for line in process.stdout or ():
                if line.strip() == started:
                    attempt.started = True
                    attempt.lines.clear()
                elif line.strip():
                    attempt.lines = [*attempt.lines[-49:], line.strip()]
                    log.info("%s: %s", name, line.rstrip())
                    if attempt.started:
                        show(line.rstrip())
            attempt.returncode = process.wait()
        finally:
            if not late.is_alive() or attempt.returncode in TIMED_OUT:
                attempt.lines.append(f"stopped after {run_timeout:g} s")
            late.cancel()
    return attempt
