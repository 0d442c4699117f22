"""How many machines each role has: what the settings of the deployment say, for salt-cloud's map.

A role has a number in ``settings:machines``, or ``minimum`` and ``maximum``. In the second case
``salt/master/files/scale_machines.py`` changes the number in ``COUNTS``, and this keeps it within
the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Set by Salt's loader.
__pillar__: dict[str, Any]

COUNTS = "/etc/salt/cloud.conf.d/machines.conf"
CONFIG = "/etc/salt/scale_machines.json"


def wanted(path: str = COUNTS) -> dict[str, int]:
    """Return role -> number, for the roles that the settings name.

    Args:
        path: the file with the present numbers.
    """
    present = _json(path).get("machine_counts", {})
    return {
        role: min(max(present.get(role, low), low), high) for role, (low, high) in _bounds().items()
    }


def growing() -> dict[str, Any]:
    """Return the ``role`` whose number the master chooses, its ``minimum`` and its ``maximum``.

    The role is empty when there is none.
    """
    for role, (low, high) in _bounds().items():
        if low < high:
            return {"role": role, "minimum": low, "maximum": high}
    return {"role": "", "minimum": 0, "maximum": 0}


def told(config: str = CONFIG) -> str:
    """Return in words what the master has last done by itself; empty when it does nothing.

    Args:
        config: the configuration of the program that does it.
    """
    settings = _json(config)
    if not settings.get("role"):
        return ""
    last = _json(settings["state"]).get("last") or "no change yet"
    return f"{settings['role']} grows from {settings['minimum']} to {settings['maximum']}: {last}"


def _bounds() -> dict[str, tuple[int, int]]:
    found = {}
    for role, value in (__pillar__["settings"].get("machines") or {}).items():
        both = (value["minimum"], value["maximum"]) if isinstance(value, Mapping) else (value,) * 2
        found[role] = (int(both[0]), int(both[1]))
    return found


def _json(path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return found
