"""docs/resilience.md and the summary of README.md are those of the results."""

from __future__ import annotations

from typing import Any

from tests.chaos import render
from tests.chaos.rows import BY_NAME

from bench.render import NONE
from bench.results import ROOT, Results

KEYS = ("acknowledged", "lost", "doubled", "disordered", "unseen", "unknown", "done_unsaid")


def run(away: float = 0.0, **changes: Any) -> dict[str, Any]:
    kind = {"asked": 100, "failed": 2, "errors": {"502": 2}, "away_s": away, "longest_s": 1.0}
    made: dict[str, Any] = {name: dict(kind) for name in ("reads", "writes", "logins")}
    made |= {"ledger": dict.fromkeys(KEYS, 0), "by_itself": True, "up_s": 0.0, "well": True}
    return made | {"well_s": 31.0, "lasted_s": 0.0, "machines": ["web-1"], **changes}


def kept(name: str, *runs: dict[str, Any]) -> Results:
    results = Results()
    results.put(name, list(runs), "abc")
    return results


def row_of(table: str, what: str, fault: str) -> list[str]:
    (line,) = [one for one in table.splitlines() if one.startswith(f"| {what} | {fault}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_documents_are_those_of_the_results() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in render.files().items()
        if path.read_text() != text
    ]
    assert stale == [], "PYTHONPATH=tests/support:scripts .venv/bin/python -m tests.chaos --render"


def test_row_has_the_median_and_what_the_operator_does() -> None:
    table = render.main_table(kept("edge-gone", run(4.0), run(6.04), run(9.0)))
    cells = row_of(table, "the load balancer with the address", "machine killed")
    assert cells[2:] == [
        "2 of 100", "6.0", "2 of 100", "6.0", "0", "6.0", NONE, "31", "nothing",
    ]  # fmt: skip


def test_losses_of_all_runs_add_up() -> None:
    lost = run(ledger={**dict.fromkeys(KEYS, 0), "lost": 2})
    table = render.main_table(kept("edge-gone", run(), lost, lost))
    assert row_of(table, "the load balancer with the address", "machine killed")[6] == "4"


def test_operator_ends_the_fault_and_runs_up() -> None:
    frozen = BY_NAME["web-frozen"]
    assert render.operator(frozen, [run()]) == "restart the machine"
    failed = run(by_itself=False, up_s=41.2)
    assert render.operator(frozen, [failed]) == "restart the machine; `stackctl up`, 41 s"
    assert render.operator(BY_NAME["salt-gone"], [failed]) == "`stackctl up`, 41 s"


def test_rows_that_were_not_measured_have_dashes() -> None:
    table = render.main_table(Results())
    assert set(row_of(table, "`salt-1`", "machine killed")[2:]) == {NONE}
    assert "not measured" not in render.missed_text(Results())


def test_classes_of_postgresql_have_model_and_measure() -> None:
    table = render.postgres_table(kept("primary-gone", run(21.0)))
    (line,) = [one for one in table.splitlines() if one.startswith("| 6 |")]
    assert line.endswith("| 17 / 22 / 26 | 21 | 0 |")


def test_missed_limits_are_listed() -> None:
    assert "writes away for 21 s, to reach 15" in render.missed_text(
        kept("primary-gone", run(21.0))
    )
