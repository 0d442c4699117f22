"""Keeps the states of instances and the states of their machines equal.

An API call sets a transitional state (`pending`, `stopping`, `shutting-down`) and answers. A worker
then changes the machine and sets the final state. Each step depends only on the saved state and on
the machine's own, so a process that is killed at any time continues when it is started again.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import run

from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.utils import utcnow
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance, StateReason

from localcloud import cpu_credits, groups, routes
from localcloud.account import Account
from localcloud.config import REGION
from localcloud.delays import INSTANT, Delays
from localcloud.errors import LocalCloudError, MachineError, MachineGone
from localcloud.faults import Fault, Faults
from localcloud.machines import HALTED, REBOOTED, Machine, MachineHost
from localcloud.reachability import Policy
from localcloud.sizes import memory_left

log = logging.getLogger(__name__)

CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
"""EC2's instance states. https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html"""

WORKERS = 8
GRACE_SECONDS = 2.0
"""The delay before an ended machine changes its instance. A host that shuts down ends its
containers first; their instances keep their state, so that they run again with the host."""
REMEMBER = timedelta(hours=1)
"""The time for which a terminated instance is listed; on EC2, about an hour."""


class Cloud:
    """The instances of a cloud and their machines.

    Args:
        host: where the machines run.
        save: saves the state; called, with the lock held, after changes outside API calls.
        delays: how long EC2 takes for what a client has to wait for.
    """

    def __init__(
        self,
        host: MachineHost,
        save: Callable[[], object],
        delays: Delays = INSTANT,
    ) -> None:
        self.host = host
        self.lock = threading.RLock()
        self._save = save
        self.delays = delays
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="machine")
        self._per_instance: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._stopping = threading.Event()
        self.faults = Faults()
        self.account = Account()
        self.policy = Policy()

    # -- called with the lock held, from API calls

    def set_state(self, instance: Instance, state: str, code: str = "", message: str = "") -> None:
        """Set an instance's state, with a reason if no API call asked for it."""
        instance._state.name, instance._state.code = state, CODES[state]
        instance.transition = datetime.now(UTC)
        if code:
            instance._reason = f"{code} ({utcnow():%Y-%m-%d %H:%M:%S} GMT)"
            instance.state_reason = StateReason(f"{code}: {message}", code)

    def follow(self, instance: Instance) -> None:
        """Have a worker change the machine as the instance's state demands."""
        self._submit(self._settle, instance.id)

    def reboot(self, instance: Instance) -> None:
        """Have a worker reboot the machine."""
        self._submit(self._reboot, instance.id)

    def console(self, instance: Instance, *, latest: bool) -> tuple[str, datetime | None]:
        """Return what EC2 shows of an instance's console, and when that was copied; None: nothing.

        Args:
            instance: whose console.
            latest: as it is now, not as it was some time after the last transition.
        """
        now = datetime.now(UTC)
        # An instance that an earlier version has saved has no time of its transition.
        since = getattr(instance, "transition", now)
        until = now if latest else self.delays.last_post(since, now)
        return (self.host.console(instance.id, until) if until else ""), until

    def address_later(self, give: Callable[[], None]) -> None:
        """Give an interface a public address after the time that EC2 takes for it."""

        def work() -> None:
            with self.lock:
                give()
                self._changed()

        if not self.delays.public_address:
            give()
            return
        timer = threading.Timer(self.delays.public_address, work)
        timer.daemon = True
        timer.start()

    def enforce(self) -> None:
        """Have the machines' network follow the security groups. Raises MachineError."""
        self.policy = groups.policy(backend())
        self.host.enforce(self.policy)

    def _changed(self) -> None:
        """Save the state, and have the network follow it."""
        self._save()
        try:
            self.enforce()
        except MachineError as error:
            log.error("security groups are not enforced: %s", error)

    def forget_subnet(self, subnet_id: str) -> None:
        """Have a worker remove the network of a deleted subnet."""
        self._submit(self._drop_network, subnet_id)

    def instances(self) -> Iterator[Instance]:
        """Yield every instance of every account and region."""
        for account in list(ec2_backends.values()):
            for backend in list(dict.values(account)):
                for reservation in list(backend.reservations.values()):
                    yield from reservation.instances

    # -- faults

    def inject(self, faults: list[Fault]) -> None:
        """Replace all faults; a machine that an old fault has kept pending now starts."""
        self.faults.set(faults)
        with self.lock:
            for instance in self.instances():
                self.follow(instance)

    def spend_credits(self, names: list[str]) -> None:
        """Leave the running machines of these names the CPU without credits, all others the whole.

        Args:
            names: globs for Name tags.
        """
        with self.lock:
            running = [
                (self._machine(instance), instance.instance_type)
                for instance in self.instances()
                if instance.state == "running"
            ]
        for machine, kind in running:
            cpus = cpu_credits.cpus_of(machine.name, kind, machine.cpus, names)
            with suppress(MachineGone):  # it has ended meanwhile
                self.host.limit_cpu(machine.instance_id, cpus)

    def machine_names_in(self, form: Mapping[str, str]) -> set[str]:
        """Return the Name tags of the machines that a call makes, or whose ids it has."""
        new = {
            form.get(key.removesuffix("Key") + "Value", "")
            for key, value in form.items()
            if value == "Name"
        }
        ids = set(form.values())
        with self.lock:
            return new | {
                _tags(instance).get("Name", "")
                for instance in self.instances()
                if ids & {instance.id, *(nic.id for nic in instance.nics.values())}
            }

    # -- in threads of the API process

    def watch(self) -> None:
        """Handle the events of machines until `close`; runs in a thread of its own."""
        while not self._stopping.is_set():
            try:
                self.reconcile()
                for instance_id in self.host.events():
                    if self._stopping.is_set():
                        return
                    self._submit(self._handle_end, instance_id)
            except MachineError as error:
                log.warning("machines cannot be watched: %s", error)
            self._stopping.wait(1)

    def reconcile(self) -> None:
        """Compare all instances with their machines, after a time without events.

        A machine that should run is started with its disk. An instance without a machine is
        terminated.

        Raises:
            MachineError: the engine does not answer.
        """
        observed = self.host.observe()
        with self.lock:
            self._forget_old()
            for instance in self.instances():
                for interface in instance.nics.values():
                    routes.renew(interface)  # an earlier process was about to
                found = observed.pop(instance.id, None)
                if instance.state in ("running", "stopped") and found is None:
                    self._container_removed(instance)
                elif instance.state == "running" and found and not found.running:
                    log.info("%s should run but does not: starting it", instance.id)
                    self.set_state(instance, "pending")
                self.follow(instance)
            self._changed()
        for instance_id in observed:
            log.warning(
                "the container of %s belongs to no known instance and is not touched", instance_id
            )

    def close(self) -> None:
        """Wait for the workers' current jobs, and drop the others."""
        self._stopping.set()
        self._workers.shutdown(wait=True, cancel_futures=True)

    def idle(self, seconds: float = 30) -> bool:
        """Wait until no instance is in a transitional state; return whether that is so in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self.lock:
                if all(
                    instance.state in ("running", "stopped", "terminated")
                    for instance in self.instances()
                ):
                    return True
            time.sleep(0.01)
        return False

    # -- workers

    def _submit(self, job: Callable[[str], None], key: str) -> None:
        def guarded() -> None:
            try:
                job(key)
            except Exception:
                log.exception("%s of %s failed", job.__name__, key)

        if not self._stopping.is_set():
            self._workers.submit(guarded)

    def _find(self, instance_id: str) -> Instance | None:
        return next((instance for instance in self.instances() if instance.id == instance_id), None)

    def _settle(self, instance_id: str) -> None:
        with self._per_instance[instance_id]:
            while not self._stopping.is_set():
                with self.lock:
                    instance = self._find(instance_id)
                    if instance is None or instance.state in ("running", "stopped", "terminated"):
                        return
                    state, machine, booted = (
                        instance.state,
                        self._machine(instance),
                        getattr(instance, "booted", False),
                    )
                outcome, problem = self._act(state, machine, booted)
                if outcome == state:
                    return  # an injected fault keeps the instance in its state
                if outcome == "terminated" and self._wait_for_end(instance):
                    return
                with self.lock:
                    if instance.state != state:
                        continue  # an API call has changed the state meanwhile
                    if outcome == "running":
                        instance.booted = True
                    if problem:
                        log.error("%s (%s): %s", instance_id, machine.name, problem)
                        if state != "shutting-down" and outcome == "terminated":
                            instance.terminate_quietly()
                    if outcome == "terminated":
                        self._release(instance)
                    self.set_state(
                        instance,
                        outcome,
                        "Server.InternalError" if problem else "",
                        str(problem or ""),
                    )
                    self._changed()
                log.info("%s (%s) is %s", instance_id, machine.name, outcome)

    def _act(
        self, state: str, machine: Machine, booted: bool
    ) -> tuple[str, LocalCloudError | None]:
        """Change the machine as a state demands; return the next state, and the error if any."""
        try:
            if state == "pending":
                return self._boot(machine, booted)
            if state == "stopping":
                self.host.stop(machine.instance_id)
                return "stopped", None
            self.host.remove(machine.instance_id)
            return "terminated", None
        except MachineGone as error:
            return "terminated", error
        except MachineError as error:
            if state == "pending" and not booted:
                with suppress(MachineError):
                    self.host.remove(machine.instance_id)
                return "terminated", error
            return "terminated" if state == "shutting-down" else "stopped", error

    def _boot(self, machine: Machine, booted: bool) -> tuple[str, None]:
        made = self.faults.of_machine(machine)
        if made is None:
            return "pending", None
        if made.broken:
            raise MachineError(made.broken)
        if booted:
            self.host.start(made)
        else:
            self.host.create(made)
        return "running", None

    def _wait_for_end(self, instance: Instance) -> bool:
        """Have an instance that shuts down settle later; return False when that time has come."""
        ended: datetime | None = getattr(instance, "ended", None)
        if ended is None:
            return False
        passed = (datetime.now(UTC) - ended).total_seconds()
        left = self.delays.shutting_down - passed
        if left <= 0:
            return False
        timer = threading.Timer(left, self.follow, [instance])
        timer.daemon = True
        timer.start()
        return True

    def _reboot(self, instance_id: str) -> None:
        with self._per_instance[instance_id]:
            self.host.reboot(instance_id)
        with self.lock:
            if instance := self._find(instance_id):
                instance.transition = datetime.now(UTC)
                self._changed()

    def _drop_network(self, subnet_id: str) -> None:
        self.host.drop_network(subnet_id)

    def _handle_end(self, instance_id: str) -> None:
        """Set the state of an instance whose container has ended or was removed by itself."""
        with self._per_instance[instance_id]:
            pass  # a worker that is changing the machine has finished
        with self.lock:
            instance = self._find(instance_id)
            if instance is None or instance.state not in ("running", "stopped"):
                return
        if self._stopping.wait(GRACE_SECONDS) or _host_shuts_down():
            return
        found = self.host.observe().get(instance_id)
        with self.lock:
            if instance.state not in ("running", "stopped") or (found and found.running):
                return
            if found is None:
                self._container_removed(instance)
            elif instance.state == "stopped":
                return
            else:
                self._container_ended(instance, found.exit_code)
            self.follow(instance)
            self._changed()

    # -- helpers, called with the lock held

    def _container_ended(self, instance: Instance, exit_code: int) -> None:
        shutdown = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")
        if exit_code == REBOOTED:
            self.set_state(instance, "pending")
        elif exit_code not in HALTED:
            instance.stop_quietly()
            message = f"The machine ended with exit code {exit_code}"
            self.set_state(instance, "stopped", "Server.InternalError", message)
        elif instance.instance_initiated_shutdown_behavior == "terminate":
            instance.terminate()
            self.set_state(instance, "shutting-down", *shutdown)
        else:
            instance.stop_quietly()
            self.set_state(instance, "stopped", *shutdown)

    def _container_removed(self, instance: Instance) -> None:
        log.warning("%s has no container any more: terminated", instance.id)
        instance.terminate_quietly()
        self._release(instance)
        self.set_state(
            instance, "terminated", "Server.InternalError", "The machine's container was removed"
        )

    def _release(self, instance: Instance) -> None:
        """Free the addresses of an instance whose machine is gone."""
        for nic in instance.nics.values():
            if nic.instance is instance:
                for address in nic.private_ip_addresses:
                    nic.subnet.del_subnet_ip(address["PrivateIpAddress"])
                for elastic in nic.ec2_backend.addresses:
                    if elastic.eni is nic:
                        nic.public_ip = elastic.instance = elastic.eni = None
                        elastic.association_id = None

    def _forget_old(self) -> None:
        for account in list(ec2_backends.values()):
            for backend in list(dict.values(account)):
                for reservation in list(backend.reservations.values()):
                    reservation.instances = [
                        instance for instance in reservation.instances if not _expired(instance)
                    ]
                    if not reservation.instances:
                        del backend.reservations[reservation.id]

    def _machine(self, instance: Instance) -> Machine:
        backend: EC2Backend = instance.ec2_backend
        nic = instance.nics[0]
        kind = INSTANCE_TYPES[instance.instance_type]
        tags = _tags(instance)
        key = backend.key_pairs.get(instance.key_name or "")
        hostname, _, domain = instance.private_dns_name.partition(".")
        return Machine(
            instance_id=instance.id,
            name=tags.get("Name", ""),
            subnet_id=nic.subnet.id,
            cidr=nic.subnet.cidr_block,
            address=str(nic.private_ip_address),
            hostname=hostname,
            domain=domain,
            cpus=kind["VCpuInfo"]["DefaultVCpus"],
            memory=memory_left(instance.instance_type, kind["MemoryInfo"]["SizeInMiB"]),
            authorized_key=key.public_key if key else "",
            user_data=base64.b64decode(str(instance.user_data)) if instance.user_data else b"",
        )


def backend() -> EC2Backend:
    """Return moto's EC2 of the cloud's account and region."""
    return ec2_backends[DEFAULT_ACCOUNT_ID][REGION]


def _tags(instance: Instance) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in instance.get_tags()}


def _expired(instance: Instance) -> bool:
    ended: datetime | None = getattr(instance, "ended", None)
    return (
        instance.state == "terminated"
        and ended is not None
        and datetime.now(UTC) - ended > REMEMBER
    )


def _host_shuts_down() -> bool:
    if not Path("/run/systemd/system").is_dir():
        return False
    done = run(["systemctl", "is-system-running"], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "stopping"
