"""The API accepts the owner's key and keys that the cloud has issued, and refuses all others."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from memorycloud import Running

CALLS: dict[str, Callable[[Any], object]] = {
    "ec2": lambda client: client.describe_instances(),
    "iam": lambda client: client.list_roles(),
    "sts": lambda client: client.get_caller_identity(),
    "ssm": lambda client: client.describe_parameters(),
    "s3": lambda client: client.list_buckets(),
}
READ = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"},
    }
)
UNKNOWN = {
    "ec2": "AuthFailure",
    "iam": "InvalidClientTokenId",
    "sts": "InvalidClientTokenId",
    "ssm": "UnrecognizedClientException",
    "s3": "InvalidAccessKeyId",
}


@pytest.mark.parametrize("service", CALLS)
def test_owner_key_is_accepted(local: Running, service: str) -> None:
    CALLS[service](local.client(service))


@pytest.mark.parametrize("service", CALLS)
def test_unknown_key_gets_error_of_service(local: Running, service: str) -> None:
    with pytest.raises(ClientError) as error:
        CALLS[service](local.client(service, key="AKIAIOSFODNN7EXAMPLE", secret="x"))
    assert error.value.response["Error"]["Code"] == UNKNOWN[service]


@pytest.mark.parametrize("service", CALLS)
def test_wrong_secret_is_refused(local: Running, service: str) -> None:
    with pytest.raises(ClientError) as error:
        CALLS[service](local.client(service, secret="wrong"))
    assert error.value.response["Error"]["Code"] in {"AuthFailure", "SignatureDoesNotMatch"}


@pytest.mark.parametrize(
    "path", ["/", "/moto-api/reset", "/backup/base", "/?Action=DescribeInstances"]
)
def test_unsigned_requests_are_refused(local: Running, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(
            urllib.request.Request(f"{local.url}{path}", method="POST"), timeout=60
        )
    assert error.value.code == 403


def test_unsupported_service_is_refused(local: Running) -> None:
    with pytest.raises(ClientError, match="no dynamodb"):
        local.client("dynamodb").list_tables()


def test_expired_signature_is_refused(local: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    late = datetime.now(UTC) - timedelta(minutes=20)
    monkeypatch.setattr(
        "botocore.auth.get_current_datetime", lambda *_args, **_more: late.replace(tzinfo=None)
    )
    with pytest.raises(ClientError) as error:
        local.client("sts").get_caller_identity()
    assert error.value.response["Error"]["Code"] == "RequestExpired"


def test_issued_key_works_until_deactivated(local: Running) -> None:
    iam = local.client("iam")
    iam.create_user(UserName="driver")
    iam.put_user_policy(UserName="driver", PolicyName="read", PolicyDocument=READ)
    key = iam.create_access_key(UserName="driver")["AccessKey"]
    client = local.client("ec2", key=key["AccessKeyId"], secret=key["SecretAccessKey"])
    client.describe_instances()
    iam.update_access_key(UserName="driver", AccessKeyId=key["AccessKeyId"], Status="Inactive")
    with pytest.raises(ClientError):
        client.describe_instances()


def test_assumed_role_key_needs_its_token(local: Running) -> None:
    iam = local.client("iam")
    role = iam.create_role(
        RoleName="salt", AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}'
    )["Role"]
    iam.put_role_policy(RoleName="salt", PolicyName="read", PolicyDocument=READ)
    session = local.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="test")[
        "Credentials"
    ]
    keys = {"key": session["AccessKeyId"], "secret": session["SecretAccessKey"]}
    local.client("ec2", **keys, token=session["SessionToken"]).describe_instances()
    for token in (None, f"{session['SessionToken']}x"):
        with pytest.raises(ClientError, match="AuthFailure"):
            local.client("ec2", **keys, token=token).describe_instances()


@pytest.mark.parametrize("key", ["plain", "with space", "ünïcode/ä+b", "a=b&c", "tilde~and'quote"])
def test_object_names_with_special_characters_are_signed(local: Running, key: str) -> None:
    s3 = local.client("s3")
    s3.create_bucket(Bucket="backup", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="backup", Key=key, Body=b"body", Metadata={"a": "b  c"})
    assert s3.get_object(Bucket="backup", Key=key)["Body"].read() == b"body"
    assert [
        found["Key"] for found in s3.list_objects_v2(Bucket="backup", Prefix=key[:2])["Contents"]
    ] == [key]
    link = s3.generate_presigned_url("get_object", Params={"Bucket": "backup", "Key": key})
    with urllib.request.urlopen(link, timeout=60) as answer:
        assert answer.read() == b"body"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(link.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200"), timeout=60)


def test_changed_body_is_refused(local: Running) -> None:
    def tamper(request: Any, **_more: Any) -> None:
        request.body = request.body.replace("10.1.0.0", "10.2.0.0")

    client = local.client("ec2")
    client.meta.events.register("before-send.ec2.CreateVpc", tamper)
    with pytest.raises(ClientError) as error:
        client.create_vpc(CidrBlock="10.1.0.0/16")
    assert error.value.response["Error"]["Code"] == "AuthFailure"
