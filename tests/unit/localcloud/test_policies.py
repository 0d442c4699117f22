"""Identity policies are judged as IAM judges them, and what is unknown is refused."""

from __future__ import annotations

from typing import Any

import pytest

from localcloud.policies import Access, Unjudged, decide, matches, trusts

INSTANCE = "arn:aws:ec2:eu-west-1:123456789012:instance/i-1"
OWN = {"aws:ResourceTag/project": "own", "aws:RequestedRegion": "eu-west-1"}


def statement(**more: Any) -> dict[str, Any]:
    return {"Sid": "One", "Effect": "Allow", "Action": "ec2:*", "Resource": "*", **more}


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allowed(access: Access, *statements: dict[str, Any]) -> bool:
    return decide([policy(*statements)], access).allowed


def holds(operator: str, wanted: Any, given: Any) -> bool:
    """Return whether a condition on the kind of owner holds; None: the key is absent."""
    keys = {} if given is None else {"ec2:Owner": given}
    one = statement(Condition={operator: {"ec2:Owner": wanted}})
    return allowed(Access("ec2:RunInstances", INSTANCE, keys), one)


START = Access("ec2:StartInstances", INSTANCE, OWN)


def test_nothing_is_allowed_without_a_statement() -> None:
    for documents in ([], [policy()]):
        decision = decide(documents, START)
        assert (decision.allowed, decision.explicit) == (False, False)


def test_one_policy_of_several_is_enough() -> None:
    assert decide([policy(), policy(statement())], START).statement == "One"


@pytest.mark.parametrize("order", [1, -1])
def test_deny_beats_allow_wherever_it_is(order: int) -> None:
    both = [statement(), statement(Sid="Two", Effect="Deny", Action="ec2:Start*")][::order]
    decision = decide([policy(*both)], START)
    assert (decision.allowed, decision.explicit, decision.statement) == (False, True, "Two")
    assert allowed(Access("ec2:StopInstances", INSTANCE), *both)


def test_deny_whose_condition_does_not_hold_denies_nothing() -> None:
    other = {"StringNotEquals": {"aws:ResourceTag/project": "own"}}
    deny = statement(Effect="Deny", Condition=other)
    assert allowed(START, statement(), deny)
    assert not allowed(Access("ec2:StartInstances", INSTANCE), statement(), deny)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("ec2:StartInstances", True),
        ("EC2:startinstances", True),
        ("ec2:Start*", True),
        ("ec2:St?rtInstances", True),
        ("*", True),
        (["ec2:StopInstances", "ec2:StartInstances"], True),
        ("ec2:Start", False),
        ("ec2:?tart", False),
        ("iam:*", False),
        ([], False),
    ],
)
def test_action_is_a_pattern_without_case(pattern: Any, matched: bool) -> None:
    assert allowed(START, statement(Action=pattern)) is matched
    inverse = statement(NotAction=pattern)
    del inverse["Action"]
    assert allowed(START, inverse) is not matched


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*", True),
        (INSTANCE, True),
        ("arn:aws:ec2:eu-west-1:*:instance/*", True),
        ("arn:aws:ec2:*", True),
        ([INSTANCE.replace("i-1", "i-2"), INSTANCE], True),
        (INSTANCE.upper(), False),
        ("arn:aws:ec2:eu-west-1:*:volume/*", False),
        ("arn:aws:ec2:us-east-1:*:instance/*", False),
        ("arn:aws:ec2:eu-west-1:*:instance/[i]-1", False),
    ],
)
def test_resource_is_a_pattern_with_case(pattern: Any, matched: bool) -> None:
    assert allowed(START, statement(Resource=pattern)) is matched
    inverse = statement(NotResource=pattern)
    del inverse["Resource"]
    assert allowed(START, inverse) is not matched


def test_action_without_resources_needs_a_star() -> None:
    describe = Access("ec2:DescribeInstances")
    assert allowed(describe, statement())
    assert not allowed(describe, statement(Resource="arn:aws:ec2:*:*:instance/*"))


@pytest.mark.parametrize(
    ("operator", "wanted", "given", "expected"),
    [
        ("StringEquals", "amazon", "amazon", True),
        ("StringEquals", ["1", "amazon"], "amazon", True),
        ("StringEquals", "amazon", "Amazon", False),
        ("StringEquals", "ama*", "amazon", False),
        ("StringEquals", "amazon", None, False),
        ("StringEqualsIfExists", "amazon", None, True),
        ("StringEqualsIfExists", "amazon", "other", False),
        ("StringEqualsIgnoreCase", "amazon", "Amazon", True),
        ("StringNotEquals", ["1", "amazon"], "amazon", False),
        ("StringNotEquals", ["1", "amazon"], "other", True),
        ("StringNotEquals", "amazon", None, True),
        ("StringNotEqualsIgnoreCase", "amazon", "Amazon", False),
        ("StringLike", "ama*", "amazon", True),
        ("StringLike", "a?a*", "amazon", True),
        ("StringLike", "ama", "amazon", False),
        ("StringNotLike", "ama*", "amazon", False),
        ("ArnLike", "arn:aws:iam::*:role/a*", "arn:aws:iam::1:role/ab", True),
        ("ArnLike", "arn:aws:*:role/a*", "arn:aws:iam::1:role/ab", False),
        ("ArnLike", "arn:aws:logs:r:1:group:*", "arn:aws:logs:r:1:group:a:b", True),
        ("ArnLike", "no-arn*", "no-arn", False),
        ("ArnEquals", "arn:aws:iam::*:role/a*", "arn:aws:iam::1:role/ab", True),
        ("ArnNotLike", "arn:aws:iam::*:role/a*", "arn:aws:iam::1:role/ab", False),
        ("ArnNotEquals", "arn:aws:iam::*:role/b", "arn:aws:iam::1:role/ab", True),
        ("Bool", True, "true", True),
        ("Bool", "true", "false", False),
        ("NumericEquals", "10", "10.0", True),
        ("NumericNotEquals", "10", "10.0", False),
        ("NumericLessThan", "10", "9", True),
        ("NumericLessThan", "10", "10", False),
        ("NumericLessThanEquals", 10, "10", True),
        ("NumericGreaterThan", "9", "10", True),
        ("NumericGreaterThan", "10", "10", False),
        ("NumericGreaterThanEquals", "10", "10", True),
        ("Null", "true", None, True),
        ("Null", "true", "amazon", False),
        ("Null", "false", "amazon", True),
        ("Null", "false", None, False),
        ("ForAllValues:StringEquals", ["a", "b"], ("a", "b"), True),
        ("ForAllValues:StringEquals", ["a"], ("a", "b"), False),
        ("ForAllValues:StringEquals", ["a"], None, True),
        ("ForAnyValue:StringEquals", ["a"], ("a", "b"), True),
        ("ForAnyValue:StringEquals", ["a"], ("b",), False),
        ("ForAnyValue:StringEquals", ["a"], None, False),
        ("ForAllValues:StringNotEquals", ["a"], ("b", "c"), True),
        ("ForAllValues:StringNotEquals", ["a"], ("a", "c"), False),
    ],
)
def test_condition(operator: str, wanted: Any, given: Any, expected: bool) -> None:
    assert holds(operator, wanted, given) is expected


