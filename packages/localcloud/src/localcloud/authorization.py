"""Judges the calls of everybody but the owner by the policies of the caller's role or user.

A call of S3 is judged by the policy of its bucket, too, also the owner's; and what comes by an
endpoint of a VPC, by that endpoint's:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/how-s3-evaluates-access-control.html
https://docs.aws.amazon.com/vpc/latest/privatelink/vpc-endpoints-access.html

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

from localcloud import endpoints, s3
from localcloud.accesses import Call, accesses
from localcloud.auth import JSON_SERVICES, Refused
from localcloud.policies import ANY, VERSION, Access, Decision, Unjudged, decide, of_everybody

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


OWNER = Principal(
    f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:root",
    f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:root",
    ({"Version": VERSION, "Statement": [{"Effect": "Allow", "Action": ANY, "Resource": ANY}]},),
)
"""The owner, who may do everything that no policy of a resource denies."""


class Judge:
    """Refuses the calls that a principal's policies do not allow.

    Args:
        watch: is told of each access and its decision; for tests and records.

    Attributes:
        secure: whether calls count as made by TLS. The API has none, and is at the place of those
            that have.
    """

    def __init__(self, watch: Callable[[Access, Decision], None] = lambda *_: None) -> None:
        self.watch = watch
        self.secure = True

    def check(self, access_key: str, call: Call) -> None:
        """Check every access of a call; the caller holds the lock of moto's state.

        Args:
            access_key: of whoever makes the call; empty: the owner.
            call: the call. Of the owner's, only those of S3 are checked.

        Raises:
            Refused: a policy denies one of them or none allows it, or a policy or the call has
                something that this cloud cannot judge.
        """
        if call.service == "s3" and s3.is_of_others(call):
            raise Refused("s3", "AccessDenied", "Access Denied")
        if not access_key and not (call.service == "s3" and s3.policy(call)):
            return
        try:
            principal = find(access_key) if access_key else OWNER
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

    def may_know(self, access_key: str, call: Call) -> bool:
        """Return whether a principal may know that an object is missing."""
        principal = find(access_key)
        return decide(principal.documents, self._complete(principal, s3.listing(call))).allowed

    def _complete(self, principal: Principal, access: Access) -> Access:
        """Return an access with the keys that every request has."""
        secure = str(self.secure).lower()
        keys = {"aws:PrincipalArn": principal.identity, "aws:SecureTransport": secure}
        return replace(access, keys={**keys, **access.keys})

    def _check(self, principal: Principal, call: Call, access: Access) -> None:
        asked = self._complete(principal, access)
        decision = decide(principal.documents, asked)
        self.watch(asked, decision)
        if call.service == "s3":
            self._check_resources(principal, call, asked)
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

    def _check_resources(self, principal: Principal, call: Call, asked: Access) -> None:
        """Raise Refused if the bucket's policy denies an access, or an endpoint does not allow it.

        What a bucket's policy allows is not looked at: this cloud knows no bucket for others.
        """
        policy = s3.policy(call)
        reason = ""
        if policy and decide([of_everybody(policy)], asked).explicit:
            reason = "with an explicit deny in a resource-based policy"
        for document in endpoints.policies(call.source, "s3"):
            if not decide([of_everybody(document)], asked).allowed:
                reason = f"because no VPC endpoint policy allows the {asked.action} action"
        if reason:
            log.info("%s is denied to %s %s", asked.action, principal.arn, reason)
            text = f"User: {principal.arn} is not authorized to perform: {asked.action}"
            raise Refused("s3", "AccessDenied", f'{text} on resource: "{asked.resource}" {reason}')


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
    return identity(iam.users[iam.access_keys[access_key].user_name])


def identity(found: Any) -> Principal:
    """Return a user or a role of IAM as a principal.

    Raises:
        Unjudged: see `find`.
    """
    iam = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"]
    if any(found in group.users for group in iam.groups.values()):
        raise Unjudged(f"call: the user {found.name}, who is in a group")
    return Principal(found.arn, found.arn, tuple(_documents(found)))


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
