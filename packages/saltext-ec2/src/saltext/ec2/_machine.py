"""A machine as EC2 describes it, and how to find it by its name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saltext.ec2 import _lookup
from saltext.ec2._client import Connection
from saltext.ec2.errors import LaunchError, NotFound

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

ADDRESSES = {"private_ips": "PrivateIpAddress", "public_ips": "PublicIpAddress"}
WATCH_SECONDS = 15  # between two checks of an instance whose sshd does not answer yet


@dataclass(frozen=True)
class Machine:
    """A machine that exists in EC2.

    Attributes:
        connection: the connection to its region.
        options: its options, see `options.resolve`; for an action, those of its provider.
        name: its name.
        instance: the latest description that EC2 gave of it.
    """

    connection: Connection
    options: Mapping[str, Any]
    name: str
    instance: InstanceTypeDef

    @property
    def id(self) -> str:
        """The id of the instance."""
        return self.instance["InstanceId"]

    @property
    def type(self) -> str:
        """The instance type, such as `t3.micro`."""
        return self.instance["InstanceType"]

    @property
    def state(self) -> str:
        """The state of the instance, such as `running`."""
        return self.instance["State"]["Name"]

    @property
    def address(self) -> str:
        """The address at which salt-cloud reaches the machine; empty: it has none yet."""
        return str(self.instance.get(ADDRESSES[self.options["ssh_interface"]]) or "")

    def refresh(self, age: float = 0) -> Machine:
        """Return the machine as it is now; right after a launch EC2 may not know it yet.

        EC2 is asked once in `wait_for_ip_interval` seconds, about all machines of the map together.

        Args:
            age: how many seconds old the answer may be.

        Raises:
            LaunchError: the instance has been terminated.
            ApiError: EC2 did not answer.
        """
        found = self.connection.cache.poll(
            self.id,
            lambda ids: _lookup.instances_by_id(self.connection, ids),
            time.time() - age,
            self.options["wait_for_ip_interval"],
        )
        machine = dataclasses.replace(self, instance=found) if found else self
        if machine.state not in _lookup.LIVING:
            state_reason = machine.instance.get("StateReason", {})
            reason = state_reason.get("Message") or "EC2 gives no reason"
            raise LaunchError(
                f"{self.name} ({self.id}) is {machine.state} instead of running: {reason};"
                " run the same command again to launch another"
            )
        return machine

    def watch(self) -> Callable[[], None]:
        """Return a check that the instance is not terminated; most calls of it ask nothing of EC2.

        The check raises what `refresh` raises.
        """
        asked = time.monotonic()

        def check() -> None:
            nonlocal asked
            if time.monotonic() - asked > WATCH_SECONDS:
                asked = time.monotonic()
                self.refresh(WATCH_SECONDS)

        return check


def find(
    connection: Connection, options: Mapping[str, Any], name: str, *, ended: bool = False
) -> Machine:
    """Return the living machine that a name, or an instance id, stands for.

    Args:
        connection: the connection to its region.
        options: those of its provider.
        name: its name, or the id of its instance.
        ended: whether to return the last terminated machine of that name if none lives.

    Raises:
        NotFound: there is no such machine, or there are several.
        ApiError: EC2 did not answer.
    """
    if name.startswith("i-"):
        found = _lookup.instances(connection, [{"Name": "instance-id", "Values": [name]}])
    else:
        found = _lookup.named(connection, name)
    instance = _lookup.only(name, found)
    if instance is None and ended and found:
        instance = max(found, key=lambda terminated: str(terminated.get("LaunchTime")))
    if instance is None:
        raise NotFound(f"there is no machine called {name} in {connection.region}")
    return Machine(connection, options, name, instance)
