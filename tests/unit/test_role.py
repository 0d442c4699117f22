"""The execution module `role`: the role of an id, and what a machine reports about its role."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import functions, load
from stackctl.certificates import Authority
from stackctl.roles import role_of
from tlsserver import Page, serving

AUTHORITY = Authority.new("test")
HEALTHY = b'{"metadatabase":{"status":"healthy"}}'


# Ids, and the role of each; "" for an id that has none.
IDS = [
    ("web-2", "web"),
    ("web-12", "web"),
    ("big-web-10", "big-web"),
    ("", ""),
    ("web", ""),
    ("web-", ""),
    ("-1", ""),
    ("web-0", ""),
    ("web-01", ""),
    ("web-x", ""),
    ("web_1", ""),
    ("web-1\n", ""),
]


@pytest.mark.parametrize(("minion_id", "role"), IDS)
def test_role_is_the_id_without_its_number(minion_id: str, role: str) -> None:
    salt = functions(minion_id, {}, {})
    assert salt["role.own"]() == salt["role.of"](minion_id) == role


@pytest.mark.parametrize(("minion_id", "role"), IDS)
def test_operator_command_reads_the_same_role_from_an_id(minion_id: str, role: str) -> None:
    assert role_of(minion_id) == role


def test_service_name_is_below_the_domain() -> None:
    pillar = {"domain": "example.internal", "roles": {"store": {"service": "db"}, "web": {}}}
    service_name = functions("web-1", pillar, {})["role.service_name"]
    assert service_name("store") == "db.example.internal"
    for role in ("web", "absent"):
        with pytest.raises(CommandExecutionError, match=role):
            service_name(role)


def test_accepted_minions_are_in_the_order_of_roles_and_numbers() -> None:
    keys = ["web-10", "web-9", "web-01", "big-web-1", "lb-1", "operator"]

    def wheel(function: str, match: str) -> dict[str, Any]:
        assert (function, match) == ("key.list", "accepted")
        return {"return": {"minions": keys} if keys else {}}

    pillar: dict[str, Any] = {"roles": {"lb": {}, "cache": {}, "web": {}}}
    accepted = functions("salt-1", pillar, {}, {"saltutil.wheel": wheel})["role.accepted"]
    assert accepted() == ["lb-1", "web-9", "web-10"]
    assert accepted("web", "lb") == ["web-9", "web-10", "lb-1"]
    with pytest.raises(CommandExecutionError, match="accepted no minion of the role 'cache'"):
        accepted("lb", "cache")
    keys.clear()
    assert accepted() == []


def test_machines_without_a_highstate_are_told_from_the_others() -> None:
    """One that does not answer may be new; the step that names it fails if it is silent."""
    asked: list[list[str]] = []

    def cmd(target: list[str], function: str, **options: Any) -> dict[str, Any]:
        assert (function, options["tgt_type"]) == ("file.file_exists", "list")
        assert options["arg"] == ["/etc/salt/role.json"]
        assert 0 < options["timeout"] <= 60
        asked.append(target)
        return {
            "web-1": {"ret": False},
            "web-2": {"ret": True},
            "web-3": {},
            "web-10": {"ret": "?"},
        }

    ids = ["web-1", "web-2", "web-3", "web-4", "web-10"]
    found = functions("salt-1", {}, {}, {"saltutil.cmd": cmd})["role.unsettled"](ids)
    assert found == ["web-1", "web-3", "web-4", "web-10"]
    assert asked == [ids], "all at once"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, False),
        ({"lb-1": [False, {}], "lb-2": [False, {}]}, False),
        ({"lb-1": [False, {}], "lb-2": [True, {}]}, True),
        ({"lb-1": [False, {"haproxy": ["/etc/haproxy/tls.pem"]}]}, False),
        ({"lb-1": [False, {"haproxy": ["/etc/haproxy/haproxy.cfg"]}]}, True),
        # As a machine without HAProxy, and without the tree's modules.
        ({"lb-1": ["File not found: /etc/haproxy/haproxy.cfg", "is not available."]}, False),
    ],
)
def test_edges_without_tls_are_found(answers: dict[str, list[Any]], expected: bool) -> None:
    def cmd(target: list[str], functions: list[str], **options: Any) -> Any:
        assert target == ["lb-1", "lb-2"]
        assert (len(options["arg"]), options["tgt_type"]) == (len(functions), "list")
        return {
            name: {"ret": dict(zip(functions, found, strict=True))}
            for name, found in answers.items()
        }

    ask = functions("salt-1", {}, {}, {"saltutil.cmd": cmd})["role.edges_without_tls"]
    assert ask(["lb-1", "lb-2"]) is expected


def test_no_load_balancer_is_not_asked() -> None:
    assert functions("salt-1", {}, {}, {})["role.edges_without_tls"]([]) is False


PILLAR: dict[str, Any] = {
    "aws": {"vpc": {"cidr": "127.0.0.0/8"}, "login_user": "admin"},
    "endpoints": {
        "app": {"port": 8080, "listeners": ["web"], "clients": ["batch"]},
        "app-metrics": {"port": 8081, "listeners": ["web"], "clients": ["watch"]},
        "ssh": {"port": 22, "listeners": ["any-role"], "clients": ["web"]},
        "ssh-operators": {"port": 22, "listeners": ["web"], "clients": ["operators"]},
    },
    "settings": {},
    "roles": {
        "web": {"unit": "app@1", "check": {"endpoint": "app", "path": "/health"}},
        "batch": {"unit": "batch"},
        "watch": {
            "unit": "watch",
            "optional": True,
            "certificate": {"path": "/tls.pem", "everywhere": {"web": ["/copy.pem"]}},
            "senders": {"path": "/sender.pem"},
        },
    },
}
ADDRESSES = {"web-1": "127.0.0.1", "batch-1": "127.0.0.2", "operator": "127.0.0.3"}


def test_description_has_address_and_port() -> None:
    assert functions("web-1", PILLAR, ADDRESSES)["role.description"]() == {
        "unit": "app@1",
        "check": {"endpoint": "app", "path": "/health"},
        "address": "127.0.0.1",
        "port": 8080,
        "ports": [22, 8080],
        "login_user": "admin",
    }
    assert functions("batch-1", PILLAR, ADDRESSES)["role.description"]() == {
        "unit": "batch",
        "address": "127.0.0.2",
        "ports": [22],
        "login_user": "admin",
    }


def test_role_that_a_map_may_lack_opens_ports_and_shares_its_certificate_where_it_is() -> None:
    there = {**ADDRESSES, "watch-1": "127.0.0.4"}
    found = functions("web-1", PILLAR, there)["role.description"]()
    assert found["ports"] == [22, 8080, 8081]
    assert found["shared"] == {"path": "/tls.pem", "copies": ["/copy.pem"]}
    assert found["sender"] == {"path": "/sender.pem"}
    found = functions("batch-1", PILLAR, there)["role.description"]()
    assert (found["ports"], found["shared"]) == ([22], {"path": "/tls.pem", "copies": []})


def test_description_names_the_certificate_that_the_check_verifies() -> None:
    check = {"endpoint": "app", "ca": "/etc/ca.pem"}
    roles = PILLAR["roles"] | {"web": {"unit": "a", "check": check}}
    pillar = {**PILLAR, "domain": "example", "roles": roles}
    assert functions("web-1", pillar, ADDRESSES)["role.description"]()["name"] == "web.example"


@pytest.mark.parametrize("minion_id", ["cache-1", "operator"])
def test_description_of_unknown_role_fails(minion_id: str) -> None:
    with pytest.raises(CommandExecutionError, match="pillar roles does not describe"):
        functions(minion_id, PILLAR, ADDRESSES)["role.description"]()


Status = Callable[..., dict[str, Any]]


@dataclass
class Drift:
    """What the modules `firewall` and `drift` answer on the machine."""

    firewall: list[str] | str = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    certificate: dict[str, str] = field(default_factory=lambda: {"renewal": "", "problem": ""})

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Return them as `__salt__`."""

        def differences() -> list[str]:
            if isinstance(self.firewall, str):
                raise CommandExecutionError(self.firewall)
            return self.firewall

        return {
            "firewall.differences": differences,
            "drift.found": lambda _path: self.found,
            "drift.outdated": lambda: ["app.service"],
            "drift.withheld": lambda: ["redis-server 8.0.3"],
            "machine_counts.told": lambda: "web grows",
            "drift.reboot_required": lambda: True,
            "edge.refused": lambda: ["HAProxy refuses web-1: SSL handshake failure"],
            "site_certificate.told": lambda: self.certificate,
            "site_address.told": lambda: {"replication": "has the address", "problem": ""},
            "cpu_credits.sample": lambda: {"at": 7.0},
            "cpu_credits.since": lambda before: f"out of CPU credits since {before['at']:g}",
        }


