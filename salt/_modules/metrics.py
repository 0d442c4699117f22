"""What Prometheus asks this machine for: who may ask, and what Salt's own modules know.

A job of the minion's schedule (salt/node_exporter) writes it where the node exporter reads it.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

# Set by Salt's loader.
__pillar__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

FACTS = "/var/lib/prometheus/node-exporter"
# What differs from what is declared takes most of the CPU, and changes by hand alone.
DIFFERENCES_SECONDS = 600
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


def write(folder: str = FACTS) -> bool:
    """Write what ``role`` and ``drift`` know as metrics; return whether that was done.

    While states run, the machine's memory is theirs, and what is known stays.

    Args:
        folder: where the node exporter reads.

    Raises:
        CommandExecutionError: no highstate has run yet.
    """
    if __salt__["saltutil.is_running"]("state.*"):
        return False
    problems = __salt__["role.problems"]()
    _put(
        Path(folder, "role.prom"),
        _lines("stack_problem", "about", {about: bool(each) for about, each in problems.items()})
        + _lines("stack_certificate_end_seconds", "path", __salt__["role.certificate_ends"]()),
    )
    if last := __salt__["highstate.applied"]():
        _put(
            Path(folder, "highstate.prom"),
            [
                f"stack_highstate_end_seconds {last['end']}",
                f"stack_highstate_failed_states {last['failed']}",
            ],
        )
    differences = Path(folder, "drift.prom")
    if not differences.exists() or time.time() - differences.stat().st_mtime > DIFFERENCES_SECONDS:
        found = __salt__["drift.by_check"]()
        waiting = {
            "outdated": len(__salt__["drift.outdated"]()),
            "withheld": len(__salt__["drift.withheld"]()),
            "reboot": __salt__["drift.reboot_required"](),
        }
        _put(
            differences,
            _lines("stack_differences", "check", {name: len(said) for name, said in found.items()})
            + _lines("stack_updates_waiting", "kind", waiting),
        )
    return True


def _lines(name: str, label: str, values: Mapping[str, float]) -> list[str]:
    """Return the lines of a metric with one label; its values are paths and words of ours."""
    return [f"{name}{{{label}={json.dumps(key)}}} {float(value)}" for key, value in values.items()]


def _put(path: Path, lines: list[str]) -> None:
    """Replace a file in one step: the exporter may read it at any moment."""
    scratch = path.with_suffix(".new")
    scratch.write_text("".join(f"{line}\n" for line in lines))
    scratch.chmod(0o644)
    scratch.replace(path)
