"""`plan` says which permissions of S3 and IAM the caller lacks, and which nobody could ask for.

The account is a local cloud, which weighs the caller's policies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

import awsenvironment
from localcloud.faults import Fault, expired
from memorycloud import Running
from stackctl import permissions
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError

ASK = ["iam:SimulatePrincipalPolicy"]
UP = [
    *permissions.OF_BUCKET, *permissions.OF_LOCK, *permissions.OF_ROLE, *permissions.OF_PROFILE,
]  # fmt: skip
BUCKET = "arn:aws:s3:::airflow-stack-prod-123456789012-eu-west-1"
Give = Callable[..., None]


def statement(actions: Sequence[str], **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": [*actions], "Resource": "*", **more}


@pytest.fixture
def give(cloud: Running, monkeypatch: pytest.MonkeyPatch) -> Give:
    """Have boto3 use the key of a user, and give the user these statements."""
    iam = cloud.client("iam")
    iam.create_user(UserName="ann", Path="/people/")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    awsenvironment.use(monkeypatch, cloud, key["AccessKeyId"], key["SecretAccessKey"])

    def put(*statements: dict[str, Any]) -> None:
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_user_policy(UserName="ann", PolicyName="one", PolicyDocument=document)

    return put


def test_allowed_actions_are_counted(prod: Deployment, give: Give) -> None:
    give(statement(UP + ASK))
    assert permissions.simulated(prod) == (
        f"IAM's simulator allows {len({*UP})} actions of S3 and IAM"
    )


@pytest.mark.parametrize("missing", sorted({*UP}))
def test_missing_permission_is_named(prod: Deployment, give: Give, missing: str) -> None:
    give(statement([name for name in UP + ASK if name != missing]))
    with pytest.raises(PreflightError, match=rf"^Your credentials do not allow {missing} of arn:"):
        permissions.simulated(prod)


def test_denial_of_one_resource_is_named(prod: Deployment, give: Give) -> None:
    give(
        statement(UP + ASK),
        {"Effect": "Deny", "Action": "s3:PutObject", "Resource": f"{BUCKET}/lock"},
    )
    with pytest.raises(PreflightError) as caught:
        permissions.simulated(prod)
    assert str(caught.value) == (
        f"Your credentials do not allow s3:PutObject of {BUCKET}/lock. docs/security.md says what"
        " they need."
    )


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        ({"aws:RequestedRegion": ["eu-west-1", "us-east-1"]}, True),
        ({"aws:RequestTag/deployment": "prod"}, True),
        ({"aws:RequestedRegion": "eu-central-1"}, False),
        ({"aws:RequestTag/deployment": "other"}, False),
    ],
)
def test_conditions_get_what_the_calls_have(
    prod: Deployment, give: Give, condition: dict[str, Any], allowed: bool
) -> None:
    give(statement(UP, Condition={"StringEquals": condition}), statement(ASK))
    if allowed:
        assert "allows" in permissions.simulated(prod)
    else:
        with pytest.raises(PreflightError, match="do not allow"):
            permissions.simulated(prod)


def test_condition_that_only_the_call_meets_is_no_denial(prod: Deployment, give: Give) -> None:
    rest = [name for name in UP + ASK if name != "s3:ListBucket"]
    own = {"StringEquals": {"aws:ResourceTag/deployment": "prod"}}
    give(statement(rest), statement(["s3:ListBucket"], Condition=own))
    assert permissions.simulated(prod) == (
        f"IAM's simulator allows {len({*UP}) - 1} actions of S3 and IAM; not known, because of a"
        " condition: s3:ListBucket"
    )


def test_who_may_not_ask_is_told_what_was_not_tried(prod: Deployment, give: Give) -> None:
    give(statement(UP))
    said = permissions.simulated(prod)
    assert said.startswith(f"not tried: {', '.join(sorted({*UP}))}. ")
    assert said.endswith(
        "iam:SimulatePrincipalPolicy, which would tell, is denied. `up` stops at one that is"
        " missing"
    )


def test_end_of_credentials_is_no_missing_permission(
    prod: Deployment, give: Give, cloud: Running
) -> None:
    give(statement(UP + ASK))
    fault = expired("SimulatePrincipalPolicy")
    with cloud.faults.inject(fault), pytest.raises(ClientError, match="RequestExpired"):
        permissions.simulated(prod)


def assume(cloud: Running, monkeypatch: pytest.MonkeyPatch, *actions: str) -> None:
    """Have boto3 use a session of a role that has a path, as those of IAM Identity Center have."""
    iam = cloud.client("iam")
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    iam.create_role(RoleName="ops", Path="/sso/", AssumeRolePolicyDocument=trust)
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement(actions)]})
    iam.put_role_policy(RoleName="ops", PolicyName="one", PolicyDocument=document)
    arn = iam.get_role(RoleName="ops")["Role"]["Arn"]
    session = cloud.client("sts").assume_role(RoleArn=arn, RoleSessionName="ann")["Credentials"]
    awsenvironment.use(monkeypatch, cloud, session["AccessKeyId"], session["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", session["SessionToken"])


def test_session_has_the_permissions_of_its_role(
    prod: Deployment, cloud: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assume(cloud, monkeypatch, *UP, *ASK)
    assert "allows" in permissions.simulated(prod)


def test_session_whose_role_cannot_be_found_is_told(
    prod: Deployment, cloud: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assume(cloud, monkeypatch, *ASK)
    assert "iam:GetRole, which would tell, is denied." in permissions.simulated(prod)


def test_root_user_has_no_policies(prod: Deployment, in_cloud: Running) -> None:
    assert "limits its root user" in permissions.simulated(prod)
    arn = in_cloud.client("sts").get_caller_identity()["Arn"]
    assert arn == "arn:aws:iam::123456789012:root"
    with pytest.raises(ClientError, match="InvalidInput"):
        in_cloud.client("iam").simulate_principal_policy(
            PolicySourceArn=arn, ActionNames=["s3:GetObject"]
        )


def test_dry_run_tells_of_ec2(prod: Deployment, cloud: Running, give: Give) -> None:
    give(statement(["ec2:AllocateAddress"]))
    client: Any = boto3.client("ec2", region_name="eu-west-1")
    denied = Fault("error", "CreateVpc*", code="UnauthorizedOperation", status=403)
    with (
        cloud.faults.inject(denied),
        pytest.raises(PreflightError, match="do not allow create_vpc"),
    ):
        permissions.try_ec2(client)
