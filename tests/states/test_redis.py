"""Redis from both sides: what the user may do, what is denied, and what survives a crash."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import yaml

from handshake import shake_hands
from harness import MACHINE_MEBIBYTES, Fleet, Machine
from plainpillar import DEPLOYMENT, DOMAIN, ROOT
from stackctl.password_rotation import begin, continued
from waiting import until

CLIENT = r"""
import socket, ssl

def read(stream):
    line = stream.readline().decode().rstrip()
    kind, rest = line[0], line[1:]
    if kind == "*":
        return [read(stream) for _ in range(int(rest))]
    if kind == "$":
        return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
    return {"+": rest, "-": line}.get(kind) if kind in "+-" else int(rest)

try:
    sock = socket.create_connection((address, 6379), 60)
    if ca:
        sock = ssl.create_default_context(cadata=ca).wrap_socket(sock, server_hostname=name)
    stream = sock.makefile("rwb")
    result = []
    for args in commands:
        stream.write(b"*%d\r\n" % len(args))
        for arg in args:
            stream.write(b"$%d\r\n%s\r\n" % (len(arg.encode()), arg.encode()))
        stream.flush()
        result.append(read(stream))
except (OSError, IndexError) as error:
    result = f"{type(error).__name__}: {error}"
"""

# Sets keys of `size` bytes, 50 at a time, and counts the answers by their first word.
FILL = r"""
import collections, socket, ssl

def command(*args):
    words = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)

def send(requests):
    sock.sendall(b"".join(requests))
    return [stream.readline().decode().split()[0] for _ in requests]

sock = socket.create_connection((address, 6379), 120)
sock = ssl.create_default_context(cadata=ca).wrap_socket(sock, server_hostname=name)
stream = sock.makefile("rb")
result = collections.Counter(send([command("AUTH", user, password)]))
value = b"x" * size
for first in range(0, count, 50):
    numbers = range(first, min(first + 50, count))
    result.update(send([command("SET", f"LIMITS:fill-{n}", value) for n in numbers]))
"""

KIB = 1024
VALUE = 31 * KIB  # with its header it takes 32
MAXMEMORY = (
    yaml.safe_load((ROOT / "salt/redis/defaults.yaml").read_text())["redis"]["maxmemory_megabytes"]
    * KIB
    * KIB
)
FULL = MAXMEMORY // (32 * KIB)

CONFIG = "/etc/redis/redis.conf"
USER = "airflow"
NAME = f"redis.{DOMAIN}"

Session = Callable[..., list[object]]
Fill = Callable[[int], dict[str, int]]


@pytest.fixture(scope="module")
def redis(converged: Callable[[str], Machine]) -> Machine:
    """The server."""
    return converged("redis-1")


@pytest.fixture(scope="module")
def web(fleet: Fleet, redis: Machine) -> Machine:
    """A web machine for the clients; no state is applied to it."""
    return fleet.machine("web-1")


@pytest.fixture(scope="module")
def session(fleet: Fleet, redis: Machine, web: Machine) -> Session:
    """`session(commands)`: the answers that the application's user gets on a web machine."""
    password = fleet.pillar.secrets["redis-airflow"]["password"]
    trusted = fleet.pillar.ca_certificate

    def talk(
        *commands: Sequence[str],
        password: str = password,
        ca: str | None = trusted,
        name: str = NAME,
    ) -> list[object]:
        everything = [["AUTH", USER, password], *commands]
        answers = web.python(CLIENT, address=redis.address, ca=ca, name=name, commands=everything)
        return [answers] if isinstance(answers, str) else answers

    return talk


@pytest.fixture
def fill(fleet: Fleet, redis: Machine, web: Machine, session: Session) -> Iterator[Fill]:
    """`fill(count)`: sets so many keys of 31 KiB; returns answer -> how often it came."""
    values = {
        "address": redis.address,
        "ca": fleet.pillar.ca_certificate,
        "name": NAME,
        "user": USER,
        "password": fleet.pillar.secrets["redis-airflow"]["password"],
        "size": VALUE,
    }
    yield lambda count: dict(web.python(FILL, count=count, **values))
    for first in range(0, FULL, 1000):
        session(["DEL", *(f"LIMITS:fill-{n}" for n in range(first, first + 1000))])


def test_converges(fleet: Fleet, redis: Machine) -> None:
    fleet.assert_idempotent(redis)


