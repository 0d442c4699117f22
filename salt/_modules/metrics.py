"""What Prometheus asks this machine for: who may ask, and what Salt's own modules know."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from hashlib import sha256
from typing import Any

# Set by Salt's loader.
__pillar__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

_LIBRARY = "libcrypt.so.1"  # of Debian's essential packages
# The least: the secret is 192 random bits, which nobody guesses, and each scrape is verified.
_COST = 4


def verifier(password: str) -> str:
    """Return what proves a password and does not tell it: bcrypt, in the words of crypt(5).

    The salt comes from the password, so that a second highstate changes nothing.

    Args:
        password: a long random one, whose verifiers may be the same on all machines.
    """
    crypt = ctypes.CDLL(_LIBRARY).crypt
    crypt.restype = ctypes.c_char_p
    salt = sha256(f"salt of {password}".encode()).hexdigest()[:21] + "e"
    found: bytes = crypt(password.encode(), f"$2b${_COST:02}${salt}".encode())
    return found.decode()


def targets() -> dict[str, list[dict[str, str]]]:
    """Return job -> the ``id`` and the ``role`` of each machine that it asks.

    Every machine is one of the job ``node``; the others are what the table of roles says.
    """
    roles = __pillar__["roles"]
    found: dict[str, list[dict[str, str]]] = {"node": []}
    for jobs in (entry.get("metrics", []) for entry in roles.values()):
        found |= {job: [] for job in jobs}
    for minion_id in __salt__["machines.addresses"]():
        role = __salt__["role.of"](minion_id)
        for job in ("node", *roles[role].get("metrics", [])):
            found[job].append({"id": minion_id, "role": role})
    return found
