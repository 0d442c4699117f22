"""Three machines with Redis: who is the master, who follows, and what a web machine notices.

A writer on a web machine writes through HAProxy there, and keeps a ledger of what was acknowledged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from handshake import shake_hands
from harness import Fleet, Machine, changed, failed
from plainpillar import DEPLOYMENT, DOMAIN
from stackctl.certificates import Authority
from waiting import until

NAME = f"redis.{DOMAIN}"
PROGRAM = "/usr/local/lib/stack/redis_role.py"
LEDGER = "/run/ledger"
FAILOVER_SECONDS = 15
REDIS, SENTINEL = 6379, 26379
LATER = ("redis-2", "redis-3")

CLIENT = r"""
import socket, ssl

def connect(address, port, user, password, ca, name):
    sock = socket.create_connection((address, port), 5)
    if ca:
        sock = ssl.create_default_context(cadata=ca).wrap_socket(sock, server_hostname=name)
    stream = sock.makefile("rwb")
    return stream, ask(stream, "AUTH", user, password)

def read(stream):
    line = stream.readline().decode().rstrip()
    kind, rest = line[0], line[1:]
    if kind == "*":
        return [read(stream) for _ in range(int(rest))]
    if kind == "$":
        return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
    return line if kind == "-" else rest

def ask(stream, *words):
    parts = [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words]
    stream.write(b"*%d\r\n" % len(parts) + b"".join(parts))
    stream.flush()
    return read(stream)
"""

TALK = r"""
try:
    stream, first = connect(*to)
    result = [first, *(ask(stream, *words) for words in commands)]
except (OSError, IndexError) as error:
    result = [f"{type(error).__name__}: {error}"]
"""

WRITER = r"""
import time
number = 0
with open(ledger, "w", buffering=1) as written:
    while True:
        try:
            # As the web app does, which reads it for each connection.
            to[4] = open("/etc/haproxy/ca.pem").read()
            stream, answer = connect(*to)
            while answer[0] != "-":
                answer = ask(stream, "SET", f"LIMITS:ledger-{number}", "x")
                if answer == "OK":
                    print(time.time(), number, file=written)
                    number += 1
                time.sleep(0.02)
        except (OSError, IndexError):
            pass
        time.sleep(0.05)
"""

Talk = Callable[..., list[Any]]


class Ledger:
    """What a writer on a web machine had acknowledged."""

    def __init__(self, web: Machine) -> None:
        self._web = web
        self.began = time.time()

    def rows(self) -> list[tuple[float, int]]:
        """Return time and number of each write."""
        lines = (self._web.run("cat", LEDGER).stdout or "").splitlines()
        return [(float(line.split()[0]), int(line.split()[1])) for line in lines if " " in line]

    def wait(self, since: float) -> None:
        """Wait for a write after a time."""
        until(lambda: self.rows()[-1][0] > since, "the writer writes again", 40, every=0.5)

    def gap(self) -> float:
        """Return the longest time without a write since this ledger was begun, in seconds."""
        times = [self.began, *(at for at, _ in self.rows() if at > self.began)]
        return max(later - sooner for sooner, later in pairwise(times))


@pytest.fixture(scope="module")
def web(fleet: Fleet) -> Machine:
    """A web machine that finds the stores as the web app does."""
    fleet.converged("redis-1")
    machine = fleet.machine("web-1")
    assert failed(machine.apply("stores")) == []
    return machine


@pytest.fixture(scope="module")
def values(fleet: Fleet) -> dict[str, Any]:
    """How the web app reaches Redis."""
    password = fleet.pillar.secrets["redis-airflow"]["password"]
    return {"to": [NAME, REDIS, "airflow", password, fleet.pillar.ca_certificate, NAME]}


@pytest.fixture(scope="module")
def writer(web: Machine, values: dict[str, Any]) -> Iterator[None]:
    """A client that writes all the time."""
    names = f"globals().update({json.dumps({**values, 'ledger': LEDGER})})\n"
    web.put("/root/writer.py", names + CLIENT + WRITER)
    web.run("systemd-run", "--collect", "--unit=test-writer", "python3", "/root/writer.py")
    until(lambda: Ledger(web).rows(), "the writer writes", every=0.5)
    yield
    web.run("systemctl", "stop", "test-writer")


@pytest.fixture(scope="module")
def talk(web: Machine, values: dict[str, Any]) -> Talk:
    """`talk(commands)`: what the web app's user is answered under the name of the service."""

    def ask(*commands: Sequence[str]) -> list[Any]:
        found: list[Any] = web.python(CLIENT + TALK, **values, commands=commands)
        return found

    return ask


