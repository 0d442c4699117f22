"""What runs, in one table: every machine of the map, its instance, its minion and its service."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass

from stackctl.deployment import Deployment
from stackctl.errors import StackError
from stackctl.machines import Machine, ec2_client, list_machines
from stackctl.run import Log
from stackctl.salt import Master, parse_documents
from stackctl.ssh import Shell

SERVICES = {
    "salt": "salt-master",
    "lb": "haproxy",
    "web": "airflow",
    "postgres": "postgresql@17-main",
    "redis": "redis-server",
}
CERTIFICATES = {
    "lb": "/etc/haproxy/tls.pem",
    "postgres": "/etc/postgresql/17/main/tls/certificate.pem",
    "redis": "/etc/redis/tls/certificate.pem",
}
RENEW_DAYS = 30  # a certificate that ends sooner is not well: a month is time to renew it in
NO_ANSWER = "Minion did not return"  # what `salt --static` says in a minion's place: salt/client/__init__.py


@dataclass(frozen=True)
class Row:
    """One machine.

    Args:
        machine: its name.
        role: its role.
        address: its private address.
        state: of its instance, in EC2's words.
        salt: whether its minion answers.
        service: its service, and what systemd says of it.
        memory: what its programs hold.
        certificate: the day on which its service's certificate ends, as YYYY-MM-DD; empty for a role that has none.
    """

    machine: str
    role: str
    address: str
    state: str
    salt: str
    service: str
    memory: str
    certificate: str = ""

    @property
    def expires(self) -> bool:
        """Whether its certificate has to be renewed; one that cannot be read has to be looked at."""
        if not self.certificate:
            return False
        try:
            end = dt.date.fromisoformat(self.certificate)
        except ValueError:
            return True
        return end < dt.datetime.now(dt.UTC).date() + dt.timedelta(days=RENEW_DAYS)

    @property
    def healthy(self) -> bool:
        """Whether nothing is wanting."""
        runs = (self.state, self.salt) == ("running", "answers") and self.service.endswith(
            " active"
        )
        return runs and not self.expires

    def as_dict(self) -> dict[str, str | bool]:
        """Return the row for `--json`."""
        return {**asdict(self), "healthy": self.healthy}


def collect(deployment: Deployment, log: Log) -> list[Row]:
    """Ask the EC2 API and the Salt master; a machine that is not there has a row all the same."""
    wanted = deployment.machines()
    client = ec2_client(deployment)
    found = list_machines(client)
    answers: dict[str, str] = {}
    master = found.get(deployment.master())
    if master and master.state == "running":
        with Shell(deployment, client, log) as shell:
            try:
                shell.trust(master)
                answers = _services(Master(shell, master, log), sorted(wanted))
            except StackError as error:
                log.write(str(error))
    names = [*wanted, *(name for name in found if name not in wanted)]
    return [
        _row(name, wanted.get(name, name.rpartition("-")[0]), found.get(name), answers.get(name))
        for name in names
    ]


def _row(name: str, role: str, machine: Machine | None, answer: str | None) -> Row:
    unit = SERVICES.get(role, "")
    service, memory, certificate = ((answer or "").splitlines() + [""] * 3)[:3]
    return Row(
        name,
        role,
        machine.private_address if machine else "",
        machine.state if machine else "missing",
        "answers" if answer is not None else "silent",
        f"{unit} {service or 'unknown'}",
        memory,
        certificate,
    )


def _services(master: Master, names: list[str]) -> dict[str, str]:
    """Return minion -> lines: its service's state, its memory, its certificate's end; asked of all at once."""
    units = " ".join(
        f"{role}) unit={unit} tls={CERTIFICATES.get(role, '')};;" for role, unit in SERVICES.items()
    )
    # What programs hold, shared pages counted once; the page cache gives way and is no need.
    memory = "cat /proc/[0-9]*/smaps_rollup 2>/dev/null | awk '/^Pss:/{kib += $2} END {printf \"%d MiB\\n\", kib/1024}'"
    script = (
        f"role=$(sed -n 's/^id: *//p' /etc/salt/minion | sed 's/-[0-9]*$//'); case $role in {units} esac;"
        f' systemctl is-active $unit; {memory}; [ -z "$tls" ] ||'
        ' { end=$(openssl x509 -noout -enddate -in "$tls") && date --utc --date="${end#*=}" +%F || echo unknown; }'
    )
    output = master.command(
        [
            "salt",
            "--list",
            ",".join(names),
            "--out=json",
            "--static",
            "--timeout=10",
            "cmd.run",
            f"cmd={script}",
        ],
        what="asking the minions",
        accept=(0, 1, 2),
        timeout=120,
    )
    answers = parse_documents(output)
    return {
        name: text
        for name, text in answers.items()
        if isinstance(text, str) and not text.startswith(NO_ANSWER)
    }