def test_all_conditions_have_to_hold() -> None:
    both = {"StringEquals": {**OWN}, "StringLike": {"aws:PrincipalArn": "*role*"}}
    keys = {**OWN, "aws:PrincipalArn": "arn:aws:iam::1:role/a"}
    assert allowed(Access("ec2:StartInstances", INSTANCE, keys), statement(Condition=both))
    for missing in keys:
        fewer = {key: value for key, value in keys.items() if key != missing}
        assert not allowed(Access("ec2:StartInstances", INSTANCE, fewer), statement(Condition=both))


def test_names_of_condition_keys_have_no_case() -> None:
    spelt = {"StringEquals": {"AWS:resourcetag/Project": "own"}}
    assert allowed(START, statement(Condition=spelt))


@pytest.mark.parametrize(
    "unknown",
    [
        {"Condition": {"DateLessThan": {"ec2:Owner": "2030-01-01T00:00:00Z"}}},
        {"Condition": {"ForSomeValues:StringEquals": {"ec2:Owner": "a"}}},
        {"Condition": {"NullIfExists": {"ec2:Owner": "true"}}},
        {"Condition": {"StringEquals": {"aws:SourceIp": "10.0.0.1"}}},
        {"Condition": {"StringEquals": {"ec2:Ownr": "a"}}},
        {"Condition": {"StringEquals": {"ec2:Owner": "${aws:username}"}}},
        {"Resource": "arn:aws:s3:::home/${aws:username}"},
        {"Principal": "*"},
        {"Effect": "allow"},
        {"NotAction": "ec2:*"},
        {"NotResource": "*"},
    ],
)
def test_unknown_is_refused_even_where_it_decides_nothing(unknown: dict[str, Any]) -> None:
    other = Access("ssm:GetParameters")
    with pytest.raises(Unjudged, match="policy: "):
        decide([policy(statement(**unknown))], other)


def test_other_version_of_the_language_is_refused() -> None:
    with pytest.raises(Unjudged, match="version 2008-10-17"):
        decide([{"Version": "2008-10-17", "Statement": statement()}], START)


@pytest.mark.parametrize(
    ("operator", "given"), [("StringEquals", ("a",)), ("ForAnyValue:StringEquals", "a")]
)
def test_quantifier_belongs_to_keys_with_several_values(operator: str, given: Any) -> None:
    with pytest.raises(Unjudged, match="on a key with"):
        holds(operator, "a", given)


def test_near_statements_say_which_condition_failed() -> None:
    owner = statement(Condition={"StringEquals": {"ec2:Owner": ["1", "2"]}})
    launch = Access("ec2:RunInstances", INSTANCE, {"ec2:Owner": "amazon"})
    assert decide([policy(owner)], launch).near == (
        "One wants StringEquals ec2:Owner 1 or 2, and it is amazon",
    )
    assert decide([policy(owner, statement())], launch).near == ()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"Action": ["sts:TagSession", "sts:Assume*"]}, True),
        ({"Principal": {"Service": ["lambda.amazonaws.com", "ec2.amazonaws.com"]}}, True),
        ({"Principal": {"Service": "lambda.amazonaws.com"}}, False),
        ({"Action": "sts:TagSession"}, False),
        ({"Effect": "Deny"}, False),
    ],
)
def test_trust_of_a_service(change: dict[str, Any], expected: bool) -> None:
    trust = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": "ec2.amazonaws.com"},
    }
    assert trusts(policy({**trust, **change}), "ec2.amazonaws.com") is expected
    if change.get("Effect") == "Deny":
        assert not trusts(policy(trust, {**trust, **change}), "ec2.amazonaws.com")


@pytest.mark.parametrize("change", [{"Principal": "*"}, {"Condition": {}}, {"Principal": {}}])
def test_other_trust_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Unjudged, match="trust policy"):
        trusts(
            policy({"Effect": "Allow", "Action": "sts:AssumeRole", **change}), "ec2.amazonaws.com"
        )


def test_pattern_has_no_other_wildcards() -> None:
    assert matches("a.[b]*", "a.[b]\nc")
    assert not matches("a.c", "abc")
