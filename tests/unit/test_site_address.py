"""When a load balancer takes the site's address, how it signs, and what is told about it.

tests/cloud/test_site_address.py has two real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from salt.exceptions import CommandExecutionError

from plainpillar import ROOT
from saltmodules import load, load_file

SITE, OWN = "198.51.100.7", "198.51.100.8"
KEYS = {"AccessKeyId": "ASIAX", "SecretAccessKey": "secret", "Token": "to+ken=="}


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program, as a module."""
    return load_file(ROOT / "salt/haproxy/files/site_address.py")


@dataclass
class World:
    """What a load balancer finds, and what it does.

    Attributes:
        public: its public address.
        holder: the interface that has the site's address in EC2.
        site: what the machine with the address says.
        own: what this machine's HAProxy says.
        now: the clock.
        refuses: EC2's reason to refuse a call; empty: it does not.
        taken: how often the address was asked for.
    """

    program: ModuleType
    public: str = OWN
    holder: str = "eni-other"
    site: str = "serves"
    own: str = "serves"
    now: float = 1000.0
    refuses: str = ""
    taken: int = 0
    edge: Any = None
    asked: list[str] = field(default_factory=list)

    def get(self, path: str) -> str:
        return self.public if path == "public-ipv4" else "i-1"

    def address(self) -> Any:
        return self.program.Address(SITE, "eipalloc-1", self.holder)

    def take(self, _address: Any, _instance: str) -> None:
        self.taken += 1
        if self.refuses:
            raise self.program.Failed(self.refuses)
        self.public, self.holder = SITE, "eni-own"

    def probe(self, host: str, *_: object) -> str:
        return self.own if host == "127.0.0.1" else self.site

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += self.edge.look()


