"""Whether the Salt master's keys are backed up, as its program has noted it.

``salt/master/files/master_backup.py`` makes the backups.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

STATE = "/var/lib/master-backup/state.json"
PROGRAM = "/usr/local/lib/master_backup.py"
TIME = "%Y-%m-%dT%H:%M:%SZ"
FAILING = dt.timedelta(minutes=30)  # it is tried again every few minutes
OLD = dt.timedelta(hours=26)  # one a day, and two hours to make it


def told(state: str = STATE, program: str = PROGRAM) -> dict[str, str]:
    """Return the age of the last backup as ``backups``, and what is wrong with it as ``problem``.

    Both are empty on a machine that makes none.

    Args:
        state: the file with what is known of the last backup.
        program: the one that makes backups.
    """
    if not Path(program).exists():
        return {"backups": "", "problem": ""}
    known = _read(state)
    now = dt.datetime.now(dt.UTC)
    made, begun = _time(known.get("made")), _time(known.get("begun"))
    backup = f"keys backed up {_ago(now - made)} ago" if made else "keys not backed up yet"
    failing = known.get("failing") or {}
    since = _time(failing.get("since"))
    if since:
        backup += f"; the next backup fails: {failing.get('why')}"
    problem = ""
    if since and now - since > FAILING:
        problem = f"backups fail for {_ago(now - since)}: {failing.get('why')}"
    elif (last := made or begun) and now - last > OLD:
        problem = "its keys were not backed up for more than a day"
    return {"backups": backup, "problem": problem}


def _read(path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return found


def _time(text: Any) -> dt.datetime | None:
    try:
        return dt.datetime.strptime(str(text), TIME).replace(tzinfo=dt.UTC)
    except ValueError:
        return None


def _ago(time: dt.timedelta) -> str:
    """Return a time in its largest unit."""
    minutes = int(time.total_seconds() // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
