"""What the caller's policies say of what `up` does, as far as AWS tells without doing it.

EC2 weighs a call with DryRun as it weighs the call itself:
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html

S3 and IAM have no such way. A read tells nothing, either: before the bucket exists, S3 says to
everybody that it does not. IAM's simulator weighs the caller's policies, with a permissions
boundary and the organization's limits, for whoever may ask it. It does not see the policy of a
session, or of the bucket:
https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_testing-policies.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import botocore.session
from botocore.exceptions import ClientError

from stackctl import inventory, refusals
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError

HINT = "docs/security.md says what they need."
ALLOWED = "DryRunOperation"
TRIED: Mapping[str, Mapping[str, Any]] = {
    "create_vpc": {"CidrBlock": "10.20.0.0/16"},
    "create_internet_gateway": {},
    "allocate_address": {"Domain": "vpc"},
}
"""The calls of a first `up` in EC2 that name nothing which has to exist before."""

SETTINGS = (
    "BucketOwnershipControls", "BucketPolicy", "BucketPublicAccessBlock", "BucketVersioning",
    "EncryptionConfiguration", "LifecycleConfiguration",
)  # fmt: skip
"""Of a bucket, as the actions call them that read and set them (salt/_states/s3_bucket.py)."""
OF_BUCKET = (
    "s3:CreateBucket", "s3:GetBucketTagging", "s3:ListBucket", "s3:TagResource",
    *(f"s3:{verb}{setting}" for setting in SETTINGS for verb in ("Get", "Put")),
)  # fmt: skip
OF_LOCK = ("s3:DeleteObject", "s3:GetObject", "s3:PutObject")
OF_ROLE = (
    "iam:CreateRole", "iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies",
    "iam:ListRolePolicies", "iam:PassRole", "iam:PutRolePolicy", "iam:TagRole",
)  # fmt: skip
OF_PROFILE = (
    "iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile", "iam:GetInstanceProfile",
    "iam:TagInstanceProfile",
)  # fmt: skip
"""The actions of `up`; what repairs what somebody else has changed is not among them."""


class Unknown(Exception):
    """AWS does not tell; the text says why."""


def try_ec2(client: Any) -> None:
    """Raise PreflightError for a call of `TRIED` that the caller's policies do not allow."""
    for operation, arguments in TRIED.items():
        try:
            getattr(client, operation)(DryRun=True, **arguments)
        except ClientError as error:
            code = inventory.code_of(error)
            if code == ALLOWED:
                continue
            if code in refusals.DENIED:
                raise PreflightError(f"Your credentials do not allow {operation}.", HINT) from None
            raise


def simulated(deployment: Deployment) -> str:
    """Return what IAM's simulator says of `up` in S3 and IAM, a sentence.

    Raises:
        PreflightError: it denies an action.
        ClientError: AWS does not answer.
    """
    region = deployment.region()
    identity = boto3.client("sts", region_name=region).get_caller_identity()
    wanted = _wanted(deployment, identity["Account"])
    names = sorted({action for actions in wanted.values() for action in actions})
    if identity["Arn"].endswith(":root"):
        return "of S3 and IAM nothing is tried: no policy of the account limits its root user"
    iam: Any = boto3.client("iam", region_name=region)
    denied: dict[str, list[str]] = {}
    unsure: set[str] = set()
    try:
        source = _source(identity["Arn"], iam)
        for resource, actions in wanted.items():
            for result in _asked(iam, source, resource, _context(deployment, actions)):
                action = str(result["EvalActionName"])
                if result["EvalDecision"] == "allowed":
                    continue
                if result["EvalDecision"] == "implicitDeny" and result.get("MissingContextValues"):
                    unsure.add(action)
                else:
                    denied.setdefault(resource, []).append(action)
    except Unknown as unknown:
        return f"not tried: {', '.join(names)}. {unknown} `up` stops at one that is missing"
    if denied:
        texts = [f"{', '.join(actions)} of {resource}" for resource, actions in denied.items()]
        raise PreflightError(f"Your credentials do not allow {'; '.join(texts)}.", HINT)
    open_ = f"; not known, because of a condition: {', '.join(sorted(unsure))}" if unsure else ""
    return f"IAM's simulator allows {len(names) - len(unsure)} actions of S3 and IAM{open_}"