def test_right_password_connects_over_verified_tls(session: Session) -> None:
    assert session(["PING"]) == ["OK", "PONG"]


def test_wrong_password_is_refused(session: Session) -> None:
    assert str(session(password="wrong")[0]).startswith("-WRONGPASS")


def test_plaintext_is_refused(session: Session) -> None:
    assert "OK" not in session(ca=None)


@pytest.mark.parametrize("port", [6379, 26379])
def test_older_tls_is_refused(redis: Machine, port: int) -> None:
    assert shake_hands(redis, redis.address, port)[0]
    chain, refusal = shake_hands(redis, redis.address, port, ciphers="ECDHE+AESGCM")
    assert not chain
    assert "PROTOCOL_VERSION" in refusal.upper()


def test_certificate_is_valid_for_own_name_only(session: Session) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in str(session(name=f"postgres.{DOMAIN}")[0])


def test_anonymous_client_is_refused(fleet: Fleet, redis: Machine, web: Machine) -> None:
    anonymous = [["PING"], ["GET", "LIMITS:x"], ["AUTH", "default", ""], ["AUTH", ""]]
    answers = web.python(
        CLIENT, address=redis.address, ca=fleet.pillar.ca_certificate, name=NAME, commands=anonymous
    )
    assert [str(answer).split()[0] for answer in answers] == [
        "-NOAUTH",
        "-NOAUTH",
        "-WRONGPASS",
        "-WRONGPASS",
    ]


def test_broker_commands_are_allowed(session: Session) -> None:
    """The commands of kombu's Redis transport."""
    answers = session(
        ["CLIENT", "SETINFO", "LIB-NAME", "test"],
        ["SELECT", "0"],
        ["SADD", "_kombu.binding.default", "default"],
        ["SMEMBERS", "_kombu.binding.default"],
        ["LPUSH", "default", "message"],
        ["LLEN", "default"],
        ["BRPOP", "default", "default\x06\x163", "1"],
        ["MULTI"],
        ["ZADD", "unacked_index", "1", "tag"],
        ["HSET", "unacked", "tag", "message"],
        ["EXEC"],
        ["ZREVRANGEBYSCORE", "unacked_index", "2", "0", "LIMIT", "0", "10", "WITHSCORES"],
        ["SET", "unacked_mutex", "1", "NX", "EX", "1"],
        ["PUBLISH", "/0.celery.pidbox", "message"],
        ["DEL", "_kombu.binding.default", "unacked_index", "unacked", "unacked_mutex"],
    )
    assert not [answer for answer in answers if str(answer).startswith("-")]


def test_rate_limiter_commands_are_allowed(session: Session) -> None:
    """The commands of the `limits` library's Redis storage."""
    script = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
    loaded = session(["SCRIPT", "LOAD", script])[1]
    answers = session(
        ["EVALSHA", str(loaded), "1", "LIMITS:LIMITER/x", "1"],
        ["EXPIRE", "LIMITS:LIMITER/x", "10"],
        ["TTL", "LIMITS:LIMITER/x"],
        ["GET", "LIMITS:LIMITER/x"],
        ["DEL", "LIMITS:LIMITER/x"],
    )
    assert answers[1] == 1
    assert not [answer for answer in answers if str(answer).startswith("-")]


@pytest.mark.parametrize(
    "command",
    [
        ["CONFIG", "GET", "*"],
        ["FLUSHALL"],
        ["FLUSHDB"],
        ["KEYS", "*"],
        ["SHUTDOWN", "NOSAVE"],
        ["ACL", "LIST"],
        ["MONITOR"],
        ["REPLICAOF", "198.51.100.1", "6379"],
        ["MODULE", "LIST"],
        ["FUNCTION", "FLUSH"],
        ["SCRIPT", "FLUSH"],
        ["CLIENT", "LIST"],
        ["SAVE"],
        ["GET", "other-application"],
        ["SUBSCRIBE", "other-application"],
        ["EVAL", "return redis.call('FLUSHALL')", "0"],
    ],
    ids=" ".join,
)
def test_other_commands_are_denied(session: Session, command: list[str]) -> None:
    answer = str(session(command)[1])
    assert answer.startswith("-NOPERM") or "ACL failure" in answer


