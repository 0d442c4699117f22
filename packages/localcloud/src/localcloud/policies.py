"""Judges one access by identity policies, as IAM does within one account.

A deny beats an allow, and what no statement allows is denied. What this module does not know, such
as an operator or a condition key, raises `Unjudged`: to ignore it would allow or deny wrongly.

No library does this: moto ignores Resource and Condition, and the packages on the index that read
policies lint them or list their actions, without a request.

Logic: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic_policy-eval-denyallow.html
Elements: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

VERSION = "2012-10-17"
ANY = "*"
"""The resource of an action that has no resource-level permissions."""

ELEMENTS = frozenset((
    "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition",
))  # fmt: skip

KEYS = frozenset((
    "aws:PrincipalArn", "aws:RequestedRegion", "aws:SecureTransport", "aws:TagKeys",
    "ec2:AssociatePublicIpAddress", "ec2:AvailabilityZone", "ec2:CreateAction",
    "ec2:Domain", "ec2:Encrypted", "ec2:ImageID", "ec2:ImageType", "ec2:InstanceID",
    "ec2:InstanceMarketType", "ec2:InstanceProfile", "ec2:InstanceType", "ec2:KeyPairName",
    "ec2:MetadataHttpEndpoint", "ec2:MetadataHttpPutResponseHopLimit", "ec2:MetadataHttpTokens",
    "ec2:Owner", "ec2:Public", "ec2:Region", "ec2:RootDeviceType", "ec2:Subnet",
    "ec2:VolumeSize", "ec2:VolumeType", "ec2:Vpc",
    "iam:PassedToService",
    "s3:delimiter", "s3:max-keys", "s3:prefix",
))  # fmt: skip
"""The condition keys that `localcloud.accesses` gives to the accesses that have them."""
TAG_KEYS = ("aws:RequestTag/", "aws:ResourceTag/", "ec2:ResourceTag/")
"""The beginnings of condition keys that end in the key of a tag."""
ATTRIBUTE_KEY = "ec2:Attribute/"
"""The beginning of condition keys that end in the name of an attribute that a call sets."""
_KNOWN = frozenset(key.lower() for key in KEYS)
_KNOWN_STARTS = tuple(key.lower() for key in (*TAG_KEYS, ATTRIBUTE_KEY))

Value = str | tuple[str, ...]
Statement = Mapping[str, Any]


class Unjudged(Exception):
    """A policy or a call that this module cannot judge; the text says what it does not know."""


@dataclass(frozen=True)
class Access:
    """One action on one resource, with what conditions are compared with.

    Args:
        action: such as `ec2:RunInstances`.
        resource: its ARN, or `ANY`.
        keys: condition key -> its value, or its values for a key that has several.
    """

    action: str
    resource: str = ANY
    keys: Mapping[str, Value] = field(default_factory=dict)

    def values(self, key: str) -> Value | None:
        """Return the value of a condition key, whose name has no case; None: it has none."""
        wanted = key.lower()
        return next((value for name, value in self.keys.items() if name.lower() == wanted), None)


@dataclass(frozen=True)
class Decision:
    """What policies say of an access.

    Attributes:
        allowed: whether it is allowed.
        explicit: whether a statement denies it; otherwise none allows it.
        statement: the name of the statement that decided; empty: none did.
        near: why statements with this action and this resource did not allow it.
    """

    allowed: bool
    explicit: bool = False
    statement: str = ""
    near: tuple[str, ...] = ()


def missing(documents: Iterable[Mapping[str, Any]], access: Access) -> list[str]:
    """Return the condition keys of an access that policies ask for, and that it does not have."""
    return sorted(
        {
            key
            for statement in _statements(documents)
            if _concerns(statement, access)
            for condition in statement.get("Condition", {}).values()
            for key in condition
            if access.values(key) is None
        }
    )


def decide(documents: Iterable[Mapping[str, Any]], access: Access) -> Decision:
    """Return what identity policies say of an access.

    Args:
        documents: the policies of one principal.
        access: what it asks for.

    Raises:
        Unjudged: a policy has something that this module does not know, whatever the access.
    """
    allowed, near = "", []
    for statement in _statements(documents):
        effect = check(statement)
        name = str(statement.get("Sid") or "a statement without Sid")
        if not _concerns(statement, access):
            continue
        failed = [reason for reason, holds in _conditions(statement, access) if not holds]
        if failed:
            near += [f"{name} wants {reason}" for reason in failed if effect == "Allow"]
        elif effect == "Deny":
            return Decision(allowed=False, explicit=True, statement=name)
        else:
            allowed = allowed or name
    return Decision(bool(allowed), statement=allowed, near=() if allowed else tuple(near))


def of_everybody(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resource's policy as an identity's, without its principals, which are everybody.

    Raises:
        Unjudged: a statement is about certain principals only.
    """
    made = []
    for statement in _list(document.get("Statement", [])):
        if statement.get("Principal") not in ("*", {"AWS": "*"}):
            raise Unjudged(f"policy: the principal {statement.get('Principal')!r}")
        made.append({key: value for key, value in statement.items() if key != "Principal"})
    return {**document, "Statement": made}


