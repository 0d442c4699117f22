"""The state of every machine: its instance, its minion, its service and its certificate."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stackctl.deployment import Deployment
from stackctl.errors import StackError
from stackctl.machines import Machine, ec2_client, list_machines
from stackctl.roles import RoleTable, role_of
from stackctl.run import Log
from stackctl.salt import Master
from stackctl.ssh import Shell

RENEW_DAYS = 30  # a certificate that ends sooner has to be renewed
NO_ANSWER = "Minion did not return"  # `salt --static` prints it: salt/client/__init__.py
UNKNOWN = "unknown"


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
        return runs and self.service.endswith(" active") and not self.problem and not self.expires

    def as_dict(self) -> dict[str, str | bool]:
        """Return the row for `--json`."""
        return {**asdict(self), "healthy": self.healthy}


def collect(deployment: Deployment, log: Log) -> list[Row]:
    """Ask the EC2 API and the Salt master; every machine of the map has a row."""
    names = list(deployment.machines())
    client = ec2_client(deployment)
    machines = list_machines(client)
    answers: dict[str, Any] = {}
    master = machines.get(deployment.master())
    if master and master.state == "running":
        with Shell(deployment, client, log) as shell:
            try:
                shell.trust(master)
                answers = _ask(Master(shell, master, log), sorted(names))
            except StackError as error:
                log.write(str(error))
    table = deployment.role_table()
    names += [name for name in machines if name not in names]
    return [_row(table, name, machines.get(name), answers.get(name)) for name in names]


def _ask(master: Master, names: list[str]) -> dict[str, Any]:
    """Return minion -> what `role.status` returned there, for the minions that answer."""
    answers = master.ask(
        ["--list", ",".join(names), "--timeout=10", "role.status"],
        what="asking the minions",
        timeout=120,
    )
    return {
        name: answer
        for name, answer in answers.items()
        if isinstance(answer, Mapping)
        or (isinstance(answer, str) and not answer.startswith(NO_ANSWER))
    }


def _row(table: RoleTable, name: str, machine: Machine | None, answer: Any) -> Row:
    role = table.of(name)
    unit = role.unit if role else ""
    # A text is an error of Salt, such as a module that has not been synced yet.
    status = answer if isinstance(answer, Mapping) else {}
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
    )