@pytest.fixture
def drift() -> Drift:
    """Nothing differs, unless a test says so."""
    return Drift()


@pytest.fixture
def status(tmp_path: Path, drift: Drift) -> Status:
    """`status(port, …)`: of a machine whose role is checked at that port of this host.

    Another function of the module can be named.
    """

    def ask(port: int, function: str = "status", **role: Any) -> dict[str, Any]:
        def systemctl(command: list[str], *, python_shell: bool) -> str:
            assert not python_shell
            assert command[-1] in ("app@1", "haproxy", "stopped")
            return "inactive" if command[-1] == "stopped" else "active"

        description = {"unit": "app@1", "address": "127.0.0.1", "port": port, "check": {}} | role
        path = tmp_path / "role.json"
        path.write_text(json.dumps(description))
        salt = functions("web-1", {}, {}, {"cmd.run_stdout": systemctl})
        salt |= drift.functions()
        return dict(salt[f"role.{function}"](str(path)))

    return ask


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of something that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., tuple[int, dict[str, str]]]]:
    """`site(status, body)`: serve a page over TLS; return the port and the `certificate` entry."""
    with ExitStack() as servers:

        def serve(status: int = 200, body: bytes = HEALTHY) -> tuple[int, dict[str, str]]:
            class Health(Page):
                def answer(self) -> None:
                    self.send_response(status if self.path == "/health" else 404)
                    self.end_headers()
                    self.wfile.write(body)

            fields = AUTHORITY.server("other.example.org", ["other.example.org"])
            port = servers.enter_context(serving(Health, fields, tmp_path))
            return port, {"path": str(tmp_path / "server.pem")}

        yield serve