def trusts(document: Mapping[str, Any], service: str) -> bool:
    """Return whether a role's trust policy lets a service of AWS assume the role.

    Raises:
        Unjudged: the policy has more than services as principals, or something unknown.
    """
    verdict = False
    for statement in _list(document.get("Statement", [])):
        more = set(statement) - {"Sid", "Effect", "Action", "Principal"}
        principal = statement.get("Principal")
        if more or not isinstance(principal, Mapping) or set(principal) != {"Service"}:
            raise Unjudged(f"trust policy: {_names(more) or f'Principal {principal!r}'}")
        if service in _list(principal["Service"]) and _matches_any(
            _list(statement.get("Action", [])), "sts:AssumeRole", ignore_case=True
        ):
            if statement["Effect"] == "Deny":
                return False
            verdict = True
    return verdict


def check(statement: Statement) -> Literal["Allow", "Deny"]:
    """Return a statement's effect.

    Raises:
        Unjudged: it has an element, an operator or a condition key that this module does not know,
            or a policy variable.
    """
    if unknown := set(statement) - ELEMENTS:
        raise Unjudged(f"policy: the element {_names(unknown)}")
    effect = statement.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise Unjudged(f"policy: the effect {effect!r}")
    for element in ("Action", "Resource"):
        if (element in statement) == (f"Not{element}" in statement):
            raise Unjudged(f"policy: not one of {element} and Not{element}")
    texts = [*_list(statement.get("Resource", [])), *_list(statement.get("NotResource", []))]
    for operator, wanted in statement.get("Condition", {}).items():
        _operator(operator)
        for key, values in wanted.items():
            if key.lower() not in _KNOWN and not key.lower().startswith(_KNOWN_STARTS):
                raise Unjudged(f"policy: the condition key {key}")
            texts += [str(value) for value in _list(values)]
    if variables := [text for text in texts if "${" in text]:
        raise Unjudged(f"policy: the variable in {variables[0]}")
    return "Allow" if effect == "Allow" else "Deny"


def _statements(documents: Iterable[Mapping[str, Any]]) -> Iterable[Statement]:
    for document in documents:
        if document.get("Version") != VERSION:
            raise Unjudged(f"policy: the version {document.get('Version')}")
        yield from _list(document.get("Statement", []))


def _concerns(statement: Statement, access: Access) -> bool:
    """Return whether a statement names the action and the resource of an access."""
    actions = _list(statement.get("Action", statement.get("NotAction")))
    resources = _list(statement.get("Resource", statement.get("NotResource")))
    return _matches_any(actions, access.action, ignore_case=True) == (
        "Action" in statement
    ) and _matches_any(resources, access.resource) == ("Resource" in statement)


# -- conditions ------------------------------------------------------------------------------------

Test = Callable[[str, str], bool]


def _number(given: str, wanted: str) -> bool:
    return float(given) == float(wanted)