@pytest.fixture(scope="module")
def growth(
    fleet: Fleet, web: Machine, writer: None, talk: Talk
) -> Iterator[tuple[list[Machine], float]]:
    """Three machines, of which the first one was alone, and how long no write was possible."""
    del writer
    assert talk(["SET", "LIMITS:before", "kept"]) == ["OK", "OK"]
    ledger = Ledger(web)
    machines = [fleet.machine(name) for name in ("redis-1", *LATER)]
    _together(fleet.converge, machines)
    settled(machines)
    assert failed(web.apply("stores")) == []
    ledger.wait(time.time())
    yield machines, ledger.gap()
    _shrink(fleet)


@pytest.fixture(scope="module")
def old_authority(fleet: Fleet, web: Machine, growth: object) -> Iterator[Authority]:
    """The CA before a rotation, which other files find again."""
    del growth
    with fleet.pillar.rotated() as authority:
        yield authority
    web.apply("stores")


@pytest.fixture
def machines(fleet: Fleet, growth: tuple[list[Machine], float]) -> list[Machine]:
    """The three machines, which agree on a master."""
    del growth
    return settled([fleet.machine(name) for name in ("redis-1", *LATER)])


def _together(function: Callable[[Machine], Any], machines: Sequence[Machine]) -> list[Any]:
    with ThreadPoolExecutor(len(machines)) as pool:
        return list(pool.map(function, machines))


def told(machine: Machine) -> dict[str, str]:
    """Return what a machine says about its role."""
    done = machine.run("python3", "-I", PROGRAM, "tell")
    # A process that is frozen or killed meanwhile says nothing.
    said = done.stdout if done.returncode == 0 else ""
    return dict(json.loads(said)) if said else {"replication": ""}


def master_of(machines: Sequence[Machine]) -> Machine | None:
    """Return the machine that says it is the master; None: none or several do."""
    found = [one for one in machines if told(one)["replication"].startswith("master")]
    return found[0] if len(found) == 1 else None


def settled(machines: list[Machine]) -> list[Machine]:
    """Wait until one machine is the master and the others follow it; the master is first."""

    def order() -> list[Machine]:
        master = master_of(machines)
        if master is None or any(told(one)["problem"] for one in machines):
            return []
        return [master, *(one for one in machines if one is not master)]

    return until(order, "one master and two replicas", 40, every=0.5)


def test_growth_keeps_data_and_stops_no_writer(
    machines: list[Machine], growth: tuple[list[Machine], float], talk: Talk
) -> None:
    gap = growth[1]
    print(f"longest time without a write while two machines joined: {gap:.1f} s")
    assert gap < 3
    assert machines[0].id == "redis-1"
    assert talk(["GET", "LIMITS:before"]) == ["OK", "kept"]


def test_converges_on_all_three(fleet: Fleet, machines: list[Machine]) -> None:
    _together(fleet.assert_idempotent, machines)


def test_status_names_master_and_replicas(machines: list[Machine]) -> None:
    master, *replicas = machines
    status = master.salt("role.status")
    assert status["problem"] == ""
    assert status["drift"] == []
    assert all(f"{one.id} " in status["replication"] for one in replicas)
    assert replicas[0].salt("role.status")["replication"].startswith(f"replica of {master.id}, ")


@pytest.mark.parametrize("user", ["replication", "sentinel", "check"])
def test_user_has_its_commands_only(
    fleet: Fleet, machines: list[Machine], web: Machine, values: dict[str, Any], user: str
) -> None:
    ca, name = values["to"][4:]
    password = fleet.pillar.secrets[f"redis-{user}"]["password"]
    commands = [["PING"], ["INFO", "replication"], ["GET", "LIMITS:before"], ["CONFIG", "GET", "*"]]

    def ask(password: str, ca: str | None) -> list[Any]:
        to = [machines[0].address, REDIS, user, password, ca, name]
        found: list[Any] = web.python(CLIENT + TALK, to=to, commands=commands)
        return [str(answer).split()[0] for answer in found]

    allowed = {"replication": [0], "sentinel": [0, 1], "check": [1]}[user]
    answers = ask(password, ca)
    assert answers[0] == "OK"
    assert [n for n, answer in enumerate(answers[1:]) if answer != "-NOPERM"] == allowed
    assert ask("wrong", ca)[0] == "-WRONGPASS"
    assert ask(password, None)[0] != "OK", "plaintext"


def test_sentinel_refuses_strangers(
    fleet: Fleet, machines: list[Machine], web: Machine, values: dict[str, Any]
) -> None:
    master, replica, _ = machines
    ca, name = values["to"][4:]
    password = fleet.pillar.secrets["redis-sentinel"]["password"]

    def ask(user: str, password: str, ca: str | None) -> list[Any]:
        to = [master.address, SENTINEL, user, password, ca, name]
        commands = [["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redis"], ["SENTINEL", "RESET", "*"]]
        found: list[Any] = replica.python(CLIENT + TALK, to=to, commands=commands)
        return found

    answers = ask("sentinel", password, ca)
    assert answers[:2] == ["OK", [master.address, str(REDIS)]]
    assert answers[2].startswith("-NOPERM")
    assert ask("sentinel", "wrong", ca)[0].startswith("-WRONGPASS")
    assert ask("default", "", ca)[1].startswith("-NOAUTH")
    assert ask("sentinel", password, None)[0] != "OK", "plaintext"
    assert replica.can_reach(master.address, SENTINEL)
    assert not web.can_reach(master.address, SENTINEL)
    assert not fleet.machine("lb-1").can_reach(master.address, REDIS)


