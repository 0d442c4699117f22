"""What a role of the stack cannot do: to somebody else's things, and to what is its own.

Each call is made with the credentials that the metadata service gives to a machine of the role, in
a local cloud that weighs policies. `test_identity.py` and `test_roles.py` show that what the stack
needs is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.policies import Access, decide
from memorycloud import Running
from plainpillar import DEPLOYMENT
from reference import actions

Requests = dict[str, dict[str, Any]]
Client = Callable[[str], Any]
ROLES = ("salt", "lb", "postgres")
OURS = DEPLOYMENT.owner()
OTHERS: dict[str, dict[str, str]] = {
    "nobody": {},
    "another project": {**OURS, "project": "wiki"},
    "another deployment": {**OURS, "deployment": "prod"},
}
"""Whose a thing is that is not ours -> its tags."""
DENIED = "UnauthorizedOperation"
KINDS = ("instance", "volume", "network-interface")


@dataclass
class Account:
    """An account with the stack's machines and with others' things.

    Attributes:
        cloud: in which it is.
        machines: role -> the id of a machine of ours.
        theirs: whose -> kind -> the id of a thing.
    """

    cloud: Running
    machines: dict[str, str]
    theirs: dict[str, dict[str, str]] = field(default_factory=dict)

    def client(self, role: str) -> Any:
        """Return a client of EC2 with the credentials of a machine of this role."""
        return self.cloud.client("ec2", **self.cloud.session_of(self.machines[role]))


def outcome(call: Callable[..., Any], **arguments: Any) -> str:
    """Return the code of the error in which a call ends; empty: it succeeds."""
    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tagged(request: Mapping[str, Any], tags: Mapping[str, str], *kinds: str) -> dict[str, Any]:
    """Return a request for a machine whose things of these kinds have these tags only."""
    given = [
        {"ResourceType": one["ResourceType"], "Tags": tag_list(tags)}
        if one["ResourceType"] in kinds
        else one
        for one in request["TagSpecifications"]
    ]
    return {**request, "TagSpecifications": [one for one in given if one["Tags"]]}


@pytest.fixture(scope="module")
def account(applied: Any, cloud: Running, requests: Requests) -> Account:
    """The account with a machine of each role that has credentials, a web machine, and others'."""
    ec2 = cloud.ec2

    def launch(request: Mapping[str, Any]) -> str:
        return str(ec2.run_instances(**request)["Instances"][0]["InstanceId"])

    made = Account(cloud, {role: launch(requests[role]) for role in (*ROLES, "web")})
    for whose, tags in OTHERS.items():
        instance = launch(tagged(requests["web"], tags, *KINDS))
        address = ec2.allocate_address(Domain="vpc")["AllocationId"]
        if tags:
            ec2.create_tags(Resources=[address], Tags=tag_list(tags))
        made.theirs[whose] = {**parts(ec2, instance), "elastic-ip": address}
    cloud.settle()
    return made


def parts(ec2: Any, instance: str) -> dict[str, str]:
    """Return an instance and what it has, by kind."""
    (found,) = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    return {
        "instance": instance,
        "volume": found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"],
        "network-interface": found["NetworkInterfaces"][0]["NetworkInterfaceId"],
    }


@pytest.fixture
def own(account: Account) -> dict[str, str]:
    """The web machine and what it has, by kind. It is ours, whatever an earlier test has done."""
    found = parts(account.cloud.ec2, account.machines["web"])
    account.cloud.ec2.create_tags(Resources=[*found.values()], Tags=tag_list(OURS))
    return found


