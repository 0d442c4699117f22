"""The module `maintenance`: who may be away, what is handed over, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from fakeclock import Clock
from plainpillar import ROOT
from saltmodules import load

ROLES = yaml.safe_load((ROOT / "pillar/base/roles.sls").read_text())["roles"]
PRODUCTION = [
    "salt-1", "lb-1", "lb-2", "web-1", "web-2", "web-3", "postgres-1", "postgres-2", "postgres-3",
    "redis-1", "redis-2", "redis-3", "monitor-1",
]  # fmt: skip
SMALL = ["salt-1", "lb-1", "web-1", "web-2", "postgres-1", "redis-1"]
OWN_WORDS = {"postgres": "patroni", "redis": "redis_role", "lb": "site_address"}
WELL = {"unit": "the-unit", "state": "active", "problem": ""}


class World:
    """Machines, as the master's client reaches them.

    Attributes:
        keys: the accepted minions.
        silent: those that do not answer.
        unfit: machine -> why the others cannot count on it.
        up: the web machines that each load balancer asks.
        leads: the machines that take writes.
        boots: machine -> how often it has booted.
        status: machine -> what `role.status` answers.
        packages: machine -> its pending upgrades.
        waits: machines that Debian asks to reboot.
        fails: functions that fail, with why.
        did: machine and function of each call that changes something.
    """

    def __init__(self, keys: Sequence[str] = PRODUCTION) -> None:
        self.keys = list(keys)
        self.silent: set[str] = set()
        self.unfit: dict[str, str] = {}
        self.up = [name for name in keys if name.startswith("web-")]
        self.leads = {"postgres-1", "redis-1"}
        self.boots: dict[str, int] = {}
        self.status: dict[str, dict[str, str]] = {}
        self.packages: dict[str, dict[str, str]] = {}
        self.waits: set[str] = set()
        self.outdated: dict[str, list[str]] = {}
        self.fails: dict[str, str] = {}
        self.did: list[tuple[str, ...]] = []
        self.boot_seconds: float | None = 20
        self.clock = Clock()

    def accepted(self, *roles: str) -> list[str]:
        wanted = roles or ROLES
        return [name for role in wanted for name in self.keys if name.rpartition("-")[0] == role]

    def cmd(
        self,
        tgt: list[str],
        fun: str,
        *,
        arg: list[Any],
        kwarg: dict[str, Any],
        tgt_type: str,
        timeout: int,
    ) -> dict[str, Any]:
        assert tgt_type == "list"
        assert timeout >= 5
        (name,) = tgt
        if name in self.silent or name not in self.keys:
            return {name: {}} if name == "web-3" else {}
        if fun in self.fails:
            return {name: {"ret": f"ERROR: {self.fails[fun]}", "retcode": 1}}
        return {name: {"ret": self.answer(name, fun, arg, kwarg), "retcode": 0}}

    def answer(self, name: str, function: str, arg: list[Any], kwarg: dict[str, Any]) -> Any:
        reading = {
            "maintenance.boot": f"boot {self.boots.get(name, 0)}",
            "role.status": self.status.get(name, WELL),
            "edge.up": self.up,
            f"{OWN_WORDS.get(name.rpartition('-')[0])}.unfit": self.unfit.get(name, ""),
            "patroni.is_primary": name in self.leads,
            "redis_role.told": {"replication": "master" if name in self.leads else "replica"},
            "pkg.list_upgrades": self.packages.get(name, {}),
            "drift.reboot_required": name in self.waits,
            "drift.outdated": self.outdated.get(name, []),
            "test.ping": True,
        }
        if function in reading:
            return reading[function]
        self.did.append((name, function, *map(str, arg), *(f"{k}={v}" for k, v in kwarg.items())))
        if function == "system.reboot":
            self._reboot(name)
        if function == "patroni.switch_over":
            self.leads = {"postgres-2", "redis-1"}
            return "postgres-2"
        if function == "pkg.upgrade":
            upgraded = self.packages.pop(name)
            return {package: {"old": "1", "new": new} for package, new in upgraded.items()}
        return None

    def _reboot(self, name: str) -> None:
        if self.boot_seconds is None:
            return
        self.silent.add(name)

        def back() -> None:
            self.silent.discard(name)
            self.boots[name] = self.boots.get(name, 0) + 1

        self.clock.at[self.clock.now + self.boot_seconds] = back

    def module(self) -> ModuleType:
        functions: dict[str, Callable[..., Any]] = {
            "role.accepted": self.accepted,
            "role.of": lambda name: name.rpartition("-")[0] if name in PRODUCTION else "",
            "saltutil.cmd": self.cmd,
        }
        return load(
            "_modules",
            "maintenance",
            __salt__=functions,
            __pillar__={"roles": ROLES},
            time=self.clock,
        )

    def changes(self, *names: str) -> list[str]:
        """Return machine and function of what was done, in order."""
        return [" ".join(done[:2]) for done in self.did if not names or done[0] in names]


@pytest.fixture
def world() -> World:
    return World()


# -- which boot it is, and whose turn --------------------------------------------------------------


def test_boot_is_told_from_others_in_a_container_too(tmp_path: Path) -> None:
    module = World().module()
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "1").mkdir()

    def boot(kernel: str, start: int, program: str = "systemd") -> Any:
        (tmp_path / "sys/kernel/random/boot_id").write_text(f"{kernel}\n")
        others = " ".join(str(number) for number in range(4, 22))
        (tmp_path / "1/stat").write_text(f"1 ({program}) S {others} {start} 23 24\n")
        return module.boot(str(tmp_path))

    assert boot("a", 7) == boot("a", 7) == boot("a", 7, "a (b) c")
    assert len({boot("a", 7), boot("b", 7), boot("a", 8)}) == 3
    assert module.boot()


def test_leaders_come_after_those_that_follow_and_the_master_last(world: World) -> None:
    world.leads = {"postgres-2", "redis-1"}
    assert world.module().order(PRODUCTION) == [
        "lb-1", "lb-2", "web-1", "web-2", "web-3", "postgres-1", "postgres-3", "postgres-2",
        "redis-2", "redis-3", "redis-1", "monitor-1", "salt-1",
    ]  # fmt: skip
    assert world.module().order(["web-2", "web-2"]) == ["web-2"]


def test_machine_that_nobody_knows_has_no_turn(world: World) -> None:
    with pytest.raises(CommandExecutionError, match="accepted no minion web-9"):
        world.module().order(["web-1", "web-9"])


# -- who may be away -------------------------------------------------------------------------------


def test_nobody_is_missed_where_all_serve(world: World) -> None:
    assert world.module().refusals(PRODUCTION) == dict.fromkeys(PRODUCTION, "")


def test_only_machines_are_missed() -> None:
    found = World(SMALL).module().refusals(SMALL)
    alone = {name: f"{name} is the only machine of its role" for name in ("lb-1", "postgres-1")}
    alone["redis-1"] = "redis-1 is the only machine of its role"
    assert found == dict.fromkeys(SMALL, "") | alone


@pytest.mark.parametrize(
    ("name", "unfit", "refused"),
    [
        ("lb-1", "lb-2", True),
        ("postgres-1", "postgres-3", True),
        ("postgres-3", "postgres-3", False),
        ("redis-2", "redis-1", True),
        ("redis-2", "redis-2", False),
        ("redis-2", "postgres-1", False),
    ],
)
def test_machine_is_missed_where_another_one_cannot_be_counted_on(
    world: World, name: str, unfit: str, refused: bool
) -> None:
    world.unfit = {unfit: "replica, 7.0 MiB behind"}
    found = world.module().refusals([name])[name]
    assert bool(found) is refused
    if refused:
        assert found.endswith(f"have to serve: {unfit}: replica, 7.0 MiB behind")
        assert found.startswith(f"without {name}, {'1' if name == 'lb-1' else '2'} of")


def test_two_of_five_may_be_away_and_no_more(world: World) -> None:
    world.keys += ["redis-4", "redis-5"]
    module = world.module()
    module.__salt__["role.of"] = lambda name: name.rpartition("-")[0]
    world.silent = {"redis-2"}
    assert module.refusals(["redis-1"]) == {"redis-1": ""}
    world.silent = {"redis-2", "redis-3"}
    assert "3 of redis-2" in module.refusals(["redis-1"])["redis-1"]
    assert "redis-3: redis-3 does not answer" in module.refusals(["redis-1"])["redis-1"]


def test_last_web_machine_is_missed(world: World) -> None:
    world.up = ["web-2"]
    module = world.module()
    refused = "lb-1 has no other web machine than web-2 to ask"
    assert module.refusals(["web-1", "web-2"]) == {"web-1": "", "web-2": refused}
    world.silent = {"lb-1"}
    assert module.refusals(["web-2"])["web-2"].startswith("lb-2 has no other")
    world.silent = {"lb-1", "lb-2"}
    assert module.refusals(["web-1"]) == {"web-1": "no load balancer answers"}


# -- what is done ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "drained", "done"),
    [
        (
            "web-2",
            "no load balancer asks it",
            [
                "lb-1 edge.drain", "lb-2 edge.drain", "web-2 system.reboot",
                "lb-1 edge.bring_back", "lb-2 edge.bring_back",
            ],
        ),
        (
            "lb-2",
            "it has no client",
            [
                "lb-2 site_address.leave", "lb-2 edge.leave", "lb-2 system.reboot",
                "lb-2 service.reload",
            ],
        ),
        ("postgres-1", "postgres-2 leads", ["postgres-1 patroni.switch_over",
                                            "postgres-1 system.reboot"]),
        ("postgres-3", "", ["postgres-3 system.reboot"]),
        (
            "redis-1",
            "another machine is the master",
            ["redis-1 service.stop", "redis-1 system.reboot", "redis-1 service.start"],
        ),
        ("redis-2", "", ["redis-2 system.reboot", "redis-2 service.start"]),
        ("monitor-1", "", ["monitor-1 system.reboot"]),
    ],
)  # fmt: skip
def test_machine_hands_over_before_it_reboots(
    world: World, name: str, drained: str, done: list[str]
) -> None:
    found = world.module().reboot(name)
    assert (found["drained"], found["upgraded"]) == (drained, {})
    assert 20 <= found["seconds"] <= 30
    assert world.changes() == done


def test_web_machine_is_named_to_the_load_balancers(world: World) -> None:
    world.silent = {"lb-1"}
    world.module().reboot("web-2")
    assert world.did[0] == ("lb-2", "edge.drain", "['web-2']", "seconds=75")
    assert world.did[-1] == ("lb-2", "edge.bring_back", "['web-2']")


def test_others_that_come_back_are_waited_for(world: World) -> None:
    world.unfit = {"postgres-2": "PostgreSQL is starting"}
    world.clock.at[40] = world.unfit.clear
    world.module().reboot("postgres-3")
    assert world.changes() == ["postgres-3 system.reboot"]


def test_machine_that_is_missed_is_not_touched(world: World) -> None:
    world.unfit = {"postgres-2": "PostgreSQL is starting"}
    with pytest.raises(
        CommandExecutionError,
        match=r"^postgres-3 must not be away now: without .* postgres-2: PostgreSQL is starting",
    ):
        world.module().reboot("postgres-3")
    assert world.did == []
    assert world.clock.now >= 90


def test_only_machine_is_refused_at_once_and_rebooted_on_demand() -> None:
    world = World(SMALL)
    with pytest.raises(CommandExecutionError, match="postgres-1 is the only machine"):
        world.module().reboot("postgres-1")
    assert (world.did, world.clock.now) == ([], 0)
    world.module().reboot("postgres-1", interrupt=True)
    assert world.changes() == ["postgres-1 system.reboot"], "nobody takes over"
    world.did.clear()
    world.module().reboot("redis-1", interrupt=True)
    assert world.changes() == ["redis-1 system.reboot", "redis-1 service.start"]


def test_drain_that_fails_leaves_the_machine_and_brings_it_back(world: World) -> None:
    world.fails = {"edge.leave": "HAProxy does not answer"}
    with pytest.raises(CommandExecutionError, match=r"^lb-2: HAProxy does not answer"):
        world.module().reboot("lb-2")
    assert world.changes() == ["lb-2 site_address.leave", "lb-2 service.reload"]


def test_drain_that_fails_stops_nobody_who_accepts_an_interruption(world: World) -> None:
    world.fails = {"site_address.leave": "no other load balancer has taken it"}
    world.module().reboot("lb-2", interrupt=True)
    assert world.changes() == ["lb-2 system.reboot", "lb-2 service.reload"]


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda world: setattr(world, "boot_seconds", None), "web-2 still runs: it has not"),
        (lambda world: setattr(world, "boot_seconds", 5000), "web-2 does not answer"),
        (
            lambda world: world.clock.at.update(
                {5: lambda: world.status.update({"web-2": {**WELL, "state": "failed"}})}
            ),
            "the-unit is failed",
        ),
        (
            lambda world: world.clock.at.update(
                {5: lambda: world.status.update({"web-2": {**WELL, "problem": "port 8080"}})}
            ),
            "port 8080",
        ),
    ],
)
def test_machine_that_does_not_come_back_is_told(
    world: World, break_it: Callable[[World], None], reason: str
) -> None:
    break_it(world)
    world.fails = {"edge.bring_back": "HAProxy finds web-2 down"}
    with pytest.raises(CommandExecutionError, match=f"^{reason}"):
        world.module().reboot("web-2")
    assert 600 <= world.clock.now < 5000


def test_old_problem_is_no_reason_to_wait_for_ever(world: World) -> None:
    world.status = {"web-2": {**WELL, "problem": "the firewall differs"}}
    world.module().reboot("web-2")
    assert world.clock.now < 60


def test_member_follows_again_before_the_next_one(world: World) -> None:
    def behind() -> None:
        world.unfit["postgres-3"] = "replica, 7.0 MiB behind"

    world.clock.at = {5: behind, 100: world.unfit.clear}
    assert world.module().reboot("postgres-3")["seconds"] >= 100


def test_master_does_not_reboot_itself(world: World) -> None:
    with pytest.raises(CommandExecutionError, match="stackctl reboot salt-1"):
        world.module().reboot("salt-1")
    assert world.did == []


# -- upgrades --------------------------------------------------------------------------------------


def test_pending_is_what_an_upgrade_would_do(world: World) -> None:
    module = world.module()
    assert module.pending("web-1") == []
    world.waits = {"web-1"}
    assert module.pending("web-1") == ["reboot"]
    world.waits, world.outdated = set(), {"web-1": ["airflow"]}
    assert module.pending("web-1") == ["reboot"]
    world.packages = {"web-1": {"nginx": "1.26.4", "libc6": "2.41-13"}}
    assert module.pending("web-1") == ["libc6 2.41-13", "nginx 1.26.4"]


def test_packages_are_upgraded_when_others_have_taken_over(world: World) -> None:
    world.packages = {"postgres-1": {"postgresql-17": "17.12"}}
    found = world.module().reboot("postgres-1", upgrade=True)
    assert found["upgraded"] == {"postgresql-17": {"old": "1", "new": "17.12"}}
    assert world.did == [
        ("postgres-1", "patroni.switch_over"),
        ("postgres-1", "pkg.upgrade", "dist_upgrade=True"),
        ("postgres-1", "system.reboot"),
    ]


def test_machine_for_which_nothing_waits_is_left_alone(world: World) -> None:
    nothing = {"upgraded": {}, "drained": "", "seconds": 0}
    world.unfit = {"postgres-2": "broken"}
    assert world.module().reboot("postgres-1", upgrade=True) == nothing
    assert world.did == []


def test_upgrade_that_fails_stops_before_the_reboot(world: World) -> None:
    world.packages = {"redis-1": {"redis-server": "8.0.3"}}
    world.fails = {"pkg.upgrade": "Problem encountered upgrading packages"}
    with pytest.raises(CommandExecutionError, match=r"^redis-1: Problem encountered"):
        world.module().reboot("redis-1", upgrade=True)
    assert world.changes() == ["redis-1 service.stop", "redis-1 service.start"]
