"""The module and the state `etcd_member`: who begins a cluster, who joins it, and who leaves it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from fakeclock import Clock
from saltmodules import load
from stackctl.certificates import Authority
from tlsserver import Page, serving

PORTS = {"etcd-client": 2379, "etcd-peer": 2380, "patroni": 8008, "postgres": 5432}
PILLAR = {
    "domain": "example.internal",
    "endpoints": {name: {"port": port} for name, port in PORTS.items()},
}
MACHINES = ("postgres-1", "postgres-2", "postgres-3")
VOTE = {"vote": "given"}


def url(minion_id: str) -> str:
    return f"https://{minion_id}.example.internal:2380"


def initial(*minion_ids: str) -> str:
    return ",".join(f"{minion_id}={url(minion_id)}" for minion_id in minion_ids)


class Etcd:
    """A cluster, as its members tell it, and the network in which its machines are.

    Attributes:
        members: what etcd lists; a member that has never started has no name.
        running: the machines whose etcd answers.
        ports: machine -> the ports that accept connections.
        silent: the machines that do not even refuse a connection.
        refusals: what etcd says in turn to whoever wants to change its members.
        asked: machine and last word of each question.
    """

    def __init__(self, *voters: str) -> None:
        self.members: list[dict[str, Any]] = []
        self.running: set[str] = set()
        self.ports: dict[str, int] = {}
        self.silent: set[str] = set()
        self.refusals: list[str] = []
        self.asked: list[tuple[str, str]] = []
        for voter in voters:
            self.start(voter)

    def start(self, minion_id: str, **state: Any) -> None:
        """Add a member that runs."""
        self._add(minion_id, name=minion_id, **state)
        self.running.add(minion_id)
        self.ports[minion_id] = PORTS["etcd-client"]

    def lose(self, minion_id: str) -> None:
        """End a machine; its place stays."""
        self.running.discard(minion_id)
        self.ports.pop(minion_id, None)

    def places(self) -> list[tuple[str, bool]]:
        """Return the machine of each member, by its address, and whether it has a vote."""
        return [
            (
                member["peerURLs"][0].removeprefix("https://").split(".")[0],
                "isLearner" not in member,
            )
            for member in self.members
        ]

    def ask(self, minion_id: str, path: str, question: Mapping[str, Any]) -> Any:
        """Answer as etcd on this machine does."""
        *folder, word = path.split("/")
        self.asked.append((minion_id, word))
        if minion_id not in self.running:
            raise CommandExecutionError(f"etcd on {minion_id} does not answer")
        own = next(member for member in self.members if member.get("name") == minion_id)
        if word == "status":
            assert path == "/v3/maintenance/status"
            return {"leader": self.members[0]["ID"], "header": {"member_id": own["ID"]}}
        assert folder == ["", "v3", "cluster", "member"]
        if own.get("isLearner"):
            raise CommandExecutionError(f"etcd on {minion_id} is a learner")
        if word != "list" and self.refusals:
            raise CommandExecutionError(self.refusals.pop(0))
        if word == "add":
            assert question["isLearner"] is True
            (peer,) = question["peerURLs"]
            assert peer not in [member["peerURLs"][0] for member in self.members]
            self._add(peer.removeprefix("https://").split(".")[0], isLearner=True)
        if word in ("remove", "promote"):
            (place,) = [member for member in self.members if member["ID"] == question["ID"]]
            if word == "remove":
                self.members.remove(place)
            else:
                del place["isLearner"]
        return {"members": [dict(member) for member in self.members]}

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """Stand in for `socket.create_connection`."""
        assert timeout < 10
        minion_id, _, domain = address[0].partition(".")
        assert domain == "example.internal"
        if minion_id in self.silent:
            raise TimeoutError
        if self.ports.get(minion_id) != address[1]:
            raise ConnectionRefusedError
        return socket.socket()

    def _add(self, minion_id: str, **state: Any) -> None:
        taken = [int(member["ID"]) for member in self.members]
        place = str(max(taken, default=100) + 1)
        self.members.append({"ID": place, "peerURLs": [url(minion_id)], **state})


class Machine:
    """The module on one of the machines."""

    def __init__(self, own: str, etcd: Etcd, machines: tuple[str, ...] = MACHINES) -> None:
        self.clock = Clock()
        self.stopped: list[str] = []
        self.module = load(
            "_modules",
            "etcd_member",
            __opts__={"id": own},
            __pillar__=PILLAR,
            __salt__={
                "role.own": lambda: "postgres",
                "machines.addresses": {"postgres": dict.fromkeys(sorted(machines), "")}.get,
                "service.stop": self.stopped.append,
            },
            time=self.clock,
            socket=SimpleNamespace(create_connection=etcd.connect),
            _ask=etcd.ask,
        )

    def join(self) -> dict[str, str]:
        environment: dict[str, str] = self.module.join()
        return environment

    def refusal(self) -> str:
        """Return why it does not join, after it has tried as long as it may."""
        with pytest.raises(CommandExecutionError) as caught:
            self.module.join()
        assert self.clock.now >= self.module.JOIN_SECONDS
        return str(caught.value)


# -- who begins ------------------------------------------------------------------------------------


def test_machine_without_others_begins_at_once() -> None:
    machine = Machine("postgres-1", Etcd(), ("postgres-1",))
    assert machine.join() == {
        "ETCD_INITIAL_CLUSTER": initial("postgres-1"),
        "ETCD_INITIAL_CLUSTER_STATE": "new",
    }
    assert machine.clock.naps == 0


def test_first_machine_begins_when_the_others_refuse_again_and_again() -> None:
    machine = Machine("postgres-1", Etcd())
    assert machine.join() == {
        "ETCD_INITIAL_CLUSTER": initial("postgres-1"),
        "ETCD_INITIAL_CLUSTER_STATE": "new",
    }
    assert machine.clock.naps == 14


def test_first_machine_joins_when_another_comes_up_meanwhile() -> None:
    etcd = Etcd()
    machine = Machine("postgres-1", etcd)
    machine.clock.at[2] = lambda: etcd.start("postgres-3")
    assert machine.join()["ETCD_INITIAL_CLUSTER_STATE"] == "existing"


def test_first_machine_is_the_one_with_the_lowest_number() -> None:
    machines = ("postgres-10", "postgres-9")
    assert Machine("postgres-9", Etcd(), machines).join()["ETCD_INITIAL_CLUSTER_STATE"] == "new"
    refusal = Machine("postgres-10", Etcd(), machines).refusal()
    assert refusal == "etcd runs nowhere yet: apply the highstate of postgres-9 first"


@pytest.mark.parametrize("endpoint", ["etcd-client", "patroni", "postgres"])
def test_another_that_serves_prevents_a_second_cluster(endpoint: str) -> None:
    etcd = Etcd()
    etcd.ports["postgres-3"] = PORTS[endpoint]
    refusal = Machine("postgres-1", etcd).refusal()
    assert refusal == (
        "postgres-3 does not take postgres-1 into etcd: etcd on postgres-2 does not answer"
    )


def test_silent_machine_prevents_a_second_cluster() -> None:
    etcd = Etcd()
    etcd.silent = {"postgres-2", "postgres-3"}
    refusal = Machine("postgres-1", etcd).refusal()
    assert refusal.startswith("postgres-2, postgres-3 may hold the cluster's data")
    assert "so postgres-1 begins none" in refusal
    etcd.silent = {"postgres-3"}
    assert Machine("postgres-1", etcd).refusal().startswith("postgres-3 may hold")


# -- who joins -------------------------------------------------------------------------------------


def test_new_machine_joins_without_a_vote() -> None:
    etcd = Etcd("postgres-1", "postgres-2")
    machine = Machine("postgres-3", etcd)
    assert machine.join() == {
        "ETCD_INITIAL_CLUSTER": initial("postgres-1", "postgres-2", "postgres-3"),
        "ETCD_INITIAL_CLUSTER_STATE": "existing",
    }
    assert etcd.places() == [("postgres-1", True), ("postgres-2", True), ("postgres-3", False)]
    assert machine.clock.naps == 0


def test_machine_that_lost_its_data_replaces_its_place() -> None:
    etcd = Etcd("postgres-1", "postgres-2", "postgres-3")
    etcd.lose("postgres-1")
    old = etcd.members[0]["ID"]
    environment = Machine("postgres-1", etcd).join()
    assert environment["ETCD_INITIAL_CLUSTER"] == initial("postgres-2", "postgres-3", "postgres-1")
    assert etcd.places() == [("postgres-2", True), ("postgres-3", True), ("postgres-1", False)]
    assert old not in [member["ID"] for member in etcd.members]


def test_machine_that_never_started_replaces_its_place() -> None:
    """Its first attempt may have ended between its question and its start."""
    etcd = Etcd("postgres-1")
    Machine("postgres-2", etcd).join()
    assert "name" not in etcd.members[1]
    Machine("postgres-2", etcd).join()
    assert etcd.places() == [("postgres-1", True), ("postgres-2", False)]


def test_machine_joins_by_the_next_one_when_one_is_lost() -> None:
    etcd = Etcd("postgres-1", "postgres-2", "postgres-3")
    etcd.lose("postgres-1")
    etcd.lose("postgres-3")
    Machine("postgres-3", etcd).join()
    assert etcd.asked[0] == ("postgres-1", "list")
    assert ("postgres-2", "add") in etcd.asked


def test_refusal_is_tried_again() -> None:
    etcd = Etcd("postgres-1", "postgres-2")
    etcd.refusals = ["too many learner members in cluster"] * 7
    machine = Machine("postgres-3", etcd)
    assert machine.join()["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
    assert machine.clock.naps == 3, "each round asks both"


def test_refusal_that_stays_is_told() -> None:
    etcd = Etcd("postgres-1", "postgres-2")
    etcd.refusals = ["unhealthy cluster"] * 1000
    machine = Machine("postgres-3", etcd)
    assert machine.refusal() == ("postgres-1 does not take postgres-3 into etcd: unhealthy cluster")
    assert machine.clock.now < machine.module.JOIN_SECONDS + 5


def test_member_with_data_has_joined(tmp_path: Path) -> None:
    joined = Machine("postgres-1", Etcd()).module.joined
    assert joined(str(tmp_path)) is False
    (tmp_path / "member").mkdir()
    assert joined(str(tmp_path)) is True


def test_hosts_are_the_machines_of_the_role() -> None:
    assert Machine("postgres-2", Etcd()).module.hosts() == [
        "postgres-1.example.internal",
        "postgres-2.example.internal",
        "postgres-3.example.internal",
    ]


# -- the vote --------------------------------------------------------------------------------------


def test_member_without_a_vote_has_another_give_it() -> None:
    etcd = Etcd("postgres-1")
    etcd.start("postgres-2", isLearner=True)
    module = Machine("postgres-2", etcd).module
    assert module.voting() is False
    assert module.promote() == ""
    assert module.voting() is True
    assert ("postgres-1", "promote") in etcd.asked
    assert etcd.asked[-1] == ("postgres-2", "list"), "which answers itself from now on"


def test_vote_is_refused_until_the_member_has_caught_up() -> None:
    etcd = Etcd("postgres-1")
    etcd.start("postgres-2", isLearner=True)
    etcd.refusals = ["not in sync with leader"]
    module = Machine("postgres-2", etcd).module
    assert module.promote() == "not in sync with leader"
    assert module.voting() is False


def test_machine_without_a_place_gets_no_vote() -> None:
    module = Machine("postgres-2", Etcd("postgres-1")).module
    assert module.promote() == "etcd on postgres-1 has no member postgres-2"


def test_member_that_does_not_run_does_not_vote() -> None:
    etcd = Etcd("postgres-1", "postgres-2")
    etcd.lose("postgres-2")
    with pytest.raises(CommandExecutionError, match="etcd on postgres-2 does not answer"):
        Machine("postgres-2", etcd).module.voting()


def test_nobody_with_a_vote_is_an_error() -> None:
    etcd = Etcd()
    etcd.start("postgres-2", isLearner=True)
    with pytest.raises(CommandExecutionError, match="etcd on postgres-2 is a learner"):
        Machine("postgres-2", etcd).module.voting()


# -- who leaves ------------------------------------------------------------------------------------


def data_of(machine: Machine, folder: Path) -> Path:
    """Return the data of a member that has started."""
    (folder / "data" / "member").mkdir(parents=True)
    (folder / "initial.env").write_text("")
    machine.module.__dict__["INITIAL"] = str(folder / "initial.env")
    return folder / "data"


def test_member_that_leaves_has_no_place_and_no_data(tmp_path: Path) -> None:
    etcd = Etcd(*MACHINES)
    machine = Machine("postgres-1", etcd)
    data = data_of(machine, tmp_path)
    assert machine.module.leave(str(data)) is True
    assert etcd.places() == [("postgres-2", True), ("postgres-3", True)]
    assert ("postgres-2", "remove") in etcd.asked, "a member that has gone could not answer"
    assert machine.stopped == ["etcd"]
    assert list(tmp_path.iterdir()) == []
    etcd.asked.clear()
    assert machine.module.leave(str(data)) is False
    assert etcd.asked == []


def test_leaving_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    machine = Machine("postgres-1", Etcd("postgres-2", "postgres-3"))
    data = data_of(machine, tmp_path)
    (tmp_path / "initial.env").unlink()
    assert machine.module.leave(str(data)) is True
    assert machine.stopped == ["etcd"]
    assert list(tmp_path.iterdir()) == []


def test_refused_member_keeps_its_data(tmp_path: Path) -> None:
    etcd = Etcd(*MACHINES)
    etcd.refusals = ["unhealthy cluster", "unhealthy cluster"]
    machine = Machine("postgres-1", etcd)
    data = data_of(machine, tmp_path)
    with pytest.raises(CommandExecutionError, match="unhealthy cluster"):
        machine.module.leave(str(data))
    assert machine.module.joined(str(data))
    assert machine.stopped == []


def test_only_member_does_not_leave(tmp_path: Path) -> None:
    etcd = Etcd("postgres-1")
    Machine("postgres-2", etcd).join()  # and has not started
    machine = Machine("postgres-1", etcd)
    data = data_of(machine, tmp_path)
    with pytest.raises(CommandExecutionError, match="postgres-1 is the only member of etcd"):
        machine.module.leave(str(data))
    assert machine.module.joined(str(data))


def test_places_of_machines_that_have_gone_are_given_up() -> None:
    etcd = Etcd("postgres-1", "postgres-2")
    Machine("postgres-3", etcd).join()
    module = Machine("postgres-1", etcd).module
    assert module.forget(["postgres-2", "postgres-3", "postgres-4"]) == ["postgres-2", "postgres-3"]
    assert etcd.places() == [("postgres-1", True)]
    assert module.forget(["postgres-2"]) == []


def test_places_of_machines_that_are_lost_are_given_up_alone() -> None:
    etcd = Etcd(*MACHINES)
    etcd.silent = {"postgres-3"}
    module = Machine("postgres-1", etcd).module
    assert module.forget(["postgres-2", "postgres-3"], silent=True) == ["postgres-3"]
    assert [name for name, _ in etcd.places()] == ["postgres-1", "postgres-2"]


# -- the gateway -----------------------------------------------------------------------------------

AUTHORITY = Authority.new("test")


class Gateway(Page):
    """etcd's JSON gateway: it repeats the question."""

    def answer(self) -> None:
        answer = {"message": "no such path"} if self.path == "/v3/wrong" else self.question()
        self.send_response(200 if self.path in ("/v3/right", "/v3/broken") else 400)
        self.end_headers()
        self.wfile.write(b"?" if self.path == "/v3/broken" else json.dumps(answer).encode())


Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """`ask(port, path, …)`: ask the gateway at that port of this host, as a member."""

    def asked(port: int, path: str, *, client: bool = True) -> Any:
        fields = AUTHORITY.server("postgres-1", ["localhost"], client=client)
        for name, text in (
            ("ca.pem", AUTHORITY.certificate_pem),
            ("certificate.pem", fields["certificate"]),
            ("key.pem", fields["private_key"]),
        ):
            (tmp_path / name).write_text(text)
        pillar = {"endpoints": {"etcd-client": {"port": port}}}
        module = load("_modules", "etcd_member", __pillar__=pillar, TLS=str(tmp_path))
        module.__dict__["host"] = lambda _: "localhost"
        return module._ask("postgres-1", path, {"x": 7})

    return asked


