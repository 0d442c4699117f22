"""Probes which packets get through to a port, whether or not anything listens there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

HOST = "host"
"""The name of this host among the sources of probes."""
# Who drops a packet does not answer. A machine where nothing listens answers with a refusal, so the
# packet has reached it.
_SCRIPT = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(target):
    try:
        socket.create_connection(tuple(target), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(targets)) as pool:
    print(json.dumps(list(pool.map(reached, targets))))
"""

Pair = tuple[str, str, int]
"""A source, a destination, and its port."""


def reached(
    addresses: Mapping[str, str], containers: Mapping[str, str], ports: Iterable[int]
) -> set[Pair]:
    """Return which machine, or this host, reaches which other machine at which port.

    The probes need neither SSH nor the API.

    Args:
        addresses: name of a machine -> its address.
        containers: name of a machine -> its container.
        ports: the ports to try.
    """
    asked = [
        (source, name, port)
        for source in (HOST, *containers)
        for name in addresses
        if name != source
        for port in sorted(set(ports))
    ]

    def of(source: str) -> list[Pair]:
        pairs = [pair for pair in asked if pair[0] == source]
        if not pairs:
            return []
        targets = json.dumps([[addresses[name], port] for _, name, port in pairs])
        into = [] if source == HOST else ["docker", "exec", containers[source]]
        done = subprocess.run(
            [*into, "python3", "-c", _SCRIPT, targets], capture_output=True, text=True, check=True
        )
        return [pair for pair, open_ in zip(pairs, json.loads(done.stdout), strict=True) if open_]

    with ThreadPoolExecutor(len(containers) + 1) as pool:
        return {pair for found in pool.map(of, (HOST, *containers)) for pair in found}
