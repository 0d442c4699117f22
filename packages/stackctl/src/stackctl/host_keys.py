"""The SSH host keys of machines: read on their consoles once, and kept where nobody forgets them.

EC2 takes a copy of a console some minutes after a machine has booted, and keeps it for at least an
hour. Who comes later, such as a second operator or a new Salt master, finds one key of each machine
in a tag of its instance (`saltext.ec2.tags.HOST_KEY_TAG`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from saltext.ec2.host_keys import LATER, from_console, tag_value
from saltext.ec2.tags import HOST_KEY_TAG
from stackctl.errors import LaunchError
from stackctl.machines import Machine

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import TagTypeDef

LONGEST_PAUSE = 15  # seconds between two looks at a console
NO_LATEST = "UnsupportedOperation"
"""EC2's answer for types that are not built on Nitro: they have no console but the last copy."""


def learn(client: EC2Client, machine: Machine, deadline: float) -> list[str]:
    """Return a machine's host keys as `type key`, from its tag or, if it has none, its console.

    Args:
        client: the EC2 API.
        machine: whose keys.
        deadline: `time.monotonic()` at which to give up on the console.

    Raises:
        LaunchError: the console never showed them.
    """
    if machine.host_key:
        return [machine.host_key]
    console = Console(client, machine.instance_id)
    pause = 1.0
    while not (keys := from_console(console.read())):
        if time.monotonic() > deadline:
            raise LaunchError(
                f"The console of {machine.name} does not show its SSH host keys, so nobody can tell"
                " whether it is that machine.",
                f"Reboot it: it prints its keys again (aws ec2 reboot-instances --instance-ids"
                f" {machine.instance_id}). Some minutes later EC2 shows them; then run this again.",
            )
        # Several operators, or machines, do not ask at the same time.
        time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - no secret
        pause = min(2 * pause, LONGEST_PAUSE)
    return keys


class Console:
    """The console of an instance, as new as EC2 shows it."""

    def __init__(self, client: EC2Client, instance_id: str) -> None:
        self._client = client
        self._instance_id = instance_id
        self._has_latest = True

    def read(self) -> str:
        """Return the output; an empty text while EC2 does not show it, or has too many requests."""
        try:
            if self._has_latest:
                return self._ask(latest=True)
        except ClientError as error:
            if _code(error) != NO_LATEST:
                return _nothing_yet(error)
            self._has_latest = False
        try:
            return self._ask(latest=False)
        except ClientError as error:
            return _nothing_yet(error)

    def _ask(self, *, latest: bool) -> str:
        answer = self._client.get_console_output(InstanceId=self._instance_id, Latest=latest)
        return answer.get("Output", "")


def publish(
    client: EC2Client, machines: Iterable[Machine], known: Mapping[str, Sequence[str]]
) -> list[str]:
    """Tag machines with a host key, where the tag is missing and a key is known here.

    Machines of earlier versions have no such tag.

    Args:
        client: the EC2 API.
        machines: of the deployment.
        known: instance id -> host keys.

    Returns:
        The names of the machines that got a tag.
    """
    tagged = []
    for machine in machines:
        value = tag_value(known.get(machine.instance_id, ()))
        if value and not machine.host_key:
            tag: TagTypeDef = {"Key": HOST_KEY_TAG, "Value": value}
            client.create_tags(Resources=[machine.instance_id], Tags=[tag])
            tagged.append(machine.name)
    return tagged


def _nothing_yet(error: ClientError) -> str:
    if _code(error) not in LATER:
        raise error
    return ""


def _code(error: ClientError) -> str:
    return error.response["Error"]["Code"]
