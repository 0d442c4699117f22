"""A load balancer stops sending requests to machines that are about to go, and tells its load."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load
from stackctl.certificates import Authority
from tlsserver import Page, serving

HEADER = "# pxname,svname,qcur,qmax,scur,smax,slim,status,qtime,check_status,last_chk,"
QUIET = "#<PID> <type> <reloads>\n1 master 0\n# workers\n2 worker 0\n# old workers\n# programs\n"
RELOADED = QUIET.replace("# old workers\n", "# old workers\n3               worker          1\n")


class HAProxy:
    """HAProxy's socket: each server is `backend/name -> [queue, requests, state]`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.servers: dict[str, list[object]] = {
            "web/web-1": [0, 2, "UP"],
            "web/web-2": [1, 1, "UP"],
            "static/web-2": [0, 3, "UP"],
            "web/web-3": [0, 0, "DOWN"],
        }
        self.backend = {"web": (7, 850), "static": (0, 900)}
        self.answers_a_request_each_look = False
        self.refuses = ""
        self.clients = 9
        self.workers = QUIET
        self.checks: dict[str, str] = {}  # server -> its check's status and what that found
        self.down: set[str] = set()  # servers that a check finds down
        self.commands: list[str] = []

    def answer(self, command: str) -> str:
        self.commands.append(command)
        if command == "show proc":
            text, self.workers = self.workers, QUIET
            return text
        if command.startswith("disable frontend "):
            self.clients = max(0, self.clients - 3)
            return self.refuses
        if match := re.fullmatch(r"set server (\S+) state (drain|ready)", command):
            states = {"drain": "DRAIN", "ready": "UP" if match[1] not in self.down else "DOWN"}
            self.servers[match[1]][2] = states[match[2]]
            return self.refuses
        assert command == "show stat"
        lines = [HEADER, f"edge,FRONTEND,,,{self.clients},9,4000,OPEN,,,,"]
        lines += ["queue,FRONTEND,,,5,9,4000,OPEN,,,,"]
        self.clients = max(0, self.clients - 1)
        for name, (queue, requests, state) in self.servers.items():
            backend, server = name.split("/")
            check = self.checks.get(name, "L7OK,")
            lines.append(f"{backend},{server},{queue},9,{requests},9,64,{state},5,{check},")
        for backend, (queue, milliseconds) in self.backend.items():
            lines.append(f"{backend},BACKEND,{queue},9,6,9,,UP,{milliseconds},,,")
        if self.answers_a_request_each_look:
            for entry in self.servers.values():
                entry[:2] = [0, max(0, int(str(entry[1])) - 1)]
        return "\n".join(lines) + "\n\n"


