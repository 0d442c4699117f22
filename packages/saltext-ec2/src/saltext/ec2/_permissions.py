"""Whether AWS lets the caller launch what a map or a profile asks for; nothing is launched.

EC2 weighs the permissions of a RunInstances with DryRun as those of a launch, for every resource
that the launch uses or creates. One machine of each profile is tried, before the first is launched:
otherwise a policy that lacks something leaves half a map, and one denial for each machine.

DryRun also names a zone that does not have the instance type. It says nothing of quotas and of room
in a zone, so those are met by the launch itself.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html
https://github.com/awslabs/engineering-development-hub/issues/77
https://github.com/aws/aws-parallelcluster/pull/1779
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from saltext.ec2 import _check, _lookup, _maps, _preflight, _request, _tags
from saltext.ec2._client import Connection
from saltext.ec2._context import DRIVER, Context
from saltext.ec2.errors import ApiError, Ec2Error, api_errors

log = logging.getLogger(__name__)

DENIED = "UnauthorizedOperation"
ALLOWED = "DryRunOperation"
NO_OFFER = "Unsupported"
# EC2's error codes that every machine of the account would meet.
OF_ACCOUNT = frozenset((
    "Blocked", "InstanceLimitExceeded", "OptInRequired", "PendingVerification", "VcpuLimitExceeded",
))  # fmt: skip
# EC2's sentence about a denial. Older accounts of it have no user and no resource.
SENTENCE = re.compile(
    r"User: (?P<who>\S+) is not authorized to perform: (?P<action>[\w:]+)"
    r"(?: on resource: (?P<resource>\S+))? (?P<why>(?:because|with) .*?)(?:\. Encoded .*|$)",
    re.DOTALL,
)


def require(context: Context) -> None:
    """Try one machine of each profile that is about to be launched.

    What else is wrong is left to the launch of each machine, which names it.

    Raises:
        ApiError: AWS denies a launch; the message names for each profile the action, the resource
            and what a condition on it is compared with. Or the account can launch none, or no place
            of a profile has its instance type.
    """
    if not context.applying:
        return
    tried = [_refusal(at, vm_) for at, vm_ in _first_machines(context)]
    if refusals := [refusal for refusal in tried if refusal]:
        message = "; ".join(str(refusal) for refusal in refusals)
        raise ApiError(f"{message}; nothing was launched", refusals[0].code)


def _first_machines(context: Context) -> Iterator[tuple[Context, dict[str, Any]]]:
    """Yield one machine of each profile, as the core merges it, with its provider's context."""
    opts = context.opts
    machines = _maps.read(opts)
    if opts.get("profile"):
        machines = {opts["profile"]: {name: {} for name in opts.get("names") or ()}}
    for profile_name, wanted in machines.items():
        profile = opts["profiles"].get(profile_name)
        for name, given in wanted.items() if profile else ():
            alias, _, driver = str(given.get("provider") or profile["provider"]).partition(":")
            if driver != DRIVER:
                continue
            at = dataclasses.replace(context, provider_name=f"{alias}:{DRIVER}")
            with contextlib.suppress(Ec2Error):
                if name in _lookup.living(at.connect_to_query()):
                    continue
                own = {**given, "name": name, "profile": profile_name}
                yield at, _check.merged(opts, alias, profile, own)
            break


def _refusal(context: Context, vm_: Mapping[str, Any]) -> ApiError | None:
    """Return why AWS would not launch a machine, if it says so beforehand."""
    name = str(vm_["name"])
    what = f"profile {vm_['profile']} ({name})"
    try:
        plan, faults = _preflight.collect(context, vm_)
        if faults:
            return None
        connection = context.connect(plan.options)
        launch = _request.Launch(connection, plan.options, name, plan.userdata, plan.deploy)
        for place in _request.places(launch):
            request = _request.build(place)
            refusal = _try(connection, name, request)
            if refusal is None or refusal.code != NO_OFFER:
                break  # the next place is tried only where this one does not have the type
    except Ec2Error as error:
        log.debug("%s is not tried: %s", name, error)
        return None
    if refusal is None:
        return None
    if refusal.code == DENIED:
        return ApiError(_sentence(connection, what, request, str(refusal)), DENIED)
    if refusal.code in OF_ACCOUNT or refusal.code == NO_OFFER or "Free Tier" in str(refusal):
        return ApiError(f"{what} may not be launched: {refusal}", refusal.code)
    log.debug("%s", refusal)
    return None


def _try(connection: Connection, name: str, request: Mapping[str, Any]) -> ApiError | None:
    """Return the error in which a launch with DryRun ends; None: it would be launched."""
    try:
        with api_errors(f"trying to launch {name}"):
            connection.ec2.run_instances(**{**request, "DryRun": True})
    except ApiError as error:
        return None if error.code == ALLOWED else error
    return None


def _sentence(connection: Connection, what: str, request: Mapping[str, Any], denial: str) -> str:
    found = SENTENCE.search(denial)
    if found is None:
        return f"{what} may not be launched: {denial}"
    where, why = found["resource"] or "*", found["why"]
    facts = _facts(connection, where, request)
    seen = f", where it sees {', '.join(f'{key} {value}' for key, value in facts.items())}"
    to_do = (
        "remove that denial"
        if why.startswith("with")
        else "a statement of its policies must allow this action on this resource, and the"
        " conditions of that statement must hold"
    )
    return (
        f"{what} may not be launched: AWS denies {found['action']} on {where} to {found['who']}"
        f"{seen if facts else ''}, {why}: {to_do}"
    )


def _facts(connection: Connection, arn: str, request: Mapping[str, Any]) -> dict[str, str]:
    """Return what conditions on a resource are likely to be compared with."""
    kind, _, name = arn.rpartition(":")[2].partition("/")
    if kind == "role":
        return {"iam:PassedToService": "ec2.amazonaws.com"}
    if name == "*":  # it would be created
        given = [entry for entry in request["TagSpecifications"] if entry["ResourceType"] == kind]
        tags = {tag["Key"]: tag["Value"] for entry in given for tag in entry["Tags"]}
        facts = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
        own = {"ec2:InstanceType": str(request.get("InstanceType"))} if kind == "instance" else {}
        return own | facts
    ids: Any = [name]
    ec2 = connection.ec2
    with contextlib.suppress(ApiError), api_errors(f"looking up {name}"):
        if kind == "image":
            (image,) = ec2.describe_images(ImageIds=ids)["Images"]
            return {"ec2:Owner": image.get("ImageOwnerAlias") or image["OwnerId"]}
        described: Any = ()
        if kind == "subnet":
            described = ec2.describe_subnets(SubnetIds=ids)["Subnets"]
        elif kind == "security-group":
            described = ec2.describe_security_groups(GroupIds=ids)["SecurityGroups"]
        for one in described:
            return {f"aws:ResourceTag/{key}": value for key, value in _tags.as_dict(one).items()}
    return {}