def calls(ec2: Any, instance: str) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Yield calls that change an instance or read what it keeps to itself."""
    one: dict[str, Any] = {"InstanceId": instance}
    for call in (
        ec2.stop_instances, ec2.start_instances, ec2.reboot_instances, ec2.terminate_instances,
    ):  # fmt: skip
        yield call.__name__, call, {"InstanceIds": [instance]}
    yield "console", ec2.get_console_output, one
    for attribute in ("userData", "disableApiTermination"):
        yield attribute, ec2.describe_instance_attribute, {**one, "Attribute": attribute}
    for name, value in SETTINGS.items():
        yield f"set {name}", ec2.modify_instance_attribute, {**one, name: value}
    yield "protect", ec2.modify_instance_attribute, {**one, **protection(on=False)}


def protection(*, on: bool) -> dict[str, Any]:
    return {"DisableApiTermination": {"Value": on}}


SETTINGS: dict[str, Any] = {
    "UserData": {"Value": b"#!/bin/sh\nid"},
    "InstanceType": {"Value": "p5.48xlarge"},
    "InstanceInitiatedShutdownBehavior": {"Value": "terminate"},
    "SourceDestCheck": {"Value": False},
    "DisableApiTermination": {"Value": True},
    "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True}}],
}
"""Attributes of an instance that no role of the stack may set."""


@pytest.mark.parametrize("whose", OTHERS)
@pytest.mark.parametrize("role", ROLES)
def test_others_machine_is_out_of_reach(account: Account, role: str, whose: str) -> None:
    instance = account.theirs[whose]["instance"]
    found = {
        name: outcome(call, **arguments)
        for name, call, arguments in calls(account.client(role), instance)
    }
    assert {name for name, code in found.items() if code != DENIED} == set()


@pytest.mark.parametrize("whose", OTHERS)
@pytest.mark.parametrize("role", ROLES)
def test_nothing_of_others_becomes_ours(account: Account, role: str, whose: str) -> None:
    """Else a tag would make the machine one that the role may destroy."""
    ec2 = account.client(role)
    for thing in account.theirs[whose].values():
        for tags in (OURS, {"salt-cloud:deploy": "pending"}):
            assert outcome(ec2.create_tags, Resources=[thing], Tags=tag_list(tags)) == DENIED
        for keys in ([{"Key": "deployment"}], []):
            assert outcome(ec2.delete_tags, Resources=[thing], Tags=keys) == DENIED


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("tag", ["project", "deployment", "Deployment", "Name", "tier"])
def test_own_machine_keeps_its_tags(
    account: Account, own: dict[str, str], role: str, tag: str
) -> None:
    ec2 = account.client(role)
    for thing in own.values():
        for extra in ({}, {"salt-cloud:deploy": "done"}):
            tags = tag_list({tag: "x", **extra})
            assert outcome(ec2.create_tags, Resources=[thing], Tags=tags) == DENIED
        assert outcome(ec2.delete_tags, Resources=[thing], Tags=[{"Key": tag}]) == DENIED


@pytest.mark.parametrize("role", ROLES)
def test_tags_of_the_driver_are_the_masters(
    account: Account, own: dict[str, str], role: str
) -> None:
    ec2 = account.client(role)
    tags = tag_list({"salt-cloud:deploy": "done", "salt-cloud:host-key": "ssh-ed25519 A"})
    expected = "" if role == "salt" else DENIED
    assert outcome(ec2.create_tags, Resources=[own["instance"]], Tags=tags) == expected
    for kind in ("volume", "network-interface"):
        assert outcome(ec2.create_tags, Resources=[own[kind]], Tags=tags) == DENIED


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", SETTINGS)
def test_own_machine_keeps_its_attributes(
    account: Account, own: dict[str, str], role: str, name: str
) -> None:
    """User data that is changed while a machine is stopped runs as root when it starts again."""
    web, change = own["instance"], account.client(role).modify_instance_attribute
    assert outcome(change, InstanceId=web, **{name: SETTINGS[name]}) == DENIED
    both = {**protection(on=False), name: SETTINGS[name]}
    if name in ("UserData", "DisableApiTermination"):
        assert outcome(change, InstanceId=web, **both) == DENIED


def test_master_ends_the_protection_of_its_machines(account: Account) -> None:
    ec2, machine = account.client("salt"), account.machines["postgres"]
    assert outcome(ec2.modify_instance_attribute, InstanceId=machine, **protection(on=False)) == ""


LAUNCHES: dict[str, Callable[[Requests, Account], dict[str, Any]]] = {
    "type": lambda requests, _: {**requests["web"], "InstanceType": "p5.48xlarge"},
    "image": lambda requests, account: {**requests["web"], "ImageId": image(account)},
    "subnet": lambda requests, account: network(requests["web"], SubnetId=subnet(account)),
    "group": lambda requests, account: network(requests["web"], Groups=[group(account)]),
    "group of the VPC": lambda requests, _: network(requests["web"], Groups=[]),
    "key": lambda requests, _: {**requests["web"], "KeyName": "theirs"},
    "master's role": lambda requests, _: {
        **requests["web"],
        "IamInstanceProfile": requests["salt"]["IamInstanceProfile"],
    },
    "interface": lambda requests, account: {
        **tagged(requests["web"], {}, "network-interface"),
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "NetworkInterfaceId": account.theirs["nobody"]["network-interface"],
            }
        ],
    },
    "snapshot": lambda requests, _: {
        **requests["web"],
        "BlockDeviceMappings": [
            *requests["web"]["BlockDeviceMappings"],
            {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-1"}},
        ],
    },
    **{
        f"{kind} of {whose}": lambda requests, _, kind=kind, tags=tags: tagged(  # type: ignore[misc]
            requests["web"], tags, kind
        )
        for kind in KINDS
        for whose, tags in OTHERS.items()
    },
}
"""What the master may not launch."""


def network(request: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a request whose first interface has something else."""
    first, *rest = request["NetworkInterfaces"]
    given = {key: value for key, value in {**first, **more}.items() if value}
    return {**request, "NetworkInterfaces": [given, *rest]}


