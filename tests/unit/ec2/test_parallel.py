"""A map with many machines launches so many at once as the master has memory for."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import cloudsite

POOL, MACHINES = 2, 5
LAUNCH = 30  # MiB: as tests/unit/repo/test_capacity.py has it
# It says how many others are being deployed at the same time.
SCRIPT = """mkdir -p {folder}/$$ && sleep 2 && ls {folder} | wc -l >> {log}; rmdir {folder}/$$
"""


def private_mebibytes(parent: int) -> list[float]:
    """Return what each child of a process holds alone."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"\nPPid:\t{parent}\n" in status.read_text():
                rollup = (status.parent / "smaps_rollup").read_text()
                found.append(int(re.findall(r"Private_Dirty: +(\d+)", rollup)[0]) / 1024)
        except (OSError, IndexError):
            continue  # it has ended
    return found


def test_map_keeps_to_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, peak = tmp_path / "log", [0.0]

    def run(
        program: str, args: Sequence[str], environment: Mapping[str, str], *, seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Run the program itself: salt-programs of other tests share a preloaded process."""
        command = [str(Path(sys.executable).with_name(program)), *args]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            ended = threading.Event()

            def watch() -> None:
                while not ended.wait(0.2):
                    peak[0] = max([peak[0], *private_mebibytes(process.pid)])

            threading.Thread(target=watch, daemon=True).start()
            stdout, stderr = process.communicate(timeout=seconds)
            ended.set()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    monkeypatch.setattr(cloudsite, "run", run)
    script = SCRIPT.format(folder=tmp_path / "at-once", log=log)
    with cloudsite.site(tmp_path / "site", script, pool_size=POOL) as site:
        applied = site.apply({f"web-{n}": {} for n in range(1, MACHINES + 1)}, "--parallel")
        assert applied.errors == {}
        assert len(site.accepted()) == MACHINES
    at_once = [int(line) for line in log.read_text().split()]
    assert len(at_once) == MACHINES
    assert max(at_once) == POOL
    print(f"\na fork of salt-cloud holds {peak[0]:.0f} MiB of its own")
    assert 0 < peak[0] <= LAUNCH
