"""`stackctl scale`: what it refuses, what it says that it would do, and the order of its steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import yaml
from rich.console import Console

from stackctl import billing, capacity, cli, limits, salt, scale, site, tree, up
from stackctl.counts import Bounds, Wanted
from stackctl.deployment import Deployment
from stackctl.errors import BusyError, ConvergeError, NotUpError, PreflightError, ScaleError
from stackctl.locks import Holder, on_this_host
from stackctl.machines import Machine
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.states import Migration
from stackctl.verdict import Result, Verdict

ROOT = Path(__file__).parents[3]


@pytest.fixture
def deployment(deployment: Deployment) -> Deployment:
    """A deployment with settings, and with the sizes of the components."""
    for component in ("airflow", "postgres"):
        path = deployment.root / "salt" / component
        path.mkdir(parents=True)
        shutil.copy(ROOT / "salt" / component / "defaults.yaml", path)
    deployment.pillar_dir.mkdir()
    deployment.settings_path.write_text("settings:\n  base_url: https://example.org\n")
    return deployment


def test_budget_uses_the_arithmetic_of_the_states(deployment: Deployment) -> None:
    (deployment.root / "salt/_modules/web_sizes.py").write_text(
        "def connections(airflow):\n    return airflow['workers'] * 200\n"
    )
    with pytest.raises(ScaleError, match=r"2 machines .* may open 400 connections"):
        capacity.check(deployment, {"web": Bounds(2, 2)})


def resize(deployment: Deployment, **postgres: int) -> None:
    """Change sizes of PostgreSQL."""
    path = deployment.root / "salt/postgres/defaults.yaml"
    sizes = yaml.safe_load(path.read_text())
    sizes["postgres"] |= postgres
    path.write_text(yaml.safe_dump(sizes))


# -- what it refuses


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("cache=2", r"There is no role 'cache'\. Roles: salt, lb, web"),
        ("redis=2", r"'redis' cannot be scaled: .*small\.map, .* These can: web\."),
        ("salt=1", r"'salt' cannot be scaled"),
        ("lb=2", r"'lb' cannot be scaled"),
        ("web=0", r"0 is below the minimum: small\.map has 2 machines of the role 'web'"),
        ("web=1", r"1 is below the minimum"),
        ("web=1..3", r"1 is below the minimum"),
        ("web=99999", r"99999 machines of the role 'web' may open \d+ connections .* allows \d+"),
        ("web=2..99", r"99 machines of the role 'web' may open"),
    ],
)
def test_impossible_numbers_are_refused_with_the_reason(
    deployment: Deployment, wanted: str, reason: str
) -> None:
    each = Wanted.parse(wanted)
    with pytest.raises(ScaleError, match=reason):
        capacity.check(deployment, {each.role: each.bounds})


def test_budget_is_that_of_the_sizes(deployment: Deployment) -> None:
    one = capacity.connections(deployment)
    resize(deployment, role_connections=7 * one)
    capacity.check(deployment, {"web": Bounds(7, 7)})
    with pytest.raises(ScaleError, match=rf"{8 * one} connections .* {7 * one}: enough for 7"):
        capacity.check(deployment, {"web": Bounds(8, 8)})


@pytest.mark.parametrize("wanted", ["web=x", "web=", "web", "web=4..2", "4"])
def test_other_words_are_wrong_usage(capsys: pytest.CaptureFixture[str], wanted: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["scale", wanted])
    assert ended.value.code == 2
    assert wanted in capsys.readouterr().err


def test_verb_exits_with_1_and_says_why(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "repository_root", lambda: deployment.root)
    for options in ([], ["--dry-run"], ["--wait"]):
        assert cli.main(["scale", "web=99999", *options]) == 1
        assert "99999 machines" in " ".join(capsys.readouterr().err.split())
    assert "machines" not in deployment.settings()


def test_up_refuses_settings_that_cannot_be(deployment: Deployment) -> None:
    deployment.settings_path.write_text("settings: {machines: {web: 500}}\n")
    with pytest.raises(ScaleError, match="500 machines"):
        up.check_host(deployment)


# -- its steps


class Run:
    """The parts of a run. The master has keys, and launches and retires what it is told to."""

    def __init__(self, deployment: Deployment, patch: pytest.MonkeyPatch) -> None:
        self.deployment = deployment
        resize(deployment, role_connections=4 * capacity.connections(deployment))
        self.did: list[str] = []
        self.web = 2
        self.keys: list[str] = []
        self.busy = ""
        self.revision = ("abc", "abc")
        self.fails = ""
        self.full = False
        self.changed = False
        self.recorded: dict[str, int] = {}
        for module, name, value in (
            (
                scale,
                "ec2_client",
                lambda _: SimpleNamespace(meta=SimpleNamespace(region_name="eu-west-1")),
            ),
            (billing, "find_machines", lambda *_: self.machines()),
            (limits, "check", self.check_limits),
            (scale, "enter", lambda _: nullcontext()),
            (scale, "open_account", lambda _: self),
            (scale, "list_machines", lambda *_: {each.name: each for each in self.machines()}),
            (scale, "find_machines", lambda *_: self.machines()),
            (scale, "Shell", lambda *_: self),
            (scale, "Session", lambda *_, **__: self),
            (scale, "Launcher", lambda *_, **__: self),
            (scale, "converge", self.converge),
            (salt, "Master", lambda *_: self),
            (tree, "revision", lambda *_: ("abc", "abc")),
            (tree, "push", lambda *_: (self.push(), "abc" * 9)),
            (tree, "untracked_warning", lambda *_: ""),
            (site, "require_healthy", lambda _: self.did.append("site")),
        ):
            patch.setattr(module, name, value)

    def machines(self) -> list[Machine]:
        names = ["salt-1", *(f"web-{n}" for n in range(1, self.web + 1))]
        return [Machine(name, f"i-{name}", "running", "10.20.1.9", "") for name in names]

    def check_limits(self, deployment: Deployment, _client: object) -> list[str]:
        if self.full and deployment.counts()["web"] > self.web:
            raise PreflightError("The quota is too small.")
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    # -- account, shell and session

    def environment(self) -> dict[str, str]:
        return {}

    def master_files(self, _: object) -> dict[str, str]:
        return {}

    jobs = property(lambda self: self)

    def trust(self, _: Machine) -> None: ...

    def hold(self, machine: Machine) -> None:
        self.did.append(f"hold {machine.name}")

    def script(self, _: Machine, args: Sequence[str], **__: Any) -> str:
        if args[0] == "read-revision":
            return f"{self.revision[0]} digest"
        if args[0] == "read-converged":
            return self.revision[1]
        assert args[0] == "master-is-ready"
        return "yes"

    def run(self, *_: object, **__: object) -> str:
        self.did.append("bootstrap")
        return '{"local": {"a": {"__id__": "a", "result": true, "changes": {}}}}'

    def push(self) -> bool:
        changed = self.recorded != self.deployment.counts()
        self.recorded = self.deployment.counts()
        return changed

    # -- the master

    def require_quiet(self, _: object, *, wait: bool) -> None:
        if self.busy and not wait:
            raise BusyError(self.busy)

    def recorded_counts(self) -> dict[str, int]:
        return self.recorded

    def record_counts(self, counts: dict[str, int]) -> None:
        self.recorded = dict(counts)

    def accepted(self) -> list[str]:
        return [*(machine.name for machine in self.machines()), *self.keys]

    def retire(
        self, names: Sequence[str], report: Callable[[str], None], *, with_data: bool
    ) -> None:
        report("draining")
        self.did.append(f"retire {' '.join(names)}{' with data' if with_data else ''}")
        if self.fails == "retire":
            raise ConvergeError("HAProxy does not answer.")
        self.keys = []
        self.web -= len(names)

    def step(self, title: str, request: Any, new: Collection[str] = ()) -> Result:
        assert (title, new) == ("machines", ())
        web = [name for name in request.names if name.startswith("web-")]
        missing = web[self.web :]
        if missing:
            self.did.append(f"launch {' '.join(missing)}")
        self.web = max(self.web, len(web))
        machine = self.machines()[0]
        return Result(tuple(Verdict(name, "launched", None, machine) for name in missing))

    def converge(self, _master: object, migration: Migration, *_: object, **options: Any) -> None:
        assert migration.machine == "web-1"
        how = " by prediction" if options["predict"] else ""
        self.did.append(" ".join([f"converge{how}", *options["new"]]))


@pytest.fixture
def whole(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A stack with two web machines."""
    return Run(deployment, monkeypatch)


