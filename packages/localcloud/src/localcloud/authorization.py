"""Judges the calls of everybody but the owner by the policies of the caller's role or user.

A refusal has the code and the words of its service:
https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID

from localcloud.accesses import Call, accesses
from localcloud.auth import JSON_SERVICES, Refused
from localcloud.policies import ANY, Access, Decision, Unjudged, decide

log = logging.getLogger(__name__)

CODES = {"ec2": "UnauthorizedOperation"} | dict.fromkeys(JSON_SERVICES, "AccessDeniedException")
"""The error code of a denial, where it is not AccessDenied."""


@dataclass(frozen=True)
class Principal:
    """Who makes a call.

    Args:
        arn: of the user, or of the role's session, as an error names it.
        identity: ARN of the user or the role, as a condition sees it.
        documents: its identity policies.
    """

    arn: str
    identity: str
    documents: tuple[Mapping[str, Any], ...]


class Judge:
    """Refuses the calls that a principal's policies do not allow.

    Args:
        watch: is told of each access and its decision; for tests and records.
    """

    def __init__(self, watch: Callable[[Access, Decision], None] = lambda *_: None) -> None:
        self.watch = watch

    def check(self, access_key: str, call: Call) -> None:
        """Check every access of a call; the caller holds the lock of moto's state.

        Raises:
            Refused: a policy denies one of them or none allows it, or a policy or the call has
                something that this cloud cannot judge.
        """
        try:
            principal = find(access_key)
            for access in accesses(call):
                self._check(principal, call, access)
        except Unjudged as error:
            log.error("%s is not judged: %s", call.name, error)
            raise Refused(
                call.service,
                "NotJudged",
                f"The local cloud cannot judge this {error}. Extend localcloud.policies or"
                " localcloud.accesses, or make the call as the owner.",
                400,
            ) from error

    def _check(self, principal: Principal, call: Call, access: Access) -> None:
        keys = {"aws:PrincipalArn": principal.identity, **access.keys}
        asked = replace(access, keys=keys)
        decision = decide(principal.documents, asked)
        self.watch(asked, decision)
        if decision.allowed:
            return
        log.info(
            "%s is denied to %s on %s: %s",
            access.action,
            principal.arn,
            access.resource,
            "; ".join(decision.near) or decision.statement or "no statement names both",
        )
        text = words(principal, call, access, explicit=decision.explicit)
        raise Refused(call.service, CODES.get(call.service, "AccessDenied"), text)


def words(principal: Principal, call: Call, access: Access, *, explicit: bool = False) -> str:
    """Return what AWS says of a denial; EC2 adds the details in a coded form."""
    where = "" if access.resource == ANY else f" on resource: {access.resource}"
    reason = (
        "with an explicit deny in an identity-based policy"
        if explicit
        else f"because no identity-based policy allows the {access.action} action"
    )
    text = f"User: {principal.arn} is not authorized to perform: {access.action}{where} {reason}"
    if call.service != "ec2":
        return text
    text = f"You are not authorized to perform this operation. {text}"
    if not where:
        return text
    details = {"action": access.action, "resource": access.resource, "explicitDeny": explicit}
    coded = base64.urlsafe_b64encode(json.dumps(details).encode()).decode()
    return f"{text}. Encoded authorization failure message: {coded}"


def find(access_key: str) -> Principal:
    """Return the principal of an access key that the cloud has issued.

    Raises:
        Unjudged: it has what this cloud does not judge: a session policy, a permissions boundary,
            or groups.
    """
    iam = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"]
    for session in get_backend("sts")[DEFAULT_ACCOUNT_ID]["aws"].assumed_roles:
        if session.access_key_id == access_key:
            if session.policy:
                raise Unjudged("call: a session with a policy of its own")
            roles = [role for role in iam.roles.values() if role.arn == session.role_arn]
            documents = tuple(_documents(roles[0])) if roles else ()
            return Principal(session.arn, session.role_arn, documents)
    key = iam.access_keys[access_key]
    user = iam.users[key.user_name]
    if any(user in group.users for group in iam.groups.values()):
        raise Unjudged(f"call: the user {user.name}, who is in a group")
    return Principal(user.arn, user.arn, tuple(_documents(user)))


def _documents(owner: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the inline and the attached policies of a role or a user."""
    if getattr(owner, "permissions_boundary_arn", None):
        raise Unjudged(f"policy: the permissions boundary of {owner.name}")
    attached = [
        version.document
        for policy in owner.managed_policies.values()
        for version in policy.versions
        if version.version_id == policy.default_version_id
    ]
    for text in [*owner.policies.values(), *attached]:
        yield json.loads(text) if isinstance(text, str) else text
