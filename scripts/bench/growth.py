"""Scenarios of more machines: with what credits leave of a core, and new ones."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.lab import Lab, Unsuitable
from bench.load import Load
from bench.machines import LOAD_CORE, MACHINES_CORE
from bench.progress import say
from bench.throughput import API_DAGS, HEALTH, settle

Figures = dict[str, Any]
SCALE_SECONDS = 300
QUOTAS = (0.25, 0.1)
# Four machines of a quarter of the same core would have nothing left of it.
FOUR_QUOTA = 0.2
CLIENTS_EACH = 4
# A machine without credits answers a few times a second: fewer answers would be no measure.
LONGER = 4
WARM_SECONDS = 2.0


@contextmanager
def _quota(lab: Lab, cpus: float) -> Iterator[None]:
    """Give each web machine a share of a core, and leave that core to them."""
    with ExitStack() as stack:
        for machine in lab.machines.values():
            if machine.name.startswith("web-"):
                stack.callback(machine.limit, 1.0)
                machine.limit(cpus)
            else:
                stack.callback(machine.pin, MACHINES_CORE)
                machine.pin(LOAD_CORE)
        yield


def quotas(lab: Lab) -> Figures:
    """Serve with one and with two web machines that have spent their credits."""
    return {f"{cpus:g}": _compare(lab, cpus, 2) for cpus in QUOTAS}


def four_machines(lab: Lab) -> Figures:
    """Scale to four web machines, serve with one and with all of them, and scale back."""
    count = len(lab.web)
    scale(lab, 4)
    try:
        return _compare(lab, FOUR_QUOTA, 4)
    finally:
        scale(lab, count)


def _compare(lab: Lab, cpus: float, count: int) -> Figures:
    """Return the figures of one and of `count` machines with a share of a core, and their ratio.

    The clients grow with the machines, so that each machine has the same work to do.
    """
    target, names = lab.targets["edge2"], [machine.name for machine in lab.web]
    rows: Figures = {}
    with _quota(lab, cpus):
        for number in (1, count):
            say(f"  {number} web machines of {cpus:g} CPU")
            with lab.serving(names[:number]):
                seconds = WARM_SECONDS + LONGER * lab.seconds
                what = Load([API_DAGS], CLIENTS_EACH * number, seconds)
                answers = lab.load(what, target.program()).after(WARM_SECONDS)
                rows[str(number)] = answers.figures()
        health = lab.load(Load([HEALTH], 1, lab.seconds), target.address)
        rows["health"] = health.figures()
    one = rows["1"]["rate"]
    rows["ratio"] = round(rows[str(count)]["rate"] / one, 3) if one else 0.0
    settle(lab, target)
    return rows


def new_machine(lab: Lab) -> Figures:
    """Scale to one web machine more: from its launch until the edge gives it requests.

    Nobody else asks anything, so the machines have every core of this host, and one CPU each.
    """
    count = len(lab.web)
    name = f"web-{count + 1}"
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        for machine in lab.machines.values():
            stack.callback(machine.pin, MACHINES_CORE)
            machine.restore()
        command = pool.submit(scale, lab, count + 1)
        try:
            serves = _first_up(lab, name, command)
            command.result()
            if serves is None:
                raise Unsuitable(f"the edge has {name} not up after stackctl scale")
            return {"serves_s": round(serves - lab.machines[name].created(), 1)}
        finally:
            wait([command])
            scale(lab, count)


def _first_up(lab: Lab, name: str, command: Future[None]) -> float | None:
    """Return when every backend has a machine up; None: not before the command has ended."""
    while True:
        is_last = command.done()
        found = [server.up for server in lab.edge.servers() if server.name == name]
        if found and all(found):
            return time.time()
        if is_last:
            return None
        time.sleep(0.2)


def scale(lab: Lab, count: int) -> None:
    """Run `stackctl scale`, and keep new machines on the core of the others.

    Raises:
        Unsuitable: the command fails, or this checkout has none.
    """
    done = subprocess.run(
        [sys.executable, "-m", "stackctl", "scale", f"web={count}"],
        cwd=lab.root,
        capture_output=True,
        text=True,
        timeout=SCALE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Unsuitable(f"stackctl scale web={count}: {(done.stderr or done.stdout)[-500:]}")
    lab.refresh()
    for machine in lab.web:
        machine.pin(MACHINES_CORE)
