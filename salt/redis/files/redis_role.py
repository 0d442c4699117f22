"""Who is the master among this machine and the others. Managed by Salt (salt/redis).

`start` and `watch` run before every start of Redis and of Sentinel. So a machine that was away asks
the others first, and is never a second master until Sentinel notices. `hand-over` runs before Redis
stops, and `decide` and `tell` are for Salt (salt/_modules/redis_role.py).

What Sentinel has decided is kept by Sentinel, in a file that this program only begins. Redis keeps
nothing about its role.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

CONFIG = "/etc/redis/role.json"
RUN = "/run/redis"
DATA = "/var/lib/redis"
MASTER = "redis"  # as Sentinel calls it
_ANSWER_SECONDS = 3
_PAUSE = 0.5  # between two looks
_NOTHING_SECONDS = 10  # so long nothing may run on the others before the first machine begins
_SETTLE_SECONDS = 10  # the others have to answer before fewer than half of them are believed
_REPLICA_SECONDS = 8  # a restarted replica has to be back before the master stops
_HAND_OVER_SECONDS = 15
_PAUSED_SECONDS = 80  # longer than all of this; Redis stops then
# What Sentinel writes by itself. Everything else in its file is Salt's.
_KEPT = re.compile(
    r"sentinel (?P<key>myid|monitor|(?:config|leader|current)-epoch|known-(?:replica|sentinel)) "
)

Words = Sequence[str]


class RoleError(Exception):
    """It cannot be told who the master is: what is wrong, and what to do."""


@dataclass(frozen=True)
class Cluster:
    """What Salt says about the machines with Redis.

    Attributes:
        own: this machine's address.
        machines: id -> address, of all machines, by number.
        port: of Redis.
        sentinel_port: of Sentinel.
        user: the user of Sentinel and of this program, at both.
        password: of that user.
        ca: the file with the CA of the servers' certificates.
        name: the name in those certificates.
    """

    own: str
    machines: Mapping[str, str]
    port: int
    sentinel_port: int
    user: str
    password: str
    ca: str
    name: str

    @property
    def others(self) -> dict[str, str]:
        """The other machines."""
        return {name: ip for name, ip in self.machines.items() if ip != self.own}

    @property
    def is_first(self) -> bool:
        """Whether this machine begins where no machine has begun yet."""
        return next(iter(self.machines.values())) == self.own

    @property
    def majority(self) -> int:
        """How many Sentinels have to agree that the master is down."""
        return len(self.machines) // 2 + 1

    def named(self, address: str) -> str:
        """Return the id of a machine, or the address when no machine has it."""
        return next((name for name, ip in self.machines.items() if ip == address), address)


class Connection:
    """A connection to Redis or to Sentinel, with the protocol of both.

    https://redis.io/docs/latest/develop/reference/protocol-spec/
    """

    def __init__(self, cluster: Cluster, address: str, port: int) -> None:
        """Connect and log in.

        Raises:
            OSError: nobody answers there, or not in time, or under another certificate.
            ValueError: the user is refused.
        """
        raw = socket.create_connection((address, port), _ANSWER_SECONDS)
        try:
            trust = ssl.create_default_context(cafile=cluster.ca)
            self._socket = trust.wrap_socket(raw, server_hostname=cluster.name)
            self._stream = self._socket.makefile("rb")
            self.ask("AUTH", cluster.user, cluster.password)
        except BaseException:
            raw.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, *words: str) -> Any:
        """Return the answer to a command.

        Raises:
            ValueError: the answer is an error.
        """
        encoded = [word.encode() for word in words]
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(parts))
        return self._answer()

    def info(self) -> dict[str, str]:
        """Return what Redis says about its replication."""
        lines = str(self.ask("INFO", "replication")).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _answer(self) -> Any:
        line = self._stream.readline().decode().rstrip("\r\n")
        if not line:
            raise OSError("the connection was closed")
        kind, rest = line[0], line[1:]
        if kind == "-":
            raise ValueError(rest)
        if kind == "*":
            return [self._answer() for _ in range(int(rest))]
        if kind == "$":
            return None if rest == "-1" else self._stream.read(int(rest) + 2)[:-2].decode()
        return rest


# -- the master ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vote:
    """What a Sentinel knows.

    Attributes:
        master: the address of the master.
        epoch: of that knowledge; the highest one is the newest.
    """

    master: str
    epoch: int


@dataclass(frozen=True)
class Silence:
    """A machine whose Sentinel tells nothing.

    Attributes:
        reason: why.
        nothing: whether it is up, and neither Sentinel nor Redis runs there.
    """

    reason: str
    nothing: bool = False


Answer = Vote | Silence


def find_master(cluster: Cluster, seconds: float, data: str = DATA) -> str:
    """Return the address of the master, which may be this machine's.

    Args:
        cluster: the machines.
        seconds: how long to wait for those that do not answer yet.
        data: the folder with the data of Redis.

    Raises:
        RoleError: it cannot be told by then.
    """
    if not cluster.others:
        return cluster.own
    began = time.monotonic()
    nothing_since: float | None = None
    while True:
        answers = _ask_sentinels(cluster)
        now = time.monotonic()
        waited = now - began
        nothing = all(_is_nothing(answers[ip]) for ip in cluster.others.values())
        nothing_since = (nothing_since if nothing_since is not None else now) if nothing else None
        steady = nothing_since is not None and now - nothing_since >= _NOTHING_SECONDS
        found = _weighed(cluster, answers, Path(data), waited=waited, steady=steady)
        if found:
            return found
        if waited >= seconds:
            raise RoleError(_reason(cluster, answers, Path(data)))
        time.sleep(_PAUSE)


def _weighed(
    cluster: Cluster, answers: Mapping[str, Answer], data: Path, *, waited: float, steady: bool
) -> str:
    """Return the master's address; empty: it cannot be told yet."""
    votes = [answer for answer in answers.values() if isinstance(answer, Vote)]
    if known := [vote for vote in votes if vote.master in cluster.machines.values()]:
        newest = max(known, key=lambda vote: vote.epoch)
        if len(votes) < cluster.majority and waited < _SETTLE_SECONDS:
            return ""
        # The others would copy nothing. They replace this machine when it has been silent.
        if newest.master == cluster.own and not _has_data(data):
            return ""
        return newest.master
    if not cluster.is_first or _sentinel_file(data).exists():
        return ""
    # Data without Sentinel is of the release before it, which had one machine.
    return cluster.own if _has_data(data) or steady else ""


