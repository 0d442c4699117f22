"""Who waits for a machine has time for one without CPU credits: three times what it needed.

Measured in containers at a tenth of a core (docs/capacity.md). Three times: at a boot everything
starts at once, and other work takes its part.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from stackctl import cpu_credits, salt, snapshot, status

ROOT = Path(__file__).parents[3]
MASTER = yaml.safe_load((ROOT / "salt/master/defaults.yaml").read_text())["master"]
MARGIN = 3
# Seconds; the first three during a highstate.
PING, JOB, REPORT, MINION, WEB_APP = 2.3, 2.8, 9.9, 8.7, 76
BUILD = 2400  # of Airflow's release: four minutes of a core
BEFORE_PING = 0.25  # the share of SILENT_SECONDS after which ask-minions.sh pings
UNITS = {"s": 1, "min": 60, "h": 3600, "": 1}


def start_seconds(path: str) -> int:
    """Return how long systemd lets a unit start."""
    text = (ROOT / "salt" / path).read_text()
    (found,) = re.findall(r"^TimeoutStartSec=(\d+)(\w*)$", text, re.MULTILINE)
    return int(found[0]) * UNITS[found[1]]


@pytest.mark.parametrize(
    ("who", "waits", "needed"),
    [
        ("the master, for an answer", MASTER["timeout"], JOB),
        ("the master, for whether a job runs", MASTER["gather_job_timeout"], JOB),
        ("status, for a report", status.ANSWER_SECONDS, REPORT),
        ("up, for a ping", salt.PING_SECONDS, PING),
        ("up, for a minion that runs", snapshot.KNOWN_SECONDS, MINION),
        ("up, for a minion that boots", snapshot.NEW_SECONDS, MINION),
        ("up, for who is slow", cpu_credits.TOLD_SECONDS, REPORT),
        ("the minion's start", start_seconds("minion/files/salt-minion.service"), MINION),
        ("the master's start", start_seconds("master/files/salt-master.service"), MINION),
        ("the web app's start", start_seconds("airflow/files/airflow.service.j2"), WEB_APP),
        ("a build", start_seconds("airflow/files/airflow-release@.service.j2"), BUILD),
    ],
)
def test_slow_is_not_taken_for_dead(who: str, waits: float, needed: float) -> None:
    assert waits >= MARGIN * needed, who


@pytest.mark.parametrize("silent", [status.SILENT_SECONDS, cpu_credits.SILENT_SECONDS])
def test_ping_has_time_before_a_machine_is_silent(silent: int) -> None:
    """Half as long again, and no more: a frozen machine costs every `status` this time."""
    script = (ROOT / "packages/stackctl/src/stackctl/remote/ask-minions.sh").read_text()
    assert "min(silent / 4, seconds)" in script
    assert silent * (1 - BEFORE_PING) >= 1.5 * PING
