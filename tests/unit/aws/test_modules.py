"""The modules of the foundation, each branch: `aws`, `security_group`, `master_key`.

AWS answers from memory; test_faults.py and others apply the states to an emulated account.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from salt.exceptions import CommandExecutionError

from saltmodules import load

REGION = "eu-west-1"
PILLAR = {
    "aws": {"project": "stack", "vpc": {"name": "{project}-{deployment}"}, "types": ["t2.micro"]},
    "settings": {"deployment": "prod"},
}
URL = "https://ec2"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, whose pauses take no time."""
    made = load("_modules", "aws", __context__={}, __pillar__=PILLAR, __opts__={"test": False})
    clock = [0.0]
    monkeypatch.setattr(made.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(made.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    return made


# -- calls -----------------------------------------------------------------------------------------


class Client:
    """A client of boto3 that fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        def called(**arguments: Any) -> dict[str, Any]:
            if self.error:
                raise self.error
            return {"asked": arguments}

        return called


def refusal(code: str, status: int = 400) -> ClientError:
    answer: Any = {
        "Error": {"Code": code, "Message": "why"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "Refuse")


def test_call_asks_the_region_and_returns_the_answer(
    aws: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def client(service: str, *, region_name: str, config: Any) -> Client:
        asked.append((service, region_name, config.retries["total_max_attempts"]))
        return Client()

    monkeypatch.setattr(aws.boto3, "client", client)
    assert aws.call("describe_things", REGION, Name="a") == {"asked": {"Name": "a"}}
    aws.call("create_thing", REGION)
    aws.call("create_thing", REGION)
    aws.call("get_role", REGION, service="iam")
    # A read is retried by botocore, any other call is made once.
    assert asked == [("ec2", REGION, 5), ("ec2", REGION, 1), ("iam", REGION, 5)]


class Counted:
    """Clients that count their calls, and whose answers say how many there were.

    Attributes:
        refused: the calls that fail.
    """

    def __init__(self) -> None:
        self.number = 0
        self.refused: tuple[str, ...] = ("put_bucket_policy",)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        def called(**_: Any) -> dict[str, Any]:
            self.number += 1
            if name in self.refused:
                raise refusal("InternalError", 500)
            return {"number": self.number}

        return called


def test_answer_is_remembered_until_something_is_changed_in_its_service(
    aws: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws.boto3, "client", Counted())

    def look(service: str = "ec2", **arguments: Any) -> int:
        return int(aws.call("get_things", REGION, service=service, **arguments)["number"])

    assert [look(), look(), look(A="1"), look(A="2"), look(A="1"), look("s3")] == [1, 1, 2, 3, 2, 4]
    assert aws.call("get_things", "us-east-1")["number"] == 5
    aws.call("create_thing", REGION)
    assert [look(), look("s3"), look()] == [7, 4, 7]
    # Also a change that failed may have had its effect.
    with pytest.raises(CommandExecutionError):
        aws.call("put_bucket_policy", REGION, service="s3")
    assert [look("s3"), look()] == [9, 7]
    aws.forget("s3")
    assert [look("s3"), look()] == [10, 7]


def test_refusal_is_not_remembered(aws: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Counted()
    monkeypatch.setattr(aws.boto3, "client", client)
    client.refused = ("get_things",)
    for _ in range(2):
        with pytest.raises(CommandExecutionError):
            aws.call("get_things", REGION)
    assert aws.call("get_things", REGION, absent=("InternalError",)) == {}
    client.refused = ()
    assert aws.call("get_things", REGION)["number"] == 4


def test_look_after_a_pause_asks_again(aws: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws.boto3, "client", Counted())
    for service in ("ec2", "iam"):
        aws.call("get_things", REGION, service=service)
    seen: list[int] = []

    def problems() -> list[str]:
        asked = (aws.call("get_things", REGION, service=one) for one in ("ec2", "iam"))
        seen.extend(answer["number"] for answer in asked)
        return ["late"] if len(seen) < 6 else []

    assert aws.until(problems) == []
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("error", "later", "unsure"),
    [
        (refusal("UnauthorizedOperation", 403), False, False),
        (refusal("RequestExpired"), False, False),
        (refusal("RequestLimitExceeded", 503), True, False),
        (refusal("Throttling"), True, False),
        (refusal("InvalidVpcID.NotFound"), True, False),
        (refusal("InvalidGroup.NotFound"), True, False),
        (refusal("NoSuchEntity", 404), True, False),
        (refusal("NoSuchBucket", 404), True, False),
        (refusal("SlowDown", 503), True, False),
        (refusal("BucketAlreadyOwnedByYou", 409), False, True),
        (refusal("OperationAborted", 409), False, True),
        (refusal("InternalError", 500), False, True),
        (refusal("InvalidKeyPair.Duplicate"), False, True),
        (refusal("EntityAlreadyExists", 409), False, True),
        (refusal("Resource.AlreadyAssociated"), False, True),
        (refusal("AddressLimitExceeded"), False, False),
        (EndpointConnectionError(endpoint_url=URL), False, False),
        (ConnectionClosedError(endpoint_url=URL), False, True),
        (ReadTimeoutError(endpoint_url=URL), False, True),
        (NoCredentialsError(), False, False),
    ],
)
def test_failed_call_tells_whether_it_can_be_made_again(
    aws: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    *,
    later: bool,
    unsure: bool,
) -> None:
    monkeypatch.setattr(aws.boto3, "client", lambda *_, **__: Client(error))
    with pytest.raises(CommandExecutionError, match=r"^create_thing: ") as caught:
        aws.call("create_thing", REGION)
    assert str(error) in str(caught.value)
    assert (caught.value.later, caught.value.unsure) == (later, unsure)


def test_profile_that_ec2_does_not_know_yet_may_be_known_later(
    aws: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refusal("InvalidParameterValue")
    error.response["Error"]["Message"] = "Value (a) … is invalid. Invalid IAM Instance Profile name"
    text = f"An error occurred: {error.response['Error']['Message']}"
    error.args = (text,)
    monkeypatch.setattr(aws.boto3, "client", lambda *_, **__: Client(error))
    with pytest.raises(CommandExecutionError) as caught:
        aws.call("associate_iam_instance_profile", REGION)
    assert caught.value.later
    monkeypatch.setattr(
        aws.boto3, "client", lambda *_, **__: Client(refusal("InvalidParameterValue"))
    )
    aws._clients.clear()
    with pytest.raises(CommandExecutionError) as caught:
        aws.call("associate_iam_instance_profile", REGION)
    assert not caught.value.later


def test_number_of_the_account_is_filled_in_everywhere(
    aws: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(aws.__pillar__["aws"], "bucket", "{project}-{account}")
    assert aws.settings()["bucket"] == "stack-{account}"
    monkeypatch.setattr(aws, "account", {REGION: "42"}.get)
    given = {"Statement": [{"Resource": ["a:{account}:b", "c"], "n": 1}], "Version": "{other}"}
    assert aws.in_account(given, REGION) == {
        "Statement": [{"Resource": ["a:42:b", "c"], "n": 1}],
        "Version": "{other}",
    }


def test_absence_is_an_answer_where_it_is_asked_for(
    aws: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws.boto3, "client", lambda *_, **__: Client(refusal("NoSuchEntity")))
    assert aws.call("get_role", REGION, service="iam", absent=("NoSuchEntity",)) == {}


# -- names and tags --------------------------------------------------------------------------------


def test_names_have_project_and_deployment(aws: ModuleType) -> None:
    assert aws.settings() == {
        "project": "stack",
        "vpc": {"name": "stack-prod"},
        "types": ["t2.micro"],
    }
    assert aws.tags("a") == {"Name": "a", "project": "stack", "deployment": "prod"}


@pytest.mark.parametrize(
    ("tags", "own", "earlier", "unnamed"),
    [
        ({"project": "stack", "deployment": "prod", "more": "1"}, True, False, False),
        ({"project": "stack", "deployment": "test"}, False, False, False),
        ({"project": "wiki", "deployment": "prod"}, False, False, False),
        ({"project": "stack"}, False, True, True),
        ({"project": "wiki"}, False, False, False),
        ({}, False, False, True),
    ],
)
def test_tags_tell_whose_a_thing_is(
    aws: ModuleType, tags: dict[str, str], *, own: bool, earlier: bool, unnamed: bool
) -> None:
    thing = {"Tags": aws.tag_list(tags)}
    assert aws.is_own(thing) is own
    assert aws.is_earlier(thing) is earlier
    assert aws.is_earlier(thing, project=False) is unnamed


# -- repairing -------------------------------------------------------------------------------------


class Thing:
    """Something that is made by a call, and seen some looks later.

    Args:
        seen_after: looks for which it stays unseen.
        errors: what the calls raise, in order.
        works: which of these calls have their effect.
    """

    def __init__(self, aws: ModuleType, seen_after: int = 0, **given: Any) -> None:
        self.aws, self.unseen = aws, seen_after
        self.errors: list[Any] = list(given.get("errors", ()))
        self.works: list[bool] = list(given.get("works", ()))
        self.made = 0

    def make(self) -> None:
        error = self.errors.pop(0) if self.errors else None
        if self.works.pop(0) if self.works else error is None:
            self.made += 1
        if error:
            raise error

    def differences(self) -> dict[str, Any]:
        if self.made:
            self.unseen -= 1
        return {} if self.made and self.unseen < 0 else {"make it": self.make}

    def converge(self) -> dict[str, Any]:
        return dict(self.aws.converge("thing", self.differences))


def test_what_is_seen_late_is_made_once(aws: ModuleType) -> None:
    thing = Thing(aws, seen_after=5)
    assert thing.converge() == {
        "name": "thing", "result": True, "changes": {"new": ["make it"]},
        "comment": "thing: make it",
    }  # fmt: skip
    assert thing.made == 1
    assert thing.converge()["changes"] == {}


def test_what_is_never_seen_fails(aws: ModuleType) -> None:
    thing = Thing(aws, seen_after=1000)
    state = thing.converge()
    assert (state["result"], thing.made) == (False, 1)
    assert "make it: AWS has accepted it, and does not show it after 60 s" in state["comment"]


def test_call_without_answer_is_made_again_only_without_effect(aws: ModuleType) -> None:
    lost = [aws.AwsError("lost", unsure=True)]
    worked = Thing(aws, seen_after=5, errors=lost, works=[True])
    assert (worked.converge()["result"], worked.made) == (True, 1)
    failed = Thing(aws, errors=lost, works=[False])
    assert (failed.converge()["result"], failed.made) == (True, 1)


def test_call_that_can_succeed_later_is_repeated_for_a_while(aws: ModuleType) -> None:
    error = aws.AwsError("too new", later=True)
    thing = Thing(aws, errors=[error] * 3)
    assert (thing.converge()["result"], thing.made) == (True, 1)
    thing = Thing(aws, errors=[error] * 1000)
    state = thing.converge()
    assert (state["result"], state["comment"], state["changes"]) == (False, "too new", {})


def test_refused_call_is_made_once_and_tells_why(aws: ModuleType) -> None:
    thing = Thing(aws, errors=[aws.AwsError("denied")] * 2)
    assert thing.converge()["comment"] == "denied"
    assert len(thing.errors) == 1


def test_nothing_is_made_in_a_test(aws: ModuleType) -> None:
    vars(aws)["__opts__"] = {"test": True}
    thing = Thing(aws)
    state = thing.converge()
    assert (state["result"], state["changes"], thing.made) == (None, {"new": ["make it"]}, 0)


def test_what_is_undone_again_and_again_fails(aws: ModuleType) -> None:
    todo: list[dict[str, Any]] = [{"a": int}, {"b": int}, *([{"a": int}] * 1000)]
    state = aws.converge("thing", lambda: todo.pop(0))
    assert (state["result"], state["changes"]) == (False, {"new": ["a", "b"]})
    assert "a: this was done, and somebody else undoes it" in state["comment"]


def test_look_that_is_too_early_is_repeated(aws: ModuleType) -> None:
    errors = [aws.AwsError("too new", later=True)] * 2

    def differences() -> dict[str, Any]:
        if errors:
            raise errors.pop()
        return {}

    assert aws.converge("thing", differences)["result"] is True


def test_problems_that_go_away_are_none(aws: ModuleType) -> None:
    found = [["a"], ["a"], []]
    assert aws.until(lambda: found.pop(0)) == []
    assert aws.until(lambda: ["b"]) == ["b"]


# -- security_group --------------------------------------------------------------------------------


def rule(**source: Any) -> dict[str, Any]:
    return {"ip_protocol": "tcp", "from_port": 22, "to_port": 22, **source}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (rule(cidr_ip="198.51.100.0/24"), "tcp 22-22 from 198.51.100.0/24"),
        # EC2 cuts the bits of a host off.
        (rule(cidr_ip="198.51.100.7/24"), "tcp 22-22 from 198.51.100.0/24"),
        (rule(cidr_ip="2001:db8::1/32"), "tcp 22-22 from 2001:db8::/32"),
        (rule(group_name="web"), "tcp 22-22 from sg-web"),
        (rule(prefix_list="com.amazonaws.s3"), "tcp 22-22 from pl-1"),
    ],
)
def test_rules_are_compared_as_ec2_keeps_them(given: dict[str, Any], words: str) -> None:
    module = load("_modules", "security_group")
    ids = {"web": "sg-web", "com.amazonaws.s3": "pl-1"}
    found = module.wanted([given], ids)
    assert list(found) == [words]
    assert list(module.wanted([given], ids, egress=True)) == [words.replace("from", "to")]
    (taken,) = found.values()
    assert taken["IpProtocol"] == "tcp"


def test_rule_of_a_missing_group_is_an_error() -> None:
    module = load("_modules", "security_group")
    with pytest.raises(CommandExecutionError, match="there is no group lb"):
        module.wanted([rule(group_name="lb")], {})


RULES = [
    {"SecurityGroupRuleId": "sgr-4", "IsEgress": False, "CidrIpv4": "10.0.0.0/8"},
    {"SecurityGroupRuleId": "sgr-6", "IsEgress": False, "CidrIpv6": "::/0"},
    {"SecurityGroupRuleId": "sgr-l", "IsEgress": False, "PrefixListId": "pl-1"},
    {
        "SecurityGroupRuleId": "sgr-g", "IsEgress": False,
        "ReferencedGroupInfo": {"GroupId": "sg-1"},
    },
    {"SecurityGroupRuleId": "sgr-e", "IsEgress": True, "CidrIpv6": "::/0"},
]  # fmt: skip


def test_rules_in_words() -> None:
    ports = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 23}
    answer = {"SecurityGroupRules": [one | ports for one in RULES]}
    salt = {"aws.call": lambda *_, **__: answer}
    module = load("_modules", "security_group", __salt__=salt)
    assert module.rules("sg-9", REGION) == {
        "tcp 22-23 from 10.0.0.0/8": "sgr-4",
        "tcp 22-23 from ::/0": "sgr-6",
        "tcp 22-23 from pl-1": "sgr-l",
        "tcp 22-23 from sg-1": "sgr-g",
    }
    assert module.rules("sg-9", REGION, egress=True) == {"tcp 22-23 to ::/0": "sgr-e"}
    everything = {"IpProtocol": "-1", "FromPort": -1, "ToPort": -1}
    answer["SecurityGroupRules"] = [RULES[-1] | everything]
    assert module.rules("sg-9", REGION, egress=True) == {"everything to ::/0": "sgr-e"}


def test_prefix_list_is_amazons_own_and_is_there() -> None:
    lists = [
        {"PrefixListName": "s3", "PrefixListId": "pl-1", "OwnerId": "AWS"},
        {"PrefixListName": "mine", "PrefixListId": "pl-2", "OwnerId": "123456789012"},
    ]
    salt = {"aws.call": lambda *_, **__: {"PrefixLists": lists}}
    module = load("_modules", "security_group", __salt__=salt)
    assert module.prefix_lists(["s3", "s3"], REGION) == {"s3": "pl-1"}
    with pytest.raises(CommandExecutionError, match=f"no prefix list mine in {REGION}"):
        module.prefix_lists(["s3", "mine"], REGION)
    assert load("_modules", "security_group").prefix_lists([], REGION) == {}


# -- master_key ------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_key_between_the_pem_lines(tmp_path: Path) -> None:
    body = b64encode(b"a key").decode()
    pem = tmp_path / "master.pub"
    pem.write_text(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    module = load("_modules", "master_key")
    digest = hashlib.sha256(f"{body}\n".encode()).hexdigest()
    assert module.finger(str(pem)).replace(":", "") == digest


def test_missing_key_is_named(tmp_path: Path) -> None:
    module = load("_modules", "master_key")
    with pytest.raises(CommandExecutionError, match="has salt-master started"):
        module.finger(str(tmp_path / "master.pub"))
