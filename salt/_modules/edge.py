"""What this load balancer sends to which web machine, from HAProxy's own socket.

``drain`` is for web machines that are about to go, ``bring_back`` for those that only were away,
``leave`` for the load balancer itself, and ``load`` for the program that decides how many there are
(``salt/master/files/scale_machines.py``). None changes a file: a drain is lost when HAProxy is
reloaded with a configuration that still names the machine.

https://docs.haproxy.org/3.0/management.html#9.3
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path

from salt.exceptions import CommandExecutionError

ADMIN = "/run/haproxy/admin.sock"
CONFIG = "/etc/haproxy/haproxy.cfg"
MASTER = "/run/haproxy/master.sock"
CLIENTS = ("plain", "edge")  # the frontends that clients reach
POLL_SECONDS = 0.5
_TIMEOUT = 5  # seconds for an answer of HAProxy
_TOTALS = ("FRONTEND", "BACKEND")
_TLS_SERVER = re.compile(
    r"^ +server (?P<name>\S+) (?P<address>[0-9.]+):(?P<port>[0-9]+) ssl .*?"
    r"ca-file (?P<ca>\S+) verifyhost (?P<host>\S+) crt (?P<own>\S+)",
    re.MULTILINE,
)


def drain(servers: list[str], seconds: float = 75, path: str = ADMIN) -> dict[str, int]:
    """Stop sending requests to servers, and wait until theirs are answered.

    Args:
        servers: their names in HAProxy's configuration, which are minion ids. One that the
            configuration does not name gets no requests.
        seconds: after which this waits no longer. The longest answer is a quiet stream of Airflow.
        path: HAProxy's socket.

    Returns:
        Server -> how many requests it still had after `seconds`; 0 for a server that is quiet.

    Raises:
        CommandExecutionError: HAProxy does not answer, or refuses to drain one.
    """
    for row in _servers(path):
        if row["svname"] in servers and not row["status"].startswith("DRAIN"):
            name = f"{row['pxname']}/{row['svname']}"
            if answer := _ask(path, f"set server {name} state drain").strip():
                raise CommandExecutionError(f"HAProxy does not drain {name}: {answer}")
    deadline = time.monotonic() + seconds
    while True:
        busy = dict.fromkeys(servers, 0)
        for row in _servers(path):
            if row["svname"] in busy:
                busy[row["svname"]] += int(row["scur"] or 0) + int(row["qcur"] or 0)
        # A process from before a reload has connections of its own, which nobody can ask about.
        if not (any(busy.values()) or _old_workers()) or time.monotonic() >= deadline:
            return busy
        time.sleep(POLL_SECONDS)


def up(path: str = ADMIN) -> list[str]:
    """Return the servers that get requests, sorted.

    Args:
        path: HAProxy's socket.

    Raises:
        CommandExecutionError: HAProxy does not answer.
    """
    states: dict[str, list[bool]] = {}
    for row in _servers(path):
        states.setdefault(row["svname"], []).append(row["status"].startswith("UP"))
    return sorted(name for name, found in states.items() if all(found))


def bring_back(servers: list[str], seconds: float = 60, path: str = ADMIN) -> list[str]:
    """Send requests to servers again, and return those that get them.

    Args:
        servers: their names in HAProxy's configuration. One that it does not name is left out.
        seconds: how long to wait for HAProxy's checks of them.
        path: HAProxy's socket.

    Raises:
        CommandExecutionError: HAProxy does not answer, refuses, or finds one that does not serve.
    """
    named = set()
    for row in _servers(path):
        if row["svname"] in servers:
            named.add(row["svname"])
            name = f"{row['pxname']}/{row['svname']}"
            if answer := _ask(path, f"set server {name} state ready").strip():
                raise CommandExecutionError(f"HAProxy does not take {name} back: {answer}")
    deadline = time.monotonic() + seconds
    while missing := named - {*up(path)}:
        if time.monotonic() >= deadline:
            raise CommandExecutionError(f"HAProxy finds {', '.join(sorted(missing))} down")
        time.sleep(POLL_SECONDS)
    return sorted(named)


def leave(seconds: float = 75, path: str = ADMIN) -> int:
    """Accept no connection of clients any more, and wait until those that there are have ended.

    An idle connection ends by itself after HAProxy's ``timeout http-keep-alive``.

    Args:
        seconds: after which this waits no longer.
        path: HAProxy's socket.

    Returns:
        How many connections there still were after `seconds`.

    Raises:
        CommandExecutionError: HAProxy does not answer, or refuses.
    """
    for name in CLIENTS:
        answer = _ask(path, f"disable frontend {name}").strip()
        if answer and "already" not in answer:
            raise CommandExecutionError(f"HAProxy does not stop accepting at {name}: {answer}")
    deadline = time.monotonic() + seconds
    while True:
        rows = [row for row in _statistics(path) if row["svname"] == "FRONTEND"]
        left = sum(int(row["scur"] or 0) for row in rows if row["pxname"] in CLIENTS)
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(POLL_SECONDS)


def refused(path: str = ADMIN, config: str = CONFIG) -> list[str]:
    """Return which servers are down because of TLS, and why, as sentences.

    HAProxy says no more than `SSL handshake failure`, so this does what HAProxy's check does.

    Args:
        path: HAProxy's socket.
        config: HAProxy's configuration, which has what each server has to prove.

    Raises:
        CommandExecutionError: HAProxy does not answer.
    """
    down = {
        row["svname"]
        for row in _servers(path)
        if row["status"].startswith("DOWN") and row["check_status"].startswith(("L6", "L7"))
    }
    found = {}
    for match in _TLS_SERVER.finditer(Path(config).read_text()):
        if match["name"] in down and match["name"] not in found:
            found[match["name"]] = _tls_problem(match)
    return [sentence for _, sentence in sorted(found.items()) if sentence]


def _tls_problem(server: re.Match[str]) -> str:
    """Return why one side does not accept the other, or "" when both do."""
    name = server["name"]
    context = ssl.create_default_context(cafile=server["ca"])
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    connection = http.client.HTTPConnection(server["address"], int(server["port"]), timeout=2)
    try:
        context.load_cert_chain(server["own"])
        connection.connect()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=server["host"])
        connection.request("GET", "/static/")
        status = connection.getresponse().status
    except ssl.SSLError as error:
        return f"HAProxy refuses {name}: {error}"
    except (OSError, http.client.HTTPException):
        return ""  # it is away, and its own row says so
    finally:
        connection.close()
    # As nginx answers who shows no certificate that it accepts, or another machine's.
    is_refused = status in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)
    return f"{name} refuses the certificate of this machine" if is_refused else ""


def finish_reload(seconds: float = 75, path: str = ADMIN) -> bool:
    """Wait until no process from before a reload serves, and return whether that is so.

    Args:
        seconds: after which this waits no longer. HAProxy ends an old process by itself.
        path: HAProxy's socket.

    Raises:
        CommandExecutionError: HAProxy does not answer.
    """
    drain([], seconds, path)
    return not _old_workers()


def load(path: str = ADMIN) -> dict[str, int]:
    """Return what waits for the web machines.

    Args:
        path: HAProxy's socket.

    Returns:
        ``queued``: requests in the queues of servers and backends. ``queue_ms``: the longest
        average time in a queue, over the last 1024 requests, of a queue that is not empty.
        ``active``: requests that servers answer. ``up``: servers that get requests, each once.

    Raises:
        CommandExecutionError: HAProxy does not answer.
    """
    rows = list(_statistics(path))
    servers = [row for row in rows if row["svname"] not in _TOTALS]
    # A backend does not count those that wait for a certain server (`maxqueue`).
    waiting = [row for row in rows if int(row["qcur"] or 0)]
    return {
        "queued": sum(int(row["qcur"]) for row in waiting),
        "queue_ms": max((int(row["qtime"] or 0) for row in waiting), default=0),
        "active": sum(int(row["scur"] or 0) for row in servers),
        "up": len({row["svname"] for row in servers if row["status"].startswith("UP")}),
    }


def _servers(path: str) -> list[dict[str, str]]:
    return [row for row in _statistics(path) if row["svname"] not in _TOTALS]


def _statistics(path: str) -> Iterable[dict[str, str]]:
    return csv.DictReader(io.StringIO(_ask(path, "show stat").removeprefix("# ")))


def _old_workers(path: str = MASTER) -> bool:
    """Return whether a process from before a reload still serves."""
    with contextlib.suppress(CommandExecutionError):
        _, _, old = _ask(path, "show proc").partition("# old workers\n")
        return bool(re.match(r"[0-9]+\s+worker", old))
    return False


def _ask(path: str, command: str) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(_TIMEOUT)
            admin.connect(path)
            admin.sendall(f"{command}\n".encode())
            with admin.makefile() as answer:
                return answer.read()
    except OSError as error:
        raise CommandExecutionError(f"HAProxy does not answer at {path}: {error}") from error