@pytest.fixture
def haproxy(tmp_path: Path, edge: ModuleType) -> Iterator[HAProxy]:
    made = HAProxy(str(tmp_path / "admin.sock"))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            command = self.rfile.readline().decode().strip()
            self.wfile.write(made.answer(command).encode())

    with socketserver.UnixStreamServer(made.path, Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        edge._old_workers.__defaults__ = (made.path,)
        yield made
        server.shutdown()


@pytest.fixture
def edge() -> ModuleType:
    module = load("_modules", "edge")
    module.__dict__["POLL_SECONDS"] = 0.01
    return module


def test_drain_waits_until_the_last_request_is_answered(edge: ModuleType, haproxy: HAProxy) -> None:
    haproxy.answers_a_request_each_look = True
    assert edge.drain(["web-2"], path=haproxy.path) == {"web-2": 0}
    states = {name: server[2] for name, server in haproxy.servers.items()}
    assert states == {
        "web/web-1": "UP", "web/web-2": "DRAIN", "static/web-2": "DRAIN", "web/web-3": "DOWN"
    }  # fmt: skip
    assert haproxy.servers["static/web-2"][1] == 0


def test_drain_is_bounded_and_counts_what_is_left(edge: ModuleType, haproxy: HAProxy) -> None:
    assert edge.drain(["web-2", "web-3"], seconds=0.1, path=haproxy.path) == {
        "web-2": 5,
        "web-3": 0,
    }
    assert haproxy.commands.count("show stat") > 2


def test_drain_waits_for_the_process_before_a_reload(edge: ModuleType, haproxy: HAProxy) -> None:
    haproxy.workers = RELOADED
    assert edge.drain(["web-3"], path=haproxy.path) == {"web-3": 0}
    assert haproxy.commands.count("show proc") == 2


def test_second_drain_and_unknown_machine_change_nothing(
    edge: ModuleType, haproxy: HAProxy
) -> None:
    edge.drain(["web-3"], path=haproxy.path)
    haproxy.commands.clear()
    assert edge.drain(["web-3", "web-9"], path=haproxy.path) == {"web-3": 0, "web-9": 0}
    assert not any(command.startswith("set") for command in haproxy.commands)


def test_refusal_and_silence_are_errors(edge: ModuleType, haproxy: HAProxy) -> None:
    haproxy.refuses = "No such server."
    with pytest.raises(CommandExecutionError, match=r"does not drain web/web-2: No such server"):
        edge.drain(["web-2"], path=haproxy.path)
    with pytest.raises(CommandExecutionError, match=r"does not answer at /nowhere"):
        edge.drain(["web-2"], path="/nowhere")


def test_machine_that_was_away_is_asked_again(edge: ModuleType, haproxy: HAProxy) -> None:
    haproxy.servers["web/web-3"][2] = "MAINT"
    edge.drain(["web-1", "web-2"], seconds=0, path=haproxy.path)
    assert edge.up(path=haproxy.path) == []
    assert edge.bring_back(["web-1", "web-2", "web-9"], path=haproxy.path) == ["web-1", "web-2"]
    assert edge.up(path=haproxy.path) == ["web-1", "web-2"]
    assert haproxy.servers["web/web-3"][2] == "MAINT"


def test_machine_is_up_where_all_of_its_parts_are(edge: ModuleType, haproxy: HAProxy) -> None:
    haproxy.servers["static/web-2"][2] = "DOWN"
    assert edge.up(path=haproxy.path) == ["web-1"]


def test_machine_that_does_not_serve_is_not_brought_back(
    edge: ModuleType, haproxy: HAProxy
) -> None:
    haproxy.down = {"static/web-2"}
    with pytest.raises(CommandExecutionError, match=r"^HAProxy finds web-2 down$"):
        edge.bring_back(["web-1", "web-2"], seconds=0.05, path=haproxy.path)
    haproxy.refuses = "No such server."
    with pytest.raises(CommandExecutionError, match=r"does not take web/web-1 back: No such"):
        edge.bring_back(["web-1"], path=haproxy.path)


def test_load_balancer_leaves_when_its_clients_have_gone(
    edge: ModuleType, haproxy: HAProxy
) -> None:
    assert edge.leave(path=haproxy.path) == 0
    assert haproxy.commands[:2] == ["disable frontend plain", "disable frontend edge"]
    assert haproxy.commands.count("show stat") == 4


def test_leaving_is_bounded(edge: ModuleType, haproxy: HAProxy) -> None:
    haproxy.clients = 10_000
    assert edge.leave(seconds=0.05, path=haproxy.path) > 9_000
    haproxy.refuses = "Frontend is already disabled."
    assert edge.leave(seconds=0.05, path=haproxy.path) > 9_000
    haproxy.refuses = "Permission denied."
    with pytest.raises(CommandExecutionError, match="at plain: Permission denied"):
        edge.leave(path=haproxy.path)


def test_load_is_what_waits(edge: ModuleType, haproxy: HAProxy) -> None:
    # The queue of `static` is empty: its 900 ms are of the past.
    assert edge.load(path=haproxy.path) == {"queued": 8, "queue_ms": 850, "active": 6, "up": 2}
    haproxy.backend["web"] = (0, 850)
    found = edge.load(path=haproxy.path)
    assert (found["queued"], found["queue_ms"]) == (1, 5), "what waits for a server"


AUTHORITY = Authority.new("test")
SERVED, OWN = AUTHORITY.server("web", ["web.example.org"]), AUTHORITY.client("edge")


class Well(Page):
    """A web machine that takes every request."""

    status = 200

    def answer(self) -> None:
        self.send_response(self.status)
        self.end_headers()


class Stranger(Well):
    """A web machine to which this load balancer is a stranger."""

    status = 403


@pytest.mark.parametrize(
    ("page", "served", "check", "problem"),
    [
        (Well, SERVED, "L6RSP", r"^$"),
        (
            Well, AUTHORITY.server("redis", ["redis.example.org"]), "L6RSP",
            r"^HAProxy refuses web-1: .*Hostname mismatch",
        ),
        (
            Well, Authority.new("test").server("web", ["web.example.org"]), "L6RSP",
            r"^HAProxy refuses web-1: .*certificate verify failed",
        ),
        (Stranger, SERVED, "L7STS", r"^web-1 refuses the certificate of this machine$"),
        # Down for another reason, which HAProxy says itself.
        (Stranger, SERVED, "L4CON", r"^$"),
    ],
)  # fmt: skip
def test_machine_whose_tls_is_refused_is_told(
    haproxy: HAProxy,
    edge: ModuleType,
    tmp_path: Path,
    page: type[Page],
    served: dict[str, str],
    check: str,
    problem: str,
) -> None:
    with serving(page, served, tmp_path, AUTHORITY.certificate_pem) as port:
        found = refused_at(port, f"{check},SSL handshake failure", haproxy, edge, tmp_path)
    assert len(found) < 2
    assert re.search(problem, "".join(found))


def refused_at(
    port: int, check: str, haproxy: HAProxy, edge: ModuleType, folder: Path
) -> list[str]:
    """Return what is told of a machine that HAProxy's check finds down."""
    ca, own, config = (folder / name for name in ("ca.pem", "own.pem", "haproxy.cfg"))
    ca.write_text(AUTHORITY.certificate_pem)
    own.write_text(OWN["certificate"] + OWN["private_key"])
    tls = f"ssl verify required ca-file {ca} verifyhost web.example.org crt {own}"
    config.write_text(
        f"    server web-1 127.0.0.1:{port} {tls}\n    server web-2 127.0.0.1:1 {tls} track x\n"
    )
    haproxy.servers["web/web-1"][2] = "DOWN"
    haproxy.checks = {"web/web-1": check}
    found: list[str] = edge.refused(haproxy.path, str(config))
    return found


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "gone"])
def test_machine_that_is_away_refuses_nobody(
    haproxy: HAProxy, edge: ModuleType, tmp_path: Path, frozen: bool
) -> None:
    """Its check fails in TLS, too: one that is frozen takes connections and answers nothing."""
    with socket.socket() as machine:
        machine.bind(("127.0.0.1", 0))
        if frozen:
            machine.listen()
        port = machine.getsockname()[1]
        assert refused_at(port, "L6TOUT,", haproxy, edge, tmp_path) == []


def test_old_process_is_waited_for(haproxy: HAProxy, edge: ModuleType) -> None:
    haproxy.workers = RELOADED
    assert edge.finish_reload(5, haproxy.path) is True
    assert haproxy.commands.count("show proc") > 1
    haproxy.workers = RELOADED
    assert edge.finish_reload(0, haproxy.path) is True, "it has ended by the second look"
