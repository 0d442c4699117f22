"""The Salt master takes machines away in order, and chooses their number within the bounds."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import salt.cache
import salt.config
import yaml

from plainpillar import ROOT
from saltmodules import load_file
from stackctl import locks
from stackctl.locks import Holder
from waiting import until

PROGRAM = ROOT / "salt" / "master" / "files" / "scale_machines.py"
RULES = yaml.safe_load((ROOT / "pillar/base/growth.sls").read_text())["growth"]
COOL = RULES["cool_down_seconds"]
BUSY, IDLE = 0.95, 0.1


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, as a module."""
    return load_file(PROGRAM)


class Site:
    """A master with keys, and the commands that it runs."""

    def __init__(self, program: ModuleType, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.program, self.folder = program, folder
        self.now = 1_800_000_000.0
        self.queued = self.queue_ms = 0
        self.busy = 0.5
        self.total = 0
        self.ran: list[str] = []
        self.fails = ""
        self.ec2 = {"web-1", "web-2", "lb-1", "salt-1"}
        self.edge_answers = True
        for name in ("minions", "minions_pre"):
            (folder / name).mkdir()
        for name in sorted(self.ec2):
            (folder / "minions" / name).write_text("key")
        self.config = program.Config(
            role="web",
            minimum=2,
            maximum=4,
            edge="lb",
            counts=str(folder / "machines.conf"),
            state=str(folder / "state" / "state.json"),
            pki=str(folder),
            region="eu-west-1",
            project="airflow-stack",
            deployment="test",
            tree=str(folder / "tree"),
            locks=[str(folder / "session.lock"), str(folder / "job.lock")],
            rules=RULES,
        )
        Path(self.config.counts).write_text('{"machine_counts": {"web": 2}}')
        (folder / "tree" / "current").mkdir(parents=True)
        (folder / "tree" / "current" / "REVISION").write_text("abc\n")
        patch.setattr(program, "run", self.run)
        patch.setattr(program, "ask", self.ask)
        patch.setattr(program, "instances", lambda _: set(self.ec2))
        patch.setattr(program, "forget", self.forget)
        patch.setattr(program.time, "time", lambda: self.now)

    def run(self, *command: str) -> str:
        line = " ".join(command)
        self.ran.append(line.replace(" --assume-yes --out=json --log-level=warning", ""))
        if self.fails and self.fails in line:
            raise self.program.ScaleError(f"{self.fails} failed")
        if "--profile" in command:
            for name in command[command.index("--parallel") + 1 :]:
                self.ec2.add(name)
                (self.folder / "minions" / name).write_text("key")
        if "--destroy" in command:
            self.ec2 -= {*command}
        return ""

    def ask(self, names: list[str], function: str, *_: str) -> dict[str, Any]:
        if function == "edge.load":
            answer = {"queued": self.queued, "queue_ms": self.queue_ms, "active": 1, "up": 2}
            return dict.fromkeys(names, answer) if self.edge_answers else {}
        self.total += 6000
        busy = round(self.total * self.busy)
        text = f"cpu  {busy} 0 0 {self.total - busy} 0 0 0 0 0 0\ncpu0 …\n"
        return dict.fromkeys(names, text)

    def forget(self, _: object, names: list[str]) -> None:
        self.ran.append(f"forget {' '.join(names)}")
        for name in names:
            (self.folder / "minions" / name).unlink(missing_ok=True)

    def look(self, times: int = 1) -> list[str]:
        """Let the timer run so many times, and return the commands."""
        self.ran.clear()
        for _ in range(times):
            self.now += 60
            self.program.decide(self.config)
        return self.ran

    @property
    def count(self) -> int:
        found: int = json.loads(Path(self.config.counts).read_text())["machine_counts"]["web"]
        return found

    @property
    def last(self) -> str:
        return str(json.loads(Path(self.config.state).read_text())["last"])


@pytest.fixture
def site(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(program, tmp_path, monkeypatch)


def restored(site: Site, **changes: Any) -> None:
    """Change the configuration."""
    site.config = site.program.replace(site.config, **changes)


GROWN = [
    "salt-cloud --profile web --parallel web-3",
    'salt-run state.orchestrate orch.deploy pillar={"new": ["web-3"]}',
]
SHRUNK = [
    'salt-run state.orchestrate orch.drain pillar={"drain": ["web-3"]}',
    "salt-cloud --destroy web-3",
    "forget web-3",
    "salt-run state.orchestrate orch.deploy",
]


# -- taking away


def test_machines_are_drained_then_destroyed_then_forgotten(site: Site) -> None:
    site.program.retire(site.config, ["web-2", "web-9"])
    assert site.ran == [
        'salt-run state.orchestrate orch.drain pillar={"drain": ["web-2", "web-9"]}',
        "salt-cloud --destroy web-2",
        "forget web-2 web-9",
    ]


def test_protected_machine_goes_with_its_data_only_when_asked(site: Site) -> None:
    path = site.folder / "config.json"
    path.write_text(json.dumps(vars(site.config)))
    assert site.program.main(["retire", "--with-data", "web-2", "web-9"], str(path)) == 0
    assert site.ran == [
        'salt-run state.orchestrate orch.drain pillar={"drain": ["web-2", "web-9"]}',
        "salt-cloud --action disable_term_protect web-2",
        "salt-cloud --destroy web-2",
        "forget web-2 web-9",
    ]


def test_machine_that_is_not_drained_is_kept(site: Site) -> None:
    site.fails = "orch.drain"
    with pytest.raises(site.program.ScaleError):
        site.program.retire(site.config, ["web-2"])
    assert len(site.ran) == 1
    assert (site.folder / "minions" / "web-2").exists()


def test_machine_that_is_not_destroyed_keeps_its_key(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.program, "instances", lambda _: {"web-2"})  # salt-cloud exits with 0
    with pytest.raises(site.program.ScaleError, match="has not destroyed web-2"):
        site.program.retire(site.config, ["web-2"])
    assert (site.folder / "minions" / "web-2").exists()


def test_key_and_grains_are_forgotten(
    program: ModuleType, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    opts = salt.config.master_config(None) | {"cachedir": str(tmp_path / "cache")}
    monkeypatch.setattr(salt.config, "master_config", lambda _: opts)
    cache = salt.cache.factory(opts)
    for name in ("web-1", "web-2"):
        cache.store("grains", name, {"id": name})
    (tmp_path / "minions_pre" / "web-2").write_text("key")
    program.forget(site.config, ["web-2", "web-9"])
    assert cache.list("grains") == ["web-1"]
    assert sorted(path.name for path in (tmp_path / "minions").iterdir()) == [
        "lb-1",
        "salt-1",
        "web-1",
    ]
    assert list((tmp_path / "minions_pre").iterdir()) == []


# -- choosing


def test_queue_that_lasts_adds_one_machine(site: Site) -> None:
    site.queued = RULES["queued"]
    assert site.look(RULES["hot_looks"] - 1) == []
    assert site.look() == GROWN
    assert site.count == 3
    assert site.last.startswith("web 2 -> 3 at 20")
    assert "10 queued" in site.last


@pytest.mark.parametrize("signal", ["queue_ms", "busy"])
def test_each_signal_counts(site: Site, signal: str) -> None:
    setattr(site, signal, {"queue_ms": RULES["queue_milliseconds"], "busy": BUSY}[signal])
    assert site.look(RULES["hot_looks"] + 1) == GROWN  # the first look knows no share yet


def test_short_peak_adds_nothing(site: Site) -> None:
    for _ in range(5):
        site.queued = RULES["queued"]
        assert site.look(RULES["hot_looks"] - 1) == []
        site.queued = 0
        assert site.look() == []


def test_cool_down_lies_between_two_changes(site: Site) -> None:
    site.queued = 100
    site.look(RULES["hot_looks"])
    looks = COOL // 60
    assert site.look(looks - 1) == []
    assert site.look(2) == [line.replace("web-3", "web-4") for line in GROWN]


def test_maximum_and_minimum_hold(site: Site) -> None:
    site.queued = 100
    site.look(100)
    assert site.count == 4
    site.queued, site.busy = 0, IDLE
    site.look(200)
    assert site.count == 2
    assert not {"web-3", "web-4"} & site.ec2


def test_load_that_one_machine_less_would_carry_takes_one_away(site: Site) -> None:
    site.queued = 100
    site.look(RULES["hot_looks"])
    site.queued, site.busy = 0, 0.3  # 0.45 for two
    assert site.look(RULES["cold_looks"] - 1) == []
    assert site.look(2) == SHRUNK
    assert site.count == 2


def test_load_that_two_machines_would_not_carry_stays(site: Site) -> None:
    site.queued = 100
    site.look(RULES["hot_looks"])
    site.queued, site.busy = 0, 0.34  # 0.51 for two
    assert site.look(3 * RULES["cold_looks"]) == []


def test_queue_keeps_idle_machines(site: Site) -> None:
    site.queued = 100
    site.look(RULES["hot_looks"])
    site.queued, site.busy = 1, IDLE
    assert site.look(3 * RULES["cold_looks"]) == []


@pytest.mark.parametrize("step", ["--profile", "orch.deploy"])
def test_failed_change_is_finished_after_the_cool_down(site: Site, step: str) -> None:
    site.queued, site.fails = 100, step
    with pytest.raises(site.program.ScaleError):
        site.look(RULES["hot_looks"])
    assert site.last.endswith(": not finished")
    site.fails, site.queued = "", 0
    assert site.look(COOL // 60 - 1) == []
    again = site.look(2)
    whole = "salt-run state.orchestrate orch.deploy"
    assert again[-1] == (whole if step == "orch.deploy" else GROWN[-1])
    assert site.count == 3
    assert "web-3" in site.ec2
    assert not site.last.endswith(": not finished")


def test_launch_without_a_key_is_a_failure(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.program, "run", lambda *_: "")  # salt-cloud exits with 0
    site.queued = 100
    with pytest.raises(site.program.ScaleError, match="has not launched web-3"):
        site.look(RULES["hot_looks"])


def test_bounds_that_moved_are_followed_at_once(site: Site) -> None:
    site.queued = 100
    site.look(RULES["hot_looks"])
    site.queued = 0
    restored(site, maximum=2)
    assert site.look() == SHRUNK


def test_tree_that_is_not_rolled_out_is_left_to_stackctl(site: Site) -> None:
    (site.folder / "tree" / "converged").write_text("before\n")
    site.queued = 100
    with pytest.raises(site.program.ScaleError, match="not rolled out yet"):
        site.look(RULES["hot_looks"])
    assert site.ran == []
    assert site.count == 2
    (site.folder / "tree" / "converged").write_text("abc\n")
    assert site.look() == GROWN


def test_silent_edge_changes_nothing(site: Site) -> None:
    site.edge_answers, site.busy = False, BUSY
    with pytest.raises(site.program.ScaleError, match="no load balancer answers"):
        site.look(RULES["hot_looks"] + 1)
    assert site.ran == []


def test_others_read_who_holds_the_locks(site: Site) -> None:
    site.queued = 100
    site.look(RULES["hot_looks"])
    for path in site.config.locks:
        holder = Holder.read(Path(path).read_text())
        assert (holder.who, holder.verb) == ("the Salt master", "scale")
        assert "web 2 -> 3" in str(holder)


@pytest.mark.parametrize("lock", [0, 1])
def test_run_of_stackctl_is_left_alone(
    site: Site, lock: int, capsys: pytest.CaptureFixture[str]
) -> None:
    site.queued = 100
    with Path(site.config.locks[lock]).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert site.look(RULES["hot_looks"]) == []
    assert "another run changes the deployment" in capsys.readouterr().out
    assert site.count == 2
    assert site.look(RULES["hot_looks"]) == GROWN


def test_program_that_goes_on_keeps_the_locks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site.config.locks[1]
    taken = f"exec 8>>{path}; flock --nonblock 8"
    monkeypatch.undo()
    with site.program.hold(site.config, "scale", "web 2 -> 3") as held:
        assert held
        site.program.run("sh", "-c", "sleep 20 >/dev/null 2>&1 & echo $! > " + f"{path}.pid")
    assert subprocess.run(["sh", "-c", taken], check=False).returncode != 0
    os.kill(int(Path(f"{path}.pid").read_text()), signal.SIGKILL)
    until(lambda: subprocess.run(["sh", "-c", taken], check=False).returncode == 0, "it is free")


def test_each_look_is_one_line_with_numbers(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.look(2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == ("2 machines, 0 queued, 0 ms in the queue, CPU 50 %; bounds 2..4: enough")


def test_cpu_without_credits_counts_as_busy(program: ModuleType) -> None:
    busy, total = program.cpu_times("cpu  10 0 10 60 10 0 0 110 0 0\ncpu0 …")
    assert (busy, total) == (130, 200)


def test_only_numbered_machines_of_the_role_count(site: Site) -> None:
    for name in ("web-evil", "web-proxy-1", "web-0", "web-01", "web-10"):
        (site.folder / "minions" / name).write_text("key")
    assert site.program.machines_of(site.config, "web") == ["web-1", "web-2", "web-10"]


def test_locks_are_those_of_stackctl() -> None:
    states = (ROOT / "salt/master/init.sls").read_text()
    assert f"locks: [{locks.SESSION_FILE}, {locks.JOB_FILE}]" in states


def test_main_reads_its_configuration(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(vars(site.config)))
    assert site.program.main(["retire", "web-2"], str(path)) == 0
    assert site.program.main(["decide"], str(path)) == 0
    site.edge_answers = False
    assert site.program.main(["decide"], str(path)) == 1
    assert "no load balancer answers" in capsys.readouterr().err


def test_failed_command_says_why(program: ModuleType) -> None:
    with pytest.raises(program.ScaleError, match=r"^sh -c echo one; echo two; exit 3 failed: two$"):
        program.run("sh", "-c", "echo one; echo two; exit 3")
    told = (
        "      Result: True\n     Comment: Function edge.leave ran\n"
        "      Result: False\n     Comment: Function edge.drain failed\n"
        "     Started: now\nunclosed Runner"
    )
    with pytest.raises(program.ScaleError, match=r"failed: Function edge\.drain failed$"):
        program.run("sh", "-c", f"echo '{told}'; exit 1")
    with pytest.raises(program.ScaleError, match=r"failed: no output$"):
        program.run("false")
    assert program.run("echo", "fine") == "fine\n"
