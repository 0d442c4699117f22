"""Who leads etcd where the primary of PostgreSQL is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from plainpillar import ROOT
from saltmodules import load_file

leader = load_file(ROOT / "salt/postgres/files/etcd_leader.py")
OWN = "postgres-2"


class Cluster(leader.Machine):  # type: ignore[name-defined,misc]
    """`postgres-2` among three members, as far as it is asked.

    Attributes:
        primary: where PostgreSQL's primary is.
        leader: the number of etcd's leader.
        silent: whose etcd does not answer.
        refusing: whom the leader cannot make its successor.
        learner: who has no vote.
        numbers: of the members.
        moved: to whom the leader was asked to hand over.
    """

    primary = OWN
    leader = 2
    silent: tuple[str, ...] = ()
    refusing: tuple[int, ...] = ()
    learner = ""
    numbers: tuple[int, ...] = (1, 2, 3)
    moved: list[int]

    def request(
        self, name: str, port: int, path: str, question: Mapping[str, Any] | None = None
    ) -> tuple[int, Any]:
        if port == self.patroni_port:
            assert (name, path, question) == (self.own, "/primary", None)
            return 200 if self.primary == self.own else 503, {}
        assert port == self.etcd_port
        if name in self.silent:
            raise leader.Unanswered(f"{name}:{port} does not answer: timed out")
        if path == "/v3/maintenance/status":
            number = int(name.rpartition("-")[2])
            return 200, {"leader": str(self.leader), "header": {"member_id": str(number)}}
        if path == "/v3/cluster/member/list":
            return 200, {"members": [self.member(number) for number in self.numbers]}
        assert path == "/v3/maintenance/transfer-leadership"
        assert name == self.own, "only the leader hands over"
        assert question
        target = int(question["targetID"])
        self.moved.append(target)
        if target in self.refusing:
            return 503, {"error": "etcdserver: request timed out, leader transfer took too long"}
        return 200, {}

    def member(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = {"ID": str(number), "name": f"postgres-{number}"}
        if found["name"] == self.learner:
            found["isLearner"] = True
        return found


@pytest.fixture
def machine() -> Cluster:
    made = Cluster(OWN, "stack.internal", 2379, 8008, "/tls")
    made.moved = []
    return made


def test_machine_that_leads_both_hands_etcd_over(machine: Cluster) -> None:
    assert leader.give_up(machine) == "postgres-1 leads etcd"
    assert machine.moved == [1]


def test_replica_may_lead_etcd(machine: Cluster) -> None:
    machine.primary = "postgres-1"
    assert leader.give_up(machine) == "the primary is elsewhere"
    assert machine.moved == []


def test_primary_leaves_the_leader_of_etcd_where_it_is(machine: Cluster) -> None:
    machine.leader = 3
    assert leader.give_up(machine) == "the leader of etcd is elsewhere"
    assert machine.moved == []


def test_member_that_does_not_answer_is_passed_over(machine: Cluster) -> None:
    machine.silent = ("postgres-1",)
    assert leader.give_up(machine) == "postgres-3 leads etcd"
    assert machine.moved == [3]


def test_member_without_a_vote_is_passed_over(machine: Cluster) -> None:
    machine.learner = "postgres-1"
    assert leader.give_up(machine) == "postgres-3 leads etcd"


def test_member_that_has_never_started_is_passed_over(machine: Cluster) -> None:
    machine.member = lambda number: {"ID": str(number)}  # type: ignore[method-assign]
    assert leader.give_up(machine) == "there is no other member"


def test_next_one_is_tried_when_the_first_does_not_take_over(machine: Cluster) -> None:
    machine.refusing = (1,)
    assert leader.give_up(machine) == "postgres-3 leads etcd"
    assert machine.moved == [1, 3]


def test_first_reason_is_told_when_nobody_takes_over(machine: Cluster) -> None:
    machine.refusing, machine.silent = (3,), ("postgres-1",)
    with pytest.raises(leader.Unanswered, match=r"^postgres-1:2379 does not answer"):
        leader.give_up(machine)


def test_single_member_keeps_both(machine: Cluster) -> None:
    machine.numbers = (2,)
    assert leader.give_up(machine) == "there is no other member"


def test_silent_etcd_of_this_machine_is_an_error(machine: Cluster) -> None:
    machine.silent = (OWN,)
    with pytest.raises(leader.Unanswered, match=OWN):
        leader.give_up(machine)


def test_error_is_a_sentence_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code = leader.main(OWN, "stack.invalid", "2379", "8008", str(ROOT / "tests"))
    assert code == 75
    unit = (ROOT / "salt/postgres/files/etcd-leader.service.j2").read_text()
    assert f"\nSuccessExitStatus={code}\n" in unit, "status tells of Patroni and etcd itself"
    assert "does not answer" in capsys.readouterr().err
