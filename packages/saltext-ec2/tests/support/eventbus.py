"""The master's event bus without a master: what the tests read events from."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import salt.config
import salt.transport
import tornado.ioloop
from salt.utils.event import SaltEvent

PREFIX = "salt/cloud/"


@dataclass
class EventBus:
    """The events of salt-cloud in the order in which they came.

    Attributes:
        events: pairs of a tag without `salt/cloud/` and its data.
    """

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def collect(self, payload: bytes, **_: Any) -> None:
        """Remember an event, as it comes on the bus."""
        tag, data = SaltEvent.unpack(payload)
        data.pop("_stamp", None)
        self.events.append((tag.removeprefix(PREFIX), data))

    def tags(self) -> list[str]:
        """Return the events' tags without `salt/cloud/`."""
        return [tag for tag, _ in self.events]

    def data(self, tag: str) -> dict[str, Any]:
        """Return the data of the only event of a tag.

        Args:
            tag: without `salt/cloud/`: "n1/created".
        """
        found = [data for seen, data in self.events if seen == tag]
        assert len(found) == 1, f"{len(found)} events {tag} among {self.tags()}"
        return found[0]


@contextmanager
def event_bus(sock_dir: Path) -> Iterator[EventBus]:
    """Listen where a master would.

    Args:
        sock_dir: Salt's option of that name.
    """
    bus = EventBus()
    opts = {**salt.config.DEFAULT_MASTER_OPTS, "sock_dir": str(sock_dir), "ipc_mode": "ipc"}
    server = salt.transport.ipc_publish_server("master", opts)
    loops: list[Any] = []

    def serve() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        loop = tornado.ioloop.IOLoop()
        loops.append(loop)
        loop.add_callback(server.publisher, bus.collect, io_loop=loop)
        loop.start()
        server.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not (sock_dir / "master_event_pull.ipc").exists():
        assert time.monotonic() < deadline, "the event bus does not start"
        time.sleep(0.01)
    try:
        yield bus
    finally:
        loops[0].add_callback(loops[0].stop)
        thread.join(10)