def test_status_of_machine_that_serves(status: Status, listener: int) -> None:
    found = status(listener)
    assert found.pop("memory_mib") > 20  # this very process is counted
    assert found == {
        "unit": "app@1",
        "state": "active",
        "problem": "",
        "certificate_end": "",
        "drift": [],
        "reboot_required": True,
        "outdated": ["app.service"],
        "withheld": ["redis-server 8.0.3"],
        "replication": "",
        "backups": "",
        "growth": "web grows",
        "renewal": "",
        "cpu": "out of CPU credits since 7",
    }


def test_certificate_of_an_acme_ca_is_told(status: Status, drift: Drift, listener: int) -> None:
    drift.certificate = {"renewal": "until tomorrow", "problem": "it ends soon"}
    found = status(listener, unit="haproxy")
    assert found["renewal"] == "until tomorrow"
    assert found["problem"].endswith("; it ends soon")
    assert status(listener)["renewal"] == "", "of another role"


def test_firewall_that_differs_is_a_problem(status: Status, drift: Drift, listener: int) -> None:
    drift.firewall = ["one rule", "another"]
    assert status(listener)["problem"] == "one rule; another"
    assert status(1)["problem"].endswith("Connection refused; one rule; another")
    drift.firewall = "nft: not found"
    assert status(listener)["problem"] == "the firewall cannot be compared: nft: not found"


@pytest.mark.parametrize(
    ("unit", "function"),
    [("patroni", "pgbackrest.told"), ("salt-master", "master_backup.told")],
)
def test_age_of_backups_is_told(tmp_path: Path, drift: Drift, unit: str, function: str) -> None:
    told: dict[str, str] | str = {"backups": "a day old", "problem": "they fail for 2 h"}

    def ask() -> dict[str, str]:
        if isinstance(told, str):
            raise CommandExecutionError(told)
        return told

    (tmp_path / "role.json").write_text(f'{{"unit": "{unit}", "address": "127.0.0.1"}}')
    salt = functions("a-1", {}, {}, {"cmd.run_stdout": lambda *_, **__: "active"})
    member = {"patroni.told": lambda: {"replication": "leads", "problem": ""}}
    salt |= drift.functions() | member | {function: ask}

    def status() -> tuple[str, str]:
        found = salt["role.status"](str(tmp_path / "role.json"))
        return found["backups"], found["problem"]

    assert status() == ("a day old", "they fail for 2 h")
    told = "S3 is away"
    assert status() == ("", "its backups are unknown: S3 is away")


