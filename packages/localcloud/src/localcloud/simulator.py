"""IAM's simulator of policies: what those of a user or a role say of actions, which are not done.

https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
"""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from werkzeug.wrappers import Response

from localcloud.accesses import Call
from localcloud.auth import Refused
from localcloud.authorization import OWNER, Principal, identity
from localcloud.policies import ANY, Access, Unjudged, Value, decide, missing

ACTION = "SimulatePrincipalPolicy"
KNOWN = {
    "Action", "ActionNames", "ContextEntries", "MaxItems", "PolicySourceArn", "ResourceArns",
    "Version",
}  # fmt: skip
"""The parameters that are looked at; one that is not may change every answer."""


def answer(call: Call) -> Response:
    """Return the simulator's answer to a call, which the caller may make.

    Raises:
        Refused: there is no such user or role, or something is not simulated here.
    """
    if unknown := {name.split(".")[0] for name in call.form} - KNOWN:
        raise Refused("iam", "NotJudged", f"No simulation with {', '.join(sorted(unknown))}.", 400)
    principal = _principal(call.form.get("PolicySourceArn", ""))
    keys = {
        entry["ContextKeyName"]: _value(entry) for entry in call.listed("ContextEntries.member")
    }
    keys.setdefault("aws:PrincipalArn", principal.identity)
    results = "".join(
        _result(principal, Access(action, resource, keys))
        for action in call.values("ActionNames.member")
        for resource in call.values("ResourceArns.member") or [ANY]
    )
    body = (
        '<SimulatePrincipalPolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">'
        "<SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated>"
        f"<EvaluationResults>{results}</EvaluationResults></SimulatePrincipalPolicyResult>"
        "<ResponseMetadata><RequestId>simulated</RequestId></ResponseMetadata>"
        "</SimulatePrincipalPolicyResponse>"
    )
    return Response(body, content_type="text/xml")


def owner(response: Response) -> Response:
    """Return who the owner is: the account's root user, whom moto does not know."""
    text = re.sub(r"<Arn>[^<]*</Arn>", f"<Arn>{OWNER.arn}</Arn>", response.get_data(as_text=True))
    response.set_data(text)
    return response


def _principal(arn: str) -> Principal:
    """Return a user or a role; the root user and sessions cannot be simulated."""
    if arn == OWNER.arn or ":sts:" in arn:
        raise Refused("iam", "InvalidInput", f"Invalid Entity Arn: {arn} is no user or role", 400)
    iam = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"]
    for one in (*iam.users.values(), *iam.roles.values()):
        if one.arn == arn:
            return identity(one)
    raise Refused("iam", "NoSuchEntity", f"The entity {arn} cannot be found.", 404)


def _value(entry: dict[str, str]) -> Value:
    values = [value for name, value in entry.items() if name.startswith("ContextKeyValues.member.")]
    return tuple(values) if entry.get("ContextKeyType", "").endswith("List") else values[0]


def _result(principal: Principal, access: Access) -> str:
    try:
        decision = decide(principal.documents, access)
    except Unjudged as error:
        raise Refused(
            "iam", "NotJudged", f"The local cloud cannot judge this {error}", 400
        ) from error
    verdict = "explicitDeny" if decision.explicit else "implicitDeny"
    keys = "".join(
        f"<member>{escape(key)}</member>" for key in missing(principal.documents, access)
    )
    return (
        f"<member><EvalActionName>{escape(access.action)}</EvalActionName>"
        f"<EvalResourceName>{escape(access.resource)}</EvalResourceName>"
        f"<EvalDecision>{'allowed' if decision.allowed else verdict}</EvalDecision>"
        f"<MissingContextValues>{keys}</MissingContextValues></member>"
    )
