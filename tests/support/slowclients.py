"""Clients that send or read a byte now and then, for as long as they are let.

The source of this module runs on a machine, so it needs the standard library only.
"""

from __future__ import annotations

import socket
import ssl
import time

WAYS = {
    "head": b"GET / HTTP/1.1\r\nHost: %s\r\nX: ",
    "small": b"POST /x HTTP/1.1\r\nHost: %s\r\nContent-Length: 200\r\n\r\n",
    "login": b"POST /auth/login/ HTTP/1.1\r\nHost: %s\r\nContent-Length: 200\r\n\r\n",
    "large": b"POST /x HTTP/1.1\r\nHost: %s\r\nContent-Length: 900000\r\n\r\n",
    "chunks": b"POST /x HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
    "static": b"GET /static/x HTTP/1.1\r\nHost: %s\r\nContent-Length: 900000\r\n\r\n",
}


def connect(address: str, ca: str, name: str, source: str) -> ssl.SSLSocket:
    """Return a connection from one of the machine's own addresses."""
    context = ssl.create_default_context(cadata=ca)
    plain = socket.create_connection((address, 443), 10, (source, 0))
    return context.wrap_socket(plain, server_hostname=name)


def answered(connection: ssl.SSLSocket) -> str | None:
    """Return the status that has come, what has ended the connection, or None."""
    connection.settimeout(0)
    try:
        return connection.recv(16384)[9:12].decode() or "closed"
    except (BlockingIOError, ssl.SSLWantReadError):
        return None
    except OSError as error:
        return type(error).__name__
    finally:
        connection.settimeout(5)


def send_slowly(
    address: str, ca: str, name: str, *, source: str, clients: int, seconds: float
) -> list[tuple[str, str, float]]:
    """Send a byte a second by each client, in all ways, until the answer or the end of the time.

    Returns:
        way, status and seconds since the connection of each client; the status is `held` for one
        that was still let at the end.
    """
    waiting, ended = [], []
    for number in range(clients):
        way = list(WAYS)[number % len(WAYS)]
        connection = connect(address, ca, name, source)
        connection.sendall(WAYS[way] % name.encode())
        waiting.append((way, connection, time.monotonic()))
    end = time.monotonic() + seconds
    while waiting and time.monotonic() < end:
        for client in list(waiting):
            way, connection, began = client
            status = answered(connection)
            if status is None:
                try:
                    connection.sendall(b"x")
                    continue
                except OSError as error:
                    status = type(error).__name__
            ended.append((way, status, time.monotonic() - began))
            waiting.remove(client)
        time.sleep(1)
    return ended + [(way, "held", time.monotonic() - began) for way, _, began in waiting]