@pytest.fixture
def go(whole: Run, log: Log) -> Callable[..., list[str]]:
    """`go('web=4')`: run it, and return what it did."""

    def run(*wanted: str, wait: bool = False) -> list[str]:
        whole.did.clear()
        progress = Progress(Console(file=StringIO()), log)
        parsed = [Wanted.parse(text) for text in wanted]
        whole.changed = scale.scale(whole.deployment, parsed, progress, log, wait=wait)
        return whole.did

    return run


def test_up_and_back_again(whole: Run, go: Callable[..., list[str]]) -> None:
    begin = ["hold salt-1", "bootstrap"]
    assert go("web=4") == [*begin, "launch web-3 web-4", "converge web-3 web-4", "site"]
    assert whole.deployment.settings()["machines"] == {"web": 4}
    assert go("web=4") == ["hold salt-1", "converge by prediction", "site"]
    assert not whole.changed
    assert go("web=2") == [*begin, "retire web-4 web-3", "converge", "site"]
    assert whole.deployment.settings()["machines"] == {"web": 2}
    assert go("web=2") == ["hold salt-1", "converge by prediction", "site"]


def test_account_without_room_launches_nothing_and_a_rerun_goes_on(
    whole: Run, go: Callable[..., list[str]]
) -> None:
    whole.full = True
    with pytest.raises(PreflightError, match=r"^The quota is too small\."):
        go("web=4")
    assert whole.did == ["hold salt-1", "bootstrap"]
    whole.full = False
    assert go("web=4") == ["hold salt-1", "launch web-3 web-4", "converge web-3 web-4", "site"]


