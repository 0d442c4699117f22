"""Patroni's members on the role's machines, by its REST API.

Reading is open to whoever the firewall lets in. What changes something needs a certificate that the
deployment's CA has signed for a client, which the members have.

https://patroni.readthedocs.io/en/latest/rest_api.html
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__salt__: dict[str, Any]

TLS = "/etc/postgresql/tls"
SWITCH_SECONDS = 60
_TIMEOUT = 15  # seconds: an answer may wait for etcd
_POLL_SECONDS = 0.5
FOLLOWING = ("streaming", "in archive recovery")
RUNNING = ("running", *FOLLOWING)
_LEADERS = ("leader", "standby_leader")


def member(minion_id: str | None = None) -> dict[str, Any]:
    """Return what a member says of itself: ``state``, ``role``, ``timeline`` and more.

    Args:
        minion_id: the member; this machine when it is None.

    Raises:
        CommandExecutionError: Patroni does not answer.
    """
    # The status only says whether the member leads.
    _, text = _ask(minion_id or _own(), "GET", "/patroni")
    return dict(_parsed(text))


def is_primary(minion_id: str | None = None) -> bool:
    """Return whether a machine's PostgreSQL is the primary, as far as its Patroni knows.

    Patroni says so as soon as it has the leader's place; until its server is promoted, that takes
    no writes.

    Args:
        minion_id: the machine; this one when it is None.
    """
    try:
        status, text = _ask(minion_id or _own(), "GET", "/primary")
        return status == http.client.OK and _parsed(text).get("role") != "replica"
    except CommandExecutionError:
        return False


def members() -> list[dict[str, Any]]:
    """Return all members as etcd has them: ``name``, ``role``, ``state``, ``timeline``, ``lag``.

    Raises:
        CommandExecutionError: Patroni does not answer here.
    """
    status, text = _ask(_own(), "GET", "/cluster")
    if status != http.client.OK:
        raise CommandExecutionError(f"Patroni does not know its cluster: {text}")
    found: list[dict[str, Any]] = _parsed(text)["members"]
    return found


def leader() -> str:
    """Return the minion id of the member that leads; empty: there is none now."""
    return next((found["name"] for found in members() if found["role"] in _LEADERS), "")


def told() -> dict[str, str]:
    """Return in words what this member is, for ``stackctl status``.

    Returns:
        ``replication``: whether it leads, and how far it is behind or the others are. ``problem``:
        why it is no good member; empty: it is one.
    """
    try:
        found = {each["name"]: each for each in members()}
    except CommandExecutionError as error:
        return {"replication": "", "problem": str(error)}
    own = found.pop(_own(), None)
    if own is None:
        return {"replication": "", "problem": "it is no member of Patroni's cluster"}
    if own["role"] in _LEADERS:
        following = [each for each in found.values() if each["state"] in FOLLOWING]
        behind = f", {_behind(following)}" if following else ""
        told = f"leads, timeline {own.get('timeline', 'unknown')}, {len(following)} follow{behind}"
    else:
        told = f"{own['role'].replace('_', ' ')}, {own['state']}, {_behind([own])}"
    problem = "" if own["state"] in RUNNING else f"PostgreSQL is {own['state']}"
    return {"replication": told, "problem": problem}


def unfit() -> str:
    """Return why the cluster cannot count on this member while another one is away; empty: it can.

    It leads, or it follows closely enough to take over, and its member of etcd has a vote.
    """
    try:
        own = next((each for each in members() if each["name"] == _own()), None)
        if own is None:
            return "it is no member of Patroni's cluster"
        leads = own["role"] in _LEADERS
        if own["state"] not in (RUNNING if leads else ("streaming",)):
            return f"PostgreSQL is {own['state']}"
        if not leads and _fitness(own)[1] > (settings() or {}).get("maximum_lag_on_failover", 0):
            return f"replica, {_behind([own])}"
        return "" if __salt__["etcd_member.voting"]() else "its member of etcd has no vote"
    except CommandExecutionError as error:
        return str(error)


def settings() -> dict[str, Any] | None:
    """Return the settings that all members share; None: the cluster has none yet.

    Raises:
        CommandExecutionError: Patroni does not answer here.
    """
    status, text = _ask(_own(), "GET", "/config")
    return dict(_parsed(text)) if status == http.client.OK else None


def configure(wanted: Mapping[str, Any]) -> None:
    """Replace the settings that all members share.

    Raises:
        CommandExecutionError: Patroni does not answer here, or refuses.
    """
    _change("PUT", "/config", wanted)


def restart() -> None:
    """Restart PostgreSQL on this machine for settings that wait for it; Patroni stays.

    Raises:
        CommandExecutionError: Patroni does not answer here, or refuses.
    """
    _change("POST", "/restart", {"restart_pending": True})


def switch_over(candidate: str | None = None, seconds: float = SWITCH_SECONDS) -> str:
    """Have another member lead, and return its minion id once it does.

    Args:
        candidate: the member; Patroni chooses when it is None.
        seconds: after which this gives up.

    Raises:
        CommandExecutionError: there is no such member, it is not fit, or nobody leads in time.
    """
    before = leader()
    if candidate == before:
        return before
    question = {"leader": before} | ({"candidate": candidate} if candidate else {})
    _change("POST", "/switchover", question)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(CommandExecutionError):  # etcd may be electing
            now = leader()
            if now not in ("", before) and is_primary(now):
                return now
        time.sleep(_POLL_SECONDS)
    raise CommandExecutionError(f"nobody has taken over from {before} within {seconds} s")


def leave(leaving: Iterable[str] = ()) -> list[str]:
    """Give up this machine's part in the cluster, for good: it is about to be removed.

    Another member leads then, Patroni and PostgreSQL are stopped, and etcd has a member less. The
    data stays on the disk.

    Args:
        leaving: the machines that leave as well.

    Returns:
        what was done.

    Raises:
        CommandExecutionError: no other member can lead, or etcd refuses.
    """
    own, done = _own(), []
    staying = [found for found in members() if found["name"] not in {own, *leaving}]
    if not staying:
        raise CommandExecutionError(f"no member would stay: {own} cannot leave")
    if leader() == own:
        done.append(f"{switch_over(min(staying, key=_fitness)['name'])} leads")
    for unit in ("patroni", "etcd"):
        __salt__["service.disable"](unit)
    __salt__["service.stop"]("patroni")
    done.append("PostgreSQL has stopped")
    if __salt__["etcd_member.leave"]():
        done.append("etcd has a member less")
    return done


def _behind(followers: Iterable[Mapping[str, Any]]) -> str:
    lags = [each.get("lag") for each in followers]
    known = [lag for lag in lags if isinstance(lag, int)]
    return f"{max(known) / 2**20:.1f} MiB behind" if known == lags else "lag unknown"


def _fitness(found: Mapping[str, Any]) -> tuple[bool, float]:
    lag = found.get("lag")
    return "standby" not in found["role"], lag if isinstance(lag, int) else float("inf")


def _change(method: str, path: str, question: Mapping[str, Any]) -> None:
    status, text = _ask(_own(), method, path, question)
    if status not in (http.client.OK, http.client.ACCEPTED):
        raise CommandExecutionError(f"Patroni refuses {path}: {text}")


def _own() -> str:
    return str(__opts__["id"])


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandExecutionError(f"Patroni answers {text[:200]!r}") from error


def _ask(
    minion_id: str, method: str, path: str, question: Mapping[str, Any] | None = None
) -> tuple[int, str]:
    """Return the status and the text of an answer; raise CommandExecutionError without one."""
    try:
        context = ssl.create_default_context(cafile=f"{TLS}/ca.pem")
        context.load_cert_chain(f"{TLS}/certificate.pem", f"{TLS}/key.pem")
        connection = http.client.HTTPSConnection(
            __salt__["etcd_member.host"](minion_id),
            __pillar__["endpoints"]["patroni"]["port"],
            timeout=_TIMEOUT,
            context=context,
        )
        try:
            connection.request(method, path, None if question is None else json.dumps(question))
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise CommandExecutionError(f"Patroni on {minion_id} does not answer: {error}") from error
