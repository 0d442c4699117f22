"""The role that a minion id names.

An id is ``<role>-<n>`` and is proved by the minion's key. Nothing here reads a grain, which a
machine sets for itself.
"""

from __future__ import annotations

from typing import Any

# Filled in by Salt's loader.
__opts__: dict[str, Any] = {}


def of(minion_id: str) -> str:
    """Return the role of a minion: its id without the number."""
    return minion_id.rpartition("-")[0]


def own() -> str:
    """Return the role of this minion."""
    return of(str(__opts__["id"]))
