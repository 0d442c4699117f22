"""Kill, freeze, cut off and slow down what runs, while people use the site of `make up`.

Every row is written to docs/bench/resilience.json as soon as it is measured, and `--resume` leaves
out what this commit has measured, so an interrupted run loses one row at most. The exit code is 1
when a row misses what it has to reach; rows and limits are in tests/chaos/rows.py.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from types import FrameType

from tests.chaos import faults, render
from tests.chaos.measure import NotWell, Run, green, measure
from tests.chaos.rows import BY_NAME, ROWS, Row, misses
from tests.chaos.scene import Scene
from tests.chaos.visitors import Site

from bench import results
from bench.lab import Unsuitable, admin_password, alone
from bench.progress import say
from bench.results import FOLDER, Results
from stackctl.deployment import LOCAL, Deployment
from wholestack import Stack

FILE = FOLDER / "resilience.json"
WELL_SECONDS = 60.0
NEEDED = {"lb-2", "web-3", "postgres-3", "redis-3"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    parser.add_argument("--runs", type=int, default=1, help="of each row")
    parser.add_argument("--resume", action="store_true", help="leave out what is measured")
    parser.add_argument("--list", action="store_true", help="print the rows only")
    parser.add_argument("--render", action="store_true", help="write the documents, only")
    parser.add_argument("--clean", action="store_true", help="end what a killed run left, only")
    return parser


def _chosen(names: list[str]) -> list[Row]:
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        raise SystemExit(f"unknown rows: {', '.join(unknown)}; --list shows all")
    return [row for row in ROWS if not names or row.name in names]


def _list(wanted: list[Row]) -> None:
    for row in wanted:
        limits = ", ".join(f"{kind} {limit:g} s" for kind, limit in row.limits.items())
        print(f"{row.name:<32} {row.minutes:4.1f} min  {row.what}: {row.of.what}; {limits or '-'}")


def _missing(kept: Results, row: Row, runs: int, commit: str | None) -> tuple[list[Run], int]:
    """Return the runs of a row that count, and how many are missing."""
    done = kept.runs(row.name) if commit and kept.has(row.name, commit) else []
    return done[:runs], max(0, runs - len(done))


def _measure(scene: Scene, wanted: list[Row], options: argparse.Namespace) -> list[str]:
    """Measure rows and keep each result; return the names of those that could not be measured."""
    stack = scene.stack
    username = stack.deployment.base_pillar("airflow")["admin"]["username"]
    site = Site(stack.url, username, admin_password(stack.deployment))
    kept, commit = Results.load(FILE), results.revision()
    failed: list[str] = []
    for number, row in enumerate(wanted, 1):
        runs, missing = _missing(kept, row, options.runs, commit if options.resume else None)
        for run in range(missing):
            say(f"{number}/{len(wanted)} {row.name} {run + 1}/{missing}: {row.of.what}")
            try:
                _require_well(scene)
                runs.append(measure(scene, site, row))
            except Exception as error:  # noqa: BLE001 - the next row may well be measured
                say(f"{row.name} failed: {error}")
                traceback.print_exc(limit=-4)
                failed.append(row.name)
                faults.mend_all(scene)
                break
            kept.data["machine"] = results.machine()
            kept.put(row.name, runs, commit)
            kept.save(FILE)
            for line in misses(row, runs):
                say(f"  missed: {line}")
    return failed


def _require_well(scene: Scene) -> None:
    """Raise NotWell unless all is well before a fault, if need be after `stackctl up`."""
    if not green(scene, WELL_SECONDS):
        return
    scene.stack.up()
    if red := green(scene, WELL_SECONDS):
        raise NotWell(str(red))


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    wanted = _chosen(options.rows)
    if options.list:
        _list(wanted)
        return 0
    if options.render:
        render.write()
        return 0
    deployment = Deployment(LOCAL, results.ROOT)
    scene = Scene(Stack(deployment))
    try:
        with alone(deployment):
            return _all(scene, wanted, options)
    except Unsuitable as unsuitable:
        say(str(unsuitable))
        return 2


def _all(scene: Scene, wanted: list[Row], options: argparse.Namespace) -> int:
    """Measure, write the documents, name what is missed; return the exit code."""
    if missing := NEEDED - set(scene.machines()):
        raise Unsuitable(f"There is no {', '.join(sorted(missing))}: make up MAP=production")
    faults.mend_all(scene)
    if options.clean:
        return 0
    minutes = sum(row.minutes for row in wanted) * options.runs
    say(f"{len(wanted)} rows, about {minutes:.0f} minutes; results: {FILE}")
    try:
        failed = _measure(scene, wanted, options)
    finally:
        faults.mend_all(scene)
        render.write()
    kept = Results.load(FILE)
    missed = [f"{name}: not measured" for name in failed]
    for row in wanted:
        if row.name not in failed:
            missed += misses(row, kept.runs(row.name))
    for line in missed:
        print(f"missed: {line}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
