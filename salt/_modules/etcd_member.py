"""This machine's member of etcd, in the cluster of its role's machines.

Whoever has lost his data must not begin a second cluster beside the one that the others have: a
member asks them first. It joins as a learner, which has no vote, so that a machine that fails while
it joins takes no majority away.

https://etcd.io/docs/v3.5/op-guide/runtime-configuration/
https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/
"""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__salt__: dict[str, Any]

DATA = "/var/lib/etcd/stack"
TLS = "/etc/etcd/tls"
INITIAL = "/etc/etcd/initial.env"  # the unit does not start without it
# Of a machine that belongs to the cluster, any of these ports accepts connections.
ENDPOINTS = ("etcd-client", "patroni", "postgres")
JOIN_SECONDS = 180  # another machine may come in meanwhile, and etcd takes one at a time
_TIMEOUT = 5  # seconds for an answer
_POLL_SECONDS = 1
# Of the first machine, before it begins a cluster. Another one that has just started refuses until
# its services run.
_LOOKS = 15

Members = list[dict[str, Any]]


def host(minion_id: str) -> str:
    """Return the name by which the members know a machine; their certificate has it."""
    return f"{minion_id}.{__pillar__['domain']}"


def hosts() -> list[str]:
    """Return the names of all machines of this machine's role, sorted by id."""
    return [host(minion_id) for minion_id in __salt__["machines.addresses"](__salt__["role.own"]())]


def joined(data: str = DATA) -> bool:
    """Return whether this machine holds a member's data."""
    return Path(data, "member").is_dir()


def join(seconds: float = JOIN_SECONDS) -> dict[str, str]:
    """Take a place in the cluster, and return what etcd has to know at its first start.

    A place that this machine had before it lost its data is given up.

    Args:
        seconds: after which this gives up.

    Returns:
        etcd's environment: the members, and whether the cluster exists.

    Raises:
        CommandExecutionError: the others do not answer, or refuse.
    """
    own, known = str(__opts__["id"]), _machines()
    others = [minion_id for minion_id in known if minion_id != own]
    deadline = time.monotonic() + seconds
    looks = 0
    while True:
        problem = ""
        for other in others:
            try:
                return _take_place(own, other)
            except CommandExecutionError as error:
                problem = problem or str(error)
        states = {other: _reach(other) for other in others}
        looks += 1
        if not any(states.values()) and own == known[0]:
            if looks >= _LOOKS or not others:
                return _environment({own: _peer_url(own)}, "new")
        elif time.monotonic() >= deadline:
            raise CommandExecutionError(_cause(own, known[0], states, problem))
        time.sleep(_POLL_SECONDS)


def voting() -> bool:
    """Return whether this machine's member has a vote, and runs.

    Raises:
        CommandExecutionError: etcd does not answer here, or no member with a vote does.
    """
    own = str(__opts__["id"])
    _ask(own, "/v3/maintenance/status", {})
    _, members = _voters(own)
    return any(_is_of(member, own) and not member.get("isLearner") for member in members)


def promote() -> str:
    """Give this machine's member a vote, and return why that is refused; empty: it has one.

    etcd refuses while the member has not caught up with the leader.

    Raises:
        CommandExecutionError: no member with a vote answers.
    """
    own = str(__opts__["id"])
    asked, members = _voters(own)
    places = [member["ID"] for member in members if _is_of(member, own)]
    if not places:
        return f"etcd on {asked} has no member {own}"
    try:
        _ask(asked, "/v3/cluster/member/promote", {"ID": places[0]})
    except CommandExecutionError as error:
        return str(error)
    return ""


def leave(data: str = DATA) -> bool:
    """Give this machine's place up, stop etcd and remove its data; return whether it had a place.

    Args:
        data: the member's data.

    Raises:
        CommandExecutionError: no other member answers, or the cluster refuses.
    """
    own = str(__opts__["id"])
    if not joined(data):
        return False
    refusal = f"{own} is the only member of etcd"
    for member in _voters(own)[1]:
        if member.get("isLearner") or member.get("name") in (None, own):
            continue
        try:
            _remove(member["name"], own)
        except CommandExecutionError as error:
            refusal = str(error)
        else:
            __salt__["service.stop"]("etcd")
            shutil.rmtree(data)
            Path(INITIAL).unlink(missing_ok=True)
            return True
    raise CommandExecutionError(refusal)


def forget(leaving: list[str], *, silent: bool = False) -> list[str]:
    """Have the cluster give up the places of machines that have gone; return whose it had.

    Args:
        leaving: their minion ids.
        silent: of these, only those that do not answer. They go first: without them, the others are
            a majority of what is left.

    Raises:
        CommandExecutionError: no member answers, or the cluster refuses.
    """
    asked, members = _voters(str(__opts__["id"]))
    gone = [
        minion_id
        for minion_id in leaving
        if any(_is_of(each, minion_id) for each in members)
        and not (silent and _reach(minion_id) == "serves")
    ]
    for minion_id in gone:
        _remove(asked, minion_id)
    return gone