@pytest.fixture
def world(program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A load balancer without the address."""
    made = World(program)
    config = program.Config("edge", {}, "eu-west-1", "https://ec2", 443, "/health", alone=False)
    made.edge = program.Edge(config, made.probe, str(tmp_path / "status.json"))
    made.edge._metadata, made.edge._ec2 = made, made
    monkeypatch.setattr(program.time, "monotonic", lambda: made.now)

    def sleep(seconds: float) -> None:
        made.now += seconds

    monkeypatch.setattr(program.time, "sleep", sleep)
    return made


@pytest.mark.parametrize(
    ("site", "own", "looks"),
    [
        ("serves", "serves", 0), ("no-web", "no-web", 0), ("refused", "refused", 0),
        ("silent", "leaving", 0), ("leaving", "silent", 0),
        ("leaving", "serves", 1), ("leaving", "no-web", 1),
        ("refused", "serves", 3), ("silent", "serves", 3), ("silent", "no-web", 3),
        ("no-web", "serves", 6),
    ],
)  # fmt: skip
def test_address_is_taken_from_one_that_is_worse(
    world: World, site: str, own: str, looks: int
) -> None:
    """After so many answers in a row; 0: never."""
    world.site, world.own = site, own
    world.look(looks - 1 if looks else 30)
    assert world.taken == 0
    if looks:
        world.look()
        assert (world.taken, world.edge.status.holds) == (1, True)
        world.look(10)
        assert world.taken == 1


def test_one_good_answer_begins_anew(world: World) -> None:
    for _ in range(5):
        world.site = "silent"
        world.look(2)
        world.site = "serves"
        world.look()
    world.site, world.own = "silent", "refused"
    world.look()
    world.own = "serves"
    world.look(2)
    assert world.taken == 0


def test_address_that_nobody_has_is_taken_at_once(world: World) -> None:
    world.site, world.holder = "silent", ""
    world.look()
    assert world.taken == 1


def test_machine_without_a_way_out_counts_nothing(world: World) -> None:
    """Until EC2 has given it another address, its own silence is no reason."""
    world.site, world.public = "silent", ""
    world.look(10)
    assert "no public address" in world.edge.status.problem
    world.public = OWN
    world.look(2)
    assert world.taken == 0
    world.site = "serves"
    world.look()
    assert (world.taken, world.edge.status.problem) == (0, "")


def test_two_late_ones_do_not_take_it_from_each_other_all_the_time(world: World) -> None:
    world.site = "silent"
    world.look(3)
    assert world.taken == 1
    world.public, world.holder = OWN, "eni-other"
    world.look(11)
    assert world.taken == 1
    world.look()
    assert world.taken == 2, "in the end it does"
    world.public, world.holder, world.site = OWN, "eni-other", "refused"
    world.look(3)
    assert world.taken == 3, "and soon where nobody serves"
    world.now += 61
    world.public, world.holder, world.site = OWN, "eni-other", "silent"
    world.look(3)
    assert world.taken == 4, "the time is over"


def test_refusal_is_told_and_tried_again(world: World, tmp_path: Path) -> None:
    world.site, world.refuses = "refused", "EC2 refuses AssociateAddress: UnauthorizedOperation"
    world.look(3)
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "address": SITE, "holds": False, "problem": world.refuses
    }  # fmt: skip
    world.refuses = ""
    world.look(3)
    assert (world.taken, world.edge.status.problem) == (2, "")


def test_lost_answer_of_a_call_with_effect_is_no_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        world.public = SITE
        raise world.program.Failed("no answer")

    monkeypatch.setattr(world, "take", lost)
    world.edge.take("asked to")
    assert world.edge.status.holds


def test_leaving_waits_until_another_one_has_the_address(
    world: World, program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bool] = []
    monkeypatch.setattr(program, "say_staying", said.append)
    monkeypatch.setattr(program, "requests", lambda: 0)
    world.edge.leave()
    assert said == [False], "without the address, it only takes it no more"
    world.public = SITE
    with pytest.raises(program.Failed, match="no other load balancer has taken"):
        world.edge.leave()
    assert said == [False, False, True]
    until = world.now + 2
    monkeypatch.setattr(world, "get", lambda _: OWN if world.now > until else SITE)
    world.edge.leave()
    assert said[3:] == [False]
    assert world.now > until


def test_signature_is_that_of_botocore(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 1, 2, 3, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: now)
    monkeypatch.setattr(
        program,
        "datetime",
        type("Clock", (), {"now": lambda _: now}),
    )
    body = b"Action=DescribeAddresses&Version=2016-11-15"
    found = program.signed(body, "ec2.eu-west-1.amazonaws.com", "eu-west-1", KEYS)
    request = AWSRequest(
        "POST",
        "https://ec2.eu-west-1.amazonaws.com/",
        {"Content-Type": found["content-type"]},
        body,
    )
    credentials = Credentials(KEYS["AccessKeyId"], KEYS["SecretAccessKey"], KEYS["Token"])
    SigV4Auth(credentials, "ec2", "eu-west-1").add_auth(request)
    assert found["authorization"] == request.headers["Authorization"]


def module(salt: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    return load("_modules", "site_address", __salt__=salt or {})


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"holds": True, "problem": ""}, f"has the site's address {SITE}"),
        ({"holds": False, "problem": ""}, "can take the site's address"),
        ({"holds": False, "problem": "x"}, "cannot take the site's address: x"),
    ],
)
def test_who_has_the_address_is_told(tmp_path: Path, status: dict[str, Any], told: str) -> None:
    file = tmp_path / "status.json"
    with pytest.raises(CommandExecutionError, match=r"does not run"):
        module().told(str(file))
    file.write_text(json.dumps({"address": SITE, **status}))
    assert module().told(str(file)) == {"replication": told, "problem": ""}


@pytest.mark.parametrize(
    ("problem", "up", "unfit"),
    [
        ("", ["web-1"], ""),
        ("it has no public address", ["web-1"], "it has no public address"),
        ("", [], "it has no web machine to ask"),
    ],
)
def test_who_can_serve_in_the_place_of_another(
    tmp_path: Path, problem: str, up: list[str], unfit: str
) -> None:
    file = tmp_path / "status.json"
    functions = {"edge.up": lambda: up}
    assert "does not run" in module(functions).unfit(str(file))
    file.write_text(json.dumps({"address": SITE, "holds": False, "problem": problem}))
    assert module(functions).unfit(str(file)) == unfit

    def silent() -> None:
        raise CommandExecutionError("HAProxy does not answer")

    assert module({"edge.up": silent}).unfit(str(file)) == "HAProxy does not answer"


def test_move_by_hand_that_fails_is_an_error() -> None:
    answer = {"retcode": 1, "stdout": "", "stderr": "no other has taken it"}
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> dict[str, Any]:
        calls.append(command)
        return answer

    made = module({"cmd.run_all": run, "file.file_exists": lambda _: True})
    for verb in (made.take, made.leave):
        with pytest.raises(CommandExecutionError, match="no other has taken it"):
            verb()
    answer |= {"retcode": 0, "stdout": "moved"}
    assert (made.take(), made.leave()) == ("moved", "moved")
    assert [command[-1] for command in calls] == ["take", "leave", "take", "leave"]
    old = module({"cmd.run_all": run, "file.file_exists": lambda _: False})
    assert old.leave() == "", "an earlier version's machine has no such program"
