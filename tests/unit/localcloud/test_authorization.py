"""Everybody but the owner is judged, for each resource that a call touches."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends

from localcloud import accesses, catalog, policies
from localcloud.accesses import BY_ID, DESCRIBE_BY_ID, Call
from localcloud.policies import Access
from memorycloud import Running
from reference import keys_by_kind, parliament

Launch = Callable[..., Any]
User = Callable[..., dict[str, Any]]
USER = "arn:aws:iam::123456789012:user/driver"
START = (
    f"You are not authorized to perform this operation. User: {USER} is not authorized to perform:"
)
WHY = "because no identity-based policy allows the"
SPOT = "spot-instances-request"


def allow(*actions: str, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": "*", **more}


@pytest.fixture
def user(local: Running) -> User:
    """Return how to give a user these statements; the answer is the user's key."""
    iam = local.client("iam")
    iam.create_user(UserName="driver")
    key = iam.create_access_key(UserName="driver")["AccessKey"]

    def give(*statements: Mapping[str, Any]) -> dict[str, Any]:
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_user_policy(UserName="driver", PolicyName="one", PolicyDocument=document)
        return {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}

    return give


def refusal(call: Callable[..., Any], **arguments: Any) -> tuple[str, str]:
    """Return the code and the text of the error that a call ends in."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def recorded(local: Running, keys: dict[str, Any], call: str, **arguments: Any) -> list[Access]:
    """Return what a call asks for that is allowed."""
    asked: list[Access] = []
    local.api.api.judge.watch = lambda access, _: asked.append(access)
    getattr(local.client("ec2", **keys), call)(**arguments)
    return asked


def test_denial_of_an_action_without_resources(local: Running, user: User) -> None:
    client = local.client("ec2", **user(allow("ec2:DescribeVpcs")))
    client.describe_vpcs()
    assert refusal(client.describe_instances) == (
        "UnauthorizedOperation",
        f"{START} ec2:DescribeInstances {WHY} ec2:DescribeInstances action",
    )


def test_denial_of_a_resource(local: Running, user: User, launch: Launch) -> None:
    instance = launch()["InstanceId"]
    arn = f"arn:aws:ec2:eu-west-1:123456789012:instance/{instance}"
    client = local.client("ec2", **user(allow("ec2:StopInstances", Resource=f"{arn}0")))
    code, text = refusal(client.stop_instances, InstanceIds=[instance])
    plain, _, coded = text.partition(" Encoded authorization failure message: ")
    assert (code, plain) == (
        "UnauthorizedOperation",
        f"{START} ec2:StopInstances on resource: {arn} {WHY} ec2:StopInstances action.",
    )
    assert json.loads(base64.urlsafe_b64decode(coded)) == {
        "action": "ec2:StopInstances",
        "resource": arn,
        "explicitDeny": False,
    }
    assert local.state(instance) in {"pending", "running"}


def test_explicit_denial(local: Running, user: User, launch: Launch) -> None:
    instance = launch()["InstanceId"]
    keys = user(allow("ec2:*"), {**allow("ec2:Stop*"), "Effect": "Deny"})
    code, text = refusal(local.client("ec2", **keys).stop_instances, InstanceIds=[instance])
    assert code == "UnauthorizedOperation"
    assert "with an explicit deny in an identity-based policy" in text
    assert "because no" not in text


def test_one_foreign_instance_denies_the_whole_call(
    local: Running, user: User, launch: Launch
) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "project", "Value": "own"}]}]
    own = launch(TagSpecifications=tags)["InstanceId"]
    foreign = launch()["InstanceId"]
    condition = {"StringEquals": {"ec2:ResourceTag/project": "own"}}
    client = local.client("ec2", **user(allow("ec2:TerminateInstances", Condition=condition)))
    assert foreign in refusal(client.terminate_instances, InstanceIds=[own, foreign])[1]
    assert "shutting-down" not in {local.state(own), local.state(foreign)}
    client.terminate_instances(InstanceIds=[own])


@pytest.mark.parametrize("service", ["iam", "s3", "kms", "sts"])
def test_call_that_cannot_be_judged_is_refused(local: Running, user: User, service: str) -> None:
    client = local.client(service, **user(allow("*")))
    calls = {
        "iam": "list_roles",
        "s3": "list_buckets",
        "kms": "list_keys",
        "sts": "get_session_token",
    }
    code, text = refusal(getattr(client, calls[service]))
    assert code == "NotJudged"
    assert f"call: {service}:" in text


@pytest.mark.parametrize("call", ["create_vpc", "describe_image_attribute"])
def test_action_of_ec2_that_cannot_be_judged_is_refused(
    local: Running, user: User, call: str
) -> None:
    client = local.client("ec2", **user(allow("*")))
    arguments = {
        "create_vpc": {"CidrBlock": "10.9.0.0/16"},
        "describe_image_attribute": {"ImageId": catalog.IMAGE_ID, "Attribute": "description"},
    }[call]
    assert refusal(getattr(client, call), **arguments)[0] == "NotJudged"


def test_policy_that_cannot_be_judged_is_refused(local: Running, user: User) -> None:
    unknown = allow("s3:*", Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})
    client = local.client("ec2", **user(allow("ec2:*"), unknown))
    code, text = refusal(client.describe_instances)
    assert (code, "the operator IpAddress" in text) == ("NotJudged", True)


def test_identity_needs_no_permission(local: Running, user: User) -> None:
    keys = user({**allow("*"), "Effect": "Deny"})
    assert local.client("sts", **keys).get_caller_identity()["Arn"] == USER


def test_parameters(local: Running, user: User) -> None:
    public = "arn:aws:ssm:eu-west-1::parameter/aws/service/debian/*"
    client = local.client("ssm", **user(allow("ssm:GetParameters", Resource=public)))
    assert client.get_parameters(Names=[catalog.PARAMETER])["Parameters"]
    code, text = refusal(client.get_parameters, Names=[catalog.PARAMETER, "/own"])
    assert code == "AccessDeniedException"
    assert text.startswith(
        f"User: {USER} is not authorized to perform: ssm:GetParameters on resource:"
        " arn:aws:ssm:eu-west-1:123456789012:parameter/own because"
    )


def launch_request(subnet: str, **more: Any) -> dict[str, Any]:
    tags = [{"Key": "project", "Value": "own"}]
    return {
        "ImageId": catalog.IMAGE_ID,
        "InstanceType": "t2.micro",
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": subnet,
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")
        ],
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 10, "Encrypted": True}}
        ],
        "MetadataOptions": {"HttpTokens": "required"},
        **more,
    }


def test_launch_asks_for_everything_that_it_touches(
    local: Running, user: User, subnet: str
) -> None:
    local.ec2.create_key_pair(KeyName="deploy")
    iam = local.client("iam")
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = iam.create_role(RoleName="web", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    profile = iam.create_instance_profile(InstanceProfileName="p")["InstanceProfile"]["Arn"]
    iam.add_role_to_instance_profile(InstanceProfileName="p", RoleName="web")
    request = launch_request(subnet, KeyName="deploy", IamInstanceProfile={"Name": "p"})
    asked = recorded(local, user(allow("ec2:*", "iam:PassRole")), "run_instances", **request)
    found = {
        (access.action, access.resource.rpartition("/")[0].rpartition(":")[2]) for access in asked
    }
    assert found == {
        *(("ec2:RunInstances", kind) for kind in (
            "image", "instance", "key-pair", "network-interface", "security-group", "subnet",
            "volume",
        )),
        ("ec2:CreateTags", "instance"),
        ("ec2:CreateTags", "volume"),
        ("iam:PassRole", "role"),
    }  # fmt: skip
    by_action = {(access.action, access.resource): access.keys for access in asked}
    start = "arn:aws:ec2:eu-west-1:123456789012"
    instance = by_action["ec2:RunInstances", f"{start}:instance/*"]
    assert instance["ec2:InstanceProfile"] == profile
    assert str(instance["ec2:AvailabilityZone"]).startswith("eu-west-1")
    assert instance["ec2:MetadataHttpTokens"] == "required"
    assert instance["aws:RequestTag/project"] == "own"
    assert by_action["ec2:RunInstances", f"{start}:volume/*"]["ec2:Encrypted"] == "true"
    assert by_action["ec2:CreateTags", f"{start}:volume/*"]["ec2:CreateAction"] == "RunInstances"
    assert by_action["iam:PassRole", role]["iam:PassedToService"] == "ec2.amazonaws.com"


def test_spot_request_is_asked_for_if_it_gets_tags(local: Running, user: User, subnet: str) -> None:
    """EC2 looks at it only then."""
    request = launch_request(subnet, InstanceMarketOptions={"MarketType": "spot"})
    plain = recorded(local, user(allow("ec2:*")), "run_instances", **request)
    tags = [{"Key": "project", "Value": "own"}]
    request["TagSpecifications"].append({"ResourceType": SPOT, "Tags": tags})
    asked = recorded(local, user(allow("ec2:*")), "run_instances", **request)
    new = f"arn:aws:ec2:eu-west-1:123456789012:{SPOT}/*"
    assert new not in {access.resource for access in plain}
    of_spot = {access.action: access.keys for access in asked if access.resource == new}
    assert set(of_spot) == {"ec2:RunInstances", "ec2:CreateTags"}
    assert {keys["aws:RequestTag/project"] for keys in of_spot.values()} == {"own"}


def test_attribute_that_a_call_sets_is_a_key(local: Running, user: User, launch: Launch) -> None:
    instance = launch()["InstanceId"]
    off = {"StringEqualsIgnoreCase": {"ec2:Attribute/DisableApiTermination": "false"}}
    keys = user(allow("ec2:ModifyInstanceAttribute", Condition=off))
    change = functools.partial(
        local.client("ec2", **keys).modify_instance_attribute, InstanceId=instance
    )
    change(DisableApiTermination={"Value": False})
    for other in (
        {"DisableApiTermination": {"Value": True}},
        {"UserData": {"Value": b"#!/bin/sh"}},
        {
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True}}
            ]
        },
    ):
        assert refusal(change, **other)[0] == "UnauthorizedOperation"
    # AWS does not say what the keys of this form are.
    named = {"Attribute": "disableApiTermination", "Value": "false"}
    code, text = refusal(change, **named)
    assert (code, "ModifyInstanceAttribute with Attribute" in text) == ("NotJudged", True)


@pytest.mark.parametrize(
    ("action", "form"),
    [
        ("ModifyInstanceAttribute", {"InstanceId": "i-1", "UserData.Value": "aWQ="}),
        ("ModifyVolume", {"VolumeId": "vol-1", "Size": "20"}),
    ],
)
def test_attributes_are_keys_where_the_reference_has_them(
    local: Running, action: str, form: dict[str, str]
) -> None:
    del local
    name = f"ec2:{action}"
    (access,) = accesses.accesses(
        Call("ec2", action, "eu-west-1", {"Action": action, "Version": "2016-11-15", **form})
    )
    kind = access.resource.split(":")[5].partition("/")[0]
    assert policies.ATTRIBUTE_KEY in keys_by_kind(name)[kind]
    (key,) = [key for key in access.keys if key.startswith(policies.ATTRIBUTE_KEY)]
    assert key.rpartition("/")[2] in {"UserData", "Size"}


@pytest.mark.parametrize(
    "more", [{"LaunchTemplate": {"LaunchTemplateId": "lt-1"}}, {"Placement": {"GroupName": "g"}}]
)
def test_launch_with_something_unknown_is_refused(
    local: Running, user: User, subnet: str, more: dict[str, Any]
) -> None:
    client = local.client("ec2", **user(allow("*")))
    assert refusal(client.run_instances, **launch_request(subnet, **more))[0] == "NotJudged"


def test_dry_run_is_judged_first(local: Running, user: User, subnet: str) -> None:
    for statement, code in (
        (allow("ec2:*"), "DryRunOperation"),
        (allow("ec2:RunInstances"), "UnauthorizedOperation"),
    ):
        client = local.client("ec2", **user(statement))
        assert refusal(client.run_instances, **launch_request(subnet), DryRun=True)[0] == code
    assert local.ec2.describe_instances()["Reservations"] == []


def assumed(local: Running, **more: Any) -> dict[str, Any]:
    """Return the key of a session in a role that may describe instances."""
    iam = local.client("iam")
    one = {"Version": "2012-10-17", "Statement": [allow("ec2:DescribeInstances")]}
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.create_role(RoleName="other", AssumeRolePolicyDocument=trust)
    iam.put_role_policy(RoleName="r", PolicyName="one", PolicyDocument=json.dumps(one))
    sts = local.client("sts")
    for name in ("r", "other"):
        arn = role if name == "r" else role.replace("/r", "/other")
        made = sts.assume_role(RoleArn=arn, RoleSessionName="me", **more)["Credentials"]
        if name == "r":
            found = made
    return {
        "key": found["AccessKeyId"],
        "secret": found["SecretAccessKey"],
        "token": found["SessionToken"],
    }


def test_session_has_the_policies_of_its_role(local: Running) -> None:
    client = local.client("ec2", **assumed(local))
    client.describe_instances()
    code, text = refusal(client.describe_vpcs)
    assert code == "UnauthorizedOperation"
    assert "User: arn:aws:sts::123456789012:assumed-role/r/me is not authorized" in text
    local.client("iam").delete_role_policy(RoleName="r", PolicyName="one")
    local.client("iam").delete_role(RoleName="r")
    assert refusal(client.describe_instances)[0] == "UnauthorizedOperation"


def test_attached_policies_count(local: Running, user: User) -> None:
    keys = user(allow("ec2:DescribeVpcs"))
    document = {"Version": "2012-10-17", "Statement": [allow("ec2:DescribeInstances")]}
    iam = local.client("iam")
    policy = iam.create_policy(PolicyName="more", PolicyDocument=json.dumps(document))["Policy"]
    iam.attach_user_policy(UserName="driver", PolicyArn=policy["Arn"])
    local.client("ec2", **keys).describe_instances()
    local.client("ec2", **keys).describe_vpcs()


def test_session_policy_is_refused(local: Running) -> None:
    own = json.dumps({"Version": "2012-10-17", "Statement": [allow("*")]})
    client = local.client("ec2", **assumed(local, Policy=own))
    assert "a session with a policy of its own" in refusal(client.describe_instances)[1]


@pytest.mark.parametrize("limit", ["group", "boundary"])
def test_other_limits_are_refused(local: Running, user: User, limit: str) -> None:
    keys = user(allow("*"))
    local.client("ec2", **keys).describe_instances()
    if limit == "group":
        iam = local.client("iam")
        iam.create_group(GroupName="g")
        iam.add_user_to_group(GroupName="g", UserName="driver")
    else:
        made = iam_backends[DEFAULT_ACCOUNT_ID]["aws"].users["driver"]
        made.permissions_boundary_arn = "arn:aws:iam::aws:policy/ReadOnlyAccess"
    code, text = refusal(local.client("ec2", **keys).describe_instances)
    assert (code, limit in text) == ("NotJudged", True)


def test_log_says_which_condition_failed(
    local: Running, user: User, launch: Launch, caplog: pytest.LogCaptureFixture
) -> None:
    instance = launch()["InstanceId"]
    own = {"StringEquals": {"aws:ResourceTag/project": "own"}}
    keys = user({**allow("ec2:StopInstances", Condition=own), "Sid": "Own"})
    with caplog.at_level("INFO", logger="localcloud.authorization"):
        refusal(local.client("ec2", **keys).stop_instances, InstanceIds=[instance])
        refusal(local.client("ec2", **keys).describe_vpcs)
    assert "Own wants StringEquals aws:ResourceTag/project own, and it is absent" in caplog.text
    assert "no statement names both" in caplog.text


# -- compared with AWS's reference -----------------------------------------------------------------


@pytest.mark.parametrize("action", sorted(BY_ID))
def test_kinds_of_resources_are_those_of_the_reference(action: str) -> None:
    assert set(BY_ID[action].values()) <= set(keys_by_kind(f"ec2:{action}"))


def test_descriptions_with_resources_are_those_of_the_reference() -> None:
    (ec2,) = [one for one in parliament().iam_definition if one["prefix"] == "ec2"]
    assert {
        one["privilege"]
        for one in ec2["privileges"]
        if one["privilege"].startswith("Describe")
        and set(keys_by_kind(f"ec2:{one['privilege']}")) != {""}
    } == DESCRIBE_BY_ID


# What AWS has for every request, and what the reference of IAM has.
EVERYWHERE = {"aws:RequestedRegion", "aws:PrincipalArn", "aws:SecureTransport"}


def test_launch_has_the_keys_of_the_reference(local: Running, user: User, subnet: str) -> None:
    local.ec2.create_key_pair(KeyName="deploy")
    group = local.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    tags = [{"Key": "project", "Value": "own"}]
    local.ec2.create_tags(Resources=[subnet, group], Tags=tags)
    request = launch_request(subnet, KeyName="deploy")
    for access in recorded(local, user(allow("ec2:*")), "run_instances", **request):
        kind = access.resource.split(":")[5].partition("/")[0]
        known = keys_by_kind(access.action)[kind] | EVERYWHERE
        for key in access.keys:
            tag_key = next((start for start in policies.TAG_KEYS if key.startswith(start)), key)
            assert tag_key in known, (access.action, kind, key)


@pytest.mark.parametrize(
    ("action", "form", "kind"),
    [
        ("AssociateAddress", {"AllocationId": "eipalloc-1"}, "elastic-ip"),
        ("ReleaseAddress", {"AllocationId": "eipalloc-1"}, "elastic-ip"),
        ("AllocateAddress", {}, "elastic-ip"),
        ("CancelSpotInstanceRequests", {"SpotInstanceRequestId.1": "sir-1"}, SPOT),
        ("CreateTags", {"ResourceId.1": "vol-1", "Tag.1.Key": "a"}, "volume"),
        ("DeleteTags", {"ResourceId.1": "i-1", "Tag.1.Key": "a"}, "instance"),
        ("AttachVolume", {"VolumeId": "vol-1"}, "volume"),
    ],
)  # fmt: skip
def test_unknown_resource_is_judged_by_its_name(
    local: Running, action: str, form: dict[str, str], kind: str
) -> None:
    (access, *_) = accesses.accesses(Call("ec2", action, "eu-west-1", form))
    assert access.action == f"ec2:{action}"
    assert f":{kind}/" in access.resource
    assert not [key for key in access.keys if "ResourceTag" in key]