def test_role_of_a_store_is_told(tmp_path: Path, drift: Drift) -> None:
    told: dict[str, str] | str = {"replication": "replica of a-2", "problem": "it is late"}

    def ask() -> dict[str, str]:
        if isinstance(told, str):
            raise CommandExecutionError(told)
        return told

    (tmp_path / "role.json").write_text('{"unit": "redis-server", "address": "127.0.0.1"}')
    salt = functions("a-1", {}, {}, {"cmd.run_stdout": lambda *_, **__: "active"})
    salt |= drift.functions() | {"redis_role.told": ask}

    def status() -> tuple[str, str]:
        found = salt["role.status"](str(tmp_path / "role.json"))
        return found["replication"], found["problem"]

    assert status() == ("replica of a-2", "it is late")
    told = "no such file"
    assert status() == ("", "its role is unknown: no such file")


def test_drift_is_told_and_is_no_problem(status: Status, drift: Drift, listener: int) -> None:
    drift.found = ["fstrim.timer is masked"]
    found = status(listener)
    assert (found["problem"], found["drift"]) == ("", ["fstrim.timer is masked"])


def test_role_without_check_has_no_problem(tmp_path: Path, drift: Drift) -> None:
    (tmp_path / "role.json").write_text('{"unit": "app", "address": "127.0.0.1"}')
    salt = functions("web-1", {}, {}, {"cmd.run_stdout": lambda *_, **__: "active"})
    salt |= drift.functions()
    assert salt["role.status"](str(tmp_path / "role.json"))["problem"] == ""


def test_refused_connection_is_a_problem(status: Status) -> None:
    assert status(1)["problem"] == "port 1: [Errno 111] Connection refused"


def test_status_before_the_first_highstate_fails(tmp_path: Path) -> None:
    with pytest.raises(CommandExecutionError, match="apply the highstate first"):
        functions("web-1", {}, {}, Drift().functions())["role.status"](str(tmp_path / "absent"))


def test_silent_server_is_a_problem_soon(status: Status, listener: int) -> None:
    before = time.monotonic()
    assert "timed out" in status(listener, check={"path": "/health"})["problem"]
    assert time.monotonic() - before < 8


@pytest.mark.parametrize(
    ("answer", "check", "problem"),
    [
        ({}, {}, ""),
        ({}, {"path": "/health"}, ""),
        ({}, {"path": "/health", "expect": '"status":"healthy"'}, ""),
        ({"status": 503}, {}, ""),
        ({"status": 503}, {"path": "/health"}, "/health answers 503"),
        ({}, {"path": "/other"}, "/other answers 404"),
        (
            {"body": b"ill"},
            {"path": "/health", "expect": "healthy"},
            "/health answers without healthy",
        ),
    ],
)
def test_page_is_checked_over_tls(
    status: Status,
    site: Callable[..., tuple[int, dict[str, str]]],
    answer: dict[str, Any],
    check: dict[str, str],
    problem: str,
) -> None:
    """Neither the name nor the CA of the certificate has to be known here."""
    port, certificate = site(**answer)
    assert status(port, check=check, certificate=certificate)["problem"] == problem


