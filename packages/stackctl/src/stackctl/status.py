"""The state of every machine: its instance, its minion, its service and its certificate."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from stackctl import ca_rotation, inventory, password_rotation, refusals, site
from stackctl.account import enter
from stackctl.ca_rotation import Rotation
from stackctl.certificates import RENEW_DAYS
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError, StackError
from stackctl.files import write_private
from stackctl.machines import Machine, ec2_client, find_ended, list_machines, require_master
from stackctl.password_rotation import Overlap
from stackctl.roles import RoleTable, role_of
from stackctl.run import Log
from stackctl.salt import ask_minions
from stackctl.ssh import Shell

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

UNKNOWN = "unknown"
ASKED = ("running", UNKNOWN)  # states of instances whose minion may answer
MEMORY = "machines.json"  # in the deployment's folder
# A machine without CPU credits works at a tenth of its speed: it is late, and not lost.
ANSWER_SECONDS = 60
SILENT_SECONDS = 6  # after which a minion is frozen that does not answer a ping either
CONNECT_SECONDS = 5  # that the master has to answer SSH
API_SECONDS = 5  # that the EC2 API has to answer
SITE_SECONDS = 6  # that the site has to answer
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One machine.

    Attributes:
        machine: its name.
        role: its role.
        address: its private address.
        state: of its instance, as EC2 calls it.
        salt: whether its minion answers.
        service: its systemd unit, and the state of that.
        memory: that its programs hold.
        certificate: the day on which its service's certificate ends, as YYYY-MM-DD, or `unknown`;
            empty for a role that has none.
        problem: why the end-to-end check of its role failed; empty: it did not.
        reason: why its instance does not run, in EC2's words.
        drift: how it differs from what its states made, a sentence each.
        outdated: the units that run with older files than those on its disk.
        withheld: the packages whose update waits for the operator.
        reboot_required: whether an update waits for a reboot.
        replication: of a store, whether it is the master and how far the others are behind; of a
            load balancer, whether it has the site's address; empty: it is neither or does not tell.
        backups: how old its backups are, or those of all servers of its role; empty: it makes none.
        growth: what it does by itself about the number of machines; empty: nothing.
        renewal: until when it has a certificate of an ACME CA, and why that is not renewed; empty:
            it asks none, or the problem says it.
        cpu: why it answers slowly, where that is for lack of CPU credits; empty: it is not.
        spare: whether it does not serve its role yet, so that nothing depends on it.
        in_map: whether the map names it.
    """

    machine: str
    role: str
    address: str
    state: str
    salt: str
    service: str
    memory: str
    certificate: str = ""
    problem: str = ""
    reason: str = ""
    drift: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    reboot_required: bool = False
    replication: str = ""
    backups: str = ""
    growth: str = ""
    renewal: str = ""
    cpu: str = ""
    spare: bool = False
    in_map: bool = True

    @property
    def expires(self) -> bool:
        """Whether its certificate has to be renewed, or cannot be read."""
        if not self.certificate:
            return False
        try:
            end = dt.date.fromisoformat(self.certificate)
        except ValueError:
            return True
        return end < dt.datetime.now(dt.UTC).date() + dt.timedelta(days=RENEW_DAYS)

    @property
    def healthy(self) -> bool:
        """Whether it runs, answers and serves, with a certificate that lasts."""
        runs = (self.state, self.salt) == ("running", "answers")
        serves = self.service.endswith(" active") and not self.problem
        return runs and serves and not self.drift and not self.expires

    def as_dict(self) -> dict[str, Any]:
        """Return the row for `--json`."""
        return {**asdict(self), "healthy": self.healthy}


@dataclass(frozen=True)
class Report:
    """The state of a deployment.

    Attributes:
        rows: of the machines.
        site: why the site is not healthy; empty: it is.
        errors: why something could not be asked, a sentence each.
        orphans: the volumes and addresses of the deployment that no machine has, and its bucket
            where there is nothing else.
        map_name: the deployment's map.
        rotation: of the deployment's CA; None: none is on.
        overlap: the rotation of other secrets that is not finished; None: there is none.
    """

    rows: Sequence[Row]
    site: str = ""
    errors: Sequence[str] = ()
    orphans: Sequence[str] = ()
    map_name: str = ""
    rotation: Rotation | None = None
    overlap: Overlap | None = None

    @property
    def healthy(self) -> bool:
        """Whether everything could be asked, all machines and the site are healthy, and no
        rotation of the CA has been forgotten.
        """
        machines = bool(self.rows) and all(row.healthy for row in self.rows)
        forgotten = self.rotation is not None and self.rotation.overdue
        return machines and not self.site and not self.errors and not forgotten


@dataclass(frozen=True)
class _Instances:
    """The machines, and the API that can tell more about them; None: it does not answer.

    Attributes:
        machines: by name.
        ended: name -> why the last machine of this name is terminated.
        client: the API.
        orphans: see `Report`.
    """

    machines: Mapping[str, Machine]
    ended: Mapping[str, str]
    client: EC2Client | None
    orphans: Sequence[str] = ()


