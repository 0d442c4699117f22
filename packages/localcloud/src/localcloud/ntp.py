"""Amazon's time service: answers machines by NTP with this host's time.

Machines ask at `config.TIME_ADDRESS`, as on EC2, and the host's kernel leads that here.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configure-ec2-ntp.html
https://www.rfc-editor.org/rfc/rfc5905#section-7.3
"""

from __future__ import annotations

import logging
import socketserver
import struct
import time
from collections.abc import Callable

from localcloud.errors import PortTaken

log = logging.getLogger(__name__)

_SINCE_1900 = 2_208_988_800
"""Seconds from the beginning of NTP's time to that of Unix."""
_CLIENT, _SERVER = 3, 4
_STRATUM = 3
_PRECISION = -20
"""A microsecond, as a power of two."""
# Flags, stratum, poll, precision; root delay and dispersion; reference; then the four times: of the
# reference, and those at which the client asked, the question came, and the answer left.
_PACKET = struct.Struct("!BBbbII4sQQQQ")


def answer(packet: bytes, now: float) -> bytes | None:
    """Return the answer to a packet; None: it is no client's question.

    Args:
        packet: what came.
        now: the time to tell, in seconds of Unix.
    """
    if len(packet) < _PACKET.size:
        return None
    flags, _, poll, *_, asked = _PACKET.unpack(packet[: _PACKET.size])
    version, mode = flags >> 3 & 7, flags & 7
    if mode != _CLIENT:
        return None
    told = int((now + _SINCE_1900) * 2**32) & (2**64 - 1)
    head = (version << 3 | _SERVER, _STRATUM, poll, _PRECISION)
    return _PACKET.pack(*head, 0, 0, b"AMZN", told, asked, told, told)


class TimeServer(socketserver.UDPServer):
    """Answers until it is shut down.

    Args:
        address: address and UDP port.
        now: the time to tell.

    Raises:
        PortTaken: another program has the port.
    """

    def __init__(self, address: tuple[str, int], now: Callable[[], float] = time.time) -> None:
        self.now = now
        try:
            super().__init__(address, _Question)
        except OSError as error:
            raise PortTaken(
                f"UDP port {address[1]} of {address[0]} is taken by another program. "
                "Stop it, or choose another port."
            ) from error


class _Question(socketserver.BaseRequestHandler):
    server: TimeServer

    def handle(self) -> None:
        """Answer a question; anything else gets no answer."""
        packet, sock = self.request
        if told := answer(packet, self.server.now()):
            sock.sendto(told, self.client_address)
