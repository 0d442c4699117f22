"""The running stack: its machines, and which of them has the address, leads, or is in a zone."""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import docker.errors

from bench.machines import CommandFailed, Machine
from localcloud import service
from stackctl import local
from wholestack import Stack

API = "EC2 API"
"""The name of the API among the machines; it is a process of this host."""
_HOLDER = "/run/site-address/status.json"
_REDIS = "/usr/bin/python3 -I /usr/local/lib/stack/redis_role.py tell"


class NoTarget(Exception):
    """Nobody is what a fault wants to hit; the text says what."""


@dataclass(frozen=True)
class Scene:
    """The stack on which faults happen."""

    stack: Stack

    def machines(self) -> dict[str, Machine]:
        """Return the machines by name, also those that do not run."""
        found = self.stack.containers()
        return {name: Machine(name, found[name]) for name in sorted(found)}

    def machine(self, name: str) -> Machine:
        """Return a machine."""
        return self.machines()[name]

    def api(self) -> int:
        """Return the process of the API; raise NoTarget where it does not run."""
        pid = service.status(local.cloud_folder(self.stack.deployment)).pid
        if pid is None:
            raise NoTarget("the API does not run")
        return pid

    def find(self, targets: Sequence[str]) -> list[str]:
        """Return the names of the machines that are these targets now.

        Args:
            targets: keys of `TARGETS`.

        Raises:
            NoTarget: there is none.
        """
        names = [name for target in targets for name in self._of(target)]
        return list(dict.fromkeys(names))

    def _of(self, target: str) -> list[str]:
        found: dict[str, Callable[[], list[str]]] = {
            "api": lambda: [API],
            "edge": lambda: [self._first("lb", f"cat {_HOLDER}", '"holds": true')],
            "redis-master": lambda: [self._first("redis", _REDIS, '"replication": "master')],
            "primary": lambda: [self.primary().name],
            "replica": lambda: self._replicas()[:1],
            "etcd": lambda: self._replicas()[-1:],
            "zone": lambda: self._beside(self.primary()),
        }
        return found.get(target, lambda: [f"{target}-1"])()

    def _replicas(self) -> list[str]:
        primary = self.primary().name
        return [one.name for one in self._role("postgres") if one.name != primary]

    def _role(self, role: str) -> Iterator[Machine]:
        return (one for name, one in self.machines().items() if name.startswith(f"{role}-"))

    def _first(self, role: str, command: str, expected: str) -> str:
        """Return the machine of a role whose answer to a command has a text."""
        for machine in self._role(role):
            if expected in _answer(machine, command):
                return machine.name
        raise NoTarget(f"no {role} machine answers {expected}")

    def primary(self) -> Machine:
        """Return the server that takes writes.

        Raises:
            NoTarget: there is none now.
        """
        asked = sql_command("SELECT 'writes' WHERE NOT pg_is_in_recovery()", "postgres")
        for machine in self._role("postgres"):
            if "writes" in _answer(machine, asked):
                return machine
        raise NoTarget("no server of PostgreSQL takes writes")

    def _beside(self, machine: Machine) -> list[str]:
        """Return the machines in the zone of a machine."""
        aws = self.stack.deployment.base_pillar("aws")
        subnets = [aws["subnet"], *aws["other_subnets"].values()]
        zones = {
            ipaddress.ip_network(str(subnet["cidr"])): str(subnet["zone"]) for subnet in subnets
        }

        def zone(one: Machine) -> str:
            address = ipaddress.ip_address(one.address)
            return next(name for network, name in zones.items() if address in network)

        own = zone(machine)
        return [name for name, one in self.machines().items() if zone(one) == own]

    def sql(self, statement: str) -> list[str]:
        """Return the lines of the primary's answer, in Airflow's database.

        Raises:
            NoTarget: no server takes writes.
            CommandFailed: it refuses the statement.
        """
        return self.primary().run(sql_command(statement, "airflow")).splitlines()

    def written(self, prefix: str) -> list[tuple[int, int]]:
        """Return place and number of the rows that writers of a prefix have made."""
        found = self.sql(f"SELECT id, key FROM variable WHERE key LIKE '{prefix}%'")
        pairs = (line.split("|") for line in found)
        return [(int(place), int(key.removeprefix(prefix))) for place, key in pairs]

    def forget(self, prefix: str) -> None:
        """Remove these rows."""
        self.sql(f"DELETE FROM variable WHERE key LIKE '{prefix}%'")


def sql_command(statement: str, database: str) -> str:
    """Return the command that asks a machine's own server, as its superuser."""
    psql = f"psql -XAtq --no-password -c {shlex.quote(statement)} {database}"
    return f"cd / && PGCONNECT_TIMEOUT=5 timeout 20 runuser -u postgres -- {psql}"


def _answer(machine: Machine, command: str) -> str:
    """Return what a machine answers; empty: it does not run, or the command fails."""
    try:
        return machine.run(command)
    except (docker.errors.APIError, CommandFailed):
        return ""


def problems(rows: dict[str, dict[str, object]]) -> dict[str, str]:
    """Return what rows of `status` say that are not healthy, by machine."""
    keys = ("state", "salt", "service", "problem", "reason", "drift")
    return {
        name: json.dumps([row[key] for key in keys if row[key]])
        for name, row in rows.items()
        if not row["healthy"]
    }
