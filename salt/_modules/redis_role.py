"""Who is the master among the machines with Redis, and how far the others are behind.

``salt/redis/files/redis_role.py`` decides: it also runs before Redis starts, without Salt.
"""

from __future__ import annotations

import json
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__salt__: dict[str, Any]

PROGRAM = "/usr/local/lib/stack/redis_role.py"


def decide(seconds: int) -> dict[str, str]:
    """Find out whom Redis on this machine will follow at its start.

    Where it runs, it keeps its role; but the last machine of several is made the master.

    Args:
        seconds: how long to wait for the other machines.

    Returns:
        ``master``: the id of the master, or "" where Redis runs. ``changed``: what was done to this
        machine, or "".

    Raises:
        CommandExecutionError: that cannot be told, and what to do.
    """
    return _asked("decide", "--seconds", str(seconds))


def told() -> dict[str, str]:
    """Return this machine's role in words as ``replication``, and what is wrong as ``problem``.

    Raises:
        CommandExecutionError: no highstate has prepared this machine yet.
    """
    return _asked("tell")


def unfit() -> str:
    """Return why the others cannot count on this machine while one is away; empty: they can.

    It is the master, or it follows, and its Sentinel runs.
    """
    try:
        found = told()
    except CommandExecutionError as error:
        return str(error)
    # That a replica is missing is no fault of the master.
    if found["problem"] and not found["replication"].startswith("master"):
        return found["problem"]
    return "" if __salt__["service.status"]("redis-sentinel") else "Sentinel does not run"


def _asked(*arguments: str) -> dict[str, str]:
    command = ["/usr/bin/python3", "-I", PROGRAM, *arguments]
    done = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)
    if done["retcode"] != 0:
        raise CommandExecutionError(done["stderr"].splitlines()[-1] if done["stderr"] else "")
    found: dict[str, str] = json.loads(done["stdout"])
    return found
