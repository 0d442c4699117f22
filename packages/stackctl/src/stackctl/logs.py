"""Which machine is asked for logs, and the command that prints them there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from stackctl.deployment import Deployment
from stackctl.errors import StackError

STORE = "/var/log/journal/remote"
"""Of the machine that takes the logs of all: salt/journal_remote."""


@dataclass(frozen=True)
class Search:
    """Which lines are wanted.

    Attributes:
        lines: how many at most, the newest.
        unit: of this systemd unit; empty: what is asked decides.
        since: no older ones, in journalctl's words; empty: of any age.
        pattern: a regular expression in the message; empty: any message.
    """

    lines: int
    unit: str = ""
    since: str = ""
    pattern: str = ""

    def args(self, unit: str = "") -> list[str]:
        """Return options of journalctl.

        Args:
            unit: the one that is meant when the search names none; empty: any.
        """
        found = ["--no-pager", "-n", str(self.lines)]
        found += [f"--since={self.since}"] if self.since else []
        found += [f"--grep={self.pattern}"] if self.pattern else []
        wanted = self.unit or unit
        return [*found, "-u", wanted] if wanted else found


def of_machine(deployment: Deployment, name: str, search: Search) -> str:
    """Return the shell line that prints a machine's own lines there, of its service by default.

    Raises:
        StackError: the machine is of no known role.
    """
    _require_role(deployment, name)
    unit = deployment.role_table().unit_of(name)
    return shlex.join(["journalctl", *search.args(unit)])


def of_all(deployment: Deployment, names: Sequence[str], search: Search) -> tuple[str, str]:
    """Return the machine that has the logs of all, and the shell line that prints lines there.

    Args:
        deployment: which one.
        names: only what these machines wrote, also those that are gone; none: what all wrote.
        search: which lines.

    Raises:
        StackError: the map has no such machine, or a name is of no known role.
    """
    for name in names:
        _require_role(deployment, name)
    roles = deployment.role_table().roles.values()
    there = [name for role in roles if role.receiver for name in deployment.machines_of(role.name)]
    if not there:
        raise StackError(
            f"The map {deployment.map_name} has no machine that keeps the logs of all.",
            f"The map production has; in this one, ask each: {deployment.command('logs')} web-1",
        )
    hosts = [f"_HOSTNAME={name}" for name in names]
    options = [f"--directory={STORE}", "--output=short-iso", *search.args()]
    return there[0], shlex.join(["journalctl", *options, *hosts])


def _require_role(deployment: Deployment, name: str) -> None:
    table = deployment.role_table()
    if table.of(name) is None:
        raise StackError(f"'{name}' is of no known role.", f"Roles: {', '.join(table.roles)}.")
