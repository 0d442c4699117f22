"""Makes the network of a machine slow: what it sends comes late, and a part of it never.

It runs in the network namespace of the machine and takes packets from a queue of the kernel
(NFQUEUE), because not every kernel has netem. The standard library is all that it needs.

    python slow.py QUEUE DELAY_SECONDS LOST_SHARE
"""

from __future__ import annotations

import random
import select
import socket
import struct
import sys
import time
from collections import deque

NETFILTER = 12  # linux/netlink.h
# The same: a burst that does not fit into the socket's buffer is lost, without an error.
SOL_NETLINK, NO_ENOBUFS = 270, 5
PACKET, VERDICT, CONFIG = 0x300, 0x301, 0x302  # linux/netfilter/nfnetlink_queue.h
COMMAND, PARAMETERS, LENGTH = 1, 2, 3
PACKET_HEADER, VERDICT_HEADER = 1, 2
BIND, COPY_NO_CONTENT = 1, 1
DROP, ACCEPT = 0, 1
REQUEST = 1
WAITING = 20_000
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
BUFFER_BYTES = 4 << 20


def message(kind: int, queue: int, attribute: int, value: bytes) -> bytes:
    """Return a message to the kernel with one attribute."""
    padded = value + bytes(-len(value) % 4)
    body = struct.pack("!BBH", socket.AF_UNSPEC, 0, queue)
    body += struct.pack("=HH", 4 + len(value), attribute) + padded
    return struct.pack("=IHHII", 16 + len(body), kind, REQUEST, 0, 0) + body


def packets(data: bytes) -> list[int]:
    """Return the ids of the packets in what the kernel has sent."""
    found = []
    while len(data) >= 16:
        size, kind = struct.unpack_from("=IH", data)
        attributes = data[20:size]
        while kind == PACKET and len(attributes) >= 4:
            length, attribute = struct.unpack_from("=HH", attributes)
            if attribute & 0x3FFF == PACKET_HEADER:
                found.append(struct.unpack_from("!I", attributes, 4)[0])
            attributes = attributes[max(4, length + 3 & ~3) :]
        data = data[max(16, size + 3 & ~3) :]
    return found


def main(queue: int, delay: float, lost: float) -> None:
    """Delay what comes to a queue, for ever."""
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
    link.setsockopt(SOL_NETLINK, NO_ENOBUFS, 1)
    link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    link.bind((0, 0))
    link.send(message(CONFIG, queue, COMMAND, struct.pack("!BBH", BIND, 0, 0)))
    link.send(message(CONFIG, queue, PARAMETERS, struct.pack("!IB", 0, COPY_NO_CONTENT)))
    link.send(message(CONFIG, queue, LENGTH, struct.pack("!I", WAITING)))
    late: deque[tuple[float, int]] = deque()
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else None
        if select.select([link], [], [], wait)[0]:
            for packet in packets(link.recv(1 << 16)):
                if random.random() < lost:
                    link.send(_verdict(queue, DROP, packet))
                else:
                    late.append((time.monotonic() + delay, packet))
        while late and late[0][0] <= time.monotonic():
            link.send(_verdict(queue, ACCEPT, late.popleft()[1]))


def _verdict(queue: int, verdict: int, packet: int) -> bytes:
    return message(VERDICT, queue, VERDICT_HEADER, struct.pack("!II", verdict, packet))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
