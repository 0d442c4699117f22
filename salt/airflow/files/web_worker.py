"""Gunicorn's worker of the web app. Managed by Salt (salt/airflow).

It bounds the requests inside the app (web_queue.py), asks the app once for readers who may see the
same (web_answers.py), and is renewed once it has grown too large: a new worker serves before the
old one leaves. Its settings are in the environment.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from socket import socket
from typing import Any, ClassVar

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.gunicorn_app import AirflowUvicornWorker
from gunicorn.arbiter import Arbiter
from sqlalchemy.engine import Dialect, Engine, ExceptionContext
from sqlalchemy.event import listen
from sqlalchemy.exc import OperationalError
from uvicorn.server import Server
from web_answers import SharedAnswers
from web_queue import Bounded, Limits, database

# Between two looks at a worker's memory, in seconds: the kernel adds up its pages in some 8 ms.
INTERVAL = 5
# Between two renewals on one machine, in seconds: the new worker has to serve first.
PAUSE = 20
# Between two looks whether the server has started, in seconds.
START_INTERVAL = 0.1


def setting(name: str) -> float:
    """Return a number of the environment, which salt/airflow sets."""
    return float(os.environ[f"WEB_{name}"])


def note(error: ExceptionContext) -> None:
    """Tell the request that is being served that the database could not be asked."""
    if isinstance(error.sqlalchemy_exception, OperationalError) and (asked := database.get()):
        asked.fail(connected=error.connection is not None)


def connect(dialect: Dialect, _: object, args: Sequence[Any], options: dict[str, Any]) -> Any:
    """Return a new connection, and tell the request that is being served when there is none.

    asyncpg raises OSError there, which SQLAlchemy passes on and does not show to `note`.
    """
    try:
        return dialect.connect(*args, **options)
    except Exception:
        if asked := database.get():
            asked.fail(connected=False)
        raise


class DrainingServer(Server):
    """Uvicorn's server, which loses no request when it ends."""

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Take no more connections, and wait for the requests of those that were taken.

        Uvicorn closes a connection whose request has not arrived yet.
        """
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline and any(  # noqa: ASYNC110 (nothing would set an event)
            getattr(connection, "cycle", None) is None
            for connection in self.server_state.connections
        ):
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)


class Renewal:
    """When a worker is renewed: never two at once, also not shortly after each other.

    The worker asks gunicorn for one worker more, and serves on. The new one, once it serves, asks
    for one less, and gunicorn ends the oldest. So whichever process ends in between, as many
    workers are left as there should be.
    https://docs.gunicorn.org/en/stable/signals.html
    """

    def __init__(self, lock: Path, megabytes: float, requests: float, workers: float) -> None:
        """Take what is enough, and how many workers there are.

        Args:
            lock: the file that the workers lock, whose time is that of the last renewal.
            megabytes: of memory, after which a worker is renewed.
            requests: that it has served, after which it is renewed.
            workers: of the machine, beside a new one.
        """
        self._lock = lock
        self._megabytes = megabytes
        self._requests = requests
        self._workers = workers

    def due(self, requests: int) -> bool:
        """Return whether the worker has grown too large, or has served enough requests."""
        return requests > self._requests or self.own() > self._megabytes

    def begin(self) -> bool:
        """Ask for a new worker, and return whether it was this worker's turn.

        A new worker that has not come after the pause is asked for again.
        """
        with self._lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            last = os.fstat(file.fileno())
            if (last.st_size and time.time() - last.st_mtime < PAUSE) or self.is_new_one_there():
                return False
            file.write(".")
            os.kill(os.getppid(), signal.SIGTTIN)
        return True

    def finish(self) -> None:
        """Have the oldest worker leave, if this new one is one too many."""
        if self.is_new_one_there():
            os.kill(os.getppid(), signal.SIGTTOU)

    def is_new_one_there(self) -> bool:
        """Return whether there is a worker more than there should be."""
        return len(self.siblings()) > self._workers

    @staticmethod
    def siblings() -> list[str]:
        """Return the processes of gunicorn's workers, with this one: proc_pid_children(5)."""
        parent = os.getppid()
        return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()

    @staticmethod
    def own() -> float:
        """Return the memory in MiB that the process shares with no other, such as its parent."""
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


class WebWorker(AirflowUvicornWorker):
    """Airflow's worker with a bound, which renews itself."""

    CONFIG_KWARGS: ClassVar = {
        **AirflowUvicornWorker.CONFIG_KWARGS,
        # A stream may last for hours; a worker that leaves waits no longer for it.
        "timeout_graceful_shutdown": 30,
    }

    async def _serve(self) -> None:
        limits = Limits(
            requests=int(setting("REQUESTS")),
            queue=int(setting("QUEUE")),
            wait_seconds=setting("WAIT_SECONDS"),
            answer_seconds=setting("ANSWER_SECONDS"),
            health_seconds=setting("HEALTH_SECONDS"),
            streams=int(setting("STREAMS")),
        )
        listen(Engine, "handle_error", note)
        listen(Engine, "do_connect", connect)
        shared = SharedAnswers(self.wsgi, get_auth_manager().read_as)
        self.config.app = Bounded(shared, limits)
        server = DrainingServer(config=self.config)
        self._install_sigquit_handler()
        watch = asyncio.ensure_future(self._watch(server))
        await server.serve(sockets=self.sockets)
        watch.cancel()
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _watch(self, server: Server) -> None:
        """Have the worker take an older one's place, and ask for a new one when it is time."""
        renewal = Renewal(
            Path(os.environ["WEB_RENEWAL_LOCK"]),
            setting("WORKER_MEGABYTES"),
            setting("WORKER_REQUESTS"),
            setting("WORKERS"),
        )
        while not server.started:  # noqa: ASYNC110 (nothing would set an event)
            await asyncio.sleep(START_INTERVAL)
        renewal.finish()
        while True:
            await asyncio.sleep(INTERVAL)
            requests = server.server_state.total_requests
            if renewal.due(requests) and renewal.begin():
                own = renewal.own()
                self.log.info("Worker is renewed at %d MiB after %d requests", own, requests)
