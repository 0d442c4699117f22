"""The states `airflow.*` with fake execution functions: each branch of each state."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load

LOCKFILE = "/opt/airflow/requirements.txt"
ARCHIVES = "salt://airflow-releases"
RELEASE, BEFORE = "3.3.2-new", "3.3.1-old"
HEADS = {"alembic_version": "b2", "alembic_version_fab": "f1"}
ERROR = CommandExecutionError("the disk is full")

State = Callable[..., dict[str, Any]]


class Machine:
    """A machine and its database, as the execution module `airflow` sees and changes them.

    Attributes:
        done: what changed something, in order.
        error_in: the function that fails.
        broken: functions that report success and change nothing.
    """

    def __init__(self) -> None:
        self.lockfile = True
        self.releases = {BEFORE, RELEASE}
        self.current: str | None = RELEASE
        self.removed: list[str] = []
        self.unshared: list[str] = []
        self.revisions: dict[str, str] = dict(HEADS)
        self.marks: dict[str, str | None] = {
            "dags": f"{RELEASE} with examples",
            "permissions": RELEASE,
        }
        self.dags = 114
        self.users = {"admin": "right"}
        self.running = True
        self.health = [True]
        self.slow = ""
        self.done: list[str] = []
        self.error_in = ""
        self.broken: set[str] = set()

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Return the functions, by their Salt names."""
        own = {f"airflow.{name.removeprefix('_')}": getattr(self, name) for name in ASKED}
        own |= {f"airflow.{name}": self._work(name) for name in WORK}
        own |= {f"airflow_artefact.{name}": self._work(name) for name in ("fetch", "share")}
        own["airflow_artefact.unshared"] = lambda _root: self.unshared
        return own | {
            "file.file_exists": lambda path: path == LOCKFILE and self.lockfile,
            "service.status": lambda name: name == "airflow" and self.running,
            "service.start": lambda name: self.done.append(f"start {name}"),
            "service.stop": lambda name: self.done.append(f"stop {name}"),
            "cpu_credits.sample": lambda: {"at": 1.0},
            "cpu_credits.since": lambda before: self.slow if before == {"at": 1.0} else "",
        }

    def _work(self, name: str) -> Callable[..., Any]:
        def work(*args: Any) -> Any:
            self.done.append(name)
            if self.error_in == name:
                raise ERROR
            return None if name in self.broken else getattr(self, name)(*args)

        return work

    # -- what is asked

    def release_name(self, lockfile: str) -> str:
        assert lockfile == LOCKFILE
        if self.error_in == "release_name":
            raise ERROR
        return RELEASE

    def installed(self, name: str, root: str) -> bool:
        assert root == "/opt/airflow"
        return name in self.releases

    def _current(self, root: str = "/opt/airflow") -> str | None:
        assert root == "/opt/airflow"
        return self.current

    def heads(self) -> dict[str, str]:
        return HEADS

    def database(self, username: str | None = None, password: str | None = None) -> dict[str, Any]:
        if self.error_in == "database":
            raise ERROR
        known = self.users.get(str(username))
        user = "present" if known == password else "other password" if known else "absent"
        return {
            "revisions": dict(self.revisions),
            "dags": self.dags,
            "marks": dict(self.marks),
            "user": user if username else None,
        }

    def healthy(self, url: str, via: str | None, ca: str | None) -> bool:
        assert (url, via, ca) == ("http://x/health", "10.0.0.1:443", "PEM")
        return self.health.pop(0) if len(self.health) > 1 else self.health[0]

    # -- what changes something

    def fetch(self, name: str, archives: str, root: str) -> None:
        assert (name, archives, root) == (RELEASE, ARCHIVES, "/opt/airflow")
        self.releases.add(RELEASE)
        self.unshared = ["static/a.js"]

    def share(self, root: str) -> None:
        assert root == "/opt/airflow"
        self.unshared = []

    def activate(self, name: str, root: str) -> None:
        assert root == "/opt/airflow"
        self.current = name

    def prune(self, keep: list[str], root: str) -> list[str]:
        assert root == "/opt/airflow"
        self.kept = keep
        return self.removed

    def migrate(self) -> None:
        self.revisions = dict(HEADS)

    def sync_permissions(self) -> None:
        pass

    def mark(self, work: str, text: str) -> None:
        self.marks[work] = text

    def serialize_dags(self) -> None:
        self.dags = 120

    def create_user(self, username: str, password: str, profile: dict[str, str]) -> None:
        self.profile = profile
        self.users[username] = password

    def reset_password(self, username: str, password: str) -> None:
        assert username in self.users
        self.users[username] = password


