"""Makes the local cloud fail as EC2 does, on demand: throttling, lost answers, machines that never come up.

Faults are set through admin paths that only the loopback listener serves, with the owner's secret key::

    with FaultClient(endpoint).inject(throttled("DescribeInstances", times=3)):
        ...

They live in the memory of the API process: a restart clears them.
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
from typing import Literal

from localcloud.config import Endpoint
from localcloud.machines import Machine

PATH = "/_localcloud/faults"
KEY_HEADER = "X-Localcloud-Key"

CallKind = Literal["error", "slow", "lost"]
MachineKind = Literal["never-runs", "cannot-run", "no-sshd", "no-key"]


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Args:
        kind: of a call: `error` (refused before it has any effect), `slow` (done `seconds` later, or when its caller
            has hung up), `lost` (done, but the connection is closed without an answer). Of a machine: `never-runs`
            (pending for ever), `cannot-run` (pending, then terminated), `no-sshd`, `no-key` (no public key is
            installed).
        action: of a call: glob over the names of API actions.
        machine: glob over Name tags: of the machine, or of those that the call makes or names by their ids.
        code: EC2's error code, of `error`.
        status: HTTP status, of `error`.
        message: text, of `error`.
        seconds: of `slow`.
        skip: so many matching calls go through first.
        times: so many calls or machines fail; none: for ever.
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
        """Whether it concerns machines, not calls."""
        return self.kind in ("never-runs", "cannot-run", "no-sshd", "no-key")


def throttled(action: str = "*", times: int | None = None, skip: int = 0) -> Fault:
    """Too many requests, as https://docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html words it."""
    code, message = "RequestLimitExceeded", "Request limit exceeded."
    return Fault("error", action, code=code, status=503, message=message, skip=skip, times=times)


def no_capacity(times: int | None = None) -> Fault:
    """The zone has no room for the type."""
    message = "We currently do not have sufficient t2.micro capacity in the Availability Zone you requested."
    code = "InsufficientInstanceCapacity"
    return Fault("error", "RunInstances", code=code, status=500, message=message, times=times)


def limit_exceeded(times: int | None = None) -> Fault:
    """The account may not have more instances."""
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
    """Temporary credentials that run out, after `skip` calls."""
    return Fault(
        "error",
        action,
        code="RequestExpired",
        status=400,
        message="Request has expired.",
        skip=skip,
    )


def denied(action: str) -> Fault:
    """A policy that does not allow the action."""
    message = f"You are not authorized to perform this operation: {action}."
    return Fault("error", action, code="UnauthorizedOperation", status=403, message=message)


@dataclass(frozen=True)
class Seen:
    """What happened since faults were last set.

    Args:
        calls: how often each action was called.
        met: how many calls or machines each fault has hit, in the order in which they were set.
    """

    calls: dict[str, int]
    met: list[int]


class Faults:
    """The faults that are set, and what they hit; used by the API process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._met: list[int] = []
        self._calls: Counter[str] = Counter()

    def set(self, faults: list[Fault]) -> None:
        """Replace all faults, and count calls anew."""
        with self._lock:
            self._faults = list(faults)
            self._met = [0] * len(faults)
            self._calls.clear()

    def seen(self) -> Seen:
        """Return what happened since faults were last set."""
        with self._lock:
            return Seen(dict(self._calls), list(self._met))

    def of_call(self, action: str, machines: Callable[[], Collection[str]]) -> Fault | None:
        """Count a call, and return the fault that it meets.

        Args:
            action: the call.
            machines: tells the names of the machines that it is about; not asked while no fault is of some only.
        """
        with self._lock:
            self._calls[action] += 1
            some = any(fault.machine != "*" and not fault.of_machine for fault in self._faults)
            names = machines() if some else ()
            return self._meet(action, names, of_machine=False)

    def of_machine(self, machine: Machine) -> Machine | None:
        """Return the machine as its faults leave it; nothing for one that never runs."""
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
    """Read faults from the admin path's JSON.

    Raises:
        ValueError, TypeError: it is something else.
    """
    items = json.loads(body)
    if not isinstance(items, list):
        raise TypeError("a list of faults is wanted")
    return [Fault(**item) for item in items]


class FaultClient:
    """Sets faults in a running cloud, for tests."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = endpoint.loopback_url + PATH
        self._key = endpoint.secret_key

    @contextmanager
    def inject(self, *faults: Fault) -> Iterator[FaultClient]:
        """Have the cloud fail so while the block runs."""
        self._send(list(faults))
        try:
            yield self
        finally:
            self._send([])

    def seen(self) -> Seen:
        """Return what happened since faults were last set."""
        return Seen(**json.loads(self._ask("GET", b"")))

    def _send(self, faults: list[Fault]) -> None:
        self._ask("PUT", json.dumps([asdict(fault) for fault in faults]).encode())

    def _ask(self, method: str, body: bytes) -> bytes:
        request = urllib.request.Request(
            self._url, body or None, {KEY_HEADER: self._key}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content


def wait(fault: Fault, caller: socket.socket) -> None:
    """Let a slow call take its time, while somebody waits for the answer."""
    select.select(
        [caller], [], [], fault.seconds
    )  # the request has been read: what is left to come is its end