def _wanted(deployment: Deployment, account: str) -> dict[str, tuple[str, ...]]:
    """Return the ARN of what `up` makes in S3 and IAM -> the actions."""
    aws = deployment.base_pillar("aws")

    def filled(name: str) -> str:
        return deployment.in_account(name).replace("{account}", account)

    bucket = f"arn:aws:s3:::{filled(aws['bucket']['name'])}"
    roles = [filled(name) for name in (aws["salt_role"], *aws["machine_roles"].values())]
    return {
        bucket: OF_BUCKET,
        f"{bucket}/lock": OF_LOCK,
        **{f"arn:aws:iam::{account}:role/{name}": OF_ROLE for name in roles},
        **{f"arn:aws:iam::{account}:instance-profile/{name}": OF_PROFILE for name in roles},
    }


def _source(arn: str, iam: Any) -> str:
    """Return the ARN of the user or of the session's role; raise Unknown.

    The ARN of a session does not have the path of its role.
    """
    kind, _, rest = arn.split(":", 5)[5].partition("/")
    if kind == "user":
        return arn
    if kind != "assumed-role":
        raise Unknown(f"{arn} is neither a user nor a role.")
    return str(_tell(iam.get_role, "iam:GetRole", RoleName=rest.split("/")[0])["Role"]["Arn"])


def _asked(
    iam: Any, source: str, resource: str, asked: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """Yield the simulator's results for one resource; raise Unknown."""
    arguments = {"PolicySourceArn": source, "ResourceArns": [resource], **asked}
    marker: dict[str, str] = {}
    while True:
        name = "iam:SimulatePrincipalPolicy"
        answer = _tell(iam.simulate_principal_policy, name, **arguments, **marker)
        yield from answer["EvaluationResults"]
        if not answer.get("IsTruncated"):
            return
        marker = {"Marker": answer["Marker"]}


def _context(deployment: Deployment, actions: tuple[str, ...]) -> dict[str, Any]:
    """Return actions with the condition keys that the calls of `up` have."""
    region = deployment.region()
    if actions[0].startswith("iam:"):
        region = _region_of_iam(region)
    tags = deployment.owner()
    keys: list[tuple[str, str, list[str]]] = [
        ("aws:RequestedRegion", "string", [region]),
        ("aws:SecureTransport", "boolean", ["true"]),
        ("aws:TagKeys", "stringList", ["Name", *tags]),
        ("iam:PassedToService", "string", ["ec2.amazonaws.com"]),
        *((f"aws:RequestTag/{key}", "string", [value]) for key, value in tags.items()),
    ]
    return {
        "ActionNames": list(actions),
        "ContextEntries": [
            {"ContextKeyName": key, "ContextKeyType": kind, "ContextKeyValues": values}
            for key, kind, values in keys
        ],
    }


def _region_of_iam(region: str) -> str:
    """Return the region in which IAM has its one endpoint, as botocore knows it."""
    resolver = botocore.session.get_session().get_component("endpoint_resolver")
    found = resolver.construct_endpoint("iam", region)
    return str(found["credentialScope"]["region"])


def _tell(call: Any, action: str, **arguments: Any) -> Mapping[str, Any]:
    """Return the answer to a call that only tells; raise Unknown if it is refused."""
    try:
        answer: Mapping[str, Any] = call(**arguments)
    except ClientError as error:
        code = inventory.code_of(error)
        if code in refusals.ENDED:
            raise
        why = "is denied" if code in refusals.DENIED else f"answers {code}"
        raise Unknown(f"{action}, which would tell, {why}.") from error
    return answer
