"""`stackctl reboot` and `stackctl upgrade`: whose turn it is, what is refused, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from io import StringIO
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest
from rich.console import Console

from fakeclock import Clock
from stackctl import cli, held_master, maintenance, salt, site, tree
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError, UnreachableError
from stackctl.maintenance import Wanted
from stackctl.progress import Progress
from stackctl.run import Log

KEYS = ["lb-1", "lb-2", "postgres-1", "postgres-2", "postgres-3", "salt-1", "web-1", "web-2"]


class Run:
    """The parts of a run: shell, session and master.

    Attributes:
        refused: machine -> why it must not be away.
        pending: machine -> what an upgrade would do.
        fails: what salt-run prints of a function that fails; empty: none does.
        breaks: the machine whose reboot fails.
        reboots: how often the master has rebooted.
        slow: seconds until it is back; None: it never is.
        did: what was done, in order.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.refused: dict[str, str] = {}
        self.pending: dict[str, list[str]] = {name: ["nginx 2"] for name in KEYS}
        self.fails = ""
        self.breaks = ""
        self.reboots = 0
        self.slow: float | None = 30
        self.away = False
        self.minion_answers = True
        self.upgraded: Mapping[str, object] = {"salt-1": {}}
        self.did: list[str] = []
        self.clock = Clock()
        self.jobs = "the jobs"
        self.machine = SimpleNamespace(name="salt-1", instance_id="i-1")
        self.deployment = SimpleNamespace(command=lambda verb: f"stackctl {verb}")
        for module, name, value in (
            (held_master, "on_this_host", lambda *_, **__: nullcontext()),
            (held_master, "Session", lambda *_, **__: self),
            (maintenance, "time", self.clock),
            (salt, "Master", lambda *_: self),
            (tree, "require_same", lambda *_: self.did.append("same tree")),
            (site, "require_healthy", lambda _: self.did.append("site")),
            (site, "address", lambda _: "https://site"),
            (held_master, "ec2_client", lambda _: None),
            (held_master, "enter", lambda _: nullcontext()),
            (held_master, "list_machines", lambda *_: {}),
            (held_master, "require_master", lambda *_: self.machine),
            (held_master, "Shell", lambda *_: self),
        ):
            patch.setattr(module, name, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    # Of the shell and the session.

    def trust(self, _: object) -> None:
        pass

    def hold(self, _: object) -> None:
        self.did.append("lock")

    def run(self, machine: Any, args: Sequence[str], *, what: str, timeout: float = 9) -> str:
        assert (machine, bool(what), timeout > 0) == (self.machine, True, True)
        if list(args) == ["systemctl", "reboot"]:
            self.did.append("salt-1 reboots")
            self.away = True
            if self.slow is not None:
                self.clock.at[self.clock.now + self.slow] = self._back
        if self.away:
            raise UnreachableError("no route to salt-1")
        return f"boot {self.reboots}"

    def _back(self) -> None:
        self.reboots, self.away = self.reboots + 1, False

    # Of the master.

    def accepted(self) -> list[str]:
        return KEYS

    def require_quiet(self, _note: object, *, wait: bool) -> None:
        self.did.append(f"quiet, wait={wait}")

    def answering(self, names: Sequence[str], deadline: float) -> set[str]:
        assert self.clock.now < deadline
        return {*names} if self.minion_answers else set()

    def command(self, args: Sequence[str], *, accept: Sequence[int], **_: object) -> str:
        program, _out, command, function, *words, pillar = args
        assert (program, command, pillar) == ("salt-run", "salt.cmd", "with_pillar=True")
        assert 1 in accept
        if self.fails:
            return self.fails
        given = [json.loads(word) for word in words]
        answers: dict[str, Callable[[], object]] = {
            "maintenance.order": lambda: sorted(
                given[0], key=lambda name: (name == "salt-1", name)
            ),
            "maintenance.refusals": lambda: {name: self.refused.get(name, "") for name in given[0]},
            "maintenance.pending": lambda: self.pending[given[0]],
        }
        return json.dumps(answers[function]())

    def retire(
        self, names: Sequence[str], report: Callable[[str], None], *, with_data: bool
    ) -> None:
        report("draining")
        assert with_data, "a protected machine goes too"
        self.did.append(f"{' '.join(names)} is destroyed")

    def ask(self, args: Sequence[str], **_: object) -> Mapping[str, object]:
        if args[2:] == ["service.stop", "redis-server"]:
            self.did.append(f"{args[1]} hands over")
            return {args[1]: True}
        assert args[1:] == ["salt-1", "pkg.upgrade", "dist_upgrade=True"]
        self.did.append("salt-1 upgrades")
        return self.upgraded

    def orchestrate(
        self, name: str, report: Callable[[str], None], pillar: Mapping[str, Any]
    ) -> None:
        report(name)
        assert name == "orch.reboot"
        (machine,) = pillar["reboot"]
        words = [word for word in ("upgrade", "interrupt") if pillar[word]]
        self.did.append(" ".join([machine, *words]))
        if machine == self.breaks:
            raise ConvergeError(f"{machine} does not answer.")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def go(log: Log, *names: str, **options: bool) -> Progress:
    progress = Progress(Console(file=StringIO()), log)
    maintenance.run(cast(Deployment, None), Wanted(names, **options), progress, log, wait=True)
    return progress


BEGIN = ["lock", "same tree", "quiet, wait=True"]


def test_machines_reboot_one_after_the_other(run: Run, log: Log) -> None:
    progress = go(log, "web-2", "lb-1")
    assert run.did == [*BEGIN, "lb-1", "web-2", "site"]
    assert progress.changes == 2


def test_role_means_all_its_machines(run: Run, log: Log) -> None:
    go(log, "postgres", upgrade=True, interrupt=True)
    servers = [f"postgres-{number} upgrade interrupt" for number in (1, 2, 3)]
    assert run.did == [*BEGIN, *servers, "site"]


def test_unknown_machine_is_refused_before_anything(run: Run, log: Log) -> None:
    with pytest.raises(ConvergeError, match=r"no machine or role 'web-9'\. There are: lb-1"):
        go(log, "web-1", "web-9")
    assert run.did == BEGIN


def test_first_failure_stops_the_rest(run: Run, log: Log) -> None:
    run.breaks = "web-1"
    with pytest.raises(ConvergeError, match="web-1 does not answer"):
        go(log, "web")
    assert run.did == [*BEGIN, "web-1"]


def test_machine_for_which_nothing_waits_is_skipped(run: Run, log: Log) -> None:
    run.pending["web-1"] = []
    assert go(log, "web", upgrade=True).changes == 1
    assert run.did == [*BEGIN, "web-2 upgrade", "site"]


def test_master_is_rebooted_from_outside_and_last(run: Run, log: Log) -> None:
    go(log, "salt-1", "web-1")
    assert run.did == [*BEGIN, "web-1", "salt-1 reboots", "lock", "site"]
    assert run.reboots == 1


def test_master_is_upgraded_before_its_reboot(run: Run, log: Log) -> None:
    go(log, "salt", upgrade=True)
    assert run.did == [*BEGIN, "salt-1 upgrades", "salt-1 reboots", "lock", "site"]


@pytest.mark.parametrize("answer", [{}, {"salt-1": "ERROR: no space left"}])
def test_master_whose_upgrade_fails_is_not_rebooted(
    run: Run, log: Log, answer: Mapping[str, object]
) -> None:
    run.upgraded = answer
    reason = "no space left" if answer else "no answer"
    with pytest.raises(ConvergeError, match=f"^salt-1: {reason}"):
        go(log, "salt-1", upgrade=True)
    assert run.did == [*BEGIN, "salt-1 upgrades"]


def test_master_that_does_not_come_back_is_told(run: Run, log: Log) -> None:
    run.slow = None
    with pytest.raises(ConvergeError, match="salt-1 has not come back"):
        go(log, "salt-1")
    assert 600 <= run.clock.now < 610


def test_master_whose_minion_stays_silent_is_told(run: Run, log: Log) -> None:
    run.minion_answers = False
    with pytest.raises(ConvergeError, match="salt-1 does not answer after its reboot"):
        go(log, "salt-1")


def test_failure_on_the_master_is_told(run: Run, log: Log) -> None:
    run.fails = "Exception occurred in runner salt.cmd: Traceback\nERROR: web-1 does not answer"
    with pytest.raises(ConvergeError, match=r"^web-1 does not answer\."):
        go(log, "web-1")


# -- replacing -------------------------------------------------------------------------------------


def swap(log: Log, name: str) -> None:
    progress = Progress(Console(file=StringIO()), log)
    maintenance.replace(cast(Deployment, None), name, progress, log, wait=True)


def test_replaced_machine_is_drained_and_destroyed(run: Run, log: Log) -> None:
    swap(log, "postgres-1")
    assert run.did == [*BEGIN, "postgres-1 is destroyed"]


def test_replaced_redis_hands_over_first(
    run: Run, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "accepted", lambda: [*KEYS, "redis-1"])
    swap(log, "redis-1")
    assert run.did == [*BEGIN, "redis-1 hands over", "redis-1 is destroyed"]


def test_machine_with_the_only_data_is_not_replaced(run: Run, log: Log) -> None:
    run.refused = {"postgres-1": "postgres-1 is the only machine of its role"}
    with pytest.raises(ConvergeError, match=r"postgres-1 cannot be replaced: .* the only machine"):
        swap(log, "postgres-1")
    assert run.did == BEGIN


def test_master_is_not_replaced(run: Run, log: Log) -> None:
    with pytest.raises(ConvergeError, match="salt-1 has the keys of all others"):
        swap(log, "salt-1")
    assert run.did == BEGIN


# -- the command line ------------------------------------------------------------------------------


@pytest.fixture
def say(
    run: Run, checkout: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`say('reboot', 'web-1')`: exit code, output and errors."""
    monkeypatch.setattr(cli, "repository_root", lambda: checkout)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main([*arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_dry_run_says_what_would_be_done(
    run: Run, say: Callable[..., tuple[int, str, str]]
) -> None:
    assert say("reboot", "--dry-run", "web") == (
        0, "web-1: drain and reboot\nweb-2: drain and reboot\n", ""
    )  # fmt: skip
    run.pending |= {"web-1": [], "web-2": ["reboot"], "lb-1": ["libc6 2", "nginx 3"]}
    code, out, _ = say("upgrade", "--dry-run", "web", "lb-1")
    assert code == 0
    assert out.splitlines() == [
        "lb-1: drain, upgrade libc6 2, nginx 3, and reboot",
        "web-1: nothing waits",
        "web-2: drain and reboot",
    ]
    assert run.did == []


def test_dry_run_says_what_is_refused(run: Run, say: Callable[..., tuple[int, str, str]]) -> None:
    run.refused = {"lb-1": "lb-2 is broken"}
    code, out, _ = say("reboot", "--dry-run", "lb-1", "web-1")
    assert (code, out) == (1, "lb-1: refused: lb-2 is broken\nweb-1: drain and reboot\n")
    code, out, _ = say("reboot", "--dry-run", "--interrupt", "lb-1")
    assert (code, out) == (0, "lb-1: drain and reboot\n")


def test_verb_says_how_long_it_took(run: Run, say: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = say("reboot", "web-1")
    assert code == 0
    assert "Done, in " in out
    run.breaks = "web-1"
    code, _, errors = say("upgrade", "web-1", "--interrupt")
    assert (code, "web-1 does not answer" in errors) == (1, True)
    assert run.did[-1] == "web-1 upgrade interrupt"


def test_verb_says_what_brings_a_replaced_machine_back(
    run: Run, say: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = say("replace", "web-1")
    assert code == 0
    assert "web-1 is gone. This launches it anew: " in out
    assert run.did[-1] == "web-1 is destroyed"
