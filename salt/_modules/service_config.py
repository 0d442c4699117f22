"""Whether a running service has loaded its configuration files since they last changed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

# Filled in by Salt's loader.
__salt__: dict[str, Any] = {}


def changed_since_load(unit: str, files: Sequence[str], *, reload: bool = False) -> list[str]:
    """Return which files have changed since a unit has loaded them; none when it does not run.

    Args:
        unit: the systemd unit.
        files: paths. Of a link, the time counts at which it was set. A path that does not exist has
            not changed.
        reload: whether a reload makes the unit load them again, and not only a start.
    """
    since = "StateChangeTimestampMonotonic" if reload else "ActiveEnterTimestampMonotonic"
    shown = __salt__["cmd.run_stdout"](
        ["systemctl", "show", f"--property=ActiveState,{since}", unit], python_shell=False
    )
    properties = dict(line.split("=", 1) for line in shown.splitlines())
    if properties["ActiveState"] != "active":
        return []
    loaded = time.time() - time.monotonic() + int(properties[since]) / 1e6
    return [path for path in files if os.path.lexists(path) and os.lstat(path).st_mtime > loaded]
