"""The module and the state `patroni`: who leads, who takes over, and when a member runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from fakeclock import Clock
from saltmodules import load
from stackctl.certificates import Authority
from tlsserver import Page, serving

SETTINGS = {"ttl": 20, "postgresql": {"use_slots": True}}

Members = list[dict[str, Any]]


def members(*others: Mapping[str, Any]) -> Members:
    """Return a leader, `postgres-1`, and these from postgres-2 on."""
    leader = {"name": "postgres-1", "role": "leader", "state": "running", "timeline": 4}
    replica = {"role": "replica", "state": "streaming", "timeline": 4, "lag": 0}
    return [leader] + [
        {**replica, "name": f"postgres-{number}", **other} for number, other in enumerate(others, 2)
    ]


class Cluster:
    """The REST API of the members, on each machine that runs.

    Attributes:
        members: what all of them know; None: etcd does not answer them.
        silent: the machines that do not answer.
        promoted: whether the leader's PostgreSQL is the primary.
        settings: what all of them share; None: nothing yet.
        refusal: what a change is answered; empty: it is done.
        changes: method, path and question of each change.
        seconds: until somebody has taken over; None: nobody does.
    """

    def __init__(self, *others: Mapping[str, Any]) -> None:
        self.members: Members | None = members(*others)
        self.silent: set[str] = set()
        self.promoted = True
        self.settings: dict[str, Any] | None = None
        self.refusal = ""
        self.changes: list[tuple[str, str, Any]] = []
        self.seconds: float | None = 3
        self.clock = Clock()
        self.order: list[str] = []

    def ask(self, minion_id: str, method: str, path: str, question: Any = None) -> tuple[int, str]:
        """Answer as Patroni on this machine does."""
        if minion_id in self.silent:
            raise CommandExecutionError(f"Patroni on {minion_id} does not answer")
        if method != "GET":
            self.changes.append((method, path, question))
            return self._change(path, question)
        answer: Any = None
        match path:
            case "/patroni":
                answer = {"state": "running", "role": "replica"}
            case "/primary":
                leads = self.leader() == minion_id
                role = "primary" if leads and self.promoted else "replica"
                return (200 if leads else 503), json.dumps({"role": role})
            case "/cluster":
                answer = {"members": self.members} if self.members is not None else None
            case "/config":
                answer = self.settings
        return (200, json.dumps(answer)) if answer is not None else (502, "no cluster")

    def leader(self) -> str:
        return next(
            (found["name"] for found in self.members or [] if found["role"] == "leader"), ""
        )

    def lead(self, minion_id: str) -> None:
        """Have this member lead; empty: nobody."""
        for found in self.members or []:
            found["role"] = "leader" if found["name"] == minion_id else "replica"

    def _change(self, path: str, question: Any) -> tuple[int, str]:
        if self.refusal:
            return 412, self.refusal
        if path == "/switchover":
            assert question["leader"] == self.leader()
            candidate = question.get("candidate", "postgres-2")
            self.order.append(f"{candidate} takes over")
            self.lead("")
            if self.seconds is not None:
                self.clock.at[self.seconds] = lambda: self.lead(candidate)
            return 202, "scheduled"
        return 200, "done"

    def module(self, own: str = "postgres-1", **functions: Any) -> ModuleType:
        """Return the module on one of the machines."""
        return load(
            "_modules",
            "patroni",
            __opts__={"id": own},
            __salt__=functions,
            time=self.clock,
            _ask=self.ask,
        )


# -- reading ---------------------------------------------------------------------------------------


def test_member_says_what_it_is_whether_it_leads_or_not() -> None:
    cluster = Cluster({})
    cluster.silent = {"postgres-1"}
    module = cluster.module("postgres-2")
    assert module.member()["role"] == module.member("postgres-2")["role"] == "replica"
    for ask in (lambda: module.member("postgres-1"), cluster.module().member):
        with pytest.raises(CommandExecutionError, match="Patroni on postgres-1 does not answer"):
            ask()


def test_answer_that_is_no_json_is_an_error() -> None:
    cluster = Cluster({})
    module = cluster.module()
    module.__dict__["_ask"] = lambda *_: (200, "<html>" + 300 * "x")
    with pytest.raises(CommandExecutionError, match=r"^Patroni answers '<html>x{194}'$"):
        module.member()


def test_primary_is_the_member_that_leads_and_writes() -> None:
    cluster = Cluster({})
    assert cluster.module().is_primary() is True
    assert cluster.module("postgres-2").is_primary() is False
    cluster.promoted = False
    assert cluster.module().is_primary() is False
    cluster.silent = {"postgres-1"}
    assert cluster.module().is_primary() is False


@pytest.mark.parametrize("role", ["leader", "standby_leader"])
def test_leader_is_a_member(role: str) -> None:
    cluster = Cluster({}, {})
    cluster.lead("")
    assert cluster.module().leader() == ""
    assert cluster.members is not None
    cluster.members[2]["role"] = role
    assert cluster.module().leader() == "postgres-3"
    cluster.members = None
    with pytest.raises(CommandExecutionError, match="does not know its cluster: no cluster"):
        cluster.module().leader()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({}, ("replica, streaming, 0.0 MiB behind", "")),
        (
            {"lag": 5 * 2**20, "role": "quorum_standby"},
            ("quorum standby, streaming, 5.0 MiB behind", ""),
        ),
        (
            {"lag": "unknown", "state": "starting"},
            ("replica, starting, lag unknown", "PostgreSQL is starting"),
        ),
        ({"role": "standby_leader", "timeline": 7}, ("leads, timeline 7, 0 follow", "")),
        ({"name": "postgres-9"}, ("", "it is no member of Patroni's cluster")),
    ],
)
def test_status_is_told(other: dict[str, Any], told: tuple[str, str]) -> None:
    found = Cluster(other).module("postgres-2").told()
    assert (found["replication"], found["problem"]) == told


def test_status_of_the_leader_and_of_silence_is_told() -> None:
    cluster = Cluster({})

    def told(minion_id: str = "postgres-1") -> str:
        return str(cluster.module(minion_id).told()["replication"])

    assert told() == "leads, timeline 4, 1 follow, 0.0 MiB behind"
    assert cluster.members is not None
    del cluster.members[0]["timeline"], cluster.members[1]["lag"]
    assert told() == "leads, timeline unknown, 1 follow, lag unknown"
    assert told("postgres-2") == "replica, streaming, lag unknown"
    cluster.silent = {"postgres-1"}
    assert cluster.module().told() == {
        "replication": "",
        "problem": "Patroni on postgres-1 does not answer",
    }


# -- changing --------------------------------------------------------------------------------------


LAG = {"maximum_lag_on_failover": 100}


@pytest.mark.parametrize(
    ("own", "other", "voting", "problem"),
    [
        ("postgres-1", {}, True, ""),
        ("postgres-1", {}, False, "its member of etcd has no vote"),
        ("postgres-2", {}, True, ""),
        ("postgres-2", {"role": "quorum_standby", "lag": 100}, True, ""),
        ("postgres-2", {}, False, "its member of etcd has no vote"),
        ("postgres-2", {"lag": 101}, True, "replica, 0.0 MiB behind"),
        ("postgres-2", {"lag": "unknown"}, True, "replica, lag unknown"),
        ("postgres-2", {"state": "stopped"}, True, "PostgreSQL is stopped"),
        ("postgres-2", {"state": "running"}, True, "PostgreSQL is running"),
        ("postgres-3", {}, True, "it is no member of Patroni's cluster"),
    ],
)
def test_cluster_counts_on_who_leads_or_follows_closely(
    own: str, other: dict[str, Any], voting: bool, problem: str
) -> None:
    cluster = Cluster(other)
    cluster.settings = LAG
    module = cluster.module(own, **{"etcd_member.voting": lambda: voting})
    assert module.unfit() == problem


def test_cluster_does_not_count_on_who_is_silent_or_has_crashed() -> None:
    cluster = Cluster({})
    cluster.members[0]["state"] = "crashed"  # type: ignore[index]
    assert cluster.module().unfit() == "PostgreSQL is crashed"
    cluster.silent = {"postgres-1"}
    assert "does not answer" in cluster.module().unfit()
    module = cluster.module("postgres-2", **{"etcd_member.voting": lambda: True})
    assert module.unfit() == "", "without a lag"
    cluster.members[1]["lag"] = 1  # type: ignore[index]
    assert module.unfit() == "replica, 0.0 MiB behind", "the cluster has no settings"


def test_settings_are_read_and_replaced() -> None:
    cluster = Cluster()
    assert cluster.module().settings() is None
    cluster.module().configure(SETTINGS)
    assert cluster.changes == [("PUT", "/config", SETTINGS)]
    cluster.settings = SETTINGS
    assert cluster.module().settings() == SETTINGS


def test_restart_is_for_pending_settings_alone() -> None:
    cluster = Cluster()
    cluster.module().restart()
    assert cluster.changes == [("POST", "/restart", {"restart_pending": True})]


def test_refused_change_is_an_error() -> None:
    cluster = Cluster({})
    cluster.refusal = "candidate is not fit"
    module = cluster.module()
    for path, change in (
        ("config", lambda: module.configure(SETTINGS)),
        ("restart", module.restart),
        ("switchover", lambda: module.switch_over("postgres-2")),
    ):
        refused = f"^Patroni refuses /{path}: candidate is not fit$"
        with pytest.raises(CommandExecutionError, match=refused):
            change()


@pytest.mark.parametrize("candidate", [None, "postgres-3"])
def test_another_takes_over(candidate: str | None) -> None:
    cluster = Cluster({}, {})
    assert cluster.module().switch_over(candidate) == (candidate or "postgres-2")
    question = {"leader": "postgres-1"} | ({"candidate": candidate} if candidate else {})
    assert cluster.changes == [("POST", "/switchover", question)]
    assert cluster.clock.now == cluster.seconds


def test_member_that_leads_takes_nothing_over() -> None:
    cluster = Cluster({})
    assert cluster.module("postgres-2").switch_over("postgres-1") == "postgres-1"
    assert cluster.changes == []


def test_successor_leads_when_its_database_writes() -> None:
    cluster = Cluster({})
    cluster.promoted = False
    cluster.clock.at[20] = lambda: vars(cluster).update(promoted=True)
    assert cluster.module().switch_over() == "postgres-2"
    assert cluster.clock.now == 20


@pytest.mark.parametrize("problem", ["nobody", "is silent", "stays"])
def test_nobody_takes_over_in_time(problem: str) -> None:
    cluster = Cluster({})
    cluster.seconds = None if problem == "nobody" else 3
    cluster.silent = {"postgres-2"} if problem == "is silent" else set()
    if problem == "stays":
        cluster.clock.at[2] = lambda: cluster.lead("postgres-1")
        cluster.seconds = None
    refused = "^nobody has taken over from postgres-1 within 10 s$"
    with pytest.raises(CommandExecutionError, match=refused):
        cluster.module().switch_over(seconds=10)
    assert cluster.clock.now == 10


class Leaving:
    """What a machine does that leaves, in order."""

    def __init__(self, cluster: Cluster, *, has_place: bool = True) -> None:
        self.cluster = cluster
        self.has_place = has_place

    def leave(self, own: str = "postgres-1", *leaving: str) -> list[str]:
        def noted(what: str) -> Any:
            return lambda name: self.cluster.order.append(f"{what} {name}")

        def left() -> bool:
            self.cluster.order.append("leave etcd")
            return self.has_place

        module = self.cluster.module(
            own,
            **{
                "service.disable": noted("disable"),
                "service.stop": noted("stop"),
                "etcd_member.leave": left,
            },
        )
        done: list[str] = module.leave(leaving)
        return done


STOPPED = ["disable patroni", "disable etcd", "stop patroni", "leave etcd"]


def test_leader_that_leaves_has_another_take_over_first() -> None:
    cluster = Cluster({}, {"role": "quorum_standby"})
    done = Leaving(cluster).leave()
    assert done == ["postgres-3 leads", "PostgreSQL has stopped", "etcd has a member less"]
    assert cluster.order == ["postgres-3 takes over", *STOPPED]


def test_replica_that_leaves_only_stops() -> None:
    cluster = Cluster({}, {})
    done = Leaving(cluster, has_place=False).leave("postgres-2")
    assert done == ["PostgreSQL has stopped"]
    assert cluster.order == STOPPED


@pytest.mark.parametrize(
    ("second", "third", "chosen"),
    [
        ({}, {"role": "sync_standby", "lag": 9}, "postgres-3"),
        ({"role": "quorum_standby", "lag": 9}, {}, "postgres-2"),
        ({"role": "quorum_standby", "lag": 9}, {"role": "quorum_standby", "lag": 8}, "postgres-3"),
        ({"lag": "unknown"}, {"lag": 10**9}, "postgres-3"),
        ({"lag": 3}, {"lag": 3}, "postgres-2"),
    ],
)
def test_successor_is_the_one_that_has_the_commits(
    second: dict[str, Any], third: dict[str, Any], chosen: str
) -> None:
    cluster = Cluster(second, third)
    assert Leaving(cluster).leave()[0] == f"{chosen} leads"


def test_successor_is_none_that_leaves_as_well() -> None:
    cluster = Cluster({"role": "quorum_standby"}, {"lag": 5})
    assert Leaving(cluster).leave("postgres-1", "postgres-1", "postgres-2")[0] == "postgres-3 leads"


@pytest.mark.parametrize("leaving", [(), ("postgres-2",)])
def test_last_member_does_not_leave(leaving: tuple[str, ...]) -> None:
    cluster = Cluster(*({} for _ in leaving))
    with pytest.raises(CommandExecutionError, match=r"^no member would stay: postgres-1 cannot"):
        Leaving(cluster).leave("postgres-1", *leaving)
    assert cluster.order == []


def test_leader_without_a_successor_goes_on() -> None:
    cluster = Cluster({})
    cluster.refusal = "not fit"
    with pytest.raises(CommandExecutionError, match="not fit"):
        Leaving(cluster).leave()
    assert cluster.order == []


# -- the REST API ----------------------------------------------------------------------------------

AUTHORITY = Authority.new("test")


class Api(Page):
    """It answers with the request, and with 503 where it does not lead."""

    def answer(self) -> None:
        self.send_response(503 if self.path == "/primary" else 200)
        self.end_headers()
        question = json.dumps(self.question()) if "Content-Length" in self.headers else "nothing"
        self.wfile.write(f"{self.command} {self.path} {question}".encode())


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    fields = AUTHORITY.server("postgres-1", ["localhost"], client=True)
    with serving(Api, fields, tmp_path, AUTHORITY.certificate_pem) as found:
        (tmp_path / "ca.pem").write_text(AUTHORITY.certificate_pem)
        (tmp_path / "certificate.pem").write_text(fields["certificate"])
        (tmp_path / "key.pem").write_text(fields["private_key"])
        yield found


def test_members_are_asked_with_a_certificate_on_both_sides(port: int, tmp_path: Path) -> None:
    def host(minion_id: str) -> str:
        return {"postgres-1": "localhost", "postgres-2": "127.0.0.1"}[minion_id]

    module = load(
        "_modules",
        "patroni",
        __salt__={"etcd_member.host": host},
        __pillar__={"endpoints": {"patroni": {"port": port}}},
        TLS=str(tmp_path),
    )
    assert module._ask("postgres-1", "GET", "/primary") == (503, "GET /primary nothing")
    assert module._ask("postgres-1", "PUT", "/config", {"a": 1}) == (200, 'PUT /config {"a": 1}')
    refused = "^Patroni on postgres-2 does not answer: .*CERTIFICATE_VERIFY_FAILED"
    with pytest.raises(CommandExecutionError, match=refused):
        module._ask("postgres-2", "GET", "/primary")
    stranger = Authority.new("stranger").server("postgres-1", ["localhost"], client=True)
    (tmp_path / "certificate.pem").write_text(stranger["certificate"])
    (tmp_path / "key.pem").write_text(stranger["private_key"])
    with pytest.raises(CommandExecutionError, match=r"^Patroni on postgres-1 does not answer: "):
        module._ask("postgres-1", "GET", "/primary")


# -- the states ------------------------------------------------------------------------------------


class Member:
    """The module, as the states see it."""

    def __init__(self) -> None:
        self.state = "running"
        self.pending = False
        self.leads = "postgres-1"
        self.problem = ""
        self.settings: dict[str, Any] | None = dict(SETTINGS)
        self.restarts = 0
        self.configured: list[Any] = []
        self.clock = Clock()

    def answer(self) -> dict[str, Any]:
        self.fail()
        return {"state": self.state} | ({"pending_restart": True} if self.pending else {})

    def fail(self) -> None:
        if self.problem:
            raise CommandExecutionError(self.problem)

    def restart(self) -> None:
        self.restarts += 1
        self.pending, self.state = False, "starting"
        self.clock.at[self.clock.now + 4] = self.run

    def read(self) -> dict[str, Any] | None:
        self.fail()
        return self.settings

    def run(self) -> None:
        self.problem, self.state, self.leads = "", "running", "postgres-1"

    def apply(self, state: str, *arguments: Any, test: bool = False, **options: Any) -> Any:
        module = load(
            "_states",
            "patroni",
            __salt__={
                "patroni.member": self.answer,
                "patroni.leader": lambda: self.leads,
                "patroni.told": lambda: {"replication": "leads, timeline 4"},
                "patroni.restart": self.restart,
                "patroni.settings": self.read,
                "patroni.configure": self.configured.append,
            },
            __opts__={"test": test},
            time=self.clock,
        )
        ret = getattr(module, state)("the name", *arguments, **options)
        assert ret.pop("name") == "the name"
        return ret


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("state", ["running", "streaming"])
def test_member_that_runs_is_unchanged(state: str, test: bool) -> None:
    member = Member()
    member.state = state
    ret = member.apply("running", test=test)
    assert ret == {"result": True, "changes": {}, "comment": "leads, timeline 4"}
    assert (member.restarts, member.clock.naps) == (0, 0)


@pytest.mark.parametrize("missing", ["an answer", "the database", "a leader"])
def test_member_that_starts_is_waited_for(missing: str) -> None:
    member = Member()
    member.problem = "Patroni does not answer" if missing == "an answer" else ""
    member.state = "starting" if missing == "the database" else "running"
    member.leads = "" if missing == "a leader" else "postgres-1"
    member.clock.at[30] = member.run
    ret = member.apply("running")
    assert (ret["result"], ret["changes"], member.clock.now) == (True, {}, 30)


def test_pending_settings_restart_the_database_once() -> None:
    member = Member()
    member.pending = True
    ret = member.apply("running")
    assert (ret["result"], ret["changes"]) == (True, {"restarted": "for settings that need it"})
    assert (member.restarts, member.clock.now) == (1, 4), "it is waited for"


def test_restart_is_predicted() -> None:
    member = Member()
    member.pending = True
    ret = member.apply("running", test=True)
    assert ret == {"result": None, "changes": {}, "comment": "PostgreSQL would restart"}
    assert member.restarts == 0


@pytest.mark.parametrize(
    ("state", "leads", "problem", "comment"),
    [
        ("running", "postgres-1", "Patroni does not answer", "Patroni does not answer"),
        ("running", "", "", "no member leads"),
        ("creating replica", "postgres-1", "", "PostgreSQL is creating replica"),
    ],
)
def test_start_is_predicted_at_once(state: str, leads: str, problem: str, comment: str) -> None:
    member = Member()
    member.state, member.leads, member.problem = state, leads, problem
    ret = member.apply("running", test=True)
    assert ret == {"result": None, "changes": {}, "comment": comment}
    assert member.clock.naps == 0


def test_patience_with_silence_is_short() -> None:
    member = Member()
    member.problem = "Patroni does not answer"
    ret = member.apply("running")
    comment = "after 60 s: Patroni does not answer; see journalctl -u patroni"
    assert ret == {"result": False, "changes": {}, "comment": comment}
    assert member.apply("running", seconds=10)["comment"].startswith("after 10 s: ")


def test_patience_with_a_copy_is_long() -> None:
    member = Member()
    member.state = "creating replica"
    member.clock.at[850] = member.run
    assert member.apply("running")["result"] is True
    assert member.clock.now == 850
    member.state = "creating replica"
    comment = "after 900 s: PostgreSQL is creating replica; see journalctl -u patroni"
    assert member.apply("running") == {"result": False, "changes": {}, "comment": comment}


def test_restart_that_fails_keeps_its_changes() -> None:
    member = Member()
    member.pending = True
    member.run = lambda: None  # type: ignore[method-assign]
    ret = member.apply("running", seconds=100)
    assert (ret["result"], bool(ret["changes"])) == (False, True)
    assert ret["comment"].startswith("after 100 s: PostgreSQL is starting")


@pytest.mark.parametrize("test", [False, True])
def test_shared_settings_are_unchanged(test: bool) -> None:
    member = Member()
    ret = member.apply("configured", SETTINGS, test=test)
    assert (ret["result"], ret["changes"], member.configured) == (True, {}, [])
    assert ret["comment"]


@pytest.mark.parametrize("before", [None, {"ttl": 30}, SETTINGS | {"of": "somebody"}])
def test_other_settings_are_replaced(before: dict[str, Any] | None) -> None:
    member = Member()
    member.settings = before
    ret = member.apply("configured", SETTINGS)
    assert (ret["result"], ret["changes"]) == (True, {"old": before, "new": SETTINGS})
    assert member.configured == [SETTINGS]


def test_replaced_settings_are_predicted() -> None:
    member = Member()
    member.settings = {"ttl": 30}
    ret = member.apply("configured", SETTINGS, test=True)
    assert (ret["result"], ret["changes"], member.configured) == (None, {}, [])


@pytest.mark.parametrize(("test", "result"), [(False, False), (True, None)])
def test_settings_without_an_answer(test: bool, result: bool | None) -> None:
    member = Member()
    member.problem = "Patroni does not answer"
    ret = member.apply("configured", SETTINGS, test=test)
    assert ret == {"result": result, "changes": {}, "comment": "Patroni does not answer"}