def _reason(cluster: Cluster, answers: Mapping[str, Answer], data: Path) -> str:
    """Return why the master cannot be told, and what to do."""
    own = cluster.named(cluster.own)
    votes = [answer for answer in answers.values() if isinstance(answer, Vote)]
    if any(vote.master == cluster.own for vote in votes) and not _has_data(data):
        return (
            f"Sentinel still names {own} as the master, and its disk is empty: the others would"
            " copy nothing. They need a majority to choose another master: bring back those that"
            " do not answer, then apply the highstate again"
        )
    silent = [
        f"{name}: {answer.reason}"
        for name, ip in cluster.others.items()
        if isinstance(answer := answers[ip], Silence)
    ]
    return (
        f"{own} cannot tell whether another machine is the master ({'; '.join(silent)}), and must"
        " not be a second one. Bring the machines back, or take those that are lost out of the map"
        " (stackctl up), then apply the highstate again"
    )


def _is_nothing(answer: Answer) -> bool:
    return isinstance(answer, Silence) and answer.nothing


def _has_data(data: Path) -> bool:
    """Return whether Redis has run here with the stack's configuration: it has begun its file."""
    return any(data.glob("appendonlydir/*.manifest"))


def _sentinel_file(data: Path) -> Path:
    return data / "sentinel.conf"


def _ask_sentinels(cluster: Cluster) -> dict[str, Answer]:
    """Return address -> what the Sentinel there says, of all machines at the same time."""
    addresses = list(cluster.machines.values())
    with ThreadPoolExecutor(len(addresses)) as pool:
        found = pool.map(lambda address: _ask_sentinel(cluster, address), addresses)
        return dict(zip(addresses, found, strict=True))


def _ask_sentinel(cluster: Cluster, address: str) -> Answer:
    try:
        with Connection(cluster, address, cluster.sentinel_port) as sentinel:
            pairs = iter(sentinel.ask("SENTINEL", "MASTER", MASTER))
            told = dict(zip(pairs, pairs, strict=True))
            return Vote(told["ip"], int(told["config-epoch"]))
    except ConnectionRefusedError:
        runs = _listens(address, cluster.port)
        reason = "Redis runs there, and Sentinel does not" if runs else "neither runs there"
        return Silence(reason, nothing=runs is False)
    except (OSError, ValueError, LookupError) as error:
        return Silence(f"Sentinel: {error}")


