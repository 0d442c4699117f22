"""Asks HAProxy on an edge machine for its servers, and takes some out for a scenario."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable
from dataclasses import dataclass

from bench.machines import Machine

SOCKET = "/run/haproxy/admin.sock"
# Debian's python3 is on every machine; socat is not.
ASK = f"""import socket, sys
for line in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as s:
        s.connect({SOCKET!r})
        s.sendall(line.encode() + b"\\n")
        while part := s.recv(65536):
            sys.stdout.write(part.decode())
"""


@dataclass(frozen=True)
class Server:
    """A server of a backend: the machine `name`, as HAProxy sees it."""

    backend: str
    name: str
    status: str
    downtime: int

    @property
    def up(self) -> bool:
        """Whether it gets requests."""
        return self.status.startswith("UP")


def servers(text: str) -> list[Server]:
    """Return the servers in the answer to `show stat`."""
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return [
        Server(row["pxname"], row["svname"], row["status"], int(row["downtime"] or 0))
        for row in rows
        if row["svname"] not in ("FRONTEND", "BACKEND") and row["type"] == "2"
    ]


class Edge:
    """HAProxy of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def ask(self, *lines: str) -> str:
        """Return the answers to lines of HAProxy's own language."""
        return self.machine.run(["/usr/bin/python3", "-c", ASK, *lines])

    def servers(self) -> list[Server]:
        """Return the servers of all backends."""
        return servers(self.ask("show stat"))

    def serve_with(self, names: Iterable[str], seconds: float = 60) -> None:
        """Give requests to these machines only, and wait until they are up.

        Raises:
            TimeoutError: one did not come up.
        """
        wanted = set(names)
        found = self.servers()
        self.ask(
            *(
                f"set server {server.backend}/{server.name} state"
                f" {'ready' if server.name in wanted else 'maint'}"
                for server in found
                if server.up != (server.name in wanted)
            )
        )
        self.wait(wanted, seconds)

    def wait(self, names: set[str], seconds: float) -> float:
        """Wait until machines are up in every backend that has them; return the seconds it took.

        Raises:
            TimeoutError: one did not come up.
        """
        began = time.monotonic()
        while True:
            down = {
                f"{server.name} {server.status}"
                for server in self.servers()
                if server.name in names and not server.up
            }
            if not down:
                return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"not up after {seconds:.0f} s: {', '.join(sorted(down))}")
            time.sleep(0.2)