def test_machine_that_ec2_has_lost_leaves_its_key_last(
    whole: Run, go: Callable[..., list[str]]
) -> None:
    whole.keys = ["web-10", "web-3", "redis-1"]
    assert "retire web-10 web-3" in go("web=2")


def test_interrupted_removal_is_finished(whole: Run, go: Callable[..., list[str]]) -> None:
    go("web=4")
    whole.fails = "retire"
    with pytest.raises(ConvergeError):
        go("web=2")
    assert "converge" not in whole.did
    whole.fails = ""
    assert go("web=2") == ["hold salt-1", "retire web-4 web-3", "converge", "site"]


def test_bounds_keep_the_present_number(whole: Run, go: Callable[..., list[str]]) -> None:
    go("web=3")
    assert go("web=2..3") == ["hold salt-1", "bootstrap", "converge by prediction", "site"]
    assert whole.recorded == {"web": 3}
    whole.recorded = {"web": 2}
    assert "retire web-3" not in go("web=2..3")  # it exists


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        (("other", "other"), "salt-1 serves other, and the checkout is abc"),
        (
            ("abc-dirty-123", "abc"),
            r"serves abc with uncommitted changes \(123\), and the checkout is abc:",
        ),
        (("", ""), "salt-1 serves .*a release would be rolled out by the way"),
        (("abc", "before"), "has not been rolled out to the end"),
    ],
)
def test_release_that_rolls_or_would_roll_is_refused(
    whole: Run, go: Callable[..., list[str]], revision: tuple[str, str], reason: str
) -> None:
    whole.revision = revision
    with pytest.raises(ScaleError, match=reason):
        go("web=3")
    assert whole.did == ["hold salt-1"]
    assert "machines" not in whole.deployment.settings()


def test_states_that_are_being_applied_are_refused_or_waited_for(
    whole: Run, go: Callable[..., list[str]]
) -> None:
    whole.busy = "state.highstate on web-1 (job 1) still runs."
    with pytest.raises(BusyError, match=r"state\.highstate on web-1"):
        go("web=3")
    assert "machines" not in whole.deployment.settings()
    assert "launch web-3" in go("web=3", wait=True)


def test_another_run_is_refused(whole: Run, go: Callable[..., list[str]]) -> None:
    with (
        on_this_host(whole.deployment, Holder.this("up"), lambda _: None, wait=False),
        pytest.raises(BusyError, match="`stackctl up`"),
    ):
        go("web=3")
    assert whole.did == []


def test_dry_run_says_it_all(whole: Run) -> None:
    deployment = whole.deployment

    def plan(*wanted: str) -> list[str]:
        return scale.plan(deployment, [Wanted.parse(text) for text in wanted])

    assert plan("web=3") == [
        "settings:machines:web of local: the minimum -> 3",
        "launch web-3",
    ]
    assert "machines" not in deployment.settings()
    deployment.settings_path.write_text("settings: {machines: {web: 4}}\n")
    whole.web = 4
    assert plan("web=4") == ["nothing to do"]
    assert plan("web=2") == [
        "settings:machines:web of local: 4 -> 2",
        "drain and destroy web-4",
        "drain and destroy web-3",
    ]
    assert plan("web=2..4") == ["settings:machines:web of local: 4 -> 2..4"]


def test_dry_run_needs_a_stack(whole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "list_machines", lambda *_: {})
    with pytest.raises(NotUpError):
        scale.plan(whole.deployment, [Wanted.parse("web=3")])
