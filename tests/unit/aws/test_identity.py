"""The Salt master's policy allows it to launch and manage this stack's machines, and no others.

moto evaluates neither resources nor conditions, so `allows` does: it knows Allow statements and
StringEquals. A condition on a key that the resource does not have is not met.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import pytest

from localcloud import catalog

Requests = dict[str, dict[str, Any]]
Statement = dict[str, Any]

# `ec2:Owner` is an image's owner alias where it has one, and otherwise its owner's number:
# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
OWNERS = (catalog.OWNER_ALIAS, catalog.OWNER)


@dataclass(frozen=True)
class Resource:
    """One resource of a call, as IAM sees it.

    Attributes:
        arn: its name.
        keys: the condition keys that it has in this call.
    """

    arn: str
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Its type, such as `subnet`."""
        return self.arn.split(":")[5].partition("/")[0]


def arn(kind: str, name: str, region: str, account: str = "123456789012") -> str:
    return f"arn:aws:ec2:{region}:{account}:{kind}/{name}"


def allows(policy: list[Statement], action: str, resource: Resource) -> bool:
    """Return whether a policy allows an action on a resource."""
    return any(
        any(fnmatchcase(action, pattern) for pattern in _list(statement["Action"]))
        and any(fnmatchcase(resource.arn, pattern) for pattern in _list(statement["Resource"]))
        and all(
            resource.keys.get(key) in _list(wanted) for key, wanted in _equals(statement).items()
        )
        for statement in policy
    )


def _equals(statement: Statement) -> dict[str, Any]:
    conditions = statement.get("Condition", {"StringEquals": {}})
    assert statement["Effect"] == "Allow"
    assert conditions.keys() == {"StringEquals"}, "`allows` knows no other operator"
    return dict(conditions["StringEquals"])


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


@pytest.fixture(scope="module")
def policy(
    applied: dict[str, Any], client: Callable[[str], Any], pillar: dict[str, Any]
) -> list[Statement]:
    """The statements of the master's role in the account."""
    found = client("iam").get_role_policy(
        RoleName=pillar["aws"]["salt_role"], PolicyName="salt-cloud"
    )
    return list(found["PolicyDocument"]["Statement"])


def resources(
    request: Mapping[str, Any], client: Callable[[str], Any], region: str
) -> Iterator[Resource]:
    """Yield the resources that RunInstances creates and uses.

    Which type has which keys: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
    """
    ec2 = client("ec2")
    made = {
        spec["ResourceType"]: _tags(spec["Tags"], "aws:RequestTag")
        for spec in request["TagSpecifications"]
    }
    own = {
        "instance": {"ec2:InstanceType": request["InstanceType"]},
        "volume": {},
        "network-interface": {},
    }
    for kind, keys in own.items():
        yield Resource(arn(kind, "*", region), made[kind] | keys)
    yield Resource(arn("image", request["ImageId"], region, account=""), {"ec2:Owner": OWNERS[0]})
    yield Resource(arn("key-pair", request["KeyName"], region))
    (interface,) = request["NetworkInterfaces"]
    (subnet,) = ec2.describe_subnets(SubnetIds=[interface["SubnetId"]])["Subnets"]
    yield Resource(
        arn("subnet", subnet["SubnetId"], region), _tags(subnet["Tags"], "aws:ResourceTag")
    )
    for group in ec2.describe_security_groups(GroupIds=interface["Groups"])["SecurityGroups"]:
        tags = _tags(group.get("Tags", []), "aws:ResourceTag")
        yield Resource(arn("security-group", group["GroupId"], region), tags)


def _tags(tags: list[dict[str, str]], key: str) -> dict[str, str]:
    return {f"{key}/{tag['Key']}": tag["Value"] for tag in tags}


@pytest.fixture(scope="module")
def launch(
    requests: Requests, client: Callable[[str], Any], pillar: dict[str, Any]
) -> list[Resource]:
    """The resources that the launch of a web machine creates and uses."""
    return list(resources(requests["web"], client, pillar["aws"]["region"]))


def test_policy_allows_launch_of_every_profile(
    policy: list[Statement],
    requests: Requests,
    client: Callable[[str], Any],
    pillar: dict[str, Any],
) -> None:
    for role, request in requests.items():
        for resource in resources(request, client, pillar["aws"]["region"]):
            assert allows(policy, "ec2:RunInstances", resource), f"{role}: {resource}"