ASKED = ("release_name", "installed", "_current", "heads", "database", "healthy")
WORK = (
    "activate",
    "prune",
    "migrate",
    "sync_permissions",
    "mark",
    "serialize_dags",
    "create_user",
    "reset_password",
)


@pytest.fixture
def machine() -> Machine:
    """A machine on which every state is as it should be."""
    return Machine()


@pytest.fixture
def states(machine: Machine) -> ModuleType:
    """The state module on that machine."""
    return load("_states", "airflow", __salt__=machine.functions(), __opts__={"test": False})


# State -> how it is applied, what is missing on a machine before it, and what it then does.
def _installed(states: ModuleType) -> dict[str, Any]:
    ret: dict[str, Any] = states.installed("/opt/airflow", LOCKFILE, ARCHIVES)
    return ret


def _current(states: ModuleType) -> dict[str, Any]:
    ret: dict[str, Any] = states.current("/opt/airflow", LOCKFILE)
    return ret


def _migrated(states: ModuleType) -> dict[str, Any]:
    ret: dict[str, Any] = states.migrated("airflow")
    return ret


def _permissions(states: ModuleType) -> dict[str, Any]:
    ret: dict[str, Any] = states.permissions_synced("airflow")
    return ret


def _user(states: ModuleType) -> dict[str, Any]:
    ret: dict[str, Any] = states.user_present("admin", "right", "First", "Last", "a@example.org")
    return ret


def _dags(states: ModuleType) -> dict[str, Any]:
    ret: dict[str, Any] = states.dags_serialized("dags", True)
    return ret


def _nothing_installed(machine: Machine) -> None:
    machine.releases = {BEFORE}


def _lost_assets(machine: Machine) -> None:
    machine.unshared = ["static/a.js", "static/b.js"]


def _old_is_current(machine: Machine) -> None:
    machine.current = BEFORE


def _nothing_is_current(machine: Machine) -> None:
    machine.current = None


def _empty_database(machine: Machine) -> None:
    machine.revisions = {}


def _old_database(machine: Machine) -> None:
    machine.revisions = HEADS | {"alembic_version": "a1"}


def _never_synced(machine: Machine) -> None:
    machine.marks["permissions"] = None


def _synced_by_old(machine: Machine) -> None:
    machine.marks["permissions"] = BEFORE


def _no_user(machine: Machine) -> None:
    machine.users = {}


def _other_password(machine: Machine) -> None:
    machine.users = {"admin": "left"}


def _never_serialized(machine: Machine) -> None:
    machine.dags, machine.marks["dags"] = 0, None


def _serialized_without_examples(machine: Machine) -> None:
    machine.marks["dags"] = f"{RELEASE} without examples"


def _dags_lost(machine: Machine) -> None:
    machine.dags = 0


