"""A large map costs no more calls for each machine than a small one: planned, launched, destroyed.

`make bench-driver` does the same with 10 and 100 machines, and measures the time.
"""

from __future__ import annotations

from pathlib import Path

import bench_driver


def test_calls_grow_with_the_machines_at_most(tmp_path: Path) -> None:
    with bench_driver.in_memory(tmp_path, latency=0) as (bench, host):
        few, many = bench.cycle(3), bench.cycle(12)
        assert not host.machines, "a machine is left"
    for task, limit in (("plan", 0.5), ("launch", 4), ("destroy", 4)):
        assert many[task].calls / 12 <= limit, (task, many)
        # How often the driver asks for what is not there yet varies from run to run.
        assert many[task].calls <= 1.5 * 4 * few[task].calls, (task, few, many)
