"""Makes the local cloud fail on demand: throttled calls, lost answers, machines that never start.

A `FaultClient` sets faults at an admin path, which needs the owner's secret key and is served on
loopback only::

    with FaultClient(endpoint).inject(throttled("DescribeInstances", times=3)):
        ...
    with FaultClient(endpoint).limit(Limits(vcpus=5)):
        ...
    with FaultClient(endpoint).without_credits("web-*"):
        ...

Faults and limits are kept in the memory of the API process; a restart clears them.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from localcloud.config import Endpoint
from localcloud.cpu_credits import PATH as CREDITS_PATH
from localcloud.limits import PATH as LIMITS_PATH
from localcloud.limits import Limits
from localcloud.machines import Machine

PATH = "/_localcloud/faults"
KEY_HEADER = "X-Localcloud-Key"

CallKind = Literal["error", "slow", "lost", "unknown"]
MachineKind = Literal["never-runs", "cannot-run", "no-sshd", "no-key"]


@dataclass(frozen=True)
class Fault:
    """A fault of calls or of machines.

    Args:
        kind: of a call: `error` (refused without an effect), `slow` (executed after `seconds`, or
            when the caller disconnects), `lost` (executed, but the connection is closed without an
            answer), `unknown` (executed and answered). What a `lost` or `unknown` call has made is
            known to nobody for `seconds`, see `localcloud.newborn`. Of a machine: `never-runs`
            (stays pending), `cannot-run` (pending, then terminated), `no-sshd` (sshd does not
            start), `no-key` (no public key is installed).
        action: glob for the API actions that a fault of calls affects.
        machine: glob for Name tags: of the machine, or of the machines that a call makes or names.
        code: EC2's error code of an `error`.
        status: HTTP status of an `error`.
        message: text of an `error`.
        seconds: delay of a `slow` call; how long a thing is unknown after it was made.
        skip: number of matching calls that succeed first.
        times: number of calls or machines that fail; None for all.
    """

    kind: CallKind | MachineKind
    action: str = "*"
    machine: str = "*"
    code: str = "InternalError"
    status: int = 500
    message: str = "An injected fault"
    seconds: float = 0.0
    skip: int = 0
    times: int | None = None

    @property
    def of_machine(self) -> bool:
        """Whether this is a fault of machines, not of calls."""
        return self.kind in ("never-runs", "cannot-run", "no-sshd", "no-key")


def throttled(action: str = "*", times: int | None = None, skip: int = 0) -> Fault:
    """Return the fault of too many requests.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html
    """
    code, message = "RequestLimitExceeded", "Request limit exceeded."
    return Fault("error", action, code=code, status=503, message=message, skip=skip, times=times)


def no_capacity(times: int | None = None) -> Fault:
    """Return the fault of a zone without capacity, for so many calls.

    `localcloud.limits.Limits.exhausted` names zone and type in place of a number of calls.
    """
    message = (
        "We currently do not have sufficient t2.micro capacity "
        "in the Availability Zone you requested."
    )
    code = "InsufficientInstanceCapacity"
    return Fault("error", "RunInstances", code=code, status=500, message=message, times=times)


def limit_exceeded(times: int | None = None) -> Fault:
    """Return the fault of an account that has reached its number of instances."""
    message = "You have requested more instances than your current instance limit allows."
    return Fault(
        "error",
        "RunInstances",
        code="InstanceLimitExceeded",
        status=400,
        message=message,
        times=times,
    )


def expired(action: str = "*", skip: int = 0) -> Fault:
    """Return the fault of temporary credentials that expire after `skip` calls."""
    return Fault(
        "error",
        action,
        code="RequestExpired",
        status=400,
        message="Request has expired.",
        skip=skip,
    )


def lost(action: str, skip: int = 0, seconds: float = 0) -> Fault:
    """Return the fault of one answer that is lost after its call had its effect."""
    return Fault("lost", action, times=1, skip=skip, seconds=seconds)


def unknown(action: str, seconds: float, times: int | None = None) -> Fault:
    """Return the fault of a thing that nobody knows for so many seconds after it was made."""
    return Fault("unknown", action, seconds=seconds, times=times)


def denied(action: str) -> Fault:
    """Return the fault of a policy that does not allow the action."""
    message = f"You are not authorized to perform this operation: {action}."
    return Fault("error", action, code="UnauthorizedOperation", status=403, message=message)


@dataclass(frozen=True)
class Seen:
    """The calls and failures since faults were last set.

    Args:
        calls: number of calls of each action.
        met: number of calls or machines that each fault has hit, in the order of the faults.
    """

    calls: dict[str, int]
    met: list[int]


class Faults:
    """The faults that are set in the API process, and the counts of what they have hit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._met: list[int] = []
        self._calls: Counter[str] = Counter()

    def set(self, faults: list[Fault]) -> None:
        """Replace all faults and reset the counts."""
        with self._lock:
            self._faults = list(faults)
            self._met = [0] * len(faults)
            self._calls.clear()

    def seen(self) -> Seen:
        """Return the calls and failures since faults were last set."""
        with self._lock:
            return Seen(dict(self._calls), list(self._met))

    def of_call(self, action: str, machines: Callable[[], Collection[str]]) -> Fault | None:
        """Count a call, and return the fault that it meets.

        Args:
            action: the API action.
            machines: returns the names of the call's machines; called only if a fault needs them.
        """
        with self._lock:
            self._calls[action] += 1
            some = any(fault.machine != "*" and not fault.of_machine for fault in self._faults)
            names = machines() if some else ()
            return self._meet(action, names, of_machine=False)

    def of_machine(self, machine: Machine) -> Machine | None:
        """Return the machine with its fault applied, or None for a machine that never runs."""
        with self._lock:
            fault = self._meet("", [machine.name], of_machine=True)
        if fault is None:
            return machine
        if fault.kind == "never-runs":
            return None
        if fault.kind == "cannot-run":
            return replace(machine, broken="an injected fault: the host has no room")
        return (
            replace(machine, sshd=False)
            if fault.kind == "no-sshd"
            else replace(machine, authorized_key="")
        )

    def _meet(self, action: str, names: Collection[str], *, of_machine: bool) -> Fault | None:
        for index, fault in enumerate(self._faults):
            if (
                fault.of_machine != of_machine
                or fault.times == 0
                or not fnmatchcase(action, fault.action)
            ):
                continue
            if fault.machine != "*" and not any(fnmatchcase(name, fault.machine) for name in names):
                continue
            if fault.skip:
                self._faults[index] = replace(fault, skip=fault.skip - 1)
                continue
            self._met[index] += 1
            if fault.times is not None:
                self._faults[index] = replace(fault, times=fault.times - 1)
            return fault
        return None


