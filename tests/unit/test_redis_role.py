"""Who the master is, before Redis starts and before it stops; and what Salt makes of it.

Redis and Sentinel are servers on loopback addresses, which speak their protocol over TLS.
"""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from plainpillar import ROOT
from saltmodules import load, load_file
from stackctl.certificates import Authority
from waiting import without_waiting

AUTHORITY = Authority.new("test")
NAME = "redis.example.internal"
FIELDS = AUTHORITY.server(NAME, [NAME])
IDS = {"redis-1": "127.0.1.1", "redis-2": "127.0.1.2", "redis-3": "127.0.1.3"}
ONE, TWO, THREE = IDS.values()
PORT, SENTINEL_PORT = 16379, 16380  # below those that a connection may have of its own
PASSWORD = "p w"
STRANGER = "127.0.1.9"


@dataclass
class Server:
    """A Redis or a Sentinel: command -> its answer, or what makes it."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, words: list[str]) -> bytes:
        """Return the answer to a command, in the protocol's form."""
        if words[0] == "AUTH":
            right = words[1:] == ["sentinel", PASSWORD]
            return b"+OK\r\n" if right else b"-WRONGPASS no\r\n"
        command = " ".join(words)
        self.asked.append(command)
        found = self.answers.get(command, ValueError(f"ERR unknown {command}"))
        return encoded(found() if callable(found) else found)


def encoded(value: Any) -> bytes:
    """Return a value in the protocol's form."""
    match value:
        case ValueError():
            return f"-{value}\r\n".encode()
        case list():
            return f"*{len(value)}\r\n".encode() + b"".join(map(encoded, value))
        case None:
            return b"$-1\r\n"
        case int():
            return f":{value}\r\n".encode()
        case "OK":
            return b"+OK\r\n"
    return f"${len(value)}\r\n{value}\r\n".encode()


def master_is(address: str, epoch: int = 0) -> Server:
    """Return a Sentinel that names a master."""
    told = ["name", "redis", "ip", address, "port", str(PORT), "config-epoch", str(epoch)]
    return Server({"SENTINEL MASTER redis": told})


def info(role: str, *replicas: str, **more: Any) -> str:
    """Return what a Redis says about its replication."""
    lines = {"role": role, "master_repl_offset": 7, **more}
    lines |= {f"slave{n}": row for n, row in enumerate(replicas)}
    return "# Replication\r\n" + "".join(f"{key}:{value}\r\n" for key, value in lines.items())


def replica(address: str, offset: int = 7, state: str = "online") -> str:
    return f"ip={address},port={PORT},state={state},offset={offset},lag=1"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, as a module."""
    return load_file(ROOT / "salt" / "redis" / "files" / "redis_role.py")


@pytest.fixture
def pauses(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that take no time."""
    return without_waiting(monkeypatch, program)


