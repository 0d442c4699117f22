"""Backups of the database, and every way to restore them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stackctl import held_master, salt, site
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError
from stackctl.progress import Progress
from stackctl.run import Log

ROLE = "postgres"
ANSWER_SECONDS = 120  # of a machine, for what only looks
LONG_SECONDS = 7200  # for a backup or a restore of 10 GB without CPU credits


class Database:
    """The database servers, asked by the Salt master."""

    def __init__(self, master: salt.Master) -> None:
        self._master = master
        names = [name for name in master.accepted() if name.startswith(f"{ROLE}-")]
        self.servers = sorted(names, key=lambda name: int(name.rpartition("-")[2]))
        if not self.servers:
            raise ConvergeError(
                "The Salt master knows no database server.",
                f"Bring the stack up first: {master.deployment.command('up')}",
            )

    def ask(self, name: str, function: str, seconds: int, **keywords: object) -> Any:
        """Return what a function returns on a server.

        Raises:
            ConvergeError: it fails there, or the server does not answer.
        """
        words = [f"{key}={json.dumps(value)}" for key, value in keywords.items()]
        answers = self._master.ask(
            [f"--timeout={seconds}", "-L", name, function, *words],
            what=f"{function} on {name}",
            timeout=seconds + 60,
        )
        if name not in answers:
            raise ConvergeError(
                f"{name} does not answer.", f"See: {self._master.deployment.command('status')}"
            )
        answer = answers[name]
        if isinstance(answer, str) and answer.startswith(("ERROR", "The minion function caused")):
            raise ConvergeError(f"{name}: {salt.reason(answer)}.")
        return answer

    def maker(self) -> str:
        """Return the server that makes backups."""
        return str(self.ask(self.servers[0], "pgbackrest.maker", ANSWER_SECONDS))

    def replaced(self) -> Mapping[str, str]:
        """Return what a restore has replaced: `time` and `timeline`; empty: no server led."""
        found = [self.ask(name, "pgbackrest.replaced", ANSWER_SECONDS) for name in self.servers]
        return max(found, key=lambda each: str(each["time"]))


@contextmanager
def asking(deployment: Deployment, log: Log) -> Iterator[Database]:
    """Yield the database servers of a deployment, for questions that change nothing there."""
    with held_master.reach(deployment, log) as master:
        yield Database(master)


def plan(database: Database, to: str, timeline: str) -> list[str]:
    """Return the steps of a restore, if it is possible.

    Raises:
        ConvergeError: it is not, and why.
    """
    span = database.ask(
        database.servers[0], "pgbackrest.require_target", ANSWER_SECONDS, to=to, timeline=timeline
    )
    return [
        f"backups are there from {span['oldest']} to {span['newest']}, and the log since then",
        "stop the web app; the site answers 503 meanwhile",
        f"replace the data of {', '.join(database.servers)} by the state of {to}",
        "apply every machine's states, and start the web app",
    ]


def restore(
    deployment: Deployment,
    to: str,
    timeline: str,
    progress: Progress,
    log: Log,
    *,
    wait: bool = False,
) -> Mapping[str, str]:
    """Give the database the state of another moment, on every server.

    Args:
        deployment: which one.
        to: `latest`, or a time with its zone.
        timeline: the number of a history that an earlier restore has left; empty: the present one.
        progress: where to show the steps.
        log: where to keep their output.
        wait: for another run that changes the deployment.

    Returns:
        `time` and `timeline`, by which another restore brings back what this one has replaced; both
        are empty where no server led.

    Raises:
        BusyError: another run changes the deployment.
        ConvergeError: it is not possible, or failed. The data is what it was then.
    """
    with held_master.hold(deployment, "restore", progress, log, wait=wait) as held:
        master = held.master
        with progress.step("preflight"):
            database = Database(master)
            plan(database, to, timeline)
        with progress.step("restore") as step:
            wanted = {"to": to, "timeline": timeline}
            master.orchestrate("orch.restore", step.report, {"restore": wanted})
            step.changed, step.detail = True, to
        with progress.step("states") as step:
            master.orchestrate("orch.deploy", step.report)
            step.changed = True
        with progress.step("site") as step:
            site.require_healthy(deployment)
            step.detail = site.address(deployment)
        return database.replaced()


def backup(database: Database, *, full: bool) -> str:
    """Make a backup on the server that makes them, and return what was made, in words."""
    name = database.maker()
    return str(database.ask(name, "pgbackrest.backup", LONG_SECONDS, full=full))


def backups(database: Database) -> list[str]:
    """Return the backups, a line each, the oldest first."""
    found = database.ask(database.servers[0], "pgbackrest.backups", ANSWER_SECONDS)
    return [f"{each['ended']}  {each['kind']:11}  {each['mib']} MiB" for each in found]


def look_aside(database: Database, to: str, timeline: str) -> tuple[str, str]:
    """Restore beside a server that goes on; return its name, and the command that opens it there.

    Raises:
        ConvergeError: it is not possible, and why.
    """
    name = database.maker()
    options = {"to": to, "timeline": timeline}
    return name, str(database.ask(name, "pgbackrest.aside", LONG_SECONDS, **options))


def end_aside(database: Database) -> list[str]:
    """Remove what `look_aside` has restored; return the servers that had something."""
    servers = database.servers
    return [name for name in servers if database.ask(name, "pgbackrest.end_aside", ANSWER_SECONDS)]


def drill(database: Database) -> Mapping[str, Any]:
    """Restore the newest state beside a server, count rows, and remove it; return a report.

    Returns:
        `seconds`: until the restored server took queries. `behind_seconds`: from its last
        transaction to now. `rows`: table -> rows. `at`: when.

    Raises:
        ConvergeError: it cannot be restored, or rows are missing.
    """
    report: Mapping[str, Any] = database.ask(database.maker(), "pgbackrest.drill", LONG_SECONDS)
    return report