def _listens(address: str, port: int) -> bool | None:
    """Return whether something listens there; None: that cannot be told."""
    try:
        socket.create_connection((address, port), _ANSWER_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return None
    return True


# -- what runs before Redis and Sentinel start -----------------------------------------------------


def start(cluster: Cluster, seconds: float, run: str = RUN, data: str = DATA) -> str:
    """Write the role for Redis' next start, and return the master's address."""
    master = find_master(cluster, seconds, data)
    line = "" if master == cluster.own else f"replicaof {master} {cluster.port}\n"
    _write(Path(run, "role.conf"), line)
    return master


def watch(cluster: Cluster, seconds: float, settings: str, data: str = DATA) -> None:
    """Write Sentinel's file: Salt's settings, and what Sentinel knew when it ended.

    Args:
        cluster: the machines.
        seconds: how long to wait for Redis on this machine, where Sentinel knows no master.
        settings: the file with Salt's settings.
        data: the folder with the data of Redis and the file of Sentinel.

    Raises:
        RoleError: Redis does not run here.
    """
    path = _sentinel_file(Path(data))
    before = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in before if _KEPT.match(line)]
    monitored = next((line.split()[3] for line in kept if "sentinel monitor " in line), "")
    if monitored not in cluster.machines.values():
        monitored = _master_of_redis(cluster, seconds)
    lines = [f"sentinel monitor {MASTER} {monitored} {cluster.port} {cluster.majority}"]
    lines += [line for line in kept if _stays(cluster, line, monitored)]
    _write(path, Path(settings).read_text() + "\n".join(lines) + "\n")


def _stays(cluster: Cluster, line: str, master: str) -> bool:
    """Return whether Sentinel still needs a line of its own.

    One that is gone for good would count for the majority, and the master is no replica.
    """
    words = line.split()
    if words[1] == "monitor":
        return False
    if words[1] not in ("known-replica", "known-sentinel"):
        return True
    is_known = words[3] in cluster.machines.values()
    return is_known and not (words[1] == "known-replica" and words[3] == master)


def _master_of_redis(cluster: Cluster, seconds: float) -> str:
    """Return the master that Redis on this machine has, once it runs."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with Connection(cluster, cluster.own, cluster.port) as redis:
                return redis.info().get("master_host", cluster.own)
        except (OSError, ValueError) as error:
            if time.monotonic() >= deadline:
                raise RoleError(f"Sentinel knows no master, and Redis here: {error}") from error
        time.sleep(_PAUSE)


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


# -- before Redis stops ----------------------------------------------------------------------------


def hand_over(cluster: Cluster) -> str:
    """Make another machine the master, if this one is and another one has all data.

    No write is lost: from before the last one is copied until this machine stops, writes wait.

    Returns:
        What was done.
    """
    if not cluster.others:
        return "the only machine"
    try:
        with Connection(cluster, cluster.own, cluster.port) as redis:
            if redis.info()["role"] != "master":
                return "a replica"
            return _hand_over(cluster, redis)
    except (OSError, ValueError) as error:
        return f"not handed over: {error}"


def _hand_over(cluster: Cluster, redis: Connection) -> str:
    if not _wait(lambda: _may_choose(cluster, _replicas(redis.info())), _REPLICA_SECONDS):
        return "not handed over: not every replica that runs is connected"
    # No write comes any more, whatever happens: one that Sentinel has half done may still go on.
    redis.ask("CLIENT", "PAUSE", str(1000 * _PAUSED_SECONDS), "WRITE")
    if _wait(lambda: _is_copied(redis.info()), _REPLICA_SECONDS):
        for name, address in cluster.others.items():
            if _fail_over(cluster, address):
                return f"handed over, says Sentinel of {name}"
    return "not handed over: no replica took over in time"


def _fail_over(cluster: Cluster, address: str) -> bool:
    """Have one Sentinel promote a replica; return whether that has happened."""
    try:
        with Connection(cluster, address, cluster.sentinel_port) as sentinel:
            sentinel.ask("SENTINEL", "FAILOVER", MASTER)
            ask = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
            return _wait(lambda: sentinel.ask(*ask)[0] != cluster.own, _HAND_OVER_SECONDS)
    except (OSError, ValueError):
        return False


def _wait(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PAUSE / 5)
    return True


def _replicas(info: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the replicas that have all that was there when they came."""
    rows = [
        dict(pair.split("=", 1) for pair in value.split(","))
        for key, value in info.items()
        if re.fullmatch(r"slave\d+", key)
    ]
    return [row for row in rows if row["state"] == "online"]


