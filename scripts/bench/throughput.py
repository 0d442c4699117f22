"""Scenarios of ordinary use: visits, logins, lists, files, and more and more connections."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench import stock, visit
from bench.lab import Lab, Target
from bench.load import Address, Load
from bench.machines import Machine, thread_seconds
from bench.player import Client
from bench.progress import say
from bench.span import Span

UI_DAGS = "/ui/dags?limit=50"
API_DAGS = "/api/v2/dags?limit=50"
HEALTH = "/api/v2/monitor/health"
TARGETS = ("stock", "web", "edge1", "edge2")
VISITS = 6
LOGINS = 10
CLIENTS = 4
SWEEP = (1, 4, 16, 64)
TURNS = 3
SETTLE_SECONDS = 60
# A request that Python answers costs it more than this; one that it does not see costs it nothing
# but the heartbeats of its workers.
PYTHON_SECONDS = 0.0006

Figures = dict[str, Any]


class StaleVisit(Exception):
    """The recorded visit asks for files that the release does not have."""


def _each_target(lab: Lab) -> Iterator[Target]:
    for name in TARGETS:
        say(f"  at {name}")
        yield lab.targets[name]


def nobody(target: Target) -> Address:
    """Return the address without credentials."""
    return target.address


def page(path: str, who: Callable[[Target], Address]) -> Any:
    """Return the scenario in which somebody reads one page from each target."""

    def run(lab: Lab) -> Figures:
        found = {}
        for target in _each_target(lab):
            with lab.serving(target.serving):
                what = Load([path], CLIENTS, lab.seconds)
                found[target.name] = lab.measure(what, target, who(target))
            settle(lab, target)
        return found

    return run


def static(lab: Lab) -> Figures:
    """Read the largest file: what the web machine itself serves, and what the edge does."""
    return dict(page(visit.load()["site"].bundle(), nobody)(lab))


def login(lab: Lab) -> Figures:
    """Log in as several people, each with the page and its form."""
    found = {}
    for target in _each_target(lab):
        with lab.serving(target.serving), Span(target.machines) as span:
            answer = lab.log_in(target, LOGINS)
        records = answer["records"]
        good = sum(200 <= record["status"] < 400 for record in records)
        times = sorted(record["seconds"] for record in records)
        found[target.name] = {
            "answers": good,
            "p50_ms": round(1000 * times[len(times) // 2], 2),
            "p99_ms": round(1000 * times[-1], 2),
            "bytes": round(answer["bytes"] / len(records)),
            "errors": {"all": len(records) - good} if good < len(records) else {},
        } | span.figures(good)
        if target.name == "stock":
            time.sleep(1)
    return found


def first_visit(lab: Lab) -> Figures:
    """Let several browsers with empty caches visit, log in and open the list of DAGs.

    A browser asks stock Airflow for more: its list has more rows. `stock, as ours` are the requests
    that ours gets, at stock.
    """
    recordings = visit.load()
    found = {}
    for target in _each_target(lab):
        if target.name == "stock":
            found["stock"] = _visited(lab, target, recordings["stock"])
            found["stock, as ours"] = _visited(lab, target, recordings["site"])
        else:
            found[target.name] = _visited(lab, target, recordings["site"])
    return found


def _visited(lab: Lab, target: Target, recording: visit.Recording) -> Figures:
    with lab.serving(target.serving):
        _first_visits(lab, target, recording, 1)
        with Span(target.machines) as span:
            figures = _first_visits(lab, target, recording, VISITS)
    settle(lab, target)
    return figures | span.figures(VISITS)


def _first_visits(lab: Lab, target: Target, recording: visit.Recording, visits: int) -> Figures:
    before = lab.load(Load(recording.phase(anonymous=True), visits), target.address)
    logins = lab.log_in(target, visits)
    after = lab.load(Load(recording.phase(anonymous=False), visits), target.visitor())
    errors = dict(before.statuses())
    # A page that asks who has logged in is told that nobody has.
    errors.pop("401", None)
    for status, count in after.statuses().items():
        errors[status] = errors.get(status, 0) + count
    if "404" in errors:
        raise StaleVisit("the recorded visit is another release's; record it: make bench-visit")
    return {
        "requests": len(recording.first()),
        "bytes": round((before.size + after.size + logins["bytes"]) / visits),
        "errors": errors,
    }


def repeat_visit(lab: Lab) -> Figures:
    """Let a browser come back, with what its cache holds: files are asked for with their tags."""
    recordings = visit.load()
    found = {}
    for target in _each_target(lab):
        recording = recordings["stock" if target.name == "stock" else "site"]
        paths = [one.path for one in recording.repeat() if one.method == "GET"]
        with lab.serving(target.serving):
            address = target.visitor(**{"Accept-Encoding": "gzip, deflate, br, zstd"})
            plain: list[tuple[str, dict[str, str]]] = [(path, {}) for path in paths]
            tags = lab.play(address, "replay", count=1, requests=plain)["etags"]
            asked = [
                (path, {"If-None-Match": tags[path]} if tags.get(path) else {}) for path in paths
            ]
            with Span(target.machines) as span:
                answer = lab.play(address, "replay", count=VISITS, requests=asked)
        bad = [one for one in answer["records"] if not 200 <= one["status"] < 400]
        found[target.name] = {
            "requests": len(paths),
            "bytes": round(answer["bytes"] / VISITS),
            "errors": {"all": len(bad)} if bad else {},
        } | span.figures(VISITS)
    return found


def python_requests(lab: Lab) -> Figures:
    """Count the requests of a first visit that cost the web app CPU, with a warm edge cache."""
    recordings = visit.load()
    found = {}
    for name in ("stock", "edge1"):
        target, recording = lab.targets[name], recordings["stock" if name == "stock" else "site"]
        app = lab.machines[stock.NAME] if name == "stock" else lab.web[0]
        with lab.serving(target.serving):
            reached = []
            for anonymous in (True, False):
                paths = [
                    one.path
                    for one in recording.first()
                    if one.anonymous == anonymous and one.method == "GET"
                ]
                reached += [path for path in paths if _costs_python(target, app, path, anonymous)]
        posts = sum(one.method != "GET" for one in recording.first())
        found[name] = {
            "requests": len(recording.first()),
            "python": len(reached) + posts,
            "static": sum(path.startswith(visit.STATIC) for path in reached),
        }
    return found


def _costs_python(target: Target, app: Machine, path: str, anonymous: bool) -> bool:
    address = target.address if anonymous else target.visitor()
    # The least disturbed of three.
    return min(python_costs(address, app, [(path, {})] * 3)) >= PYTHON_SECONDS


def python_costs(
    address: Address, app: Machine, requests: Sequence[tuple[str, dict[str, Any]]]
) -> list[float]:
    """Ask, one after the other, and return the CPU seconds that each request costs the web app.

    Args:
        address: where, and with which headers.
        app: the machine of the web app.
        requests: paths, each with more headers.
    """
    headers = dict(address.headers)
    client = Client({"base": address.base, "headers": headers, "timeout": 30})
    threads = app.app_threads()
    costs = []
    for path, more in requests:
        before = thread_seconds(threads)
        client.ask(path, **more)
        time.sleep(0.01)  # the app goes on a little after its answer
        costs.append(thread_seconds(threads) - before)
    client.close()
    return costs


def sweep(lab: Lab) -> Figures:
    """Read the list of DAGs over 1, 4, 16 and 64 connections, in turns."""
    found = {}
    for target in _each_target(lab):
        turns: dict[int, list[Figures]] = {clients: [] for clients in SWEEP}
        with lab.serving(target.serving):
            # Stock stands still over many connections, for as long as `settle` waits.
            for turn in range(1 if target.name == "stock" else TURNS):
                for clients in SWEEP:
                    say(f"    {clients} connections, turn {turn + 1}")
                    turns[clients].append(_swept(lab, target, clients))
        rows: Figures = {str(clients): _middle(rows) for clients, rows in turns.items()}
        best = max(row["rate"] for row in rows.values()) or 1.0
        rows["kept"] = round(rows[str(SWEEP[-1])]["rate"] / best, 3)
        found[target.name] = rows
    return found


def _swept(lab: Lab, target: Target, clients: int) -> Figures:
    down = downtime(lab, target)
    # Longer than other loads: 64 connections begin with as many handshakes, on three machines.
    row = lab.measure(Load([UI_DAGS], clients, 2 * lab.seconds), target, target.visitor())
    row["restarted"] = settle(lab, target)
    row["down_seconds"] = downtime(lab, target) - down
    return row


def _middle(rows: Sequence[Figures]) -> Figures:
    """Return the row of the median rate, with what went wrong in any of them."""
    errors: Counter[str] = Counter()
    for row in rows:
        errors.update(row["errors"])
    return sorted(rows, key=lambda row: row["rate"])[len(rows) // 2] | {
        "errors": dict(errors),
        "restarted": any(row["restarted"] for row in rows),
        "down_seconds": sum(row["down_seconds"] for row in rows),
        "kills": sum(row["kills"] for row in rows),
    }


def downtime(lab: Lab, target: Target) -> int:
    """Return the seconds that the edge had the web machines of a target marked down, so far."""
    servers = lab.edge.servers()
    return sum(server.downtime for server in servers if server.name in target.serving)


def settle(lab: Lab, target: Target) -> bool:
    """Wait until a target answers quickly again; restart what does not; return whether it had to.

    Stock Airflow with more connections than its pool stands still for minutes.
    """
    ends = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < ends:
        task = {"clients": 1, "seconds": 0.5, "paths": [HEALTH], "timeout": 5}
        records = lab.play(target.address, "steady", **task)["records"]
        if all(one["status"] == 200 and one["seconds"] < 1 for one in records):
            return False
    for machine in target.machines:
        if machine.name == stock.NAME:
            machine.container.restart(timeout=1)
            stock.wait(machine)
        elif machine.name.startswith("web-"):
            machine.run("systemctl restart airflow")
    with lab.serving(target.serving):
        return True
