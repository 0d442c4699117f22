"""What stackctl prints: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from stackctl.cost import Alternative, Estimate, prices
from stackctl.master_backup import Restored
from stackctl.recipients import Recipient
from stackctl.status import Report, Row
from stackctl.verdict import Result

# Without emoji: a key such as roles:salt:unit has one's name in it.
OUT = Console(highlight=False, emoji=False)
ERR = Console(stderr=True, highlight=False, emoji=False)


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


def print_changed(result: Result) -> None:
    """Print the table of a launch, unless every machine is as it was and ready."""
    if result.changed or result.failed:
        print_launch(result)


def print_status_json(report: Report) -> None:
    """Print the machines as JSON; what concerns all of them is in each of them."""
    whole = {
        "site": report.site or "healthy",
        "errors": list(report.errors),
        "orphans": list(report.orphans),
        "rotation": "; ".join(str(one) for one in (report.rotation, report.overlap) if one),
    }
    OUT.print_json(json.dumps([row.as_dict() | whole for row in report.rows]))


def print_status(report: Report, site_address: str, up: str) -> None:
    """Print the machines as a table, and below it what is wrong with them, and the site.

    Args:
        report: what to print.
        site_address: that users type.
        up: the command that starts and repairs machines.
    """
    titles = ("machine", "address", "state", "salt", "service", "memory")
    # At most 80 columns, so that names are complete without a terminal.
    table = Table(*titles, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for row in report.rows:
        table.add_row(
            f"[{'green' if row.healthy else 'red'}]{row.machine}[/]",
            row.address,
            row.state,
            row.salt,
            row.service,
            row.memory,
        )
    OUT.print(table)
    for row in report.rows:
        for line in _remarks(row, up):
            print_line(f"{row.machine}: {line}")
    for orphan in report.orphans:
        print_line(f"hint: no machine has {orphan}, which is billed: docs/runbooks.md")
    if report.rotation:
        print_line(f"{'' if report.rotation.overdue else 'hint: '}{report.rotation}")
    if report.overlap:
        print_line(f"hint: {report.overlap}")
    for error in report.errors:
        print_line(error)
    print_line(f"map {report.map_name}: {sum(row.in_map for row in report.rows)} machines")
    print_line(f"site {site_address}: {report.site or 'healthy'}")


def _remarks(row: Row, up: str) -> Iterator[str]:
    """Yield what is wrong with a machine, and what to know about it, a sentence each."""
    if row.reason:
        yield f"{row.state}, says EC2: {row.reason}. To have it again: {up}"
    if row.cpu:
        yield f"{row.cpu}. What to do: docs/runbooks.md, 'A machine is out of CPU credits'."
    if row.problem:
        yield f"check failed: {row.problem}"
    for difference in row.drift:
        yield f"differs from the tree: {difference}"
    if row.expires:
        yield f"end of its certificate: {row.certificate}. Renew it: docs/runbooks.md."
    if row.outdated:
        yield f"hint: runs with older files than its disk has: {', '.join(row.outdated)}"
    if row.withheld:
        waiting = ", ".join(row.withheld)
        yield f"hint: these updates wait for stackctl upgrade {row.machine}: {waiting}"
    yield from filter(None, (row.replication, row.backups, row.growth, row.renewal))
    if row.spare:
        yield "a spare: it runs no service of its role yet, and nothing depends on it"
    if not row.in_map:
        yield f"the map does not name it. Who removes such machines: {up} --map"
    if row.reboot_required:
        yield f"hint: an update waits for stackctl reboot {row.machine}"


def print_backups(found: Mapping[str, Any]) -> None:
    """Print the backups of the master's keys, the newest first."""
    for backup in found["backups"]:
        print_line(f"{backup['name']}  {backup['bytes']} bytes")
    print_line(f"{len(found['backups'])} backups: {found['where']}")


def print_recipients(found: Sequence[Recipient], lacking: Mapping[str, Sequence[str]]) -> None:
    """Print who can decrypt which secrets, a line each, which may be long.

    Args:
        found: who is to.
        lacking: the secrets that are not encrypted to somebody, by name.
    """
    for recipient in found:
        key, without = recipient.key, lacking[recipient.name]
        end = key.fault or (f"expires on {key.expires}" if key.expires else "expires never")
        reads = f"cannot read {', '.join(without)}" if without else "reads every secret"
        print_line(f"{recipient.name}  {key.fingerprint}  {key.user}  {end}  {reads}")


def print_recipients_json(found: Sequence[Recipient], lacking: Mapping[str, Sequence[str]]) -> None:
    """Print the same as JSON."""
    rows = [
        {
            "name": recipient.name,
            "fingerprint": recipient.key.fingerprint,
            "user": recipient.key.user,
            "expires": str(recipient.key.expires or ""),
            "fault": recipient.key.fault,
            "lacking": list(lacking[recipient.name]),
        }
        for recipient in found
    ]
    OUT.print_json(json.dumps(rows))


def print_restored(found: Restored, up: str, *, dry_run: bool) -> None:
    """Print what a restore has changed on the master, or would change.

    Args:
        found: that.
        up: the command that has every machine answer the master.
        dry_run: whether nothing was changed.
    """
    for path in found.changes:
        print_line(f"{'would replace' if dry_run else 'replaced'} {path}")
    if found.left:
        print_line(f"left out, because their machines do not exist: {', '.join(found.left)}")
    if not found.changes:
        print_line(f"The master has the keys of the backup of {found.name} already.")
    elif not dry_run:
        print_line(f"The master has the keys of the backup of {found.name}. Then: {up}")


def print_cost(found: Estimate, others: Sequence[Alternative]) -> None:
    """Print what a deployment costs a month, and below it what else would."""
    titles = ("USD a month", "n", "type", "instance", "surplus", "gp3", "IPv4", "total")
    table = _right_table(*titles)
    for row in found.rows:
        parts = (row.instances, row.surplus, row.volumes, row.addresses, row.total)
        table.add_row(row.role, str(row.machines), row.kind, *map(_usd, parts))
    for name, value in (("S3", found.s3), ("transfer out", found.transfer)):
        table.add_row(name, *[""] * 6, _usd(value))
    table.add_row("all", *[""] * 6, _usd(found.total))
    OUT.print(table)
    OUT.print()
    table = _right_table("in the place of …", "that would be", "total")
    for other in others:
        sure = "" if other.confirmed else " (?)"
        change = f"{'+' if other.change >= 0 else ''}{_usd(other.change)}"
        table.add_row(f"{other.instead_of}: {other.what}{sure}", _usd(other.month), change)
    OUT.print(table)
    print_line(
        f"List prices of {prices().date} without tax: packages/stackctl/src/stackctl/prices.yaml"
        " names the sources; (?) marks a price that only the source confirms."
    )


def _right_table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right")
    return table


def _usd(value: Decimal) -> str:
    return f"{value:,.2f}"


def print_cost_json(found: Estimate, others: Sequence[Alternative]) -> None:
    """Print the same as JSON."""
    whole: dict[str, Any] = {
        "date": prices().date,
        "roles": [vars(row) | {"total": row.total} for row in found.rows],
        "s3": found.s3,
        "transfer": found.transfer,
        "total": found.total,
        "alternatives": [vars(other) for other in others],
    }
    OUT.print_json(json.dumps(whole, default=float))