def test_restart_of_the_master_hands_over_and_loses_no_write(
    machines: list[Machine], web: Machine, talk: Talk
) -> None:
    master = machines[0]
    ledger = Ledger(web)
    assert master.run("systemctl", "restart", "redis-server").returncode == 0
    ledger.wait(time.time())
    settled(machines)
    print(f"longest time without a write at a hand-over: {ledger.gap():.1f} s")
    assert master_of(machines) is not master
    _assert_all_kept(ledger, talk)
    assert ledger.gap() < FAILOVER_SECONDS


def test_highstate_leaves_the_new_master(fleet: Fleet, machines: list[Machine]) -> None:
    assert machines[0].id != "redis-1"
    assert _together(lambda one: changed(fleet.converge(one)), machines) == [[], [], []]
    assert settled(machines)[0] is machines[0]


def test_change_on_all_machines_at_once_loses_no_write(
    fleet: Fleet, machines: list[Machine], web: Machine, talk: Talk
) -> None:
    """As the orchestration applies it. Each Redis is restarted."""
    changed_pillar = {"redis": DEPLOYMENT.base_pillar("redis") | {"maxclients": 500}}
    ledger = Ledger(web)
    for states in _together(
        lambda one: one.salt("state.apply", "redis", pillar=changed_pillar, seconds=120), machines
    ):
        assert failed(states) == []
        assert any("redis-service" in tag for tag in changed(states))
    ledger.wait(time.time())
    settled(machines)
    print(f"longest time without a write, all restarted at once: {ledger.gap():.1f} s")
    assert ledger.gap() < FAILOVER_SECONDS
    _assert_all_kept(ledger, talk)
    _together(fleet.converge, machines)


def test_killed_process_is_back_or_replaced(machines: list[Machine], web: Machine) -> None:
    ledger = Ledger(web)
    killed = ("systemctl", "kill", "--signal=SIGKILL", "--kill-whom=main", "redis-server")
    assert machines[0].run(*killed).returncode == 0
    ledger.wait(time.time() + 1)
    settled(machines)
    print(f"longest time without a write, process killed: {ledger.gap():.1f} s")
    assert ledger.gap() < FAILOVER_SECONDS


def test_frozen_master_is_replaced_and_follows(
    machines: list[Machine], web: Machine, talk: Talk
) -> None:
    master, *others = machines
    ledger = Ledger(web)
    stop = ("systemctl", "kill", "--kill-whom=main", "redis-server")
    assert master.run(*stop, "--signal=SIGSTOP").returncode == 0
    until(lambda: master_of(others), "another master", 30, every=0.5)
    ledger.wait(time.time())
    print(f"longest time without a write, master frozen: {ledger.gap():.1f} s")
    assert ledger.gap() < FAILOVER_SECONDS
    written = ledger.rows()[-1][1]
    assert master.run(*stop, "--signal=SIGCONT").returncode == 0
    assert settled(machines)[0] is not master
    assert talk(["EXISTS", f"LIMITS:ledger-{written}"]) == ["OK", "1"]


CUT = """
table ip cut {{
  chain input {{ type filter hook input priority -10; ip saddr {{ {others} }} drop; }}
  chain output {{ type filter hook output priority -10; ip daddr {{ {others} }} drop; }}
}}
"""


def test_master_that_is_cut_off_gets_no_more_writes(
    machines: list[Machine], web: Machine, talk: Talk
) -> None:
    """The web machine reaches it all the time."""
    master, *others = machines
    ledger = Ledger(web)
    master.put("/root/cut", CUT.format(others=", ".join(one.address for one in others)))
    began = time.time()
    assert master.run("nft", "--file", "/root/cut").returncode == 0
    until(lambda: master_of(others), "another master", 30, every=0.5)
    ledger.wait(time.time() + 1)
    assert ledger.gap() < FAILOVER_SECONDS
    assert master.run("nft", "delete", "table", "ip", "cut").returncode == 0
    assert settled(machines)[0] is not master
    rows = [row for row in ledger.rows() if row[0] > began]
    _, *kept = talk(*(["EXISTS", f"LIMITS:ledger-{number}"] for _, number in rows))
    lost = [at for (at, _), there in zip(rows, kept, strict=True) if there != "1"]
    print(f"longest time without a write, master cut off: {ledger.gap():.1f} s")
    print(f"writes lost for {lost[-1] - began:.1f} s" if lost else "no write lost")
    assert not lost or lost[-1] - began < 10


