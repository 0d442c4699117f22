"""Scenario of growth: how long a new web machine takes until it serves."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from bench.lab import Lab, Unsuitable
from bench.machines import MACHINES_CORE

SCALE_SECONDS = 300


def new_machine(lab: Lab) -> dict[str, Any]:
    """Scale to one web machine more, wait until the edge has it up, and scale back."""
    count = len(lab.web)
    name = f"web-{count + 1}"
    began = time.time()
    scale(lab, count + 1)
    try:
        lab.refresh()
        up = any(server.name == name and server.up for server in lab.edge.servers())
        return {"command_s": round(time.time() - began, 1), "up": up}
    finally:
        scale(lab, count)
        lab.refresh()


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
