"""The time service of machines: an NTP client reads this host's time, and others get no answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from localcloud.errors import PortTaken
from localcloud.ntp import TimeServer, answer

NOW = 1_800_000_000.25
SINCE_1900 = 2_208_988_800
ASKED = bytes.fromhex("e1 23 45 67 89 ab cd ef")
"""The time that a client gives its question, by which it knows the answer."""
QUESTION = b"\x23\x00\x06\x20" + bytes(36) + ASKED


@pytest.fixture
def server() -> Iterator[TimeServer]:
    """A server on loopback whose time stands still."""
    with TimeServer(("127.0.0.1", 0), lambda: NOW) as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


def asked(server: TimeServer, *packets: bytes) -> list[bytes]:
    """Return what comes back for some packets; the last of them has to have an answer."""
    found = []
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(server.server_address)
        client.settimeout(5)
        for packet in packets:
            client.send(packet)
        found.append(client.recv(100))
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            found.append(client.recv(100))
    return found


def test_client_is_told_the_time(server: TimeServer) -> None:
    (told,) = asked(server, QUESTION)
    assert len(told) == 48
    flags, stratum = told[0], told[1]
    assert (flags >> 6, flags >> 3 & 7, flags & 7) == (0, 4, 4)  # synchronised, version 4, a server
    assert 0 < stratum < 16
    assert told[24:32] == ASKED
    for begin in (16, 32, 40):
        seconds = int.from_bytes(told[begin : begin + 8]) / 2**32 - SINCE_1900
        assert seconds == pytest.approx(NOW, abs=1e-6)


def test_what_is_no_question_has_no_answer(server: TimeServer) -> None:
    """An answer to an answer would keep two servers busy with each other."""
    other = bytes([0x24]) + QUESTION[1:]
    assert answer(other, NOW) is None
    assert answer(QUESTION[:47], NOW) is None
    assert answer(b"", NOW) is None
    assert len(asked(server, b"", other, QUESTION[:47], QUESTION)) == 1


def test_taken_port_is_told(server: TimeServer) -> None:
    with pytest.raises(PortTaken, match="UDP port"):
        TimeServer(("127.0.0.1", server.server_address[1]))