STOPPED = "stop airflow", "start airflow"
CHANGES: list[tuple[State, Callable[[Machine], None], list[str], dict[str, Any], str]] = [
    (
        _installed,
        _nothing_installed,
        ["fetch", "share"],
        {"installed": RELEASE, "shared": "1 assets"},
        f"{RELEASE} would be installed",
    ),
    (_installed, _lost_assets, ["share"], {"shared": "2 assets"}, "2 assets would be shared"),
    (
        _current,
        _old_is_current,
        ["activate", "prune", "share"],
        {"release": {"old": BEFORE, "new": RELEASE}},
        f"{RELEASE} would be made current",
    ),
    (
        _current,
        _nothing_is_current,
        ["activate", "prune", "share"],
        {"release": {"old": None, "new": RELEASE}},
        f"{RELEASE} would be made current",
    ),
    (
        _migrated,
        _empty_database,
        ["stop airflow", "migrate", "start airflow"],
        {"revisions": {"old": {}, "new": HEADS}},
        "the database is empty: it would be migrated",
    ),
    (
        _migrated,
        _old_database,
        ["stop airflow", "migrate", "start airflow"],
        {"revisions": {"old": HEADS | {"alembic_version": "a1"}, "new": HEADS}},
        (
            "the database is at alembic_version a1, alembic_version_fab f1, the release needs"
            " alembic_version b2, alembic_version_fab f1: it would be migrated"
        ),
    ),
    (
        _permissions,
        _never_synced,
        ["stop airflow", "sync_permissions", "start airflow", "mark"],
        {"permissions": {"old": None, "new": RELEASE}},
        "the permissions would be synced",
    ),
    (
        _permissions,
        _synced_by_old,
        ["stop airflow", "sync_permissions", "start airflow", "mark"],
        {"permissions": {"old": BEFORE, "new": RELEASE}},
        "the permissions would be synced",
    ),
    (
        _user,
        _no_user,
        ["stop airflow", "create_user", "start airflow"],
        {"admin": {"old": "absent", "new": "present"}},
        "user admin would be created",
    ),
    (
        _user,
        _other_password,
        ["stop airflow", "reset_password", "start airflow"],
        {"admin": {"old": "other password", "new": "present"}},
        "user admin would be given this password",
    ),
    (
        _dags,
        _never_serialized,
        ["stop airflow", "serialize_dags", "start airflow", "mark"],
        {
            "dags": {"old": 0, "new": 120},
            "serialized_by": {"old": None, "new": f"{RELEASE} with examples"},
        },
        "the DAGs would be serialized",
    ),
    (
        _dags,
        _serialized_without_examples,
        ["stop airflow", "serialize_dags", "start airflow", "mark"],
        {
            "dags": {"old": 114, "new": 120},
            "serialized_by": {
                "old": f"{RELEASE} without examples",
                "new": f"{RELEASE} with examples",
            },
        },
        "the DAGs would be serialized",
    ),
    (
        _dags,
        _dags_lost,
        ["stop airflow", "serialize_dags", "start airflow", "mark"],
        {
            "dags": {"old": 0, "new": 120},
            "serialized_by": dict.fromkeys(("old", "new"), f"{RELEASE} with examples"),
        },
        "the DAGs would be serialized",
    ),
]
IDS = [f"{state.__name__[1:]}-{missing.__name__[1:]}" for state, missing, *_ in CHANGES]
EACH = pytest.mark.parametrize(("state", "missing", "done", "changes", "plan"), CHANGES, ids=IDS)
STATES = list(dict.fromkeys(state for state, *_ in CHANGES))


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_state_as_it_should_be_is_unchanged(
    machine: Machine, states: ModuleType, state: State, test: bool
) -> None:
    states.__opts__["test"] = test
    ret = state(states)
    assert (ret["result"], ret["changes"], machine.done) == (True, {}, [])
    assert ret["name"]
    assert ret["comment"]


@EACH
def test_what_is_missing_is_done_once(
    machine: Machine,
    states: ModuleType,
    state: State,
    missing: Callable[[Machine], None],
    done: list[str],
    changes: dict[str, Any],
    plan: str,
) -> None:
    missing(machine)
    ret = state(states)
    assert (ret["result"], ret["changes"], machine.done) == (True, changes, done)
    assert ret["comment"]
    again = state(states)
    assert (again["result"], again["changes"], machine.done) == (True, {}, done)


@EACH
def test_prediction_says_what_is_missing_and_does_nothing(
    machine: Machine,
    states: ModuleType,
    state: State,
    missing: Callable[[Machine], None],
    done: list[str],
    changes: dict[str, Any],
    plan: str,
) -> None:
    missing(machine)
    states.__opts__["test"] = True
    ret = state(states)
    assert (ret["result"], ret["changes"], ret["comment"], machine.done) == (None, {}, plan, [])


@EACH
def test_failed_work_fails_the_state_and_starts_the_service_again(
    machine: Machine,
    states: ModuleType,
    state: State,
    missing: Callable[[Machine], None],
    done: list[str],
    changes: dict[str, Any],
    plan: str,
) -> None:
    missing(machine)
    for function in (name for name in done if name in WORK):
        machine.error_in, machine.done = function, []
        ret = state(states)
        assert (ret["result"], ret["changes"], ret["comment"]) == (False, {}, str(ERROR))
        assert function in machine.done
        assert machine.done.count("stop airflow") == machine.done.count("start airflow")
        missing(machine)


@pytest.mark.parametrize(
    ("state", "missing", "function"),
    [
        (_migrated, _old_database, "migrate"),
        (_permissions, _synced_by_old, "mark"),
        (_user, _no_user, "create_user"),
        (_user, _other_password, "reset_password"),
        (_dags, _never_serialized, "serialize_dags"),
        (_dags, _never_serialized, "mark"),
    ],
)
def test_work_without_effect_fails_the_state(
    machine: Machine,
    states: ModuleType,
    state: State,
    missing: Callable[[Machine], None],
    function: str,
) -> None:
    missing(machine)
    machine.broken = {function}
    ret = state(states)
    assert ret["result"] is False
    assert ret["changes"]


@pytest.mark.parametrize("state", [_migrated, _permissions, _user, _dags])
@pytest.mark.parametrize("test", [False, True])
def test_database_that_does_not_answer_fails_the_state(
    machine: Machine, states: ModuleType, state: State, test: bool
) -> None:
    machine.error_in, states.__opts__["test"] = "database", test
    ret = state(states)
    assert (ret["result"], ret["changes"], ret["comment"]) == (False, {}, str(ERROR))