def test_gateway_is_asked_with_a_certificate_on_both_sides(ask: Ask, tmp_path: Path) -> None:
    fields = AUTHORITY.server("postgres-1", ["localhost"])
    trusted = AUTHORITY.certificate_pem
    with serving(Gateway, fields, tmp_path, trusted) as port:
        assert ask(port, "/v3/right") == {"x": 7}
        refused = "^etcd on postgres-1 refuses /v3/wrong: no such path$"
        with pytest.raises(CommandExecutionError, match=refused):
            ask(port, "/v3/wrong")
        with pytest.raises(CommandExecutionError, match=r"refuses /v3/else: {'x': 7}$"):
            ask(port, "/v3/else")
        for path, client in (("/v3/broken", True), ("/v3/right", False)):
            with pytest.raises(CommandExecutionError, match="etcd on postgres-1 does not answer"):
                ask(port, path, client=client)
    stranger = Authority.new("stranger").server("postgres-1", ["localhost"])
    with (
        serving(Gateway, stranger, tmp_path) as port,
        pytest.raises(CommandExecutionError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        ask(port, "/v3/right")


# -- the states ------------------------------------------------------------------------------------

ENVIRONMENT = {"ETCD_INITIAL_CLUSTER": "a=b", "ETCD_INITIAL_CLUSTER_STATE": "new"}


class Member:
    """The module, as the states see it."""

    def __init__(self) -> None:
        self.has_data = False
        self.problem = ""
        self.votes: list[bool | str] = []  # in turn; a text is an error
        self.refusals: list[str] = []  # in turn
        self.promotions = 0
        self.written: dict[str, Any] = {}
        self.writable = True
        self.clock = Clock()

    def join(self) -> dict[str, str]:
        if self.problem:
            raise CommandExecutionError(self.problem)
        return ENVIRONMENT

    def voting(self) -> bool:
        vote = self.votes.pop(0) if len(self.votes) > 1 else self.votes[0]
        if isinstance(vote, str):
            raise CommandExecutionError(vote)
        return vote

    def promote(self) -> str:
        self.promotions += 1
        return self.refusals.pop(0) if len(self.refusals) > 1 else self.refusals[0]

    def managed(self, name: str, **options: Any) -> dict[str, Any]:
        self.written[name] = options
        return {"result": self.writable, "changes": {"diff": "New file"}}

    def apply(self, state: str, *, test: bool = False, **options: Any) -> dict[str, Any]:
        module = load(
            "_states",
            "etcd_member",
            __salt__={
                "etcd_member.joined": lambda: self.has_data,
                "etcd_member.join": self.join,
                "etcd_member.voting": self.voting,
                "etcd_member.promote": self.promote,
            },
            __states__={"file.managed": self.managed},
            __opts__={"test": test},
            time=self.clock,
        )
        ret: dict[str, Any] = getattr(module, state)("the name", **options)
        assert ret.pop("name") == "the name"
        return ret


@pytest.mark.parametrize("test", [False, True])
def test_member_with_data_is_prepared(test: bool) -> None:
    member = Member()
    member.has_data = True
    ret = member.apply("prepared", test=test)
    assert (ret["result"], ret["changes"], member.written) == (True, {}, {})


def test_place_is_predicted() -> None:
    member = Member()
    member.problem = "nobody may ask"
    assert member.apply("prepared", test=True) == {
        "result": None,
        "changes": {},
        "comment": "this machine would join the cluster",
    }
    assert member.written == {}


def test_what_etcd_needs_at_its_first_start_is_written() -> None:
    member = Member()
    ret = member.apply("prepared")
    assert (ret["result"], ret["changes"]) == (True, {"joined": ENVIRONMENT})
    contents = "# Managed by salt/etcd.\nETCD_INITIAL_CLUSTER=a=b\nETCD_INITIAL_CLUSTER_STATE=new\n"
    assert member.written == {"the name": {"contents": contents, "mode": "0644"}}
    member.writable = False
    assert member.apply("prepared")["result"] is False


def test_machine_that_cannot_join_fails_the_state() -> None:
    member = Member()
    member.problem = "etcd runs nowhere yet"
    assert member.apply("prepared") == {
        "result": False,
        "changes": {},
        "comment": "etcd runs nowhere yet",
    }
    assert member.written == {}


@pytest.mark.parametrize("test", [False, True])
def test_member_with_a_vote_is_unchanged(test: bool) -> None:
    member = Member()
    member.votes = [True]
    ret = member.apply("voting", test=test)
    assert (ret["result"], ret["changes"], member.promotions) == (True, {}, 0)


@pytest.mark.parametrize("vote", [False, "etcd does not answer"])
def test_vote_is_predicted(vote: bool | str) -> None:
    member = Member()
    member.votes = [vote]
    ret = member.apply("voting", test=True)
    assert (ret["result"], ret["changes"], member.promotions) == (None, {}, 0)
    assert ret["comment"] == (vote or "the member would get a vote")
    assert member.clock.naps == 0


def test_vote_is_asked_for_until_the_member_has_caught_up() -> None:
    member = Member()
    member.votes = ["etcd does not answer", False]
    member.refusals = ["not in sync", "not in sync", ""]
    ret = member.apply("voting")
    assert (ret["result"], ret["changes"], member.promotions) == (True, VOTE, 3)
    assert member.clock.naps == 3


@pytest.mark.parametrize("vote", [False, "etcd does not answer"])
def test_vote_that_is_never_given_fails_the_state(vote: bool | str) -> None:
    member = Member()
    member.votes = [vote]
    member.refusals = ["not in sync"]
    ret = member.apply("voting", seconds=10)
    assert ret == {"result": False, "changes": {}, "comment": vote or "not in sync"}
    assert member.clock.now == 10
