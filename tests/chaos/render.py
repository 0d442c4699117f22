"""Writes docs/resilience.md and the summary in README.md from docs/bench/resilience.json.

The parts between two comments such as `<!-- chaos:table -->` and `<!-- /chaos:table -->` are
replaced: nothing there is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from tests.chaos import model
from tests.chaos.rows import NOT_DONE, ROWS, Row, middle, misses

from bench.render import NONE, filled, origin, paragraph, table
from bench.results import FOLDER, ROOT, Missing, Results

DOCUMENT = ROOT / "docs" / "resilience.md"
README = ROOT / "README.md"
SUMMARY = {
    "web-gone": "a web machine is killed",
    "edge-gone": "the load balancer with the address is killed",
    "redis-master-gone": "the machine with Redis' master is killed",
    "primary-crash": "PostgreSQL crashes",
    "primary-switchover": "the primary is changed on command",
    "primary-gone": "the primary's machine is killed",
    "zone-gone": "all machines of the primary's zone are killed",
    "salt-gone": "`salt-1` is killed",
    "api-killed": "the EC2 API does not answer",
}
HEAD = (
    "hit", "what happens", "reads failed", "away s", "writes failed", "away s", "lost",
    "logins away s", "lasts s", "well after s", "by the operator",
)  # fmt: skip


def settings() -> model.Settings:
    """Return the times that decide, as the machines have them."""
    patroni = _defaults("postgres")["cluster"]
    stores = _defaults("stores")
    return model.Settings(
        ttl=patroni["ttl"],
        loop=patroni["settings"]["loop_wait"],
        retry=patroni["settings"]["retry_timeout"],
        check=stores["check_milliseconds"] / 1000,
    )


def _defaults(component: str) -> dict[str, Any]:
    text = (ROOT / "salt" / component / "defaults.yaml").read_text()
    return dict(yaml.safe_load(text)[component])


def _runs(kept: Results, row: Row) -> list[dict[str, Any]]:
    try:
        return kept.runs(row.name)
    except Missing:
        return []


def seconds(value: float) -> str:
    """Return seconds as a table shows them."""
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"


def _failed(runs: Sequence[dict[str, Any]], kind: str) -> str:
    """Return how many requests failed, of how many."""
    return f"{middle([*runs], kind, 'failed'):.0f} of {middle([*runs], kind, 'asked'):.0f}"


def operator(row: Row, runs: Sequence[dict[str, Any]]) -> str:
    """Return what the operator has to do."""
    steps = [row.of.remedy] if row.of.remedy else []
    if not all(run["by_itself"] for run in runs):
        steps.append(f"`stackctl up`, {seconds(middle([*runs], 'up_s'))} s")
    return "; ".join(steps) or "nothing"


def main_table(kept: Results) -> str:
    """Return the table of all rows; those that were not measured have dashes."""
    return table(HEAD, [_row(row, _runs(kept, row)) for row in ROWS])


def _row(row: Row, runs: list[dict[str, Any]]) -> list[str]:
    if not runs:
        return [row.what, row.of.what, *[NONE] * (len(HEAD) - 2)]
    lasted = middle(runs, "lasted_s")
    return [
        row.what,
        row.of.what,
        _failed(runs, "reads"),
        seconds(middle(runs, "reads", "away_s")),
        _failed(runs, "writes"),
        seconds(middle(runs, "writes", "away_s")),
        str(sum(run["ledger"]["lost"] for run in runs)),
        seconds(middle(runs, "logins", "away_s")),
        seconds(lasted) if lasted else NONE,
        seconds(middle(runs, "well_s")),
        operator(row, runs),
    ]


def postgres_table(kept: Results) -> str:
    """Return the classes of faults of PostgreSQL, with what the model expects."""
    return table(
        ("class", "what happens", "way back", "model s", "measured s", "lost"),
        list(_classes(kept, settings())),
    )


def _classes(kept: Results, times: model.Settings) -> Iterator[list[str]]:
    rows = {row.pigsty: row for row in ROWS if row.pigsty}
    for number, (what, way) in model.CLASSES.items():
        runs = _runs(kept, rows[number])
        measured = seconds(middle(runs, "writes", "away_s")) if runs else NONE
        lost = str(sum(run["ledger"]["lost"] for run in runs)) if runs else NONE
        yield [str(number), what, way, str(model.WAYS[way](times)), measured, lost]


def ledger_text(kept: Results) -> str:
    """Return how many writes were acknowledged, and what became of them."""
    runs = [run for row in ROWS for run in _runs(kept, row)]

    def total(key: str) -> int:
        return sum(run["ledger"][key] for run in runs)

    asked = sum(run["reads"]["asked"] for run in runs)
    failed = sum(run["reads"]["failed"] for run in runs)
    facts = (
        ("faults", len(runs)),
        ("reads", asked),
        ("reads that failed", failed),
        ("writes acknowledged", total("acknowledged")),
        ("of them lost", total("lost")),
        ("done twice", total("doubled")),
        ("out of order", total("disordered")),
        ("not seen by a read that came after them", total("unseen")),
        ("rows that nobody has written", total("unknown")),
        ("done, although the answer was an error or none", total("done_unsaid")),
    )
    return table(("what", "number"), [[what, f"{number:,}"] for what, number in facts])


def missed_text(kept: Results) -> str:
    """Return what does not reach its limit, a line each."""
    lines = [line for row in ROWS if (runs := _runs(kept, row)) for line in misses(row, runs)]
    return "\n".join(f"- {line}" for line in lines) or "Every row reaches what it has to."


def not_done_text() -> str:
    """Return what could not be done, and why."""
    return table(("what", "why not"), [[what, why] for what, why in NOT_DONE.items()]).replace(
        "| -- | -: |", "| -- | -- |"
    )


def summary(kept: Results) -> str:
    """Return the rows of which README.md tells."""
    rows = {row.name: row for row in ROWS}
    found = []
    for name, what in SUMMARY.items():
        row = rows[name]
        cells = _row(row, _runs(kept, row))
        found.append([what, cells[3], cells[5], cells[7], cells[6], cells[10]])
    head = ("what happens", "reads away s", "writes away s", "logins away s", "writes lost")
    return table((*head, "by the operator"), found)


def busy(kept: Results) -> str:
    """Return how busy the host was, which the pauses tell of, too."""
    host = kept.data["machine"]
    return paragraph(
        f"All machines and their visitors share the host's {host['cores']} cores, whose load was"
        f" {host['load']} after the last row. Above the number of its cores, answers wait for the"
        " host, and such a pause counts like any other."
    )


def files() -> dict[Path, str]:
    """Return path -> text of everything that is generated."""
    kept = Results.load(FOLDER / "resilience.json")
    parts = {
        "origin": f"{origin(kept)}\n\n{busy(kept)}" if kept.data["scenarios"] else NONE,
        "ledger": ledger_text(kept),
        "missed": missed_text(kept),
        "table": main_table(kept),
        "postgres": postgres_table(kept),
        "not-done": not_done_text(),
    }
    return {
        DOCUMENT: filled(DOCUMENT.read_text(), "chaos", parts),
        README: filled(README.read_text(), "chaos", {"summary": summary(kept)}),
    }


def write() -> None:
    """Write the documents."""
    for path, text in files().items():
        path.write_text(text)
