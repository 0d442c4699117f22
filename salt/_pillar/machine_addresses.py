"""The private address of every machine as a pillar, from the file in which the master records them.

A machine gets the addresses of all others from the master, who has them from EC2; none tells its
own. The execution module ``machine_addresses`` writes the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def ext_pillar(minion_id: str, pillar: dict[str, Any], path: str) -> dict[str, dict[str, str]]:
    """Return the pillar ``addresses``: minion id -> private address; empty before the first record.

    Args:
        minion_id: whom Salt asks for; every machine gets the same.
        pillar: its other pillar.
        path: the file.

    Raises:
        ValueError: the file is not what the module writes.
        OSError: it cannot be read.
    """
    del minion_id, pillar
    try:
        return {"addresses": dict(json.loads(Path(path).read_text()))}
    except FileNotFoundError:
        return {"addresses": {}}