@pytest.mark.parametrize("state", [_installed, _current])
def test_lockfile_without_airflow_fails_the_state(
    machine: Machine, states: ModuleType, state: State
) -> None:
    machine.error_in = "release_name"
    ret = state(states)
    assert (ret["result"], ret["changes"], ret["comment"]) == (False, {}, str(ERROR))


@pytest.mark.parametrize("state", [_migrated, _user, _permissions, _dags])
def test_service_that_was_stopped_stays_stopped(
    machine: Machine, states: ModuleType, state: State
) -> None:
    machine.running = False
    _empty_database(machine)
    _never_synced(machine)
    _no_user(machine)
    _never_serialized(machine)
    assert state(states)["result"] is True
    assert machine.done
    assert not set(machine.done) & {"stop airflow", "start airflow"}


# -- predictions on a machine that has not had its first highstate ---------------------------------


@pytest.mark.parametrize(
    ("state", "plan"),
    [
        (_installed, f"the release of {LOCKFILE} would be installed"),
        (_current, f"the release of {LOCKFILE} would be made current"),
    ],
)
def test_prediction_without_lockfile(
    machine: Machine, states: ModuleType, state: State, plan: str
) -> None:
    machine.lockfile, states.__opts__["test"] = False, True
    ret = state(states)
    assert (ret["result"], ret["comment"]) == (None, plan)
    # Outside a prediction the state before has made the lockfile, or the name's error says so.
    states.__opts__["test"] = False
    assert state(states)["result"] is True


@pytest.mark.parametrize(
    ("state", "plan"),
    [
        (lambda states: states.database_current("airflow"), "the database would be checked"),
        (_migrated, "the database would be migrated"),
        (_permissions, "the permissions would be synced"),
        (_user, "user admin would be created"),
        (_dags, "the DAGs would be serialized"),
    ],
)
def test_prediction_without_release_asks_no_database(
    machine: Machine, states: ModuleType, state: State, plan: str
) -> None:
    machine.current, machine.error_in, states.__opts__["test"] = None, "database", True
    ret = state(states)
    assert (ret["result"], ret["changes"], ret["comment"]) == (None, {}, plan)


@pytest.mark.parametrize(
    ("state", "plan"),
    [
        (_permissions, "the permissions would be synced"),
        (_user, "user admin would be created"),
        (_dags, "the DAGs would be serialized"),
    ],
)
def test_prediction_before_a_migration(
    machine: Machine, states: ModuleType, state: State, plan: str
) -> None:
    _old_database(machine)
    states.__opts__["test"] = True
    assert (state(states)["result"], state(states)["comment"]) == (None, plan)


# -- what single states add ------------------------------------------------------------------------


def test_current_keeps_the_previous_release_and_reports_removed_ones(
    machine: Machine, states: ModuleType
) -> None:
    _old_is_current(machine)
    machine.removed = ["3.2.0-older"]
    ret = _current(states)
    assert machine.kept == [RELEASE, BEFORE]
    assert ret["changes"]["removed"] == ["3.2.0-older"]
    _nothing_is_current(machine)
    _current(states)
    assert machine.kept == [RELEASE]


def test_failed_sync_is_done_by_the_next_run(machine: Machine, states: ModuleType) -> None:
    _synced_by_old(machine)
    machine.error_in = "sync_permissions"
    assert _permissions(states)["result"] is False
    assert machine.marks["permissions"] == BEFORE
    machine.error_in = ""
    assert _migrated(states)["changes"] == {}
    assert _permissions(states)["changes"] == {"permissions": {"old": BEFORE, "new": RELEASE}}


def test_new_user_has_its_profile(machine: Machine, states: ModuleType) -> None:
    _no_user(machine)
    _user(states)
    assert machine.profile == {
        "firstname": "First",
        "lastname": "Last",
        "email": "a@example.org",
        "role": "Admin",
    }


def test_database_without_dags_is_complete_without_examples(
    machine: Machine, states: ModuleType
) -> None:
    machine.dags, machine.marks["dags"] = 0, f"{RELEASE} without examples"
    ret = states.dags_serialized("dags", False)
    assert (ret["result"], ret["changes"]) == (True, {})
    machine.marks["dags"], machine.broken = None, {"serialize_dags"}
    ret = states.dags_serialized("dags", False)
    assert (ret["result"], machine.marks["dags"]) == (True, f"{RELEASE} without examples")