def _may_choose(cluster: Cluster, replicas: Sequence[Mapping[str, str]]) -> bool:
    """Return whether there are replicas, and Redis runs on no other machine.

    Sentinel learns late which replica has most, and may choose one that has just started.
    """
    connected = {row["ip"] for row in replicas}
    others = [ip for ip in cluster.others.values() if ip not in connected]
    return bool(connected) and not any(_listens(ip, cluster.port) for ip in others)


def _is_copied(info: Mapping[str, str]) -> bool:
    """Return whether every replica has all."""
    return all(row["offset"] == info["master_repl_offset"] for row in _replicas(info))


# -- for Salt --------------------------------------------------------------------------------------


def decide(cluster: Cluster, seconds: float, data: str = DATA) -> dict[str, str]:
    """Return who the master is, where Redis does not run; where it runs, it keeps its role.

    The last machine of several follows nobody: its master is gone with the others.

    Returns:
        `master`, its id, and `changed`: what was done to this machine, or "".
    """
    if not _listens(cluster.own, cluster.port):
        return {"master": cluster.named(find_master(cluster, seconds, data)), "changed": ""}
    changed = ""
    if not cluster.others:
        try:
            with Connection(cluster, cluster.own, cluster.port) as redis:
                if redis.info()["role"] != "master":
                    redis.ask("SLAVEOF", "NO", "ONE")
                    changed = "it follows no other machine any more"
        except (OSError, ValueError):
            pass  # of a release without Sentinel, which it is restarted from
    return {"master": "", "changed": changed}


def tell(cluster: Cluster) -> dict[str, str]:
    """Return this machine's role in words as `replication`, and what is wrong as `problem`."""
    try:
        with Connection(cluster, cluster.own, cluster.port) as redis:
            info = redis.info()
    except (OSError, ValueError) as error:
        return {"replication": "", "problem": f"Redis does not tell its role: {error}"}
    if info["role"] != "master":
        master = cluster.named(info["master_host"])
        if info["master_link_status"] != "up":
            seconds = info.get("master_link_down_since_seconds", "some")
            return {
                "replication": f"replica of {master}",
                "problem": f"it does not reach its master {master} for {seconds} s",
            }
        behind = info["master_last_io_seconds_ago"]
        return {"replication": f"replica of {master}, {behind} s behind", "problem": ""}
    if not cluster.others:
        return {"replication": "master, the only machine", "problem": ""}
    replicas = [f"{cluster.named(row['ip'])} {row['lag']} s behind" for row in _replicas(info)]
    missing = len(cluster.others) - len(replicas)
    return {
        "replication": f"master, {', '.join(replicas) or 'no replica'}",
        "problem": f"{missing} of {len(cluster.others)} replicas do not follow" if missing else "",
    }


def read(path: str = CONFIG) -> Cluster:
    """Return what Salt has written."""
    return Cluster(**json.loads(Path(path).read_text()))


def main(arguments: Words | None = None) -> int:
    """Run a command, and return its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["start", "watch", "hand-over", "decide", "tell"])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--config", default=CONFIG)
    given = parser.parse_args(arguments)
    try:
        for line in _run(given, read(given.config)):
            print(line)
    except RoleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(given: argparse.Namespace, cluster: Cluster) -> Iterator[str]:
    os.umask(0o077)
    match given.command:
        case "start":
            yield f"master: {cluster.named(start(cluster, given.seconds))}"
        case "watch":
            watch(cluster, given.seconds, str(Path(given.config).with_name("sentinel.conf")))
        case "hand-over":
            yield hand_over(cluster)
        case "decide":
            yield json.dumps(decide(cluster, given.seconds))
        case "tell":
            yield json.dumps(tell(cluster))


if __name__ == "__main__":
    sys.exit(main())
