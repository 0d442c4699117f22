"""Which load balancer has the site's elastic address, and how it moves by hand.

The program ``salt/haproxy/files/site_address.py`` moves it by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]

PROGRAM = "/usr/local/lib/site_address.py"
STATUS = "/run/site-address/status.json"
PYTHON = "/opt/salt/bin/python"


def told(path: str = STATUS) -> dict[str, str]:
    """Return what ``role.status`` says about the site's address on this machine.

    Args:
        path: the file in which the program says it.

    Returns:
        ``replication``: whether this machine has the address. ``problem``: why it cannot take it,
        or "". What it cannot find out yet is no problem, because it may not have to take it.

    Raises:
        CommandExecutionError: the program does not run.
    """
    try:
        known = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise CommandExecutionError(
            f"site-address.service has said nothing yet, or does not run: {error}"
        ) from error
    if known["holds"]:
        return {"replication": f"has the site's address {known['address']}", "problem": ""}
    words = "can take the site's address"
    if known["problem"]:
        words = f"cannot take the site's address: {known['problem']}"
    return {"replication": words, "problem": ""}


def unfit(path: str = STATUS) -> str:
    """Return why this load balancer cannot serve in the place of another one; empty: it can.

    Args:
        path: the file in which the program says whether it can take the site's address.
    """
    try:
        problem = str(json.loads(Path(path).read_text())["problem"])
        up = __salt__["edge.up"]()
    except (OSError, ValueError) as error:
        return f"site-address.service has said nothing yet, or does not run: {error}"
    except CommandExecutionError as error:
        return str(error)
    return problem or ("" if up else "it has no web machine to ask")


def take() -> str:
    """Have this load balancer have the site's address, whoever has it.

    It does not have to serve.

    Returns:
        What the program says.

    Raises:
        CommandExecutionError: it does not have the address.
    """
    return _run("take")


def leave() -> str:
    """Have another load balancer take the site's address, if this one has it.

    It serves until then, and takes the address no more before HAProxy is reloaded.

    Returns:
        What the program says; empty: this machine did not have the address, or has no such program.

    Raises:
        CommandExecutionError: no other load balancer has taken it.
    """
    return _run("leave") if __salt__["file.file_exists"](PROGRAM) else ""


def _run(verb: str) -> str:
    done = __salt__["cmd.run_all"]([PYTHON, PROGRAM, verb], python_shell=False, ignore_retcode=True)
    if done["retcode"] != 0:
        raise CommandExecutionError(f"{PROGRAM} {verb}: {done['stderr'] or done['stdout']}")
    return str(done["stdout"])