def delete(prefix: str) -> None:
    """Delete every key that begins with a prefix.

    Raises:
        CommandExecutionError: etcd does not answer here, or has no majority.
    """
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    question = {
        name: base64.b64encode(text.encode()).decode()
        for name, text in (("key", prefix), ("range_end", end))
    }
    _ask(str(__opts__["id"]), "/v3/kv/deleterange", question)


def _take_place(own: str, other: str) -> dict[str, str]:
    """Replace this machine's place in the cluster that another machine belongs to."""
    _remove(other, own)
    question = {"peerURLs": [_peer_url(own)], "isLearner": True}
    members: Members = _ask(other, "/v3/cluster/member/add", question)["members"]
    urls = {member.get("name") or own: member["peerURLs"][0] for member in members}
    return _environment(urls, "existing")


def _remove(asked: str, own: str) -> None:
    """Have a member remove every place of a machine."""
    for member in _members(asked):
        if _is_of(member, own):
            _ask(asked, "/v3/cluster/member/remove", {"ID": member["ID"]})


def _is_of(member: Mapping[str, Any], minion_id: str) -> bool:
    """Return whether a member is a machine's; one that has never started has no name."""
    return minion_id == member.get("name") or member["peerURLs"] == [_peer_url(minion_id)]


def _members(asked: str) -> Members:
    members: Members = _ask(asked, "/v3/cluster/member/list", {})["members"]
    return members


def _voters(own: str) -> tuple[str, Members]:
    """Return a machine whose member has a vote, this one first, and the members that it knows.

    A member without a vote answers no such question.
    """
    problem = ""
    for minion_id in sorted(_machines(), key=lambda minion_id: minion_id != own):
        try:
            return minion_id, _members(minion_id)
        except CommandExecutionError as error:
            problem = problem or str(error)
    raise CommandExecutionError(problem)


def _machines() -> list[str]:
    """Return the machines of this machine's role, by their numbers."""
    return sorted(
        __salt__["machines.addresses"](__salt__["role.own"]()),
        key=lambda minion_id: int(minion_id.rpartition("-")[2]),
    )


def _peer_url(minion_id: str) -> str:
    return f"https://{host(minion_id)}:{__pillar__['endpoints']['etcd-peer']['port']}"


def _environment(urls: Mapping[str, str], state: str) -> dict[str, str]:
    return {
        "ETCD_INITIAL_CLUSTER": ",".join(f"{name}={url}" for name, url in urls.items()),
        "ETCD_INITIAL_CLUSTER_STATE": state,
    }


def _reach(minion_id: str) -> str:
    """Return `serves` or `silent`; empty: the machine is there and refuses every connection."""
    found = ""
    for endpoint in ENDPOINTS:
        address = (host(minion_id), __pillar__["endpoints"][endpoint]["port"])
        try:
            socket.create_connection(address, timeout=_TIMEOUT).close()
        except ConnectionRefusedError:
            continue
        except OSError:
            found = "silent"
            break
        else:
            return "serves"
    return found


def _cause(own: str, first: str, states: Mapping[str, str], problem: str) -> str:
    """Return why this machine cannot join, and what to do."""
    silent = [other for other, state in states.items() if state == "silent"]
    serving = [other for other, state in states.items() if state == "serves"]
    if serving:
        return f"{serving[0]} does not take {own} into etcd: {problem}"
    if silent:
        return (
            f"{', '.join(silent)} may hold the cluster's data and cannot be reached, so {own}"
            " begins none: start the machine, or launch it again (stackctl up), and apply the"
            " highstate there first"
        )
    return f"etcd runs nowhere yet: apply the highstate of {first} first"


def _ask(minion_id: str, path: str, question: Mapping[str, Any]) -> Any:
    """Ask a machine's etcd by its JSON gateway; raise CommandExecutionError if it refuses."""
    try:
        context = ssl.create_default_context(cafile=f"{TLS}/ca.pem")
        context.load_cert_chain(f"{TLS}/certificate.pem", f"{TLS}/key.pem")
        connection = http.client.HTTPSConnection(
            host(minion_id),
            __pillar__["endpoints"]["etcd-client"]["port"],
            timeout=_TIMEOUT,
            context=context,
        )
        try:
            connection.request("POST", path, json.dumps(question))
            response = connection.getresponse()
            answer = json.load(response)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CommandExecutionError(f"etcd on {minion_id} does not answer: {error}") from error
    if response.status != http.client.OK:
        reason = answer.get("message", answer) if isinstance(answer, dict) else answer
        raise CommandExecutionError(f"etcd on {minion_id} refuses {path}: {reason}")
    return answer
