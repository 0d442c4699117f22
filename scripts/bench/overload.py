"""Scenario of too much: ten and a hundred times what keeps the site busy."""

from __future__ import annotations

import time
from typing import Any

from bench.lab import Lab
from bench.load import Load
from bench.progress import say
from bench.throughput import downtime, settle

Figures = dict[str, Any]
SECONDS = 15.0
# A light page, so that not the load of a page is measured but the number of those who want it; with
# a token, which Airflow looks up in its database.
PAGE = "/ui/config"
# The handshakes of 500 connections are no part of the time.
WARM_SECONDS = 4.0
# Connections, and requests at the same time on each. Some 50 keep the site busy.
LEVELS = {"10x": (500, 1), "100x": (500, 10)}
# The edge may refuse what it cannot serve in time, and an address that asks for too much. Ten times
# too many people are not too much from any of their addresses.
REFUSALS = {"10x": ("503",), "100x": ("503", "429")}
RECOVERY_SECONDS = 120


def overload(lab: Lab) -> Figures:
    """Read a light page from 500 connections, then with ten requests on each."""
    target = lab.targets["edge2"]
    with lab.serving(target.serving):
        rates = [
            lab.load(Load([PAGE], clients, lab.seconds), target.visitor()).rate
            for clients in (4, 16, 50)
        ]
        best = max(rates)
        found: Figures = {"maximum": round(best, 1)}
        settle(lab, target)
        for name, (clients, streams) in LEVELS.items():
            say(f"  {name}: {clients} connections with {streams} requests each")
            what = Load([PAGE], clients, WARM_SECONDS + SECONDS, streams)
            found[name] = level = _level(lab, what, best)
            honest = REFUSALS[name] if level["retry_after"] else ()
            level["other_errors"] = sum(
                count for status, count in level["errors"].items() if status not in honest
            )
            settle(lab, target)
    return found


def _level(lab: Lab, what: Load, best: float) -> Figures:
    target = lab.targets["edge2"]
    before = downtime(lab, target)
    probe: Figures = {"clients": 2, "seconds": SECONDS + WARM_SECONDS, "paths": [PAGE]}
    probe |= {"pause": 0.3}
    people = target.visitor()
    with lab.playing(people, "steady", timeout=70, **probe) as watching, lab.span() as span:
        answers = lab.load(what, people, warm=False)
        recovery = _recovery(lab)
        records = lab.finish(watching)["records"]
    refused = [one for one in records if one["status"] in (429, 503)]
    return {
        "kept": round(answers.after(WARM_SECONDS).rate / best, 3) if best else 0.0,
        "errors": answers.statuses(),
        "retry_after": all(one["retry_after"] for one in refused),
        "p99_ms": answers.figures()["p99_ms"],
        "longest_s": round(max((one["seconds"] for one in records), default=0.0), 2),
        "recovery_s": round(recovery, 2),
        "down_seconds": downtime(lab, target) - before,
        **span.figures(answers.good),
    }


def _recovery(lab: Lab) -> float:
    """Return the seconds until all web machines are up and the page answers within one."""
    target, began = lab.targets["edge2"], time.monotonic()
    while time.monotonic() - began < RECOVERY_SECONDS:
        ask = {"clients": 1, "seconds": 0.1, "paths": [PAGE], "timeout": 60}
        (*_, last) = lab.play(target.visitor(), "steady", **ask)["records"]
        up = all(server.up for server in lab.edge.servers() if server.name in target.serving)
        if up and last["status"] == 200 and last["seconds"] < 1:
            break
    return time.monotonic() - began
