"""A machine gets the credentials of its role, which end, and nobody else gets them."""

from __future__ import annotations

import functools
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from localcloud import metadata
from localcloud.config import METADATA, METADATA_ADDRESS
from memorycloud import Running

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": "ec2.amazonaws.com"},
        }
    ],
}
DESCRIBE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"}],
}
ROLE = "/latest/meta-data/iam/security-credentials/"
Launch = Callable[..., Any]


@pytest.fixture
def machine(local: Running, launch: Launch) -> Any:
    """A machine with a role that may list instances."""
    iam = local.client("iam")
    iam.create_role(RoleName="salt", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.put_role_policy(RoleName="salt", PolicyName="one", PolicyDocument=json.dumps(DESCRIBE))
    iam.create_instance_profile(InstanceProfileName="salt")
    iam.add_role_to_instance_profile(InstanceProfileName="salt", RoleName="salt")
    return launch(IamInstanceProfile={"Name": "salt"})


def ask(local: Running, path: str, method: str = "GET", **headers: str) -> str:
    """Return the answer of the service, or the status code of its refusal."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{local.url}{METADATA}{path}", None, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.code)


def token(local: Running, seconds: str = "60", **headers: str) -> str:
    named = {metadata.TTL_HEADER.replace("-", "_"): seconds, **headers}
    return ask(local, "/latest/api/token", "PUT", **named)


def get(local: Running, path: str, given: str) -> str:
    return ask(local, path, **{metadata.TOKEN_HEADER.replace("-", "_"): given})


def test_machine_has_a_session_of_its_role(local: Running, machine: Any) -> None:
    keys = local.session_of(machine["InstanceId"])
    assert local.client("sts", **keys).get_caller_identity()["Arn"] == (
        f"arn:aws:sts::123456789012:assumed-role/salt/{machine['InstanceId']}"
    )
    assert local.client("ec2", **keys).describe_instances()["Reservations"]
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        local.client("ec2", **keys).describe_vpcs()
    assert local.session_of(machine["InstanceId"]) == keys


def test_nothing_is_told_without_the_machines_own_token(
    local: Running, machine: Any, launch: Launch
) -> None:
    other = launch()["PrivateIpAddress"]
    assert ask(local, ROLE) == token(local) == "404"  # this host is no machine
    local.api.address = machine["PrivateIpAddress"]
    assert ask(local, ROLE) == get(local, ROLE, "made-up") == "401"
    own = token(local)
    assert get(local, ROLE, own) == "salt"
    assert token(local, "1") != own  # a new token leaves an older one valid
    assert get(local, "/latest/meta-data/instance-id", own) == machine["InstanceId"]
    local.api.address = other
    assert get(local, ROLE, own) == "401"
    assert get(local, ROLE, token(local)) == "404"  # it has no role


@pytest.mark.parametrize(
    ("seconds", "headers", "status"),
    [("0", {}, "400"), ("21601", {}, "400"), ("x", {}, "400"),
     ("60", {"X_Forwarded_For": "10.0.0.1"}, "403")],
)  # fmt: skip
def test_token_is_refused(
    local: Running, machine: Any, seconds: str, headers: dict[str, str], status: str
) -> None:
    local.api.address = machine["PrivateIpAddress"]
    assert token(local, seconds, **headers) == status
    assert ask(local, "/latest/api/token") == ask(local, ROLE, "POST") == "405"


def test_machine_asks_at_the_address_of_ec2(local: Running, machine: Any) -> None:
    local.api.address = machine["PrivateIpAddress"]
    headers = {"Host": METADATA_ADDRESS, metadata.TTL_HEADER: "60"}
    url = f"{local.url}/latest/api/token"
    with urllib.request.urlopen(urllib.request.Request(url, None, headers, method="PUT")) as answer:
        own = answer.read().decode()
    assert get(local, "/latest/meta-data/instance-id", own) == machine["InstanceId"]


def test_machine_learns_facts_tags_user_data_and_identity(local: Running, launch: Launch) -> None:
    made = launch(
        UserData="#!/bin/sh\n",
        MetadataOptions={"InstanceMetadataTags": "enabled"},
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web-1"}]}
        ],
    )
    local.api.address = made["PrivateIpAddress"]
    own = token(local)
    facts = {
        "instance-type": "t2.micro",
        "local-hostname": made["PrivateDnsName"],
        "ami-id": made["ImageId"],
        "security-groups": "default",
        "tags/instance": "Name",
        "tags/instance/Name": "web-1",
        "public-ipv4": "404",
        "block-device-mapping/root": "/dev/xvda",
    }
    assert {name: get(local, f"/latest/meta-data/{name}", own) for name in facts} == facts
    assert get(local, "/latest/user-data", own) == "#!/bin/sh\n"
    identity = json.loads(get(local, "/latest/dynamic/instance-identity/document", own))
    assert identity["instanceId"] == made["InstanceId"]
    assert identity["privateIp"] == made["PrivateIpAddress"]
    assert (identity["region"], identity["accountId"]) == ("eu-west-1", DEFAULT_ACCOUNT_ID)
    assert identity["imageId"] == made["ImageId"]


def test_options_of_an_instance_hide_tags_or_everything(local: Running, launch: Launch) -> None:
    made = launch()
    local.api.address = made["PrivateIpAddress"]
    own = token(local)
    assert get(local, "/latest/meta-data/tags/instance", own) == "404"
    assert get(local, "/latest/user-data", own) == "404"
    local.api.address = ""
    local.ec2.modify_instance_metadata_options(
        InstanceId=made["InstanceId"], HttpEndpoint="disabled"
    )
    local.api.address = made["PrivateIpAddress"]
    assert get(local, "/latest/meta-data/instance-id", own) == token(local) == "403"


def test_token_ends(local: Running, machine: Any) -> None:
    local.api.address = machine["PrivateIpAddress"]
    own = token(local, "60")
    local.api.api._metadata._now = lambda: datetime.now(UTC) + timedelta(seconds=61)
    assert get(local, ROLE, own) == "401"


def test_terminated_machine_is_told_nothing(local: Running, machine: Any) -> None:
    local.api.address = machine["PrivateIpAddress"]
    own = token(local)
    local.api.address = ""
    local.ec2.terminate_instances(InstanceIds=[machine["InstanceId"]])
    local.api.address = machine["PrivateIpAddress"]
    assert get(local, ROLE, own) == "404"


def test_credentials_are_renewed_before_they_end(local: Running, machine: Any) -> None:
    first = local.session_of(machine["InstanceId"])
    late = metadata.SESSION - metadata.RENEW + timedelta(seconds=1)
    local.api.api._metadata._now = lambda: datetime.now(UTC) + late
    second = local.session_of(machine["InstanceId"])
    assert second != first
    for keys in (first, second):
        local.client("ec2", **keys).describe_instances()
    local.api.api._metadata._now = lambda: datetime.now(UTC) + metadata.SESSION + late
    local.session_of(machine["InstanceId"])
    with pytest.raises(ClientError, match="AuthFailure"):  # forgotten
        local.client("ec2", **first).describe_instances()


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("ec2", "describe_instances", "RequestExpired"),
        ("sts", "get_caller_identity", "ExpiredToken"),
        ("ssm", "describe_parameters", "ExpiredTokenException"),
    ],
)
def test_ended_credentials_are_refused(
    local: Running, machine: Any, service: str, call: str, code: str
) -> None:
    keys = local.session_of(machine["InstanceId"])
    (session,) = sts_backends[DEFAULT_ACCOUNT_ID]["aws"].assumed_roles
    session.expiration = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
    with pytest.raises(ClientError) as error:
        getattr(local.client(service, **keys), call)()
    assert error.value.response["Error"]["Code"] == code


@pytest.mark.parametrize("statements", [[], [{"Effect": "Allow", "Principal": "*"}]])
def test_role_that_does_not_trust_ec2_has_no_credentials(
    local: Running, machine: Any, statements: list[dict[str, str]]
) -> None:
    (role,) = iam_backends[DEFAULT_ACCOUNT_ID]["aws"].roles.values()
    role.assume_role_policy_document = json.dumps({**TRUST, "Statement": statements})
    local.api.address = machine["PrivateIpAddress"]
    answer = json.loads(get(local, f"{ROLE}salt", token(local)))
    assert answer["Code"] == "AssumeRoleUnauthorizedAccess"


def test_credentials_last_for_hours_and_are_renewed_an_hour_before_their_end(
    local: Running, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    local.api.address = machine["PrivateIpAddress"]
    for hours, expected in ((0, 18), (4.9, 18), (5.1, 23)):
        then = now + timedelta(hours=hours)
        monkeypatch.setattr(local.api.api._metadata, "_now", functools.partial(lambda at: at, then))
        answer = json.loads(get(local, f"{ROLE}salt", token(local)))
        assert answer["Expiration"].startswith(f"2026-11-26T{expected}:")
