"""The Salt master keeps machines right and up to date, if nothing else changes the deployment."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from plainpillar import ROOT
from saltmodules import load_file

PROGRAMS = ROOT / "salt" / "master" / "files"
DEPLOY = "salt-run state.orchestrate orch.deploy"
UPGRADE = "salt-run state.orchestrate orch.reboot"
BOTH = "correct: correct salt-1, web-1"
MASTER = "salt-call --retcode-passthrough state.highstate"


class Site:
    """A master with keys, whose machines say what differs."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.syspath_prepend(str(PROGRAMS))
        patch.delitem(sys.modules, "scale_machines", raising=False)
        self.program: ModuleType = load_file(PROGRAMS / "keep_machines.py")
        scale = self.program.scale_machines
        self.folder, self.ran = folder, list[str]()
        self.answers: dict[str, Any] = {}
        self.fails = ""
        (folder / "minions").mkdir()
        for name in ("lb-1", "salt-1", "web-1", "web-2"):
            (folder / "minions" / name).write_text("key")
            self.answers[name] = []
        for name in ("current", "."):
            (folder / "tree" / name).mkdir(parents=True, exist_ok=True)
        self.serve("abc")
        (folder / "tree/converged").write_text("abc")
        self.locks = [folder / "session.lock", folder / "job.lock"]
        values: dict[str, Any] = dict.fromkeys(scale.Config.__dataclass_fields__, "")
        values |= {"pki": str(folder), "tree": str(folder / "tree")}
        self.config = folder / "config.json"
        self.config.write_text(json.dumps(values | {"locks": [str(path) for path in self.locks]}))
        patch.setattr(scale, "run", self.run)
        patch.setattr(scale, "ask", self.ask)

    def serve(self, revision: str) -> None:
        (self.folder / "tree/current/REVISION").write_text(revision)

    def run(self, *command: str) -> str:
        if command[:2] == ("salt-call", "--out=json"):
            function, names = command[-2], json.loads(command[-1])
            return json.dumps({"local": self.maintenance[function](names)})
        self.ran.append(" ".join(command))
        if self.fails and self.fails in command:
            raise self.program.ScaleError(f"{self.fails} failed")
        held = json.loads(self.locks[1].read_text())
        self.ran.append(f"{held['verb']}: {held['task']}")
        return ""

    maintenance: ClassVar[dict[str, Any]] = {
        "maintenance.order": lambda names: names[::-1],
        "maintenance.refusals": lambda names: {name: "only" * (name == "lb-1") for name in names},
    }

    def ask(self, names: list[str], function: str) -> dict[str, Any]:
        assert function == "highstate.differ"
        return {name: self.answers[name] for name in names if name in self.answers}

    def call(self, verb: str) -> int:
        code: int = self.program.main([verb], str(self.config))
        return code


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("differ", "ran"),
    [
        ([], []),
        (["web-2"], [DEPLOY, "correct: correct web-2"]),
        (["salt-1"], [MASTER, "correct: correct salt-1"]),
        (["salt-1", "web-1"], [MASTER, BOTH, DEPLOY, BOTH]),
    ],
    ids=str,
)
def test_what_differs_is_put_right_as_up_does(
    site: Site, differ: list[str], ran: list[str]
) -> None:
    site.answers |= {name: ["base-hosts"] for name in differ}
    assert site.call("correct") == 0
    assert site.ran == ran


def test_machine_that_does_not_answer_is_left_alone(site: Site) -> None:
    del site.answers["web-1"]
    assert site.call("correct") == 0
    assert site.ran == []


def test_machines_that_others_can_do_without_are_upgraded_in_order(site: Site) -> None:
    assert site.call("upgrade") == 0
    pillar = json.dumps({"reboot": ["web-2", "web-1"], "upgrade": True})
    assert site.ran == [f"{UPGRADE} pillar={pillar}", "upgrade: upgrade web-2, web-1"]


def test_upgrade_that_fails_or_may_not_begin_is_told(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.fails = "orch.reboot"
    assert site.call("upgrade") == 1
    site.fails = ""
    site.ran.clear()
    site.serve("new")
    assert site.call("upgrade") == 1
    with site.locks[0].open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert site.call("upgrade") == 1
    assert site.ran == []
    failed, unfinished, busy = capsys.readouterr().err.splitlines()
    assert failed == "orch.reboot failed"
    assert "is not rolled out yet" in unfinished
    assert busy == "another run changes the deployment"


@pytest.mark.parametrize("lock", [0, 1])
def test_nothing_happens_beside_another_run(
    site: Site, capsys: pytest.CaptureFixture[str], lock: int
) -> None:
    site.answers["web-1"] = ["base-hosts"]
    with site.locks[lock].open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert site.call("correct") == 0
    assert site.ran == []
    assert capsys.readouterr().out == "another run changes the deployment\n"


def test_tree_that_is_not_rolled_out_is_left_to_the_operator(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.answers["web-1"] = ["base-hosts"]
    site.serve("new")
    assert site.call("correct") == 1
    assert site.ran == []
    assert "is not rolled out yet: stackctl up" in capsys.readouterr().err


def test_failure_is_an_exit_code(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.answers["web-1"] = ["base-hosts"]
    site.fails = "orch.deploy"
    assert site.call("correct") == 1
    assert capsys.readouterr().err == "orch.deploy failed\n"
