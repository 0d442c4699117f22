"""Scenarios of loss: a web machine killed, frozen or cut off, and a database that stands still."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.lab import Lab
from bench.load import percentile
from bench.machines import Machine
from bench.progress import say
from bench.throughput import HEALTH

Figures = dict[str, Any]
PAGES = ["/auth/login/", HEALTH, "/api/v2/dags?limit=5", "/ui/config"]
CLIENTS = 8
SECONDS = 20.0
BEFORE_SECONDS = 5.0
BACK_SECONDS = 180
FROZEN_SECONDS = 20


def killed(lab: Lab) -> Figures:
    """Kill one of two web machines under load; the stack starts it again."""
    return _lose(lab, _kill, _start)


def frozen(lab: Lab) -> Figures:
    """Let one of two web machines stand still: its kernel still accepts connections."""
    return _lose(lab, _pause, _unpause)


def cut_off(lab: Lab) -> Figures:
    """Let no packet reach or leave one of two web machines."""
    return _lose(lab, Machine.cut, _mend)


def _kill(machine: Machine) -> None:
    machine.container.kill()


def _pause(machine: Machine) -> None:
    machine.container.pause()


def _unpause(_: Lab, machine: Machine) -> None:
    machine.container.unpause()


def _mend(_: Lab, machine: Machine) -> None:
    machine.mend()


def _start(lab: Lab, machine: Machine) -> None:
    """Start a machine through EC2, so that its records agree with the container."""
    command = [sys.executable, "-m", "stackctl", "exec", "salt-1", "--"]
    start = f"salt-cloud --assume-yes --action start {machine.name}"
    subprocess.run(
        [*command, start], check=False, capture_output=True, timeout=BACK_SECONDS, cwd=lab.root
    )
    ends = time.monotonic() + BACK_SECONDS
    while not machine.pid and time.monotonic() < ends:
        time.sleep(0.5)


def _lose(
    lab: Lab, lose: Callable[[Machine], None], restore: Callable[[Lab, Machine], None]
) -> Figures:
    target, victim = lab.targets["edge2"], lab.web[1]
    lab.edge.serve_with([machine.name for machine in lab.web])
    asked: Figures = {"clients": CLIENTS, "seconds": SECONDS, "paths": PAGES}
    try:
        with lab.playing(target.visitor(), "steady", **asked) as loading:
            time.sleep(BEFORE_SECONDS)
            lost = time.time()
            lose(victim)
            records = lab.finish(loading)["records"]
    finally:
        restore(lab, victim)
    say("  waiting until it serves again")
    back = lab.edge.wait({victim.name}, BACK_SECONDS)
    return _figures(records, lost) | {"back_s": round(back, 1)}


def _figures(records: list[dict[str, Any]], lost: float) -> Figures:
    """Return what the answers to requests tell that ended after the moment of the loss."""
    after = [one for one in records if one["began"] + one["seconds"] >= lost]
    before = [one for one in records if one["began"] + one["seconds"] < lost]
    failed: dict[str, int] = {}
    for one in after:
        if not 200 <= one["status"] < 400:
            kind = str(one["status"]) if one["status"] else one["error"]
            failed[kind] = failed.get(kind, 0) + 1
    return {
        "requests": len(after),
        "failed": sum(failed.values()),
        "errors": failed,
        "longest_s": round(max((one["seconds"] for one in after), default=0.0), 2),
        "longest_before_s": round(max((one["seconds"] for one in before), default=0.0), 2),
        "p99_ms": round(1000 * percentile([one["seconds"] for one in after], 99), 1),
    }


def database(lab: Lab) -> Figures:
    """Let the database stand still for 20 s under load, and wait until the web machines serve."""
    target = lab.targets["edge2"]
    lab.edge.serve_with([machine.name for machine in lab.web])
    # Enough of them to fill the pools of both web machines with waiting requests.
    asked: Figures = {"clients": 2 * CLIENTS, "paths": PAGES}
    with lab.playing(
        target.visitor(), "steady", seconds=BEFORE_SECONDS + FROZEN_SECONDS + 30, **asked
    ) as loading:
        time.sleep(BEFORE_SECONDS)
        began = time.time()
        lab.postgres.container.pause()
        try:
            time.sleep(FROZEN_SECONDS)
        finally:
            lab.postgres.container.unpause()
        resumed = time.time()
        serving = {machine.name: _serves(lab, machine, resumed) for machine in lab.web[:2]}
        up = time.time() - resumed
        up = max(up, lab.edge.wait(set(serving), BACK_SECONDS) + up)
        records = lab.finish(loading)["records"]
    return _figures(records, began) | {"serving_s": serving, "back_s": round(up, 2)}


def _serves(lab: Lab, machine: Machine, since: float) -> float:
    """Return the seconds until the machine itself says that its database is healthy."""
    direct = lab.targets["web"].address
    address = type(direct)(direct.base, direct.headers, machine.pid)
    while time.time() - since < BACK_SECONDS:
        ask = {"clients": 1, "seconds": 0.01, "paths": ["/api/v2/dags?limit=5"], "timeout": 5}
        token = {"cookie": lab.targets["edge2"].cookie}
        asked = type(direct)(address.base, {**address.headers, **token}, address.namespace)
        (*_, last) = lab.play(asked, "steady", **ask)["records"]
        if last["status"] == 200:
            break
    return round(time.time() - since, 2)