def parse(body: bytes) -> list[Fault]:
    """Return the faults in a request body of the admin path.

    Raises:
        ValueError: the body is no JSON.
        TypeError: the JSON is no list of faults.
    """
    items = json.loads(body)
    if not isinstance(items, list):
        raise TypeError("the body must be a list of faults")
    return [Fault(**item) for item in items]


class FaultClient:
    """Sets the faults and the account's limits of a running cloud."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = endpoint.loopback_url
        self._key = endpoint.secret_key

    @contextmanager
    def inject(self, *faults: Fault) -> Iterator[FaultClient]:
        """Set these faults while the block runs."""
        self._send(list(faults))
        try:
            yield self
        finally:
            self._send([])

    def seen(self) -> Seen:
        """Return the calls and failures since faults were last set."""
        return Seen(**json.loads(self._ask("GET", PATH)))

    @contextmanager
    def limit(self, limits: Limits) -> Iterator[None]:
        """Give the account these limits while the block runs."""
        self.set_limits(limits)
        try:
            yield
        finally:
            self.set_limits(Limits())

    def set_limits(self, limits: Limits) -> None:
        """Give the account these limits."""
        self._ask("PUT", LIMITS_PATH, asdict(limits))

    @contextmanager
    def without_credits(self, *names: str) -> Iterator[None]:
        """Leave the running machines of these names (globs) the CPU without credits meanwhile."""
        self.spend_credits(*names)
        try:
            yield
        finally:
            self.spend_credits()

    def spend_credits(self, *names: str) -> None:
        """Leave the running machines of these names that CPU, and all others the whole."""
        self._ask("PUT", CREDITS_PATH, names)

    def _send(self, faults: list[Fault]) -> None:
        self._ask("PUT", PATH, [asdict(fault) for fault in faults])

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + path, data, {KEY_HEADER: self._key}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content


def wait(fault: Fault, caller: socket.socket) -> None:
    """Delay a slow call, until its caller disconnects at the latest."""
    # The request has been read, so the socket becomes readable only when the caller closes it.
    select.select([caller], [], [], fault.seconds)
