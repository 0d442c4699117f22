"""Results of single states, as Salt returns them."""

from __future__ import annotations

from typing import Any

GOOD = {"result": True, "changes": {}, "comment": "as it should be", "__id__": "redis-package"}
CHANGED = {
    "result": True,
    "changes": {"diff": "+port 0"},
    "comment": "updated",
    "__id__": "redis-config",
}
PREDICTED: dict[str, Any] = {
    "result": None,
    "changes": {},
    "comment": "would be updated",
    "__id__": "redis-config",
}
FAILED = {
    "result": False,
    "changes": {},
    "comment": "no such\n  package",
    "__id__": "redis-package",
}