def test_data_survives_crash(redis: Machine, session: Session) -> None:
    # Redis syncs its file every second. A write during a sync may take longer.
    assert session(["SET", "LIMITS:kept", "yes"], ["WAITAOF", "1", "0", "50000"]) == [
        "OK",
        "OK",
        [1, 0],
    ]
    assert redis.run("systemctl", "kill", "--signal=SIGKILL", "redis-server").returncode == 0
    until(lambda: session(["GET", "LIMITS:kept"]) == ["OK", "yes"], "Redis is back with its data")
    session(["DEL", "LIMITS:kept"])


def test_full_memory_refuses_writes_and_keeps_data(session: Session, fill: Fill) -> None:
    session(["SET", "LIMITS:first", "kept"])
    answers = fill(FULL)
    assert answers["-OOM"] > 0
    assert answers["+OK"] > FULL * 0.9
    assert session(["GET", "LIMITS:first"])[1] == "kept"
    session(["DEL", "LIMITS:first"])


@pytest.fixture
def slow_disk(redis: Machine, fill: Fill) -> Iterator[None]:
    """Full memory, and a fork that takes 5 ms for a key, so that all data changes meanwhile."""
    fill(FULL * 9 // 10)
    until(lambda: not _forked(redis), "no fork runs", every=0.5)
    redis.run("sed", "-i", "$ a rdb-key-save-delay 5000", CONFIG)
    assert redis.run("systemctl", "restart", "redis-server").returncode == 0
    yield
    redis.run("sed", "-i", "/rdb-key-save-delay/d", CONFIG)
    assert redis.run("systemctl", "restart", "redis-server").returncode == 0


def test_rewrite_of_full_memory_fits_the_machine(
    redis: Machine, slow_disk: None, fill: Fill
) -> None:
    """All data changes while the append-only file is written anew, and a highstate runs."""
    redis.limit_memory(MACHINE_MEBIBYTES * KIB * KIB)
    until(lambda: fill(FULL * 9 // 10) and _forked(redis), "the file has doubled", 180)
    highstate = threading.Thread(target=redis.apply, kwargs={"test": True})
    highstate.start()
    assert set(fill(FULL * 9 // 10)) == {"+OK"}
    assert _forked(redis)
    highstate.join()
    assert redis.oom_kills() == 0


def test_restart_keeps_data_without_snapshot(redis: Machine, session: Session) -> None:
    assert session(["SET", "LIMITS:kept", "yes"])[1] == "OK"
    assert redis.run("systemctl", "restart", "redis-server").returncode == 0
    until(lambda: session(["GET", "LIMITS:kept"]) == ["OK", "yes"], "Redis is back with its data")
    session(["DEL", "LIMITS:kept"])
    assert redis.run("test", "-e", "/var/lib/redis/dump.rdb").returncode == 1


def _forked(redis: Machine) -> bool:
    """Whether a fork writes the append-only file anew."""
    return bool(redis.run("pgrep", "-f", "^redis-aof-rewrite").returncode == 0)


@pytest.mark.long
def test_rotated_password_refuses_nobody_until_the_rotation_goes_on(
    fleet: Fleet, redis: Machine, session: Session
) -> None:
    secret, new = "redis-airflow", "the-next-password"
    before = fleet.pillar.secrets[secret]
    with fleet.pillar.rotated():
        both = begin(DEPLOYMENT, secret, {"password": new}, before)
        fleet.pillar.give(secret, both)
        fleet.converge(redis)
        fleet.assert_idempotent(redis)
        assert session(["PING"]) == session(["PING"], password=new) == ["OK", "PONG"]
        fleet.pillar.give(secret, continued(DEPLOYMENT, secret, both))
        fleet.converge(redis)
        fleet.assert_idempotent(redis)
        assert str(session()[0]).startswith("-WRONGPASS")
        assert session(["PING"], password=new) == ["OK", "PONG"]
    fleet.converge(redis)
    assert session(["PING"]) == ["OK", "PONG"]


def test_password_is_not_on_disk(fleet: Fleet, redis: Machine) -> None:
    password = fleet.pillar.secrets["redis-airflow"]["password"]
    assert redis.run("grep", "-rqF", password, "/etc/redis", "/var/lib/redis").returncode == 1
    assert redis.run("cat", "/etc/redis/users.acl", user="nobody").returncode != 0


def test_service_is_sandboxed(redis: Machine) -> None:
    verdict = redis.run("systemd-analyze", "security", "redis-server", "--threshold=40")
    assert verdict.returncode == 0, verdict.stdout.splitlines()[-1]