Serve = Callable[..., None]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(address, port, server)`: answers there until the end of the test."""
    pem = tmp_path / "server.pem"
    pem.write_text(FIELDS["certificate"] + FIELDS["private_key"])
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(pem)

    class Listener(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with ExitStack() as stack:

        def begin(address: str, port: int, server: Server) -> None:
            class Handler(socketserver.StreamRequestHandler):
                def handle(self) -> None:
                    try:
                        stream = trust.wrap_socket(self.request, server_side=True).makefile("rwb")
                        while line := stream.readline():
                            words = []
                            for _ in range(int(line[1:])):
                                size = int(stream.readline()[1:])
                                words.append(stream.read(size + 2)[:-2].decode())
                            stream.write(server.answer(words))
                            stream.flush()
                    except OSError:
                        pass

            listener = Listener((address, port), Handler)
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(listener.server_close)
            stack.callback(listener.shutdown)

        yield begin


@pytest.fixture
def sentinels(serve: Serve) -> Callable[..., list[Server]]:
    """`sentinels({address: server})`: each answers there as Sentinel."""

    def begin(servers: dict[str, Server]) -> list[Server]:
        for address, server in servers.items():
            serve(address, SENTINEL_PORT, server)
        return list(servers.values())

    return begin


@pytest.fixture
def cluster(program: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """`cluster(own, machines)`: three machines, unless told otherwise."""
    ca = tmp_path / "ca.pem"
    ca.write_text(AUTHORITY.certificate_pem)

    def make(own: str = ONE, machines: dict[str, str] = IDS) -> Any:
        return program.Cluster(
            own, machines, PORT, SENTINEL_PORT, "sentinel", PASSWORD, str(ca), NAME
        )

    return make


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """An empty disk."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def used(data: Path) -> Path:
    """A disk with data."""
    (data / "appendonlydir").mkdir()
    (data / "appendonlydir" / "appendonly.aof.manifest").touch()
    return data


# -- the master ------------------------------------------------------------------------------------


def test_only_machine_is_the_master(program: ModuleType, cluster: Any, data: Path) -> None:
    assert program.find_master(cluster(machines={"redis-1": ONE}), 0, str(data)) == ONE


def test_newest_knowledge_counts(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, used: Path
) -> None:
    """The own Sentinel was away while the others chose."""
    sentinels({ONE: master_is(ONE, 3), TWO: master_is(TWO, 4), THREE: master_is(TWO, 4)})
    assert program.find_master(cluster(), 60, str(used)) == TWO
    assert pauses == []


def test_machine_without_data_follows(
    program: ModuleType, cluster: Any, sentinels: Any, data: Path
) -> None:
    sentinels({TWO: master_is(THREE), THREE: master_is(THREE)})
    assert program.find_master(cluster(), 60, str(data)) == THREE


def test_fewer_than_half_are_believed_late(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, used: Path
) -> None:
    sentinels({ONE: master_is(ONE)})
    assert program.find_master(cluster(), 60, str(used)) == ONE
    assert sum(pauses) == 10


def test_empty_machine_waits_until_it_is_replaced(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, data: Path
) -> None:
    """It came back so soon that the others still take it for the master."""
    two, three = sentinels({TWO: master_is(ONE), THREE: master_is(ONE)})

    def later() -> Any:
        chosen = master_is(TWO, 1) if sum(pauses) > 5 else master_is(ONE)
        return chosen.answers["SENTINEL MASTER redis"]

    two.answers["SENTINEL MASTER redis"] = three.answers["SENTINEL MASTER redis"] = later
    assert program.find_master(cluster(), 60, str(data)) == TWO


def test_empty_machine_never_becomes_the_master_of_others(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, data: Path
) -> None:
    sentinels({TWO: master_is(ONE), THREE: master_is(ONE)})
    with pytest.raises(program.RoleError, match=r"names redis-1 as the master, and its disk is em"):
        program.find_master(cluster(), 60, str(data))
    assert sum(pauses) == 60


def test_machine_with_data_stays_the_master(
    program: ModuleType, cluster: Any, sentinels: Any, used: Path
) -> None:
    sentinels({TWO: master_is(ONE), THREE: master_is(ONE)})
    assert program.find_master(cluster(), 60, str(used)) == ONE


def test_first_machine_begins_where_nothing_runs(
    program: ModuleType, pauses: list[float], cluster: Any, data: Path
) -> None:
    assert program.find_master(cluster(), 60, str(data)) == ONE
    assert sum(pauses) == 10, "they had time to start"


@pytest.mark.parametrize("own", [TWO, THREE])
def test_other_machines_wait_for_the_first(
    program: ModuleType, pauses: list[float], cluster: Any, data: Path, own: str
) -> None:
    with pytest.raises(program.RoleError, match=r"redis-1: neither runs there.* Bring the machine"):
        program.find_master(cluster(own), 30, str(data))
    assert sum(pauses) == 30


def test_first_machine_does_not_begin_beside_a_redis(
    program: ModuleType, pauses: list[float], cluster: Any, serve: Serve, data: Path
) -> None:
    serve(TWO, PORT, Server())
    with pytest.raises(
        program.RoleError,
        match=r"^redis-1 cannot tell .*redis-2: Redis runs there, and Sentinel does not; redis-3",
    ):
        program.find_master(cluster(), 60, str(data))


def test_first_machine_does_not_begin_beside_a_silent_one(
    program: ModuleType, pauses: list[float], cluster: Any, data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(address: tuple[str, int], seconds: float) -> Any:
        raise ConnectionRefusedError if address[0] == TWO else TimeoutError("timed out")

    monkeypatch.setattr(program.socket, "create_connection", refuse)
    with pytest.raises(program.RoleError, match="redis-3: Sentinel: timed out"):
        program.find_master(cluster(), 60, str(data))


def test_machine_that_stops_answering_begins_the_wait_anew(
    program: ModuleType, pauses: list[float], cluster: Any, data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A machine that boots refuses before it serves."""

    def refuse(address: tuple[str, int], seconds: float) -> Any:
        raise TimeoutError if 6 < sum(pauses) < 9 else ConnectionRefusedError

    monkeypatch.setattr(program.socket, "create_connection", refuse)
    assert program.find_master(cluster(), 60, str(data)) == ONE
    assert sum(pauses) == 19


def test_data_of_the_release_without_sentinel_is_the_masters(
    program: ModuleType, pauses: list[float], cluster: Any, serve: Serve, used: Path
) -> None:
    serve(TWO, PORT, Server())
    assert program.find_master(cluster(), 60, str(used)) == ONE
    assert pauses == []
    with pytest.raises(program.RoleError, match="cannot tell"):
        program.find_master(cluster(TWO), 1, str(used))


def test_machine_that_had_a_sentinel_waits_for_it(
    program: ModuleType, pauses: list[float], cluster: Any, used: Path
) -> None:
    (used / "sentinel.conf").touch()
    with pytest.raises(program.RoleError, match="cannot tell"):
        program.find_master(cluster(), 60, str(used))


def test_master_that_is_no_machine_does_not_count(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, used: Path
) -> None:
    sentinels({TWO: master_is(STRANGER, 9), THREE: master_is(TWO)})
    assert program.find_master(cluster(), 60, str(used)) == TWO


@pytest.mark.parametrize(
    "server",
    [
        Server({"SENTINEL MASTER redis": ValueError("ERR No such master")}),
        Server({"SENTINEL MASTER redis": ["ip", ONE]}),
    ],
)
def test_sentinel_without_an_answer_is_no_vote(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, data: Path,
    server: Server,
) -> None:  # fmt: skip
    sentinels({TWO: server})
    with pytest.raises(program.RoleError, match=r"redis-2: Sentinel: .*(such master|epoch)"):
        program.find_master(cluster(), 5, str(data))


@pytest.mark.parametrize("fault", ["password", "name", "ca"])
def test_sentinel_is_believed_under_its_certificate_only(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, data: Path, fault: str
) -> None:
    sentinels({TWO: master_is(TWO), THREE: master_is(TWO)})
    wrong = {"password": "wrong", "name": "web-1", "ca": str(data.with_name("server.pem"))}
    asking = replace(cluster(), **{fault: wrong[fault]})
    with pytest.raises(program.RoleError, match=r"WRONGPASS|CERTIFICATE_VERIFY_FAILED"):
        program.find_master(asking, 1, str(data))


# -- before a start --------------------------------------------------------------------------------


def test_role_is_written_before_redis_starts(
    program: ModuleType, cluster: Any, sentinels: Any, used: Path, tmp_path: Path
) -> None:
    sentinels({TWO: master_is(TWO), THREE: master_is(TWO)})
    role = tmp_path / "role.conf"
    assert program.start(cluster(), 5, str(tmp_path), str(used)) == TWO
    assert role.read_text() == f"replicaof {TWO} {PORT}\n"
    assert program.start(cluster(TWO), 5, str(tmp_path), str(used)) == TWO
    assert role.read_text() == ""


@pytest.fixture
def settings(tmp_path: Path) -> str:
    """Salt's settings of Sentinel."""
    path = tmp_path / "settings.conf"
    path.write_text("tls-port 1\n")
    return str(path)


def test_sentinel_begins_with_the_master_of_its_redis(
    program: ModuleType, cluster: Any, serve: Serve, data: Path, settings: str
) -> None:
    redis = Server({"INFO replication": info("slave", master_host=TWO)})
    serve(ONE, PORT, redis)
    program.watch(cluster(), 5, settings, str(data))
    assert (data / "sentinel.conf").read_text() == (
        f"tls-port 1\nsentinel monitor redis {TWO} {PORT} 2\n"
    )
    redis.answers["INFO replication"] = info("master")
    (data / "sentinel.conf").unlink()
    program.watch(cluster(machines={"redis-1": ONE}), 5, settings, str(data))
    assert f"sentinel monitor redis {ONE} {PORT} 1\n" in (data / "sentinel.conf").read_text()


def test_sentinel_keeps_what_it_knew_of_these_machines(
    program: ModuleType, cluster: Any, data: Path, settings: str
) -> None:
    path = data / "sentinel.conf"
    kept = [
        "sentinel myid 1a",
        "sentinel config-epoch redis 4",
        "sentinel leader-epoch redis 5",
        "sentinel current-epoch 6",
        f"sentinel known-replica redis {ONE} {PORT}",
        f"sentinel known-sentinel redis {THREE} {SENTINEL_PORT} 2b",
    ]
    gone = [
        f"sentinel monitor redis {TWO} {PORT} 1",
        "tls-port 2",
        "sentinel auth-pass redis old",
        f"sentinel known-replica redis {TWO} {PORT}",
        f"sentinel known-replica redis {STRANGER} {PORT}",
        f"sentinel known-sentinel redis {STRANGER} {SENTINEL_PORT} 3c",
    ]
    path.write_text("\n".join(gone + kept) + "\n")
    program.watch(cluster(), 5, settings, str(data))
    expected = ["tls-port 1", f"sentinel monitor redis {TWO} {PORT} 2", *kept]
    assert path.read_text().splitlines() == expected


def test_sentinel_whose_master_is_gone_asks_its_redis(
    program: ModuleType, pauses: list[float], cluster: Any, serve: Serve, data: Path, settings: str
) -> None:
    (data / "sentinel.conf").write_text(f"sentinel monitor redis {STRANGER} {PORT} 2\n")
    with pytest.raises(
        program.RoleError, match=r"Sentinel knows no master, and Redis here: .*refus"
    ):
        program.watch(cluster(), 5, settings, str(data))
    assert sum(pauses) == 5
    serve(ONE, PORT, Server({"INFO replication": info("slave", master_host=THREE)}))
    program.watch(cluster(), 5, settings, str(data))
    assert f"monitor redis {THREE} " in (data / "sentinel.conf").read_text()


# -- before a stop ---------------------------------------------------------------------------------

PAUSE = "CLIENT PAUSE 80000 WRITE"
ASK = "SENTINEL GET-MASTER-ADDR-BY-NAME redis"


def failing_over() -> Server:
    """Return a Sentinel that names another master after the second question."""
    answers = iter([[ONE, str(PORT)], [THREE, str(PORT)]])
    return Server({"SENTINEL FAILOVER redis": "OK", ASK: lambda: next(answers)})


@pytest.fixture
def master(serve: Serve) -> Server:
    """The Redis of this machine, with two replicas."""
    server = Server({PAUSE: "OK"})
    server.answers["INFO replication"] = info("master", replica(TWO), replica(THREE))
    serve(ONE, PORT, server)
    return server


def test_master_hands_over_when_all_is_copied(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, master: Server
) -> None:
    answers = iter([[], [replica(TWO, 6)], [replica(TWO, 6)], [replica(TWO)]])
    master.answers["INFO replication"] = lambda: info("master", *next(answers, [replica(TWO)]))
    two, three = sentinels({TWO: Server(), THREE: failing_over()})
    assert program.hand_over(cluster()) == "handed over, says Sentinel of redis-3"
    assert two.asked == ["SENTINEL FAILOVER redis"], "it refuses"
    assert three.asked == ["SENTINEL FAILOVER redis", ASK, ASK]
    assert master.asked[:2] == ["INFO replication"] * 2
    assert PAUSE in master.asked


def test_master_stops_without_replicas(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, master: Server
) -> None:
    (three,) = sentinels({THREE: failing_over()})
    master.answers["INFO replication"] = info("master", replica(TWO, state="wait_bgsave"))
    assert (
        program.hand_over(cluster()) == "not handed over: not every replica that runs is connected"
    )
    assert (three.asked, set(master.asked)) == ([], {"INFO replication"})
    assert sum(pauses) == pytest.approx(8, abs=0.2)


def test_master_waits_for_a_replica_that_has_just_started(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, serve: Serve,
    master: Server,
) -> None:  # fmt: skip
    """Sentinel could choose it, although it lacks what was written meanwhile."""
    (three,) = sentinels({THREE: failing_over()})
    serve(THREE, PORT, Server())
    master.answers["INFO replication"] = info("master", replica(TWO))
    assert program.hand_over(cluster()).startswith("not handed over: not every replica")
    assert (three.asked, PAUSE in master.asked) == ([], False)
    rows = iter([[replica(TWO)], [replica(TWO), replica(THREE)]])
    both = [replica(TWO), replica(THREE)]
    master.answers["INFO replication"] = lambda: info("master", *next(rows, both))
    assert program.hand_over(cluster()) == "handed over, says Sentinel of redis-3"


def test_master_does_not_hand_over_to_a_replica_that_lags(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, master: Server
) -> None:
    (three,) = sentinels({THREE: failing_over()})
    master.answers["INFO replication"] = info("master", replica(TWO), replica(THREE, 6))
    assert program.hand_over(cluster()) == "not handed over: no replica took over in time"
    assert three.asked == []


def test_master_whose_sentinels_do_nothing_takes_no_more_writes(
    program: ModuleType, pauses: list[float], cluster: Any, sentinels: Any, master: Server
) -> None:
    stuck = Server({"SENTINEL FAILOVER redis": "OK", ASK: [ONE, str(PORT)]})
    sentinels({TWO: stuck})
    assert program.hand_over(cluster()) == "not handed over: no replica took over in time"
    assert sum(pauses) == pytest.approx(15, abs=0.2)
    assert PAUSE in master.asked


def test_who_has_nothing_to_hand_over(
    program: ModuleType, cluster: Any, serve: Serve, master: Server
) -> None:
    serve(TWO, PORT, Server({"INFO replication": info("slave", master_host=ONE)}))
    assert program.hand_over(cluster(TWO)) == "a replica"
    assert program.hand_over(cluster(machines={"redis-1": ONE})) == "the only machine"
    assert "refused" in program.hand_over(cluster(THREE))
    assert master.asked == []


# -- for Salt --------------------------------------------------------------------------------------


def test_redis_that_runs_keeps_its_role(
    program: ModuleType, cluster: Any, master: Server, data: Path
) -> None:
    assert program.decide(cluster(), 0, str(data)) == {"master": "", "changed": ""}
    assert master.asked == []


def test_redis_that_does_not_run_asks(
    program: ModuleType, cluster: Any, sentinels: Any, data: Path
) -> None:
    sentinels({TWO: master_is(TWO), THREE: master_is(TWO)})
    assert program.decide(cluster(), 5, str(data)) == {"master": "redis-2", "changed": ""}


def test_last_machine_follows_nobody(
    program: ModuleType, cluster: Any, serve: Serve, data: Path
) -> None:
    redis = Server({"SLAVEOF NO ONE": "OK"})
    redis.answers["INFO replication"] = info("slave", master_host=TWO)
    serve(ONE, PORT, redis)
    alone = cluster(machines={"redis-1": ONE})
    assert program.decide(alone, 0, str(data))["changed"] == "it follows no other machine any more"
    assert redis.asked[-1] == "SLAVEOF NO ONE"
    redis.answers["INFO replication"] = info("master")
    assert program.decide(alone, 0, str(data))["changed"] == ""
    stranger = replace(alone, password="of a release without this user")
    assert program.decide(stranger, 0, str(data)) == {"master": "", "changed": ""}


@pytest.mark.parametrize(
    ("answer", "replication", "problem"),
    [
        (info("master", replica(TWO), replica(THREE)),
         "master, redis-2 1 s behind, redis-3 1 s behind", ""),
        (info("master", replica(TWO, state="wait_bgsave"), replica(THREE)),
         "master, redis-3 1 s behind", "1 of 2 replicas do not follow"),
        (info("master"), "master, no replica", "2 of 2 replicas do not follow"),
        (info("slave", master_host=TWO, master_link_status="up", master_last_io_seconds_ago=1),
         "replica of redis-2, 1 s behind", ""),
        (info("slave", master_host=STRANGER, master_link_status="down",
              master_link_down_since_seconds=8),
         f"replica of {STRANGER}", f"it does not reach its master {STRANGER} for 8 s"),
    ],
)  # fmt: skip
def test_role_in_words(
    program: ModuleType, cluster: Any, serve: Serve, answer: str, replication: str, problem: str
) -> None:
    serve(ONE, PORT, Server({"INFO replication": answer}))
    assert program.tell(cluster()) == {"replication": replication, "problem": problem}


def test_role_of_the_only_machine_and_of_none(
    program: ModuleType, cluster: Any, master: Server
) -> None:
    alone = cluster(machines={"redis-1": ONE})
    assert program.tell(alone) == {"replication": "master, the only machine", "problem": ""}
    found = program.tell(cluster(TWO))
    assert found["problem"].startswith("Redis does not tell its role: [Errno 111]")


def test_commands(
    program: ModuleType, pauses: list[float], cluster: Any, master: Server, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = tmp_path / "role.json"
    config.write_text(json.dumps(vars(cluster())))
    given = ["--config", str(config), "--seconds", "1"]
    assert program.main(["tell", *given]) == 0
    assert json.loads(capsys.readouterr().out)["replication"].startswith("master, redis-2")
    assert program.main(["decide", *given]) == 0
    assert json.loads(capsys.readouterr().out) == {"master": "", "changed": ""}
    config.write_text(json.dumps(vars(cluster(TWO))))
    assert program.main(["hand-over", *given]) == 0
    assert capsys.readouterr().out.startswith("not handed over: ")
    assert program.main(["decide", *given]) == 1
    assert capsys.readouterr().err.startswith("redis-2 cannot tell")


# -- Salt's modules --------------------------------------------------------------------------------


def test_module_runs_the_program() -> None:
    done = {"retcode": 0, "stdout": '{"master": "redis-2"}', "stderr": ""}
    commands: list[list[str]] = []

    def run_all(command: list[str], **_: Any) -> dict[str, Any]:
        commands.append(command)
        return done

    module = load("_modules", "redis_role", __salt__={"cmd.run_all": run_all})
    assert module.decide(7) == module.told() == {"master": "redis-2"}
    program = ["/usr/bin/python3", "-I", "/usr/local/lib/stack/redis_role.py"]
    assert commands == [[*program, "decide", "--seconds", "7"], [*program, "tell"]]
    done |= {"retcode": 1, "stderr": "a warning\nredis-1 cannot tell"}
    with pytest.raises(CommandExecutionError, match=r"^redis-1 cannot tell$"):
        module.decide(7)
    done |= {"stderr": ""}
    with pytest.raises(CommandExecutionError):
        module.told()


@pytest.mark.parametrize(
    ("replication", "problem", "sentinel", "unfit"),
    [
        ("replica of redis-1, 0 s behind", "", True, ""),
        ("replica of redis-1, 0 s behind", "", False, "Sentinel does not run"),
        (
            "replica of redis-1",
            "it does not reach its master",
            True,
            "it does not reach its master",
        ),
        ("", "Redis does not tell its role", True, "Redis does not tell its role"),
        ("master, no replica", "1 of 2 replicas do not follow", True, ""),
    ],
)
def test_others_count_on_the_master_and_on_who_follows(
    replication: str, problem: str, sentinel: bool, unfit: str
) -> None:
    told = json.dumps({"replication": replication, "problem": problem})
    functions: dict[str, Any] = {
        "cmd.run_all": lambda *_, **__: {"retcode": 0, "stdout": told, "stderr": ""},
        "service.status": lambda name: sentinel and name == "redis-sentinel",
    }
    assert load("_modules", "redis_role", __salt__=functions).unfit() == unfit
    functions["cmd.run_all"] = lambda *_, **__: {"retcode": 1, "stdout": "", "stderr": "no role"}
    assert load("_modules", "redis_role", __salt__=functions).unfit() == "no role"


@pytest.mark.parametrize(
    ("found", "result", "changes", "comment"),
    [
        ({"master": "redis-2", "changed": ""}, True, {}, "the master is redis-2"),
        ({"master": "", "changed": ""}, True, {}, "Redis runs"),
        ({"master": "", "changed": "it is free"}, True, {"role": "it is free"}, "it is free"),
        (None, False, {}, "cannot tell"),
    ],
)
def test_state(
    found: dict[str, str] | None, result: bool, changes: dict[str, str], comment: str
) -> None:
    def decide(seconds: int) -> dict[str, str]:
        assert seconds == 9
        if found is None:
            raise CommandExecutionError("cannot tell")
        return found

    given: dict[str, Any] = {"__salt__": {"redis_role.decide": decide}, "__opts__": {"test": False}}
    state = load("_states", "redis_role", **given)
    expected = {"name": "redis", "result": result, "changes": changes, "comment": comment}
    assert state.decided("redis", 9) == expected
    state = load("_states", "redis_role", **(given | {"__opts__": {"test": True}}))
    assert state.decided("redis", 9)["changes"] == {}
    assert state.decided("redis", 9)["result"] is True
