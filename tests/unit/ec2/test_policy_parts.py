"""No part of docs/policy.json is superfluous: resources and conditions, which moto ignores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
OURS = {"project": "my-project", "deployment": "my-deployment"}
OTHERS: list[dict[str, str]] = [
    {},
    {**OURS, "project": "wiki"},
    {**OURS, "deployment": "prod"},
    {"project": "my-project"},
]
"""The tags of what is not ours."""
CREATED = ("instance", "network-interface", "spot-instances-request", "volume")


def launch(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the form of a launch, whose things all get these tags."""
    form = {"ImageId": "ami-1", "SubnetId": "subnet-1", "SecurityGroupId.1": "sg-1", "KeyName": "k"}
    for number, kind in enumerate(CREATED, 1):
        start = f"TagSpecification.{number}"
        form[f"{start}.ResourceType"] = kind
        for place, (key, value) in enumerate({"Name": "web-1", **tags}.items(), 1):
            form |= {f"{start}.Tag.{place}.Key": key, f"{start}.Tag.{place}.Value": value}
    return form


def tagging(*keys: str) -> dict[str, str]:
    """Return the form of CreateTags for a machine."""
    pairs = {f"Tag.{number}.Key": key for number, key in enumerate(keys, 1)}
    return {"ResourceId.1": "i-1", **pairs}


# What tests/unit/ec2/test_policy.py sees the driver call, as the API gets it.
CALLS: list[tuple[str, str, dict[str, str], dict[str, Any]]] = [
    *(
        ("ec2", f"Describe{what}", {}, {})
        for what in ("Addresses", "Images", "Instances", "SecurityGroups", "Subnets")
    ),
    ("ssm", "GetParameters", {}, {"Names": ["/aws/service/debian/release/13/latest/amd64"]}),
    ("ec2", "RunInstances", launch(OURS), {}),
]
# Of what exists.
CALLS_BY_ID: list[tuple[str, str, dict[str, str], dict[str, Any]]] = [
    ("ec2", "GetConsoleOutput", {"InstanceId": "i-1"}, {}),
    ("ec2", "CreateTags", tagging("salt-cloud:deploy", "salt-cloud:host-key"), {}),
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


def asked(calls: Sequence[tuple[str, str, Mapping[str, str], Any]], region: str) -> list[Access]:
    """Return what calls ask for in a region."""
    with mock_aws():
        return [
            access
            for service, action, form, body in calls
            for access in accesses(Call(service, action, region, form, json.dumps(body).encode()))
        ]


def of(tags: Mapping[str, str], wanted: Sequence[Access]) -> list[Access]:
    """Return the same accesses of things that have these tags."""
    keys = {f"aws:ResourceTag/{key}": value for key, value in tags.items()}
    return [replace(access, keys={**access.keys, **keys}) for access in wanted]


def refused(statements: list[dict[str, Any]], wanted: list[Access]) -> list[Access]:
    document = {**POLICY, "Statement": statements}
    return [access for access in wanted if not decide([document], access).allowed]


EXISTING = [*asked(CALLS_BY_ID, HERE), INTERFACE]
WANTED = [*asked(CALLS, HERE), *of(OURS, EXISTING), PASS]
LAUNCHED = [access for access in WANTED if access.resource.endswith("/*")]
UNWANTED = [
    *asked(CALLS, ABROAD),
    *of(OURS, asked(CALLS_BY_ID, ABROAD)),
    *(access for tags in OTHERS for access in of(tags, EXISTING)),
    *(  # without our tags, or with others'
        access
        for tags in OTHERS
        for access in asked([("ec2", "RunInstances", launch(tags), {})], HERE)
        if (access.action, access.resource.endswith("/*")) == ("ec2:RunInstances", True)
    ),
    *(  # tags of what exists, as if it was launched: without the key, and by another action
        replace(access, keys={**access.keys, "ec2:CreateAction": action})
        for access in LAUNCHED
        if access.action == "ec2:CreateTags"
        for action in ("", "CreateVolume")
    ),
    *(
        access
        for key in ("project", "deployment", "Name")
        for access in of(
            OURS, asked([("ec2", "CreateTags", tagging("salt-cloud:deploy", key), {})], HERE)
        )
    ),
    *of(
        OURS,
        [Access("ec2:CreateTags", f"arn:aws:ec2:{HERE}:123456789012:elastic-ip/eipalloc-1")],
    ),
    Access("ec2:RunInstances", f"arn:aws:ec2:{HERE}:123456789012:launch-template/lt-1"),
    Access("ec2:RunInstances", f"arn:aws:ec2:{HERE}::snapshot/snap-1"),
    Access(PASS.action, f"{ROLE}/admin", PASS.keys),
    Access(PASS.action, PASS.resource, {"iam:PassedToService": "lambda.amazonaws.com"}),
    Access("ssm:GetParameters", "arn:aws:ssm:eu-west-1:123456789012:parameter/own"),
    *of(
        OURS,
        [Access("ec2:TerminateInstances", "arn:aws:ec2:eu-west-1:123456789012:volume/vol-1")],
    ),
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


def test_nothing_of_others_is_reached_or_becomes_ours() -> None:
    """Whoever tags a machine as ours could destroy it next."""
    for tags in OTHERS:
        theirs = of(tags, EXISTING)
        assert refused(POLICY["Statement"], theirs) == theirs
        for kind in ("instance/i-1", "volume/vol-1", "network-interface/eni-1"):
            ours = [
                replace(access, resource=f"arn:aws:ec2:{HERE}:123456789012:{kind}")
                for access in of(tags, asked([("ec2", "CreateTags", tagging(*OURS), {})], HERE))
            ]
            assert refused(POLICY["Statement"], ours) == ours


def test_linter_finds_nothing() -> None:
    """Two of parliament's findings are none. It takes the public parameters of Systems Manager for
    wrong, which belong to no account. And it wants every kind of resource of RunInstances in each
    statement, and does not know requests for spot instances as one, which EC2 judges when they get
    tags.
    """
    assert {found for found in findings(POLICY) if found[0] != "RESOURCE_MISMATCH"} == set()
