"""Which SSH host keys a machine has, as its console printed them at first boot: EC2's word, not the network's."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saltext.ec2._client import Connection
from saltext.ec2.errors import ApiError, DeployError, api_errors

CONSOLE_SECONDS = (
    15  # between two looks at most: EC2 shows a console minutes late, and each has to be asked for
)

# cloud-init's module keys_to_console prints this block; a line may begin with a time stamp of the kernel's log.
BLOCK = re.compile(
    r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL
)
KEY = re.compile(r"\b((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+) (AAAA[0-9A-Za-z+/]+=*)")


def from_console(output: str) -> list[str]:
    """Return the host keys in a console's output, as `type key`; the last block counts.

    Args:
        output: what GetConsoleOutput returned.
    """
    blocks = BLOCK.findall(output)
    return [f"{kind} {key}" for kind, key in KEY.findall(blocks[-1])] if blocks else []


def read(connection: Connection, name: str, instance_id: str) -> list[str]:
    """Return the host keys that a machine's console shows by now.

    Raises:
        ApiError: the console cannot be read.
    """
    try:
        with api_errors(f"reading the console of {name}"):
            output = connection.ec2.get_console_output(InstanceId=instance_id).get("Output", "")
    except ApiError as error:
        if error.code != "InvalidInstanceID.NotFound":
            raise
        return []  # right after a launch EC2 may not know the instance everywhere
    return from_console(output)


def ssh_options(
    connection: Connection,
    options: Mapping[str, Any],
    name: str,
    instance_id: str,
    cache_folder: str,
    deadline: float,
    alive: Callable[[], None],
) -> dict[str, str]:
    """Return OpenSSH's options that say which host key is right, once it is known.

    Args:
        connection: the region.
        options: see `options.resolve`.
        name: the machine's name.
        instance_id: its id.
        cache_folder: Salt's cache directory, where learnt keys are kept.
        deadline: when to give up (`time.monotonic()`).
        alive: is called while the console is silent, and raises when there is no more hope.

    Raises:
        DeployError: the console has not shown the keys by then.
        ApiError: the console cannot be read.
    """
    if options["host_keys"] == "none":
        return {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
    strict = {"StrictHostKeyChecking": "yes", "UpdateHostKeys": "no"}
    if options["known_hosts_file"] not in (None, "/dev/null"):
        return {**strict, "UserKnownHostsFile": options["known_hosts_file"]}
    known = KnownHosts(cache_folder)
    pause: float = options["wait_for_ip_interval"]
    while not known.knows(instance_id):
        if keys := read(connection, name, instance_id):
            known.learn(instance_id, keys)
            break
        if time.monotonic() > deadline:
            raise DeployError(
                "its console does not show its SSH host keys, as images with cloud-init print them at first boot;"
                " for others set known_hosts_file, or host_keys: none"
            )
        alive()
        time.sleep(pause)
        pause = min(2 * pause, CONSOLE_SECONDS)
    return {**strict, "UserKnownHostsFile": str(known.path), "HostKeyAlias": instance_id}


class KnownHosts:
    """OpenSSH's known_hosts with the keys learnt so far, by instance id.

    The console forgets: it shows the first boot only for as long as nothing else fills it.
    """

    def __init__(self, folder: str | Path) -> None:
        """Choose the file, in Salt's cache directory."""
        self.path = Path(folder) / "ec2" / "known_hosts"

    def knows(self, instance_id: str) -> bool:
        """Tell whether a machine's keys were learnt."""
        if not self.path.is_file():
            return False
        return any(
            line.split(" ", 1)[0] == instance_id for line in self.path.read_text().splitlines()
        )

    def learn(self, instance_id: str, keys: list[str]) -> None:
        """Add a machine's keys, in one write: others may do the same at this moment."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = "".join(f"{instance_id} {key}\n" for key in keys)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, lines.encode())
        finally:
            os.close(handle)
