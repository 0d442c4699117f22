"""The one SSH session that installs a minion.

Salt's own `salt.utils.cloud.bootstrap` opens about twenty connections, and checks no host key
after the first. This module sends everything through a single connection to a machine whose host
key is known.
"""

from __future__ import annotations

import itertools
import logging
import shlex
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from saltext.ec2._login import Login
from saltext.ec2._wait import Wait
from saltext.ec2.errors import DeployError

log = logging.getLogger(__name__)

LOGIN_SECONDS = 0.5  # between two logins while sshd does not answer
# After about three refused logins, OpenSSH 9.8 and later ignores a client for a while
# (PerSourcePenalties of sshd_config). cloud-init may install the key late, so refused logins are
# repeated, but at growing intervals up to this one.
LOGIN_SECONDS_MAX = 10.0

# Runs as root with the archive on its standard input. $1 is the beginning of the folder's name, $2
# is `keep` or `remove`, $3 the seconds that the script may take: when the connection breaks, nobody
# can stop the script, so it has to end by itself. The lock keeps the next deployment from running
# beside it; it is on the parent folder, so that no lock file is left.
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
# What ssh prints when its proxy command has ended before the machine's sshd answered.
PROXY_FAILED = ("Connection closed by UNKNOWN", "kex_exchange_identification")
TIMED_OUT = (124, 137)  # exit codes of `timeout`
GRACE = 120  # seconds after the script's timeout when the local ssh is killed


@dataclass(frozen=True)
class Script:
    """A deploy script, and how to run it.

    Attributes:
        archive: the tar archive that contains it, see `_archive.build`.
        timeout: seconds that it may take.
        folder: the beginning of the remote folder's name; random characters follow.
        keep: whether that folder stays on the machine.
        show: gets each line that the machine prints.
    """

    archive: bytes
    timeout: float
    folder: str = "/tmp/.saltcloud"  # noqa: S108
    keep: bool = False
    show: Callable[[str], None] = log.debug


@dataclass
class Attempt:
    """The result of one SSH session.

    Attributes:
        started: whether the remote command ran at all: until then, a retry is harmless.
        returncode: of ssh, or of the remote command.
        lines: the last lines of the output.
    """

    started: bool = False
    returncode: int = 255
    lines: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        """The end of the output, for an error message."""
        return " | ".join(self.lines[-5:]) or "no output"


def run(name: str, login: Login, script: Script, wait: Wait) -> None:
    """Send the archive to a machine and run its script there.

    Args:
        name: the machine's name, for messages.
        login: how to log in.
        script: what to run.
        wait: until when a login must have worked; sshd may still be starting.

    Raises:
        DeployError: no login worked in time, the host key is another one, or the script failed.
        LaunchError: the machine is terminated meanwhile.
    """
    pause, refusal = LOGIN_SECONDS, ""
    for number in itertools.count():
        user = login.users[number % len(login.users)]
        attempt = _attempt(name, login, user, script)
        if attempt.started:
            break
        output = attempt.output
        if "Host key verification failed" in output or "IDENTIFICATION HAS CHANGED" in output:
            raise DeployError(_untrusted(name, login, output))
        log.debug("%s: SSH as %s: %s", name, user, output)
        if "Permission denied" in output:
            refusal, pause = output, min(2 * pause, LOGIN_SECONDS_MAX)
        if wait.over:
            reason = output if refusal in ("", output) else f"{refusal}, then {output}"
            users = " or ".join(login.users)
            raise DeployError(f"no login to {login.address} as {users}: {reason}")
        wait.pause(pause)
    if attempt.returncode:
        raise DeployError(f"the deploy script ended with {attempt.returncode}: {attempt.output}")


def _untrusted(name: str, login: Login, output: str) -> str:
    """Return a sentence that says whose host key is not trusted: the gateway's or the machine's.

    The ssh that logs in to the gateway is the other's proxy command. Its messages come on the same
    stream; when it fails, the other says that its connection was closed.
    """
    if login.gateway and any(closed in output for closed in PROXY_FAILED):
        host = login.gateway.partition(":")[0]
        if "has changed" in output:
            problem = "shows another host key than known_hosts has"
        else:
            problem = "has no host key in known_hosts"
        return (
            f"the gateway {host} {problem}: it is not trusted, and {login.address} was not reached;"
            " check its key, and add it to ~/.ssh/known_hosts of the user that runs salt-cloud"
        )
    return f"{login.address} shows another host key than the console of {name}: it is not trusted"


def _attempt(name: str, login: Login, user: str, script: Script) -> Attempt:
    started = f"started-{uuid.uuid4().hex}"
    unpack = ["sh", "-c", UNPACK, "sh", script.folder, "keep" if script.keep else "remove"]
    unpack.append(f"{script.timeout:g}")
    if login.sudo and user != "root":
        unpack = ["sudo", "-n", *unpack]
    attempt = Attempt()
    with tempfile.TemporaryFile() as stdin:
        stdin.write(script.archive)
        stdin.seek(0)
        process = subprocess.Popen(
            login.command(user, f"echo {started} && {shlex.join(unpack)}"),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        timer = threading.Timer(script.timeout + GRACE, process.kill)
        timer.start()
        try:
            for line in process.stdout or ():
                if line.strip() == started:
                    attempt.started = True
                    attempt.lines.clear()
                elif line.strip():
                    attempt.lines = [*attempt.lines[-49:], line.strip()]
                    log.info("%s: %s", name, line.rstrip())
                    if attempt.started:
                        script.show(line.rstrip())
            attempt.returncode = process.wait()
        finally:
            if not timer.is_alive() or attempt.returncode in TIMED_OUT:
                attempt.lines.append(f"stopped after {script.timeout:g} s")
            timer.cancel()
    return attempt
