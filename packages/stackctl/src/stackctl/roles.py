"""The table of roles, pillar/base/roles.sls: what stackctl knows of each role."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackctl import tree_files
from stackctl.errors import StackError

MASTER = "salt"
SPARE_UNIT = "salt-minion"  # of a machine that does not serve its role
EDGE_TLS = "edge-tls"  # the certificate that users' browsers see
_ID = re.compile(r"(.+)-[1-9][0-9]*")


def role_of(minion_id: str) -> str:
    """Return the role of a minion id, `<role>-<number from 1>`; empty for any other id.

    salt/_modules/role.py has the same rule on the machines.
    """
    match = _ID.fullmatch(minion_id)
    return match[1] if match else ""


@dataclass(frozen=True)
class Leaf:
    """A certificate of the table.

    Attributes:
        secret: the secret that holds it.
        path: the file on a machine that holds it.
        name: the name in it.
        trusts: the files beside it that hold the deployment's CA.
    """

    secret: str
    path: str
    name: str
    trusts: Sequence[str] = ()

    @classmethod
    def read(cls, row: Mapping[str, Any] | None) -> Leaf | None:
        """Return one from the table; None: there is none."""
        return None if row is None else cls(**row)


@dataclass(frozen=True)
class Role:
    """One role.

    Attributes:
        name: what precedes the number in its machines' ids.
        unit: the systemd unit that its machines run.
        service: the DNS name below the domain by which other machines reach it; its name
            unless the table has another.
        certificate: the secret that holds its certificate; empty: it has none.
        certificate_paths: the files on a machine that hold that certificate.
        client: the secret that holds the certificate with which its machines prove themselves to
            servers that ask for one; empty: they have none, or the one above.
        client_name: the common name in that certificate.
        client_path: the file on a machine that holds it.
        everywhere: the further files with its certificate on the machines of other roles, which
            all hold it; None: they do not.
        receiver: the certificate under which its machines take what others log.
        senders: the certificate with which all machines send that.
        trusts: the files on a machine that hold the deployment's CA.
        health_path: the path of the HTTP endpoint that tells whether it serves; empty: none.
        health_text: what that page has to contain.
        serving: how many of its machines serve, from number 1 on; None: all of them.
        votes: whether more than half of its machines have to agree on who is the master.
        members: how many machines it can have that talk to each other, as clients of this
            certificate too; 0: they do not.
        data: what the disk of such a machine may hold; empty: nothing that would be missed.
    """

    name: str
    unit: str
    service: str
    certificate: str = ""
    health_path: str = ""
    health_text: str = ""
    serving: int | None = None
    votes: bool = False
    members: int = 0
    data: str = ""
    certificate_paths: tuple[str, ...] = ()
    client: str = ""
    client_name: str = ""
    client_path: str = ""
    trusts: tuple[str, ...] = ()
    everywhere: Mapping[str, Sequence[str]] | None = None
    receiver: Leaf | None = None
    senders: Leaf | None = None

    @property
    def leaves(self) -> dict[str, tuple[str, ...]]:
        """Secret -> the files on a machine of the role that hold its certificate."""
        own = {self.certificate: self.certificate_paths, self.client: (self.client_path,)}
        if self.receiver:
            own[self.receiver.secret] = (self.receiver.path,)
        return {secret: paths for secret, paths in own.items() if secret}

    def serves(self, minion_id: str) -> bool:
        """Return whether a machine serves the role; salt/_modules/role.py has the same rule."""
        return self.serving is None or int(minion_id.rpartition("-")[2]) <= self.serving

    @classmethod
    def read(cls, name: str, row: Mapping[str, Any]) -> Role:
        """Return a role from its row of the table; raise KeyError for a missing key."""
        certificate = row.get("certificate", {})
        path = [certificate["path"]] if "path" in certificate else []
        client = row.get("client", {"secret": "", "name": "", "path": ""})
        return cls(
            name=name,
            unit=row["unit"],
            service=row.get("service", name),
            certificate=certificate["secret"] if "certificate" in row else "",
            certificate_paths=(*path, *certificate.get("copies", ())),
            client=client["secret"],
            client_name=client["name"],
            client_path=client["path"],
            trusts=tuple(row.get("trusts", ())),
            everywhere=certificate.get("everywhere"),
            receiver=Leaf.read(row.get("receiver")),
            senders=Leaf.read(row.get("senders")),
            members=certificate.get("members", 0),
            health_path=row.get("check", {}).get("path", ""),
            health_text=row.get("check", {}).get("expect", ""),
            serving=row.get("serving"),
            votes=row.get("votes", False),
            data=row.get("data", ""),
        )


@dataclass(frozen=True)
class RoleTable:
    """Every role, and the domain of the machines' own names."""

    domain: str
    roles: Mapping[str, Role]

    @classmethod
    def read(cls, root: Path, path: Path) -> RoleTable:
        """Read the table in a file of a checkout.

        Raises:
            StackError: it cannot be read, or lacks a key.
        """
        data = tree_files.read(root, path)
        try:
            roles = {name: Role.read(name, row) for name, row in data["roles"].items()}
            return cls(data["domain"], roles)
        except KeyError as error:
            raise StackError(f"{path} has no key {error}.") from None

    def of(self, minion_id: str) -> Role | None:
        """Return the role of a machine; None: the table has no such role."""
        return self.roles.get(role_of(minion_id))

    def leaves_of(self, minion_id: str, machines: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return secret -> the files on a machine that hold its certificate, its own and shared.

        Args:
            minion_id: the machine, which serves its role.
            machines: all that there are.
        """
        found = dict(self.roles[role_of(minion_id)].leaves)
        for role in (self.roles.get(name) for name in {role_of(each) for each in machines}):
            if role is not None and role.everywhere is not None:
                copies = role.everywhere.get(role_of(minion_id), ())
                found[role.certificate] = (*role.certificate_paths, *copies)
        return found | {leaf.secret: (leaf.path,) for leaf in self._senders(machines)}

    def trusts_of(self, minion_id: str, machines: Iterable[str]) -> tuple[str, ...]:
        """Return the files on a machine that hold the deployment's CA; arguments as `leaves_of`."""
        of_senders = (path for leaf in self._senders(machines) for path in leaf.trusts)
        return (*self.roles[role_of(minion_id)].trusts, *of_senders)

    def _senders(self, machines: Iterable[str]) -> list[Leaf]:
        """Return the certificates with which every machine sends to those of some role."""
        there = {role_of(each) for each in machines}
        return [role.senders for role in self.roles.values() if role.senders and role.name in there]

    def unit_of(self, minion_id: str) -> str:
        """Return the unit that a machine runs for the stack; empty: the table has no such role."""
        role = self.of(minion_id)
        if role is None:
            return ""
        return role.unit if role.serves(minion_id) else SPARE_UNIT

    @property
    def leaves(self) -> frozenset[str]:
        """The secrets that hold a role's certificate."""
        roles = self.roles.values()
        return frozenset(secret for role in roles for secret in role.leaves) | {
            role.senders.secret for role in roles if role.senders
        }

    @property
    def edge(self) -> Role:
        """The role that users' browsers connect to.

        Raises:
            StackError: no role has the certificate for it.
        """
        for role in self.roles.values():
            if role.certificate == EDGE_TLS:
                return role
        raise StackError(f"No role of pillar/base/roles.sls has the certificate {EDGE_TLS}.")
