"""Whether a running service has loaded its configuration files as they are now.

The service's unit records what it loads: the state `service_config.loaded` writes a drop-in that
runs ``RECORDER`` whenever the service starts or reloads. No clock takes part, so neither a step of
the clock nor a file's times can hide a change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Set by Salt's loader.
__salt__: dict[str, Any]

# salt/base/files/record-loaded.sh, which writes below RECORDS.
RECORDER = "/usr/local/lib/stack/record-loaded"
RECORDS = "/run/stack/loaded"
_UNIT = """\
# Managed by salt/_states/service_config.py: records what the service loads. A record that cannot be
# written stops nothing; the next highstate restarts or reloads the service then.
[Service]
"""


def record_name(unit: str, *, reload: bool) -> str:
    """Return the name of a unit's record: of what a reload loads, or of what only a start loads."""
    return f"{unit}.{'reload' if reload else 'start'}"


def drop_in(unit: str, starts: Sequence[str], reloads: Sequence[str]) -> str:
    """Return the unit's drop-in that records what it loads.

    Args:
        unit: the systemd unit.
        starts: the files that only a start loads.
        reloads: the files that a reload loads too. The record is written after the reload, and only
            when that succeeds. A file that changes in these milliseconds counts as loaded.
    """

    def command(directive: str, paths: Sequence[str], *, reload: bool) -> str:
        words = [RECORDER, record_name(unit, reload=reload), *paths]
        return f"{directive}=-+" + " \\\n    ".join(words) + "\n"

    lines = []
    if starts:
        lines += [command("ExecStartPre", starts, reload=False)]
    if reloads:
        lines += [command(key, reloads, reload=True) for key in ("ExecStartPre", "ExecReload")]
    return _UNIT + "".join(lines)


def not_loaded(
    unit: str, files: Sequence[str], *, reload: bool = False, records: str = RECORDS
) -> list[str]:
    """Return which files a running unit has not loaded as they are now; none when it does not run.

    Args:
        unit: the systemd unit.
        files: paths. A link counts by its target. A path that does not exist counts as well: it may
            have existed before.
        reload: whether a reload makes the unit load them again, and not only a start.
        records: the folder with the records. A unit without a record has loaded nothing.
    """
    state = __salt__["cmd.run_stdout"](
        ["systemctl", "show", "--property=ActiveState", "--value", unit], python_shell=False
    )
    if state.strip() != "active":
        return []
    recorded = _read(Path(records, record_name(unit, reload=reload)))
    return [path for path in files if recorded.get(path) != _content(Path(path))]


def outdated(records: str = RECORDS) -> dict[str, list[str]]:
    """Return unit -> the files that it has not loaded as they are, of all running units.

    Args:
        records: the folder with the records.
    """
    found: dict[str, list[str]] = {}
    for record in sorted(Path(records).glob("*.*")):
        unit, _, kind = record.name.rpartition(".")
        paths = not_loaded(unit, list(_read(record)), reload=kind == "reload", records=records)
        if paths:
            found[unit] = [*found.get(unit, []), *paths]
    return found


def _read(record: Path) -> Mapping[str, str]:
    """Return path -> what was loaded."""
    try:
        lines = record.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split("\t", 1) for line in lines)


def _content(path: Path) -> str:
    """Return what the recorder writes about a path."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return "absent"
