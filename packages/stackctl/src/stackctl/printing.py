"""What stackctl prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from stackctl.status import Row
from stackctl.verdict import Result

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


def print_line(text: str) -> None:
    """Print text as it is, in one line however wide the terminal is."""
    OUT.print(text, markup=False, soft_wrap=True)


def print_launch_json(result: Result) -> None:
    """Print what became of each machine as JSON."""
    OUT.print_json(json.dumps([verdict.as_dict() for verdict in result.verdicts]))


def print_launch(result: Result) -> None:
    """Print what became of each machine as a table, and below it why a machine is not ready."""
    titles = ("machine", "outcome", "instance", "state", "deployed", "SSH", "minion")
    # At most 80 columns, so that ids are complete without a terminal.
    table = Table(*titles, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for verdict in result.verdicts:
        both = (verdict.before, verdict.after)
        ids = dict.fromkeys(machine.instance_id for machine in both if machine)
        states = dict.fromkeys(machine.state if machine else "none" for machine in both)
        table.add_row(
            f"[{'green' if verdict.ready else 'red'}]{verdict.machine}[/]",
            verdict.outcome,
            " → ".join(ids),
            " → ".join(states),
            "yes" if verdict.deployed else "no",
            "yes" if verdict.reachable else "no",
            "answers" if verdict.answers else "silent",
        )
    OUT.print(table)
    for verdict in result.failed:
        print_line(f"{verdict.machine}: {verdict.reason}")


def print_status_json(rows: Sequence[Row], site_problem: str) -> None:
    """Print the machines as JSON; the state of the site is in each of them."""
    site = {"site": site_problem or "healthy"}
    OUT.print_json(json.dumps([row.as_dict() | site for row in rows]))


def print_status(rows: Sequence[Row], site_address: str, site_problem: str) -> None:
    """Print the machines as a table, and below it what is wrong with them, and the site."""
    titles = ("machine", "address", "state", "salt", "service", "memory")
    # At most 80 columns, so that names are complete without a terminal.
    table = Table(*titles, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(
            f"[{'green' if row.healthy else 'red'}]{row.machine}[/]",
            row.address,
            row.state,
            row.salt,
            row.service,
            row.memory,
        )
    OUT.print(table)
    for row in rows:
        if row.problem:
            print_line(f"{row.machine}: check failed: {row.problem}")
        if row.expires:
            print_line(
                f"{row.machine}: end of its certificate: {row.certificate}."
                " Renew it: docs/runbooks.md."
            )
    print_line(f"site {site_address}: {site_problem or 'healthy'}")
