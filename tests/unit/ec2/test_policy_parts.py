"""No part of docs/policy.json is superfluous: resources and conditions, which moto ignores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws

from localcloud.accesses import Call, accesses
from localcloud.policies import Access, decide
from policymutants import mutants
from reference import findings
from saltext.ec2.clouds import ec2 as driver

POLICY = json.loads((Path(driver.__file__).parents[1] / "docs" / "policy.json").read_text())
HERE, ABROAD = "eu-west-1", "us-east-1"
TAGGED = {
    "TagSpecification.1.ResourceType": "instance",
    "TagSpecification.1.Tag.1.Key": "Name",
    "TagSpecification.1.Tag.1.Value": "web-1",
}
# What tests/unit/ec2/test_policy.py sees the driver call, as the API gets it.
CALLS: list[tuple[str, str, dict[str, str], dict[str, Any]]] = [
    *(
        ("ec2", f"Describe{what}", {}, {})
        for what in ("Addresses", "Images", "Instances", "SecurityGroups", "Subnets")
    ),
    ("ec2", "GetConsoleOutput", {"InstanceId": "i-1"}, {}),
    ("ssm", "GetParameters", {}, {"Names": ["/aws/service/debian/release/13/latest/amd64"]}),
    ("ec2", "RunInstances", {"ImageId": "ami-1", "SubnetId": "subnet-1", **TAGGED}, {}),
    ("ec2", "CreateTags", {"ResourceId.1": "i-1", "Tag.1.Key": "deploy"}, {}),
    ("ec2", "AssociateAddress", {"AllocationId": "eipalloc-1", "InstanceId": "i-1"}, {}),
    *(
        ("ec2", f"{what}Instances", {"InstanceId.1": "i-1"}, {})
        for what in ("Reboot", "Start", "Stop", "Terminate")
    ),
    ("ec2", "CancelSpotInstanceRequests", {"SpotInstanceRequestId.1": "sir-1"}, {}),
]
ROLE = "arn:aws:iam::123456789012:role"
PASS = Access(
    "iam:PassRole", f"{ROLE}/my-instance-role", {"iam:PassedToService": "ec2.amazonaws.com"}
)
INTERFACE = Access(  # the driver associates an address with an interface
    "ec2:AssociateAddress", "arn:aws:ec2:eu-west-1:123456789012:network-interface/eni-1"
)


def asked(region: str) -> list[Access]:
    """Return what the calls ask for in a region."""
    with mock_aws():
        return [
            access
            for service, action, form, body in CALLS
            for access in accesses(Call(service, action, region, form, json.dumps(body).encode()))
        ]


def refused(statements: list[dict[str, Any]], wanted: list[Access]) -> list[Access]:
    document = {**POLICY, "Statement": statements}
    return [access for access in wanted if not decide([document], access).allowed]


WANTED = [*asked(HERE), PASS, INTERFACE]
UNWANTED = [
    *asked(ABROAD),
    Access(PASS.action, f"{ROLE}/admin", PASS.keys),
    Access(PASS.action, PASS.resource, {"iam:PassedToService": "lambda.amazonaws.com"}),
    Access("ssm:GetParameters", "arn:aws:ssm:eu-west-1:123456789012:parameter/own"),
    Access("ec2:TerminateInstances", "arn:aws:ec2:eu-west-1:123456789012:volume/vol-1"),
]


def test_policy_allows_the_calls_and_no_others() -> None:
    assert refused(POLICY["Statement"], WANTED) == []
    assert refused(POLICY["Statement"], UNWANTED) == UNWANTED


@pytest.mark.parametrize(
    ("name", "fewer"), mutants(POLICY["Statement"]), ids=lambda value: str(value)[:60]
)
def test_part_is_necessary(name: str, fewer: list[dict[str, Any]]) -> None:
    missing = refused(fewer, WANTED)
    assert missing or refused(fewer, UNWANTED) != UNWANTED, name


def test_linter_finds_what_the_file_leaves_to_its_user() -> None:
    """The file is a beginning: its user narrows RunInstances down, as salt/aws/identity.sls does.

    Parliament takes the public parameters of Systems Manager for wrong: they belong to no account.
    """
    left = {found for found in findings(POLICY) if found[0] != "RESOURCE_MISMATCH"}
    assert left == {
        ("RESOURCE_STAR", "['ec2:GetConsoleOutput']"),
        ("RESOURCE_STAR", "['ec2:RunInstances']"),
    }
