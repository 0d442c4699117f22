"""A member of Patroni that runs, and the settings that all members share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

# A replica copies the whole database first: 10 GB take some five minutes.
RUNNING_SECONDS = 900
# A program that does not even answer has another cause than a copy that takes long.
ANSWER_SECONDS = 60
# Of a server that runs, for a leader: a lost one is replaced in some 20 s.
LEADER_SECONDS = 120
_POLL_SECONDS = 0.5
RUNNING = ("running", "streaming")  # of a primary, and of a replica


def running(name: str, seconds: float = RUNNING_SECONDS) -> dict[str, Any]:
    """PostgreSQL runs as a member of a cluster that has a leader, with its present settings.

    It is restarted for settings that wait for a restart.

    Args:
        name: the minion.
        seconds: after which this gives up.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    begin = time.monotonic()
    deadline = begin + min(seconds, ANSWER_SECONDS)
    problem = ""
    while True:
        try:
            member = __salt__["patroni.member"]()
            leader = __salt__["patroni.leader"]()
            copies = member["state"] not in RUNNING
            deadline = begin + (seconds if copies else min(seconds, LEADER_SECONDS))
            if member["state"] in RUNNING and leader:
                if not member.get("pending_restart"):
                    return ret | {"comment": __salt__["patroni.told"]()["replication"]}
                if __opts__["test"]:
                    return ret | {"result": None, "comment": "PostgreSQL would restart"}
                __salt__["patroni.restart"]()
                ret["changes"] = {"restarted": "for settings that need it"}
            else:
                problem = f"PostgreSQL is {member['state']}" if leader else "no member leads"
        except CommandExecutionError as error:
            problem = str(error)
        if __opts__["test"]:
            return ret | {"result": None, "comment": problem}
        if time.monotonic() >= deadline:
            waited = round(time.monotonic() - begin)
            return ret | {
                "result": False,
                "comment": f"after {waited} s: {problem}; see journalctl -u patroni",
            }
        time.sleep(_POLL_SECONDS)


def configured(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All members share these settings, and no others.

    Args:
        name: the cluster.
        settings: Patroni's dynamic configuration.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        before = __salt__["patroni.settings"]()
        if before == settings:
            return ret | {"comment": "the members share these settings"}
        if __opts__["test"]:
            return ret | {"result": None, "comment": "the settings would be replaced"}
        __salt__["patroni.configure"](settings)
    except CommandExecutionError as error:
        # Before its first highstate, a machine has no Patroni to ask.
        return ret | {"result": None if __opts__["test"] else False, "comment": str(error)}
    return ret | {
        "changes": {"old": before, "new": settings},
        "comment": "the members share these settings from now on",
    }
