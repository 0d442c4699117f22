"""What AWS means when it refuses a call, and the way out, a sentence for each.

Codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

from stackctl.errors import AwsError, StackError

QUOTA_CODE = "L-1216C47A"
UPGRADE = "aws freetier upgrade-account-plan --account-plan-type PAID"
ELIGIBLE = (
    "aws ec2 describe-instance-types --filters Name=free-tier-eligible,Values=true"
    " --query InstanceTypes[].InstanceType"
)
DENIED = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")
ENDED = ("RequestExpired", "ExpiredToken", "ExpiredTokenException")
# `An error occurred (CODE) when calling the …`, as botocore has it, and `RunInstances: CODE: …`, as
# the driver does.
_CODE = re.compile(r"An error occurred \((?P<boto>[\w.]+)\)|\b[A-Z]\w+: (?P<driver>[A-Z][\w.]+): ")


@dataclass(frozen=True)
class Refusal:
    """A kind of refusal.

    Args:
        codes: AWS's error codes.
        cause: what it means; a clause.
        way_out: what to do; a clause that may name `{region}`.
        text: what AWS's message has to contain, where the code alone says too little.
    """

    codes: tuple[str, ...]
    cause: str
    way_out: str
    text: str = ""


def quota_page(region: str) -> str:
    """Return where to ask for a higher quota of vCPUs."""
    return (
        f"Service Quotas, quota {QUOTA_CODE} of the service ec2:"
        f" https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/"
        f"{QUOTA_CODE}"
    )


REFUSALS = (
    Refusal(
        ("VcpuLimitExceeded", "InstanceLimitExceeded"),
        "the account's quota of vCPUs is used up",
        "end other instances, or ask for a higher one at {quota_page}",
    ),
    Refusal(
        ("InvalidParameterCombination",),
        "the account is on AWS's Free plan, which has no instances of this type",
        f"upgrade the plan ({UPGRADE}), or set a type that it has ({ELIGIBLE}) as size in"
        " cloud.profiles.d/machines.conf and in aws:instance_types of pillar/base/aws.sls",
        "Free Tier",
    ),
    Refusal(
        ("PendingVerification",),
        "AWS still verifies the account, which takes minutes, at most some four hours",
        "wait for its e-mail; after four hours write to aws-verification@amazon.com",
    ),
    Refusal(
        ("OptInRequired",),
        "the account is not activated for EC2 yet",
        "complete its registration: https://portal.aws.amazon.com/billing/signup",
    ),
    Refusal(
        ("Blocked",),
        "AWS has blocked the account",
        "only AWS Support can say why: https://console.aws.amazon.com/support",
    ),
    Refusal(
        ("Unsupported",),
        "the zone does not have this instance type",
        "set another zone in pillar/base/aws.sls, or another size in"
        " cloud.profiles.d/machines.conf (docs/runbooks.md: A new account)",
    ),
    Refusal(
        ("InsufficientInstanceCapacity",),
        "the zone has no room for this instance type now",
        "try again in some minutes; if that does not help, use another zone (docs/runbooks.md:"
        " A new account)",
    ),
    Refusal(
        DENIED,
        "no policy of who asks allows it",
        "docs/security.md says what the operator's credentials and the master's role need",
    ),
    Refusal(
        ENDED,
        "the AWS credentials have ended, or this host's clock is wrong",
        "renew them, for example with aws sso login",
    ),
    Refusal(
        (
            "AuthFailure", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId",
            "SignatureDoesNotMatch", "UnrecognizedClientException",
        ),
        "AWS does not accept the credentials",
        "aws sts get-caller-identity must answer first",
    ),
)  # fmt: skip
AGAIN = "then run the same command again: it goes on from here"
_NO_CREDENTIALS = (
    CredentialRetrievalError, NoCredentialsError, PartialCredentialsError, SSOError,
    TokenRetrievalError,
)  # fmt: skip


def find(text: str) -> Refusal | None:
    """Return the refusal that an error's text reports; None: none, or one that nobody explains."""
    for found in _CODE.finditer(text):
        code = found["boto"] or found["driver"]
        for refusal in REFUSALS:
            if code in refusal.codes and refusal.text in text:
                return refusal
    return None


def explain(text: str, region: str) -> str:
    """Return cause and way out of the refusal in an error's text, a sentence; empty: none."""
    refusal = find(text)
    if refusal is None:
        return ""
    way_out = refusal.way_out.format(quota_page=quota_page(region))
    return f"{refusal.cause[0].upper()}{refusal.cause[1:]}: {way_out}; {AGAIN}."


def as_error(error: StackError | BotoCoreError | ClientError, region: str) -> StackError:
    """Return an error of boto3 as one of stackctl's, with cause and way out if they are known."""
    if isinstance(error, StackError):
        return error
    what = f"{str(error).rstrip('.')}."
    if isinstance(error, _NO_CREDENTIALS):
        return AwsError(what, f"aws sts get-caller-identity must answer first; {AGAIN}.")
    return AwsError(what, explain(what, region))
