"""Measure stock Airflow beside the stack that `make up` has brought up.

Every scenario is written to docs/bench/ as soon as it is measured, so an interrupted run loses one
scenario at most, and `--resume` leaves out what this commit has measured. The exit code is 1 when a
figure is missed; figures and limits are in scripts/bench/figures.py.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from types import FrameType

from bench import figures, lab, render, results, visit
from bench.progress import say
from bench.results import FOLDER, Results
from bench.scenarios import BY_NAME, SCENARIOS, Scenario
from stackctl.deployment import LOCAL, Deployment

LABELS = {"now": "results", "before": "before"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="default: all")
    parser.add_argument("--runs", type=int, default=3, help="of what is quick and harmless")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--label", choices=LABELS, default="now", help="the column of the results")
    parser.add_argument("--resume", action="store_true", help="leave out what is measured")
    parser.add_argument("--list", action="store_true", help="print scenarios and figures only")
    parser.add_argument("--dry-run", action="store_true", help="print what would be measured")
    parser.add_argument("--record", action="store_true", help="record a browser's visits, only")
    parser.add_argument("--render", action="store_true", help="write the documents, only")
    parser.add_argument("--clean", action="store_true", help="remove what a killed run left, only")
    return parser


def _chosen(names: list[str]) -> list[Scenario]:
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        raise SystemExit(f"unknown scenarios: {', '.join(unknown)}; --list shows all")
    return [one for one in SCENARIOS if not names or one.name in names]


def _list() -> None:
    for scenario in SCENARIOS:
        runs = "repeated" if scenario.repeated else "once"
        print(f"{scenario.name:<16} {scenario.minutes:4.1f} min {runs:<9} {scenario.what}")
    print()
    for figure in figures.FIGURES:
        print(f"{figure.name:<24} {figure.limit():>7}  {', '.join(figure.scenarios)}")


def _measure(todo: list[Scenario], options: argparse.Namespace, deployment: Deployment) -> bool:
    """Run scenarios and keep each result; return whether all ran."""
    path = FOLDER / f"{LABELS[options.label]}.json"
    kept = Results.load(path)
    commit = results.revision()
    whole = True
    with lab.open_lab(
        deployment, with_stock=any(one.stock for one in todo), seconds=options.seconds
    ) as opened:
        for number, scenario in enumerate(todo, 1):
            count = options.runs if scenario.repeated else 1
            runs = []
            for run in range(1, count + 1):
                say(f"{number}/{len(todo)} {scenario.name} {run}/{count}: {scenario.what}")
                try:
                    runs.append(scenario.run(opened))
                except Exception as error:  # noqa: BLE001 - the next scenario may well run
                    say(f"{scenario.name} failed: {error}")
                    traceback.print_exc(limit=-4)
                    whole = False
                    break
            if runs:
                kept.data["machine"] = results.machine()
                kept.put(scenario.name, runs, commit)
                kept.save(path)
    return whole


def _record(deployment: Deployment) -> None:
    with lab.open_lab(deployment, with_stock=True, seconds=1) as opened:
        plain = opened.targets["stock"].address.base
        who = (opened.username, opened.password)
        site = str(deployment.settings()["base_url"])
        found = {}
        for name, base in (("site", site), ("stock", plain)):
            say(f"recording a visit of {base}")
            found[name] = visit.record(base, *who)
        visit.save(found)


def _interrupted(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(128 + number)


def _instead(options: argparse.Namespace, deployment: Deployment) -> bool:
    """Do what replaces measuring, and return whether that was asked for."""
    if options.list:
        _list()
    elif options.clean:
        with lab.alone(deployment):
            lab.clean(deployment)
    elif options.record:
        _record(deployment)
    elif options.render:
        render.write()
    else:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    wanted = _chosen(options.scenarios)
    deployment = Deployment(LOCAL, results.ROOT)
    try:
        return 0 if _instead(options, deployment) else _compare(options, wanted, deployment)
    except lab.Unsuitable as unsuitable:
        say(str(unsuitable))
        return 2


def _compare(options: argparse.Namespace, wanted: list[Scenario], deployment: Deployment) -> int:
    """Measure, write everything, name what is missed; return the exit code."""
    path = FOLDER / f"{LABELS[options.label]}.json"
    kept, commit = Results.load(path), results.revision()
    todo = [one for one in wanted if not (options.resume and kept.has(one.name, commit))]
    minutes = sum(one.minutes * (options.runs if one.repeated else 1) for one in todo)
    say(f"{len(todo)} scenarios, about {minutes:.0f} minutes; results: {path}")
    if options.dry_run:
        print("\n".join(one.name for one in todo))
        return 0
    whole = not todo or _measure(todo, options, deployment)
    render.write()
    missed = figures.misses(Results.load(path), {one.name for one in wanted})
    for line in missed:
        print(f"missed: {line}")
    return int(bool(missed) or not whole)


if __name__ == "__main__":
    sys.exit(main())