def image(account: Account) -> str:
    """Return an image of the account's own, which a machine of another deployment was."""
    instance = account.theirs["another deployment"]["instance"]
    return str(account.cloud.ec2.create_image(InstanceId=instance, Name="theirs")["ImageId"])


def subnet(account: Account) -> str:
    ec2 = account.cloud.ec2
    vpc = ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    return str(ec2.create_subnet(VpcId=vpc, CidrBlock="10.99.1.0/24")["Subnet"]["SubnetId"])


def group(account: Account) -> str:
    ec2 = account.cloud.ec2
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "tag:deployment", "Values": ["test"]}])["Vpcs"]
    made = ec2.create_security_group(GroupName="theirs", Description="-", VpcId=vpc["VpcId"])
    return str(made["GroupId"])


@pytest.mark.parametrize("what", LAUNCHES)
def test_master_launches_only_what_the_deployment_has(
    account: Account, requests: Requests, what: str
) -> None:
    launch = account.client("salt").run_instances
    assert outcome(launch, **requests["web"], DryRun=True) == "DryRunOperation"
    if what == "key":
        account.cloud.ec2.create_key_pair(KeyName="theirs")
    assert outcome(launch, **LAUNCHES[what](requests, account), DryRun=True) == DENIED


@pytest.mark.parametrize("role", ["lb", "postgres"])
def test_other_roles_launch_nothing(account: Account, requests: Requests, role: str) -> None:
    assert outcome(account.client(role).run_instances, **requests["web"], DryRun=True) == DENIED


DESCRIBES = {
    "ec2:DescribeAddresses", "ec2:DescribeAvailabilityZones", "ec2:DescribeImages",
    "ec2:DescribeInstanceTypes", "ec2:DescribeInstances", "ec2:DescribeKeyPairs",
    "ec2:DescribeRegions", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets",
    "ec2:DescribeTags", "ec2:DescribeVolumes",
}  # fmt: skip
MAY = {
    "salt": DESCRIBES | {
        "ec2:CreateTags", "ec2:DescribeInstanceAttribute", "ec2:GetConsoleOutput",
        "ec2:ModifyInstanceAttribute", "ec2:RebootInstances", "ec2:RunInstances",
        "ec2:StartInstances", "ec2:StopInstances", "ec2:TerminateInstances", "iam:PassRole",
        "s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:ListBucketVersions",
        "s3:PutObject", "ssm:GetParameters",
    },
    "lb": {"ec2:AssociateAddress", "ec2:DescribeAddresses"},
    "postgres": {
        "s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:ListBucket",
        "s3:PutObject",
    },
}  # fmt: skip
"""All that a role may do to anything."""


@pytest.mark.parametrize("role", ROLES)
def test_of_all_actions_of_aws_a_role_has_these(
    account: Account, client: Client, role: str
) -> None:
    """A pattern such as `ec2:Describe*` has more: user data, launch templates, keys of VPNs."""
    iam, name = client("iam"), f"airflow-stack-test-{role}"
    documents = [
        # Whatever the resource and the conditions are.
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": statement["Action"], "Resource": "*"}
                for statement in iam.get_role_policy(RoleName=name, PolicyName=policy)[
                    "PolicyDocument"
                ]["Statement"]
            ],
        }
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
    ]
    assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
    everything = actions()
    assert len(everything) > 5000
    assert {one for one in everything if decide(documents, Access(one)).allowed} == MAY[role]


@pytest.mark.parametrize("role", ROLES)
def test_policies_of_a_role_are_not_too_long(account: Account, client: Client, role: str) -> None:
    """IAM counts them together, without white space.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    """
    assert account
    iam, name = client("iam"), f"airflow-stack-test-{role}"
    found = [
        iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
    ]
    size = sum(len(json.dumps(document, separators=(",", ":"))) for document in found)
    assert size <= 10_240 - 1_000  # a deployment's name may be longer than `test`
