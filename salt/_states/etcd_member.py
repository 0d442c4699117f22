"""A machine's member of etcd: prepared for its first start, and with a vote after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__states__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

VOTE_SECONDS = 60
_POLL_SECONDS = 0.5


def prepared(name: str) -> dict[str, Any]:
    """The member has its data, or a place in the cluster and what it needs at its first start.

    Args:
        name: the file of the environment, which the unit needs to start.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    if __salt__["etcd_member.joined"]():
        return ret | {"comment": "this machine has a member"}
    if __opts__["test"]:
        return ret | {"result": None, "comment": "this machine would join the cluster"}
    try:
        environment = __salt__["etcd_member.join"]()
    except CommandExecutionError as error:
        return ret | {"result": False, "comment": str(error)}
    lines = "".join(f"{key}={value}\n" for key, value in environment.items())
    written = __states__["file.managed"](
        name, contents=f"# Managed by salt/etcd.\n{lines}", mode="0644"
    )
    return ret | {
        "result": written["result"],
        "changes": {"joined": environment},
        "comment": "this machine has a place in the cluster",
    }


def voting(name: str, seconds: float = VOTE_SECONDS) -> dict[str, Any]:
    """The member has a vote.

    Args:
        name: the minion.
        seconds: after which this gives up.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    deadline = time.monotonic() + seconds
    while True:
        try:
            if __salt__["etcd_member.voting"]():
                return ret | {"comment": "the member has a vote"}
            if __opts__["test"]:
                return ret | {"result": None, "comment": "the member would get a vote"}
            refusal = __salt__["etcd_member.promote"]()
        except CommandExecutionError as error:
            if __opts__["test"]:  # before the first highstate
                return ret | {"result": None, "comment": str(error)}
            refusal = str(error)
        else:
            if not refusal:
                return ret | {
                    "changes": {"vote": "given"},
                    "comment": "the member has caught up and has a vote",
                }
        if time.monotonic() >= deadline:
            return ret | {"result": False, "comment": refusal}
        time.sleep(_POLL_SECONDS)