# Operator -> how one value of the request is compared with one of the policy.
POSITIVE: dict[str, Test] = {
    "StringEquals": lambda given, wanted: given == wanted,
    "StringEqualsIgnoreCase": lambda given, wanted: given.lower() == wanted.lower(),
    "StringLike": lambda given, wanted: matches(wanted, given),
    "ArnEquals": lambda given, wanted: _matches_arn(wanted, given),
    "ArnLike": lambda given, wanted: _matches_arn(wanted, given),
    "Bool": lambda given, wanted: given.lower() == wanted.lower(),
    "NumericEquals": _number,
    "NumericLessThan": lambda given, wanted: float(given) < float(wanted),
    "NumericLessThanEquals": lambda given, wanted: float(given) <= float(wanted),
    "NumericGreaterThan": lambda given, wanted: float(given) > float(wanted),
    "NumericGreaterThanEquals": lambda given, wanted: float(given) >= float(wanted),
}
# Operators that hold when no value of the policy is that of the request.
NEGATIVE: dict[str, Test] = {
    "StringNotEquals": POSITIVE["StringEquals"],
    "StringNotEqualsIgnoreCase": POSITIVE["StringEqualsIgnoreCase"],
    "StringNotLike": POSITIVE["StringLike"],
    "ArnNotEquals": POSITIVE["ArnEquals"],
    "ArnNotLike": POSITIVE["ArnLike"],
    "NumericNotEquals": POSITIVE["NumericEquals"],
}
_QUANTIFIERS = ("ForAllValues", "ForAnyValue")


@dataclass(frozen=True)
class _Operator:
    """An operator of a condition, with its quantifier and its suffix."""

    name: str
    quantifier: str
    if_exists: bool

    def holds(self, given: Value | None, wanted: Sequence[str]) -> bool:
        """Return whether a condition holds. Raises Unjudged.

        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
        """
        if self.name == "Null":
            return any((given is None) == (value.lower() == "true") for value in wanted)
        if given is None:
            return self.if_exists or self.quantifier == "ForAllValues" or self.name in NEGATIVE
        if isinstance(given, tuple) != bool(self.quantifier):
            kind = "several values" if isinstance(given, tuple) else "one value"
            raise Unjudged(f"policy: the operator {self.name} on a key with {kind}")
        values = given if isinstance(given, tuple) else (given,)
        results = [self._one(value, wanted) for value in values]
        return any(results) if self.quantifier == "ForAnyValue" else all(results)

    def _one(self, given: str, wanted: Sequence[str]) -> bool:
        test = POSITIVE.get(self.name) or NEGATIVE[self.name]
        return any(test(given, value) for value in wanted) == (self.name in POSITIVE)


def _operator(text: str) -> _Operator:
    quantifier, separator, name = text.rpartition(":")
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    known = name in POSITIVE or name in NEGATIVE or (name == "Null" and not if_exists)
    if not known or (separator and quantifier not in _QUANTIFIERS):
        raise Unjudged(f"policy: the operator {text}")
    return _Operator(name, quantifier, if_exists)


def _conditions(statement: Statement, access: Access) -> Iterable[tuple[str, bool]]:
    """Yield each condition in words, and whether it holds."""
    for operator, condition in statement.get("Condition", {}).items():
        for key, values in condition.items():
            wanted = [_text(value) for value in _list(values)]
            given = access.values(key)
            is_ = "absent" if given is None else given
            yield (
                f"{operator} {key} {' or '.join(wanted)}, and it is {is_}",
                _operator(operator).holds(given, wanted),
            )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- patterns --------------------------------------------------------------------------------------


def matches(pattern: str, text: str) -> bool:
    """Return whether a text matches a pattern with `*` and `?`; nothing else is special."""
    return _compiled(pattern).fullmatch(text) is not None


def _matches_any(patterns: Collection[str], text: str, *, ignore_case: bool = False) -> bool:
    if ignore_case:
        return any(matches(pattern.lower(), text.lower()) for pattern in patterns)
    return any(matches(pattern, text) for pattern in patterns)


def _matches_arn(pattern: str, arn: str) -> bool:
    """Return whether an ARN matches a pattern, whose wildcards do not cross a colon."""
    wanted, given = pattern.split(":", 5), arn.split(":", 5)
    return len(wanted) == len(given) == 6 and all(map(matches, wanted, given))


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (
        {"*": ".*", "?": "."}.get(part) or re.escape(part)
        for part in re.split(r"([*?])", pattern)
        if part
    )
    return re.compile("".join(parts), re.DOTALL)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _names(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))