def collect(deployment: Deployment, log: Log) -> Report:
    """Ask the EC2 API, the Salt master and the site; every machine of the map has a row.

    The site is asked whatever the others answer. Without an answer of the EC2 API, the master is
    asked at the address that it had the last time.

    Raises:
        StackError: the EC2 API does not answer, and nothing is known from before.
    """
    errors: list[str] = []
    of_site = ask(lambda: site.problem(deployment, SITE_SECONDS))
    try:
        found = answer_of(ask(lambda: _instances(deployment)), API_SECONDS)
        _remember(deployment, found.machines)
    except PreflightError:
        raise  # the credentials are another account's
    except (StackError, BotoCoreError, ClientError) as error:
        if not (remembered := _remembered(deployment)):
            raise
        found = _Instances(remembered, {}, None)
        errors.append(f"EC2: {refusals.as_error(error, deployment.region())}")
    asked = {name for name, machine in found.machines.items() if machine.state in ASKED}
    answers: Mapping[str, object] = {}
    try:
        answers = _ask(deployment, found, sorted(asked), log)
    except StackError as error:
        log.write(str(error))
        errors.append(f"No machine could be asked. {error.what} {error.hint}".strip())
        asked = set()
    table = deployment.role_table()
    named = list(deployment.with_existing(found.machines, {}).machines())
    names = named + [name for name in found.machines if name not in named]
    rows = []
    for name in names:
        row = _row(table, name, found.machines.get(name), answers.get(name))
        if name not in asked:
            row = replace(row, salt=UNKNOWN)
        if name not in found.machines:
            row = replace(row, reason=found.ended.get(name, ""))
        rows.append(replace(row, in_map=name in named))
    try:
        site_problem = answer_of(of_site, SITE_SECONDS)
    except StackError as error:
        site_problem = error.what
    rotation, overlap = None, None
    try:
        rotation = ca_rotation.current(deployment)
        overlap = password_rotation.current(deployment)
    except StackError as error:
        errors.append(str(error))
    name = deployment.map_name
    return Report(rows, site_problem, errors, found.orphans, name, rotation, overlap)


def ask(question: Callable[[], T]) -> Future[T]:
    """Begin a question, in a thread that does not keep the process alive."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(question())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def answer_of(future: Future[T], seconds: float) -> T:
    """Return what a question returns, or raise what it raises.

    Raises:
        StackError: no answer within so many seconds from now.
    """
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise
        raise StackError(f"No answer within {seconds:g} s.") from None


def _instances(deployment: Deployment) -> _Instances:
    with enter(deployment):
        client = ec2_client(deployment)
        ended = {name: machine.reason for name, machine in find_ended(client, deployment).items()}
        machines = list_machines(client, deployment)
        orphans = inventory.orphans(deployment, client)
        if not machines:
            orphans += inventory.left_buckets(deployment)
        return _Instances(machines, ended, client, [str(thing) for thing in orphans])


def _ask(
    deployment: Deployment, found: _Instances, names: Sequence[str], log: Log
) -> Mapping[str, object]:
    """Return minion -> what `role.status` returned there, for the minions that answer."""
    master = found.machines.get(deployment.master())
    if master is None or master.state != UNKNOWN:
        master = require_master(deployment, found.machines)
    with Shell(deployment, found.client, log, connect_seconds=CONNECT_SECONDS) as shell:
        if found.client:
            shell.trust(master, timeout=CONNECT_SECONDS)
        question = ["list", ",".join(names), "role.status"]
        return ask_minions(shell, master, question, ANSWER_SECONDS, silent=SILENT_SECONDS)


def _remember(deployment: Deployment, machines: Mapping[str, Machine]) -> None:
    """Keep where the machines are, for a time at which the EC2 API does not answer."""
    addresses = {
        name: [machine.instance_id, machine.private_address, machine.public_address]
        for name, machine in machines.items()
    }
    write_private(deployment.state_dir / MEMORY, json.dumps(addresses))


def _remembered(deployment: Deployment) -> dict[str, Machine]:
    try:
        addresses = json.loads((deployment.state_dir / MEMORY).read_text())
    except (OSError, ValueError):
        return {}
    return {
        name: Machine(name, instance_id, UNKNOWN, private, public)
        for name, (instance_id, private, public) in addresses.items()
    }


def _row(table: RoleTable, name: str, machine: Machine | None, answer: object) -> Row:
    role = table.of(name)
    unit = table.unit_of(name)
    # A text is an error of Salt, such as a module that has not been synced yet.
    status: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}
    memory = status.get("memory_mib")
    return Row(
        machine=name,
        role=role_of(name),
        address=machine.private_address if machine else "",
        state=machine.state if machine else "missing",
        salt="silent" if answer is None else "answers",
        service=f"{status.get('unit', unit)} {status.get('state', UNKNOWN)}",
        memory=f"{memory} MiB" if memory is not None else "",
        certificate=status.get("certificate_end", ""),
        problem=status.get("problem", "") if status else " ".join(str(answer or "").split()),
        reason=machine.reason if machine else "",
        drift=tuple(status.get("drift", ())),
        outdated=tuple(status.get("outdated", ())),
        withheld=tuple(status.get("withheld", ())),
        reboot_required=bool(status.get("reboot_required")),
        replication=status.get("replication", ""),
        backups=status.get("backups", ""),
        growth=status.get("growth", ""),
        renewal=status.get("renewal", ""),
        cpu=status.get("cpu", ""),
        spare=role is not None and not role.serves(name),
    )
