"""What the profiles name is what the foundation makes."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcloud import catalog

PROFILES = Path(__file__).parents[3] / "cloud.profiles.d"


@pytest.fixture(scope="module")
def profiles() -> dict[str, dict[str, Any]]:
    return {
        name: one
        for path in PROFILES.glob("*.conf")
        for name, one in yaml.safe_load(path.read_text()).items()
    }


def test_profiles_name_existing_resources(
    profiles: dict[str, dict[str, Any]], pillar: dict[str, Any]
) -> None:
    named = {option: {one[option] for one in profiles.values() if option in one} for option in
             ("keyname", "subnetname", "securitygroupname", "iam_profile")}  # fmt: skip
    aws = pillar["aws"]
    assert named == {
        "keyname": {aws["key_pair"]},
        "subnetname": {aws["subnet"]["name"]},
        "securitygroupname": set(aws["security_groups"].values()),
        "iam_profile": {aws["salt_role"]},
    }
    assert set(aws["security_groups"]) == {
        role for role, one in profiles.items() if "securitygroupname" in one
    }


def test_salt_profile_has_the_fixed_address(
    profiles: dict[str, dict[str, Any]], pillar: dict[str, Any]
) -> None:
    aws = pillar["aws"]
    assert {role: one["private_ip"] for role, one in profiles.items() if "private_ip" in one} == {
        "salt": aws["salt_address"]
    }
    subnet = ipaddress.IPv4Network(aws["subnet"]["cidr"])
    assert (
        ipaddress.IPv4Address(aws["salt_address"]) in list(subnet)[4:-1]
    )  # AWS keeps the others for itself
    assert subnet.subnet_of(ipaddress.IPv4Network(aws["vpc"]["cidr"]))


def test_profiles_use_allowed_types_and_tags(
    profiles: dict[str, dict[str, Any]], pillar: dict[str, Any]
) -> None:
    aws = pillar["aws"]
    assert {one["size"] for one in profiles.values() if "size" in one} == set(aws["instance_types"])
    assert {one["tag"]["project"] for one in profiles.values() if "tag" in one} == {aws["project"]}
    assert aws["image_owner"] == catalog.OWNER