def test_policy_allows_debian_images_with_and_without_alias(
    policy: list[Statement], launch: list[Resource]
) -> None:
    (image,) = (resource for resource in launch if resource.kind == "image")
    for owner in OWNERS:
        assert allows(policy, "ec2:RunInstances", replace(image, keys={"ec2:Owner": owner}))


def test_policy_allows_tags_at_launch_only(policy: list[Statement], launch: list[Resource]) -> None:
    region = {"aws:RequestedRegion": "eu-west-1"}
    for created in launch[:3]:
        fresh = replace(created, keys=region | created.keys)
        assert allows(
            policy,
            "ec2:CreateTags",
            replace(fresh, keys=fresh.keys | {"ec2:CreateAction": "RunInstances"}),
        )
        assert not allows(policy, "ec2:CreateTags", fresh)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("instance", {"ec2:InstanceType": "p5.48xlarge"}),
        ("instance", {"aws:RequestTag/project": "mining"}),
        ("volume", {"aws:RequestTag/project": None}),
        ("network-interface", {"aws:RequestTag/project": None}),
        ("image", {"ec2:Owner": "999999999999"}),
        ("subnet", {"aws:ResourceTag/Name": "of-another-stack"}),
        ("security-group", {"aws:ResourceTag/project": None}),
    ],
)
def test_policy_denies_launch_with_other_resource(
    policy: list[Statement], launch: list[Resource], kind: str, other: dict[str, str]
) -> None:
    (wanted,) = (resource for resource in launch if resource.kind == kind)
    assert not allows(policy, "ec2:RunInstances", replace(wanted, keys=wanted.keys | other))


@pytest.mark.parametrize(
    "resource",
    [
        Resource("arn:aws:ec2:eu-west-1:123456789012:key-pair/of-another-stack"),
        Resource(
            "arn:aws:ec2:eu-west-1:123456789012:launch-template/lt-1",
            {"aws:ResourceTag/project": "airflow-stack"},
        ),
        Resource("arn:aws:ec2:us-east-1::image/ami-1", {"ec2:Owner": OWNERS[0]}),
    ],
)
def test_policy_denies_foreign_resource(policy: list[Statement], resource: Resource) -> None:
    assert not allows(policy, "ec2:RunInstances", resource)


@pytest.mark.parametrize(
    "action", ["TerminateInstances", "StopInstances", "ModifyInstanceAttribute", "DeleteTags"]
)
def test_policy_allows_actions_on_own_machines_only(
    policy: list[Statement], pillar: dict[str, Any], action: str
) -> None:
    aws = pillar["aws"]
    own = Resource(
        arn("instance", "i-1", aws["region"]),
        {"aws:RequestedRegion": aws["region"], "aws:ResourceTag/project": aws["project"]},
    )
    assert allows(policy, f"ec2:{action}", own)
    assert not allows(
        policy, f"ec2:{action}", replace(own, keys={"aws:RequestedRegion": aws["region"]})
    )


@pytest.mark.parametrize("kind", ["elastic-ip", "network-interface"])
def test_policy_allows_association_of_own_addresses_only(
    policy: list[Statement], pillar: dict[str, Any], kind: str
) -> None:
    aws = pillar["aws"]
    own = Resource(arn(kind, "x-1", aws["region"]), {"aws:ResourceTag/project": aws["project"]})
    assert allows(policy, "ec2:AssociateAddress", own)
    assert not allows(policy, "ec2:AssociateAddress", replace(own, keys={}))
    for action in ("AllocateAddress", "ReleaseAddress", "DisassociateAddress"):
        assert not allows(policy, f"ec2:{action}", own)


def test_master_role_is_limited_to_one_region(
    policy: list[Statement], client: Callable[[str], Any], pillar: dict[str, Any]
) -> None:
    role, region = pillar["aws"]["salt_role"], pillar["aws"]["region"]
    profile = client("iam").get_instance_profile(InstanceProfileName=role)["InstanceProfile"]
    assert [attached["RoleName"] for attached in profile["Roles"]] == [role]
    for statement in policy:
        here = _equals(statement).get("aws:RequestedRegion") == region
        assert here or all(f":{region}:" in pattern for pattern in _list(statement["Resource"])), (
            statement
        )
        actions = _list(statement["Action"])
        assert not {
            action
            for action in actions
            if action.split(":")[0] not in {"ec2", "ssm"} or action == "ec2:*"
        }