def test_lost_master_is_replaced_and_an_empty_machine_follows(
    fleet: Fleet, machines: list[Machine], web: Machine, talk: Talk
) -> None:
    master, *others = machines
    ledger = Ledger(web)
    master.cut_off()
    until(lambda: master_of(others), "another master", 30, every=0.5)
    ledger.wait(time.time())
    print(f"longest time without a write, machine gone: {ledger.gap():.1f} s")
    assert ledger.gap() < FAILOVER_SECONDS
    keys = talk(["DBSIZE"])
    fleet.retire(master.id)
    empty = fleet.converged(master.id)
    assert settled([empty, *others])[0] is not empty
    assert talk(["GET", "LIMITS:before"], ["DBSIZE"])[1] == "kept"
    assert int(talk(["DBSIZE"])[1]) >= int(keys[1])


@pytest.mark.long
def test_rotation_of_the_ca_loses_a_second_at_most(
    fleet: Fleet,
    machines: list[Machine],
    web: Machine,
    values: dict[str, Any],
    talk: Talk,
    old_authority: Authority,
) -> None:
    """The three phases of `stackctl secrets rotate deployment-ca`, as the orchestration does."""
    old, new = old_authority, Authority.new(DEPLOYMENT.name)
    wanting = "SSLCertVerificationError"

    def answer(*trusted: Authority) -> str:
        """Return what a client is answered that trusts these CAs."""
        cas = "".join(each.certificate_pem for each in trusted)
        to = [*values["to"][:4], cas, NAME]
        return str(web.python(CLIENT + TALK, to=to, commands=[])[0]).partition(":")[0]

    def roll_out(trusted: Sequence[Authority], signer: Authority) -> None:
        fleet.pillar.trust(*trusted)
        for machine in sorted(machines, key=lambda each: each.id):
            fleet.converge(machine)
        assert failed(web.apply("stores")) == []
        settled(machines)
        leaf = fleet.pillar.secrets["redis-tls"]["certificate"]
        for machine in machines:
            assert machine.salt("trust.told")["not_loaded"] == {}
            for port in (REDIS, SENTINEL):
                chain, _ = shake_hands(machine, machine.address, port)
                assert chain in ([leaf], [leaf, signer.certificate_pem]), (machine.id, port)

    ledger = Ledger(web)
    assert (answer(old), answer(new)) == ("OK", wanting)
    roll_out((old, new), old)
    assert (answer(old), answer(new)) == ("OK", wanting)
    fleet.pillar.sign(new)
    values["to"][4] = fleet.pillar.ca_certificate
    roll_out((old, new), new)
    assert (answer(old), answer(new), answer(old, new)) == (wanting, "OK", "OK")
    roll_out((new,), new)
    ledger.wait(time.time())
    print(f"longest time without a write, CA rotated: {ledger.gap():.1f} s")
    assert ledger.gap() < FAILOVER_SECONDS
    rows = [row for row in ledger.rows() if row[0] > ledger.began]
    _, *kept = talk(*(["EXISTS", f"LIMITS:ledger-{number}"] for _, number in rows))
    lost = [at for (at, _), there in zip(rows, kept, strict=True) if there != "1"]
    print(f"writes lost: {len(lost)} of {len(rows)}")
    # Each phase restarts the master, and a failover may lose a second.
    spans = [later - sooner for sooner, later in pairwise(lost) if later - sooner < 1]
    assert sum(spans) < 3


def test_last_machine_keeps_the_data(
    fleet: Fleet, machines: list[Machine], web: Machine, talk: Talk
) -> None:
    """The way back to the small map, whoever was the master."""
    del machines
    last = _shrink(fleet)
    assert told(last) == {"replication": "master, the only machine", "problem": ""}
    assert failed(web.apply("stores")) == []
    until(lambda: talk(["GET", "LIMITS:before"]) == ["OK", "kept"], "it serves", 10, every=0.5)
    assert changed(fleet.converge(last)) == []


def _shrink(fleet: Fleet) -> Machine:
    for name in LATER:
        fleet.retire(name)
    last = fleet.machine("redis-1")
    fleet.converge(last)
    return last


def _assert_all_kept(ledger: Ledger, talk: Talk) -> None:
    numbers = [number for at, number in ledger.rows() if at > ledger.began]
    asked = ["EXISTS", *(f"LIMITS:ledger-{number}" for number in numbers)]
    # HAProxy ends connections to the former master when it sees the new one.
    kept = until(
        lambda: answers if (answers := talk(asked))[0] == "OK" else [], "Redis answers", 10
    )
    assert kept == ["OK", str(len(numbers))]
