"""Scenarios of misuse: provoked errors, large bodies, tricks against the cache, endless reading."""

from __future__ import annotations

import time
from collections import Counter
from statistics import median
from typing import Any

from bench import visit
from bench.lab import Lab, Unsuitable
from bench.load import Load
from bench.progress import say
from bench.throughput import API_DAGS, HEALTH, PYTHON_SECONDS, python_costs, settle

Figures = dict[str, Any]
PROVOKED = 200
# PostgreSQL takes no NUL, and Airflow does not say so.
NUL = "/api/v2/eventLogs?dag_id=%00"
BODIES = 6
MEGABYTES = 60
TRICKS = 20
READS = 10_000
READ_STEPS = 10
READ_CLIENTS = 4


def lost_requests(lab: Lab) -> Figures:
    """Provoke 200 errors of the server, and count the requests that get no answer."""
    target = lab.targets["edge2"]
    answer = lab.play(
        target.visitor(),
        "after_errors",
        count=PROVOKED,
        provoke=NUL,
        get=HEALTH,
        post="/api/v2/variables",
    )
    provoking, others = answer["provoked"], answer["records"]
    statuses = Counter(one["status"] for one in provoking)
    if statuses[500] < PROVOKED / 2:
        raise Unsuitable(f"{NUL} provokes no errors: {dict(statuses)}; find another page that does")
    found: Figures = {"provoked": statuses[500]}
    for method in ("GET", "POST"):
        records = [one for one in others if one["method"] == method]
        failed = [one for one in records if one["status"] >= 500]
        # The request that provokes the next error is a GET too, and may be the one that is lost.
        records += provoking if method == "GET" else []
        silent = [one for one in records if one["status"] == 0]
        found[method] = {
            "asked": len(records),
            "lost": len(silent),
            "failed": len(failed),
            "told": sum(one["status"] == 502 for one in failed),
        }
    return found


def large_bodies(lab: Lab) -> Figures:
    """Send six bodies of 60 MB at once, as a stranger."""
    target = lab.targets["edge2"]
    with lab.span() as span:
        task: Figures = {"clients": BODIES, "megabytes": MEGABYTES, "path": "/api/v2/variables"}
        records = lab.play(target.address, "bodies", **task)["records"]
        time.sleep(2)
    settle(lab, target)
    answers: dict[str, int] = {}
    for one in records:
        kind = str(one["status"]) if one["status"] else one["error"]
        answers[kind] = answers.get(kind, 0) + 1
    return {"answers": answers} | span.figures(len(records))


def bypass(lab: Lab) -> Figures:
    """Ask for the bundle in ways that avoid the edge's cache, and tell what Python pays."""
    target = lab.targets["edge1"]
    bundle = visit.load()["site"].bundle()
    encoding = {"Accept-Encoding": "gzip, deflate, br"}
    tricks: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "query": [(f"{bundle}?x={number}", encoding) for number in range(TRICKS)],
        "host": [
            (bundle, encoding | {"Host": f"h{number}.example.org"}) for number in range(TRICKS)
        ],
        "authorization": [(bundle, encoding | {"Authorization": "Bearer x"})] * TRICKS,
    }
    found: Figures = {"costly": 0}
    with lab.serving(target.serving):
        for name, asked in tricks.items():
            answer = lab.play(target.address, "replay", count=1, requests=asked)
            statuses = sorted({one["status"] for one in answer["records"]})
            costs = python_costs(target.address, lab.web[0], asked)
            found[name] = {"python_ms": round(1000 * median(costs), 3), "statuses": statuses}
            found["costly"] += median(costs) >= PYTHON_SECONDS
    return found


def endless_reading(lab: Lab) -> Figures:
    """Read 10,000 lists from one web machine through the edge, and watch its memory."""
    target, machine = lab.targets["edge1"], lab.web[0]
    series = [_mib(machine.usage().memory)]
    errors: dict[str, int] = {}
    with lab.serving(target.serving), lab.span() as span:
        for step in range(READ_STEPS):
            say(f"  {READS // READ_STEPS * step:,} of {READS:,} read")
            paths = [API_DAGS] * (READS // READ_STEPS // READ_CLIENTS)
            answers = lab.load(Load(paths, READ_CLIENTS), target.program())
            for status, count in answers.statuses().items():
                errors[status] = errors.get(status, 0) + count
            series.append(_mib(machine.usage().memory))
    total = machine.memory_limit / (1 << 20)
    half = len(series) // 2
    growth = max(series[half:]) - max(series[1:half])
    return {
        "mib": series,
        "machine_mib": total,
        "peak_share": round(max(span.peak.values()) / machine.memory_limit, 3),
        "grown_share": round(max(0.0, growth) / total, 4),
        "errors": errors,
        "failed": sum(errors.values()),
        "kills": span.kills,
    }


def _mib(size: int) -> float:
    return round(size / (1 << 20), 1)
