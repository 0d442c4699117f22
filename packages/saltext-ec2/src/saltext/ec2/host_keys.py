"""The SSH host keys of a machine, as its console printed them.

The console comes from EC2's API, so that nobody on the network between can replace the keys. EC2
forgets it, so the first who reads a key writes it into a tag of the instance, which comes from the
same API.
"""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saltext.ec2 import _console, _tags
from saltext.ec2._machine import Machine
from saltext.ec2._wait import Wait
from saltext.ec2.errors import ApiError, DeployError
from saltext.ec2.tags import HOST_KEY_TAG

log = logging.getLogger(__name__)

# The longest pause between two reads of a console, which EC2 may show minutes late.
CONSOLE_SECONDS = 15
# The answers of EC2 after which a console is asked for again: it does not know the instance
# everywhere yet, or it has too many requests.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html
LATER = frozenset(("InvalidInstanceID.NotFound", "RequestLimitExceeded", "Throttling"))
TAG_CHARACTERS = 256  # of a tag's value

# cloud-init's module keys_to_console prints this block; the kernel's log may add time stamps.
BLOCK = re.compile(
    r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL
)
KEY = re.compile(r"\b((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+) (AAAA[0-9A-Za-z+/]+=*)")


def from_console(output: str) -> list[str]:
    """Return the host keys in a console's output as `type key`, from its last block.

    Args:
        output: the `Output` of GetConsoleOutput.
    """
    blocks = BLOCK.findall(output)
    return [f"{kind} {key}" for kind, key in KEY.findall(blocks[-1])] if blocks else []


def from_tag(instance: Mapping[str, Any]) -> list[str]:
    """Return the host key in the tag of an instance, as EC2 describes it, as `type key`; or none.

    A tag that somebody has filled with anything else counts for nothing.
    """
    found = KEY.fullmatch(_tags.as_dict(instance).get(HOST_KEY_TAG, ""))
    return [found[0]] if found else []


def tag_value(keys: Sequence[str]) -> str:
    """Return the host key for the tag: the shortest, if it fits, else an empty text.

    A key of the type ed25519 has 80 characters. OpenSSH prefers the types of the keys that it
    knows, so one is enough.
    """
    shortest = min(keys, key=len, default="")
    return shortest if len(shortest) <= TAG_CHARACTERS else ""


def read(machine: Machine) -> list[str]:
    """Return the host keys that a machine's console shows now; right after a launch there are none.

    There are none either while EC2 has too many requests.

    Raises:
        ApiError: EC2 does not return the console.
    """
    try:
        output = _console.read(machine)
    except ApiError as error:
        if error.code not in LATER:
            raise
        log.info("%s; it is asked for again", error)
        return []
    return from_console(output)


class KnownHosts:
    """A known_hosts file with the keys of machines, by instance id.

    It keeps them, because a console stops showing the first boot when later output fills it.
    """

    def __init__(self, folder: str | Path) -> None:
        """Choose the file.

        Args:
            folder: Salt's cache directory.
        """
        self.path = Path(folder) / "ec2" / "known_hosts"

    def keys(self, instance_id: str) -> list[str]:
        """Return the keys of a machine that were learnt, as `type key`."""
        if not self.path.is_file():
            return []
        lines = [line.partition(" ") for line in self.path.read_text().splitlines()]
        return [key for name, _, key in lines if name == instance_id]

    def learn(self, instance_id: str, keys: Sequence[str]) -> None:
        """Add the keys of a machine, in one write: other processes may write at the same time."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = "".join(f"{instance_id} {key}\n" for key in keys)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, lines.encode())
        finally:
            os.close(handle)


def ssh_options(machine: Machine, known_hosts: KnownHosts, wait: Wait) -> dict[str, str]:
    """Return OpenSSH's options that say which host key is trusted, once it is known.

    Args:
        machine: its options are those that `options.resolve` returns.
        known_hosts: the keys that were learnt so far; new ones are added.
        wait: how long to wait for the console.

    Raises:
        DeployError: the deadline has passed, and the console has not shown the keys.
        LaunchError: the machine is terminated meanwhile.
        ApiError: EC2 does not return the console.
    """
    options = machine.options
    if options["host_keys"] == "none":
        return {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
    strict = {"StrictHostKeyChecking": "yes", "UpdateHostKeys": "no"}
    if options["known_hosts_file"] not in (None, "/dev/null"):
        return {**strict, "UserKnownHostsFile": options["known_hosts_file"]}
    if not known_hosts.keys(machine.id):
        keys = from_tag(machine.instance) or _wait_for_keys(machine, wait)
        known_hosts.learn(machine.id, keys)
    return {**strict, "UserKnownHostsFile": str(known_hosts.path), "HostKeyAlias": machine.id}


def _wait_for_keys(machine: Machine, wait: Wait) -> list[str]:
    pause: float = machine.options["wait_for_ip_interval"]
    message = ""
    while not (keys := read(machine)):
        if not message and _console.is_late(machine):
            message = f"EC2 posts the console of {machine.type} some minutes after the boot"
            log.warning("%s: %s; its SSH host keys are awaited", machine.name, message)
        if wait.over:
            raise DeployError(
                "its console does not show its SSH host keys, as images with cloud-init print them"
                " at first boot; for others set known_hosts_file, or host_keys: none"
                + (f" ({message}: ssh_connect_timeout may be too short)" if message else "")
                + "; if the machine prints them at every boot, reboot it: it prints its keys again"
            )
        # The machines of a map do not all ask at once.
        wait.pause(random.uniform(pause / 2, pause))  # noqa: S311 - no secret
        pause = min(2 * pause, CONSOLE_SECONDS)
    return keys