def test_check_offers_its_protocol_and_ends_tls_properly(status: Status, tmp_path: Path) -> None:
    """PostgreSQL refuses TLS without its protocol, and logs a connection that is reset."""
    fields = AUTHORITY.server("db.example.org", ["db.example.org"])
    pem = tmp_path / "database.pem"
    pem.write_text(fields["certificate"] + fields["private_key"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["postgresql"])
    seen: list[object] = []

    def serve(server: socket.socket) -> None:
        # An end without TLS's own farewell is an error here.
        plain, _ = server.accept()
        with context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as client:
            seen.append(client.selected_alpn_protocol())
            try:
                seen.append(client.recv(1))
            except OSError as error:
                seen.append(error)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        check, certificate = {"alpn": "postgresql"}, {"path": str(pem)}
        port = server.getsockname()[1]
        assert status(port, check=check, certificate=certificate)["problem"] == ""
        thread.join(5)
    assert seen == ["postgresql", b""]


@pytest.mark.parametrize(
    ("name", "authority", "problem"),
    [
        ("other.example.org", AUTHORITY, ""),
        ("web.example.org", AUTHORITY, "Hostname mismatch"),
        ("other.example.org", Authority.new("foreign"), "self-signed certificate|unable to get"),
    ],
)
def test_certificate_is_verified_where_the_check_names_a_ca(
    status: Status,
    site: Callable[..., tuple[int, dict[str, str]]],
    tmp_path: Path,
    name: str,
    authority: Authority,
    problem: str,
) -> None:
    port, certificate = site()
    (tmp_path / "ca.pem").write_text(authority.certificate_pem)
    check = {"ca": str(tmp_path / "ca.pem")}
    found = status(port, check=check, certificate=certificate, name=name)["problem"]
    assert re.search(problem, found) if problem else found == ""


def test_page_is_asked_on_loopback_where_the_port_knows_no_local_client(
    status: Status, site: Callable[..., tuple[int, dict[str, str]]], tmp_path: Path
) -> None:
    """The port itself still has to speak TLS."""
    port, certificate = site()
    check = {"path": "/health", "local": "127.0.0.2"}

    class Plain(Page):
        def answer(self) -> None:
            self.send_response(503)
            self.end_headers()

    with HTTPServer(("127.0.0.2", port), Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = status(port, check=check, certificate=certificate)["problem"]
        server.shutdown()
    assert found == "/health answers 503"


def test_machine_that_is_refused_is_a_problem(status: Status, drift: Drift, listener: int) -> None:
    found = status(listener, unit="haproxy")
    assert found["problem"] == "HAProxy refuses web-1: SSL handshake failure"


def test_failed_tls_handshake_is_a_problem(
    status: Status, site: Callable[..., tuple[int, dict[str, str]]]
) -> None:
    port, certificate = site()
    assert "answers" not in status(port, check={"path": "/health"})["problem"]
    assert status(port, check={"path": "/health"})["problem"].startswith(f"port {port}: ")
    with socket.create_server(("127.0.0.1", 0)) as server:
        plain = server.getsockname()[1]
        assert status(plain, certificate=certificate)["problem"].startswith(f"port {plain}: ")


def test_certificate_end_is_a_day(
    status: Status, site: Callable[..., tuple[int, dict[str, str]]], tmp_path: Path
) -> None:
    port, certificate = site()
    end = datetime.fromisoformat(status(port, certificate=certificate)["certificate_end"])
    assert end.replace(tzinfo=UTC) > datetime.now(UTC) + timedelta(days=30)
    (tmp_path / "server.pem").write_text("damaged")
    assert status(port, certificate=certificate)["certificate_end"] == "unknown"
    (tmp_path / "server.pem").unlink()
    assert status(port, certificate=certificate)["certificate_end"] == "unknown"


def test_problems_are_told_apart(status: Status, drift: Drift, listener: int) -> None:
    nothing = dict.fromkeys(
        ("unit", "check", "refused", "replication", "backups", "renewal", "firewall"), ""
    )
    assert status(listener, "problems") == nothing
    drift.firewall = ["a rule", "another rule"]
    assert status(listener, "problems") == {**nothing, "firewall": "a rule; another rule"}
    drift.certificate = {"renewal": "", "problem": "not renewed"}
    found = status(listener, "problems", unit="haproxy")
    assert (found["renewal"], found["refused"][:20]) == ("not renewed", "HAProxy refuses web-")
    assert status(listener, "problems", unit="stopped")["unit"] == "stopped is inactive"


def test_end_of_each_certificate_is_a_number(
    status: Status, site: Callable[..., tuple[int, dict[str, str]]], tmp_path: Path
) -> None:
    port, certificate = site()
    shared = {"path": str(tmp_path / "absent.pem"), "copies": []}
    found = status(port, "certificate_ends", certificate=certificate, shared=shared)
    assert found.pop(str(shared["path"])) == 0
    (end,) = found.values()
    assert end > datetime.now(UTC).timestamp() + 30 * 86400
    # The worst is what counts.
    assert status(port, certificate=certificate, shared=shared)["certificate_end"] == "unknown"


def test_machines_of_a_role_take_turns() -> None:
    turns = [
        load("_modules", "role", __opts__={"id": f"web-{number}"}).turn() for number in range(1, 8)
    ]
    assert turns == [1, 2, 3, 4, 5, 0, 1]
