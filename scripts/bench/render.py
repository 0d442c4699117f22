"""Writes tables and plots from the files of results into docs/: nothing there is typed by hand.

The parts of docs/capacity.md between two comments such as `<!-- bench:figures -->` and
`<!-- /bench:figures -->` are replaced.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from bench import capacity, figures, prices, svg
from bench.results import FOLDER, ROOT, Missing, Results

DOCUMENT = ROOT / "docs" / "capacity.md"
TARGETS = {
    "stock": "stock",
    "stock, as ours": "stock, asked as ours",
    "web": "web machine",
    "edge1": "edge, one",
    "edge2": "edge, two",
}
KINDS = {
    "first-visit": "first visit",
    "repeat-visit": "repeat visit",
    "login": "login",
    "ui-dags": "`/ui/dags`",
    "api-dags": "`/api/v2/dags`",
    "static": "largest script",
    "health": "health",
}
COMPARED = ("login", "ui-dags", "api-dags", "health")
VISITORS = (1, 10, 30, 100, 300, 1000)
LABELS = {"before": "before.json", "now": "results.json"}
PLOTS = {
    "sweep.svg": "answers a second over more connections",
    "cpu.svg": "CPU of a request",
    "memory.svg": "memory while lists are read",
}
NONE = "\N{EN DASH}"


def load() -> dict[str, Results]:
    """Return the results by label; those that are not there are empty."""
    return {label: Results.load(FOLDER / name) for label, name in LABELS.items()}


def newest(found: dict[str, Results]) -> Results:
    """Return the results that the documents are about: those of now, or else those before."""
    return found["now"] if found["now"].data["scenarios"] else found["before"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown; all columns but the first are numbers."""
    rule = ["--", *["-:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def paragraph(text: str) -> str:
    """Return a paragraph in lines as mdformat breaks them."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _or_none(compute: Callable[[], str]) -> str:
    try:
        return compute()
    except (Missing, ZeroDivisionError):
        return NONE


def figures_table(found: dict[str, Results]) -> str:
    """Return the figures that have to be reached, before and now."""
    rows = []
    for figure in figures.FIGURES:
        cells = [
            _or_none(lambda label=label, one=figure: number(one.value(found[label])))  # type: ignore[misc]
            for label in LABELS
        ]
        rows.append([figure.what, *cells, figure.limit()])
    return table(["figure", *LABELS, "to reach"], rows)


def measured_table(results: Results) -> str:
    """Return what each kind of request costs and how fast it is, for each target."""
    head = [
        "request", "at", "a second", "CPU ms", "± %", "p50 ms", "p99 ms", "KiB", "errors",
    ]  # fmt: skip
    return table(head, list(_measured_rows(results)))


def _measured_rows(results: Results) -> Iterator[list[str]]:
    for scenario, what in KINDS.items():
        for target, where in TARGETS.items():
            try:
                found = figures.costs(results, scenario, target)
            except Missing:
                continue

            def of(key: str, unit: float = 1, at: tuple[str, str] = (scenario, target)) -> str:
                return _or_none(lambda: number(results.number(*at, key) / unit))

            errors = sum(
                sum(run[target].get("errors", {}).values()) for run in results.runs(scenario)
            )
            yield [
                what,
                where,
                of("rate"),
                number(median(found)),
                f"{100 * _spread(found):.0f}",
                of("p50_ms"),
                of("p99_ms"),
                of("bytes", 1024),
                str(errors),
            ]


def _spread(found: list[float]) -> float:
    """Return half of what lies between the dearest and the cheapest run ÷ the median."""
    return (max(found) - min(found)) / median(found) / 2


def visitors_table(results: Results, kind: str, cores: float) -> str:
    """Return the machines for visitors, and their costs.

    Args:
        results: of a run.
        kind: `first-visit` or `repeat-visit`.
        cores: that each machine has.
    """
    need = capacity.demand(results, kind)
    private, public = prices.of_machine("web"), prices.of_machine("lb")
    rows = []
    for visitors in VISITORS:
        found = capacity.plan(need, visitors, cores)
        cost = f"{found.cost(private, public):,.0f}" if found.possible else NONE
        rows.append(
            [
                f"{visitors:,}",
                f"{found.web:.0f}",
                f"{found.edge:.0f}",
                f"{100 * found.postgres:.0f} %",
                cost,
            ]
        )
    return table(["visits a minute", "web", "edge", "PostgreSQL", "USD a month"], rows)


def _rests(need: capacity.Demand) -> str:
    web, edge, postgres = (number(1000 * use.rest) for use in (need.web, need.edge, need.postgres))
    return f"{web}, {edge} and {postgres}"


def capacity_text(results: Results) -> str:
    """Return the chapter that answers how many machines visitors need."""
    parts = []
    for kind, what in (("first-visit", "first visit"), ("repeat-visit", "repeat visit")):
        need = capacity.demand(results, kind)
        burst, baseline = map(need.web.visits, (capacity.BURST, capacity.BASELINE))
        parts.append(
            paragraph(
                f"A **{what}** costs {number(need.web.visit)} ms of CPU on the web machines,"
                f" {number(need.edge.visit)} ms on the edge and {number(need.postgres.visit)} ms on"
                f" PostgreSQL; at rest, these machines use {_rests(need)} ms a second."
                f" One web machine serves {number(burst)} of them a minute at burst, and"
                f" {number(baseline)} at the baseline. At burst:"
            )
        )
        parts += [visitors_table(results, kind, capacity.BURST), "At the baseline:"]
        parts.append(visitors_table(results, kind, capacity.BASELINE))
    minutes = capacity.burst_minutes(capacity.BUSY)
    parts.append(
        paragraph(
            f"A new machine that is {capacity.BUSY:.0%} busy has used its"
            f" {capacity.LAUNCH_CREDITS} launch credits after {minutes:.0f} minutes."
        )
    )
    return "\n\n".join(parts)


def origin(results: Results) -> str:
    """Return when and where the results were measured; raise Missing if nothing was."""
    scenarios = results.data["scenarios"].values()
    if not scenarios:
        raise Missing("origin")
    dates = sorted(one["date"] for one in scenarios)
    commits = sorted({one["revision"] for one in scenarios})
    host = results.data["machine"]
    return paragraph(
        f"Measured from {dates[0]} to {dates[-1]} UTC at {', '.join(commits)}, on"
        f" {host['cores']} cores of {host['cpu']}, Linux {host['kernel']}."
    )


def plots(found: dict[str, Results]) -> dict[str, str]:
    """Return name -> SVG, of what was measured."""
    results = newest(found)
    makers: dict[str, Callable[[Results], str]] = {
        "sweep.svg": _sweep_plot,
        "cpu.svg": _cpu_plot,
        "memory.svg": _memory_plot,
    }
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make(results)
        except Missing:
            continue
    return made


def _sweep_plot(results: Results) -> str:
    (run,) = results.runs("sweep")
    counts = [key for key in next(iter(run.values())) if key.isdigit()]
    counts.sort(key=int)
    series = {
        name: [run[target][count]["rate"] for count in counts]
        for target, name in TARGETS.items()
        if target in run
    }
    return svg.lines("/ui/dags over more connections", "answers a second", counts, series)


def _cpu_plot(results: Results) -> str:
    labels = [KINDS[scenario].strip("`") for scenario in COMPARED]
    series = {
        TARGETS[target]: [median(figures.costs(results, scenario, target)) for scenario in COMPARED]
        for target in ("stock", "web")
    }
    return svg.bars("CPU of a request", "ms", labels, series)


def _memory_plot(results: Results) -> str:
    (run,) = results.runs("endless-reading")
    steps = [f"{number * 10}" for number in range(len(run["mib"]))]
    series = {"web machine": run["mib"], "its memory": [run["machine_mib"]] * len(steps)}
    return svg.lines("A web machine while lists are read", "MiB, by % of the reads", steps, series)


def document(text: str, found: dict[str, Results]) -> str:
    """Return the document with every generated part made anew."""
    results = newest(found)
    parts: dict[str, Callable[[], str]] = {
        "origin": lambda: origin(results),
        "figures": lambda: figures_table(found),
        "measured": lambda: measured_table(results),
        "plots": lambda: "\n\n".join(f"![{PLOTS[name]}](bench/{name})" for name in plots(found)),
        "visitors": lambda: capacity_text(results),
    }
    return filled(text, "bench", {name: _or_none(make) for name, make in parts.items()})


def filled(text: str, label: str, parts: Mapping[str, str]) -> str:
    """Return a document with new text in its generated parts.

    Args:
        text: the document.
        label: stands before the name in the comments that enclose a part.
        parts: name -> text.

    Raises:
        ValueError: the document lacks a part.
    """
    for name, new in parts.items():
        begin, end = f"<!-- {label}:{name} -->", f"<!-- /{label}:{name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the document has no part {begin}")
        whole = f"{begin}\n\n{new}\n\n{end}"
        text = pattern.sub(lambda _, whole=whole: whole, text)  # type: ignore[misc]
    return text


def files() -> dict[Path, str]:
    """Return path -> text of everything that is generated."""
    found = load()
    return {DOCUMENT: document(DOCUMENT.read_text(), found)} | {
        FOLDER / name: text for name, text in plots(found).items()
    }


def write() -> None:
    """Write the documents."""
    for path, text in files().items():
        path.write_text(text)
