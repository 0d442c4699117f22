"""The module and the state `pgbackrest`: the stanza, and a restore's steps on one server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from fakeclock import Clock
from saltmodules import load

SYSTEM = "7300000000000000001"


class Server:
    """The commands of a database server, and what they say.

    Attributes:
        stanzas: what `pgbackrest info` prints.
        failures: a word of a command -> what it says when it fails.
        services: the units that run.
        leads: whether the server is the primary; None: as soon as it runs.
        journal: of Patroni.
    """

    def __init__(self, data: Path) -> None:
        self.stanzas: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}
        self.services = {"patroni"}
        self.leads: bool | None = True
        self.journal = ""
        self.commands: list[list[str]] = []
        self.deleted: list[str] = []
        self.data = data

    def run_all(self, command: list[str], **_: Any) -> dict[str, Any]:
        self.commands.append(command)
        for word, text in self.failures.items():
            if word in command:
                return {"retcode": 1, "stdout": "", "stderr": text}
        answers = {
            "info": json.dumps(self.stanzas),
            "pg_controldata": f"x: 1\nDatabase system identifier:  {SYSTEM}\n",
            "psql": "f\n",
        }
        found = (text for word, text in answers.items() if command[0].endswith(word))
        text = answers["info"] if command[-1] == "info" else next(found, "{}")
        return {"retcode": 0, "stdout": text, "stderr": ""}

    def is_primary(self) -> bool:
        return "patroni" in self.services and self.leads is not False

    def functions(self) -> dict[str, Any]:
        return {
            "cmd.run_all": self.run_all,
            "cmd.run_stdout": lambda *_, **__: self.journal,
            "etcd_member.delete": self.deleted.append,
            "patroni.is_primary": self.is_primary,
            "patroni.told": lambda: {"replication": "leads"},
            "service.start": self.services.add,
            "service.status": lambda name: name in self.services,
            "service.stop": self.services.discard,
        }


@pytest.fixture
def server(tmp_path: Path) -> Server:
    data = tmp_path / "main"
    data.mkdir()
    (data / "rows").write_text("present")
    return Server(data)


@pytest.fixture
def module(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = load(
        "_modules",
        "pgbackrest",
        __salt__=server.functions(),
        __opts__={"id": "postgres-1"},
        __pillar__={
            "aws": {"project": "stack", "bucket": {"name": "{project}-{deployment}-{account}"}},
            "settings": {"deployment": "prod"},
            "postgres": {"database": "airflow"},
        },
    )
    config = tmp_path / "stack.json"
    config.write_text(json.dumps({"data_dir": str(server.data), "bin_dir": "/bin"}))
    monkeypatch.setattr(found, "CONFIG", str(config))
    patroni = tmp_path / "patroni.yml"
    patroni.write_text("scope: stack\n")
    monkeypatch.setattr(found, "PATRONI", str(patroni))
    for name in ("KNOWN", "TARGET", "REPLACED"):
        monkeypatch.setattr(found, name, str(tmp_path / name))
    clock = Clock()
    times = SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep, time=clock.monotonic)
    monkeypatch.setattr(found, "time", times)
    return found


def known(system: str = SYSTEM, code: int = 0) -> list[dict[str, Any]]:
    status = {"code": code, "message": "other"}
    databases = [{"system-id": int(system)}] if system else []
    return [{"name": "stack", "status": status, "db": databases, "repo": [{"status": status}]}]


@pytest.mark.parametrize(
    ("stanzas", "command"),
    [
        ([], "stanza-create"),
        (known("", 1), "stanza-create"),
        (known(), ""),
        (known(code=2), ""),
        (known("7300000000000000002"), "stanza-upgrade"),
    ],
)
def test_what_the_repository_needs(
    module: ModuleType, server: Server, stanzas: list[dict[str, Any]], command: str
) -> None:
    server.stanzas = stanzas
    assert module.stanza() == command


def test_repository_that_cannot_be_read_is_no_new_one(module: ModuleType, server: Server) -> None:
    server.stanzas = known("", 99)
    with pytest.raises(CommandExecutionError, match="other; other"):
        module.stanza()
    server.failures = {"info": "ERROR: [039]: HTTP 503"}
    with pytest.raises(CommandExecutionError, match="HTTP 503"):
        module.stanza()


def test_repository_that_has_known_the_cluster_may_be_away(
    module: ModuleType, server: Server, tmp_path: Path
) -> None:
    server.stanzas = known()
    assert module.stanza() == ""
    server.failures = {"info": "ERROR: [039]: HTTP 503"}
    assert module.stanza() == ""
    (tmp_path / "KNOWN").write_text("7300000000000000002")
    with pytest.raises(CommandExecutionError, match="HTTP 503"):
        module.stanza()


def state(server: Server, module: ModuleType, *, test: bool) -> Mapping[str, Any]:
    functions = {
        f"pgbackrest.{name}": getattr(module, name) for name in ("stanza", "prepare_stanza")
    }
    found = load("_states", "pgbackrest", __salt__=functions, __opts__={"test": test})
    del server
    result: Mapping[str, Any] = found.stanza("stack")
    return result


def test_state_makes_the_stanza_once(module: ModuleType, server: Server) -> None:
    assert state(server, module, test=True)["result"] is None
    assert not [command for command in server.commands if "stanza-create" in command]
    made = state(server, module, test=False)
    assert (made["result"], made["changes"]) == (True, {"stack": "stanza-create"})
    assert server.commands[-1] == ["pgbackrest", "--stanza=stack", "stanza-create"]
    server.stanzas = known()
    again = state(server, module, test=False)
    assert (again["result"], again["changes"]) == (True, {})


def test_state_says_what_pgbackrest_says(module: ModuleType, server: Server) -> None:
    server.failures = {"stanza-create": "P00  WARN: x\nP00  ERROR: [039]: HTTP 403\n hint"}
    failed = state(server, module, test=False)
    assert failed["result"] is False
    assert "ERROR: [039]: HTTP 403" in failed["comment"]
    assert "WARN" not in failed["comment"]


def test_half_a_stanza_is_made_anew(module: ModuleType, server: Server) -> None:
    """Of a run that was interrupted between its two files."""
    half = "P00 ERROR: [055]: archive.info exists but backup.info is missing on repo1"
    server.failures = {"stanza-create": half}
    with pytest.raises(CommandExecutionError, match="exists but"):
        module.prepare_stanza("stanza-create")
    assert [command[-1] for command in server.commands] == [
        "stanza-create",
        "stop",
        "stanza-delete",
        "stanza-create",
    ]
    server.failures = {"stanza-create": "P00 ERROR: [055]: no room"}
    with pytest.raises(CommandExecutionError, match="no room"):
        module.prepare_stanza("stanza-create")
    assert server.commands[-1][-1] == "stanza-create"


def test_data_is_put_aside_and_back(module: ModuleType, server: Server) -> None:
    assert module.set_aside(only_followers=True) == "it leads"
    assert server.data.exists()
    module.set_aside()
    aside = server.data.with_name("main.replaced")
    assert not server.data.exists()
    assert (aside / "rows").read_text() == "present"
    assert "patroni" not in server.services
    server.data.mkdir()  # of a restore that has failed
    module.put_back(only_leader=True)
    assert (server.data / "rows").read_text() == "present"
    assert sorted(path.name for path in server.data.iterdir()) == ["rows"]
    assert "patroni" in server.services


def test_follower_is_not_put_back_as_leader(module: ModuleType, server: Server) -> None:
    server.leads = False
    module.set_aside(only_followers=True)
    assert module.put_back(only_leader=True) == "it did not lead"
    assert not server.data.exists()
    module.put_back()
    assert server.data.exists()


def test_restore_forgets_its_target(module: ModuleType, server: Server, tmp_path: Path) -> None:
    server.services.clear()
    (tmp_path / "TARGET").write_text("{}")
    assert module.begin("latest") == "restored latest: leads"
    assert not (tmp_path / "TARGET").exists()
    assert server.commands[0][-3:] == ["write-target", "--to=latest", "--timeline="]


def test_failed_restore_says_why(module: ModuleType, server: Server, tmp_path: Path) -> None:
    server.leads = False
    (tmp_path / "TARGET").write_text("{}")
    server.journal = "INFO: trying\n[056]: gone\nINFO: Failed to bootstrap cluster\n"
    with pytest.raises(CommandExecutionError, match=r"^\[056\]: gone$"):
        module.begin("latest")
    assert not (tmp_path / "TARGET").exists()
    server.journal = ""
    with pytest.raises(CommandExecutionError, match="not restored within 20 s"):
        module.begin("latest", seconds=20)


def test_cluster_is_forgotten_below_its_scope(module: ModuleType, server: Server) -> None:
    module.forget_cluster()
    assert server.deleted == ["/service/stack/"]


def test_replaced_data_is_removed_once(module: ModuleType) -> None:
    module.set_aside()
    assert module.discard().endswith("main.replaced is removed")
    assert module.discard() == ""


def test_aside_prints_what_opens_it(module: ModuleType, server: Server) -> None:
    opens = module.aside("latest")
    assert opens == f"sudo -u postgres psql -h {server.data.with_name('aside')} airflow"
    server.data.with_name("aside").mkdir()
    assert module.end_aside() is True
    assert module.end_aside() is False
    assert "postgres-aside" not in server.services


def test_replaced_moment_is_told(module: ModuleType, tmp_path: Path) -> None:
    assert module.replaced() == {"time": "", "timeline": ""}
    (tmp_path / "REPLACED").write_text('{"time": "t", "timeline": "2"}')
    assert module.replaced() == {"time": "t", "timeline": "2"}


def test_bucket_has_the_number_of_the_account(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_account", lambda: "123456789012")
    assert module.bucket() == "stack-prod-123456789012"