@pytest.mark.parametrize(("test", "result"), [(False, False), (True, None)])
def test_database_of_another_revision_stops_the_other_machines(
    machine: Machine, states: ModuleType, test: bool, result: bool | None
) -> None:
    states.__opts__["test"] = test
    assert states.database_current("airflow")["result"] is True
    _old_database(machine)
    ret = states.database_current("airflow")
    assert (ret["result"], ret["changes"]) == (result, {})
    assert ret["comment"].startswith("the database is at alembic_version a1")
    assert "apply the state airflow.migrate on one web machine first" in ret["comment"]
    machine.error_in = "database"
    assert states.database_current("airflow")["result"] is False


# -- healthy ---------------------------------------------------------------------------------------


class Values:
    """Values in the database, by what opens them."""

    def __init__(self, **numbers: int) -> None:
        self.numbers = {"first": 0, "other": 0, "none": 0} | numbers
        self.works = True
        self.fails = False

    def encrypted(self, *, anew: bool = False) -> dict[str, int]:
        if self.fails:
            raise ERROR
        found = dict(self.numbers)
        if anew and self.works:
            self.numbers |= {"first": found["first"] + found["other"], "other": 0}
        return found


def encrypted(values: Values, *, test: bool = False, current: str | None = RELEASE) -> Any:
    functions = {"airflow.encrypted": values.encrypted, "airflow.current": lambda: current}
    state = load("_states", "airflow", __salt__=functions, __opts__={"test": test})
    return state.encrypted_anew("airflow")


@pytest.mark.parametrize("test", [False, True])
def test_values_of_the_first_key_stay(test: bool) -> None:
    ret = encrypted(Values(first=3, none=1), test=test)
    assert (ret["result"], ret["changes"]) == (True, {})
    assert ret["comment"] == "the first key opens 3 values; no key opens 1 others"


def test_values_of_another_key_are_encrypted_anew() -> None:
    values = Values(first=1, other=2)
    assert encrypted(values, test=True)["result"] is None
    assert values.numbers["other"] == 2
    ret = encrypted(values)
    assert ret["result"] is True
    assert ret["changes"] == {"encrypted": {"old": "2 values with another key", "new": 0}}
    assert encrypted(values)["changes"] == {}


def test_values_that_stay_as_they_were_fail_the_state() -> None:
    values = Values(other=2)
    values.works = False
    ret = encrypted(values)
    assert (ret["result"], ret["comment"]) == (False, "2 are left")


def test_database_that_does_not_tell_its_values() -> None:
    values = Values()
    values.fails = True
    ret = encrypted(values)
    assert (ret["result"], ret["changes"], ret["comment"]) == (False, {}, str(ERROR))
    assert encrypted(values, test=True, current=None)["result"] is None, "it is not installed yet"


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(states: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(states, "time", clock)
    return clock


def _healthy(states: ModuleType) -> dict[str, Any]:
    ret: dict[str, Any] = states.healthy("http://x/health", 10, "10.0.0.1:443", "PEM")
    return ret


def test_healthy_page_is_no_change(states: ModuleType, clock: Clock) -> None:
    ret = _healthy(states)
    assert (ret["result"], ret["changes"], clock.now) == (True, {}, 0)


def test_page_gets_its_time_to_become_healthy(
    machine: Machine, states: ModuleType, clock: Clock
) -> None:
    machine.health = [False, False, True]
    assert _healthy(states)["result"] is True
    assert clock.now > 0


def test_page_that_stays_ill_fails_the_state(
    machine: Machine, states: ModuleType, clock: Clock
) -> None:
    machine.health = [False]
    ret = _healthy(states)
    assert ret["result"] is False
    assert "not healthy within 10 s" in ret["comment"]
    assert "credits" not in ret["comment"]
    assert 10 <= clock.now <= 11


def test_machine_without_credits_gets_ten_times_as_long(
    machine: Machine, states: ModuleType, clock: Clock
) -> None:
    machine.health, machine.slow = [False], "out of CPU credits: it got 10%"
    ret = _healthy(states)
    assert ret["result"] is False
    assert ret["comment"].endswith(". This machine is out of CPU credits: it got 10%")
    assert 100 <= clock.now <= 101
    machine.health = [False] * 60 + [True]
    assert _healthy(states)["result"] is True


def test_prediction_does_not_wait_for_health(
    machine: Machine, states: ModuleType, clock: Clock
) -> None:
    machine.health, states.__opts__["test"] = [False], True
    ret = _healthy(states)
    assert (ret["result"], ret["comment"]) == (None, "Airflow does not answer yet")
    assert clock.now == 0
    machine.health = [True]
    assert _healthy(states)["result"] is True
