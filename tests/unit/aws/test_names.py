"""The profiles name the resources that the account's states create."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcloud import catalog
from plainpillar import DEPLOYMENT

PROFILES = Path(__file__).parents[3] / "cloud.profiles.d"


@pytest.fixture(scope="module")
def profiles() -> dict[str, dict[str, Any]]:
    return {
        name: profile
        for path in PROFILES.glob("*.conf")
        for name, profile in yaml.safe_load(path.read_text()).items()
    }


def test_profiles_name_existing_resources(
    profiles: dict[str, dict[str, Any]], pillar: dict[str, Any]
) -> None:
    named = {
        option: {
            DEPLOYMENT.in_account(profile[option])
            for profile in profiles.values()
            if option in profile
        }
        for option in ("keyname", "subnetname", "securitygroupname", "iam_profile", "associate_eip")
    }
    aws = pillar["aws"]
    assert named == {
        "keyname": {aws["key_pair"]},
        "subnetname": {aws["subnet"]["name"]},
        "securitygroupname": set(aws["security_groups"].values()),
        "iam_profile": {aws["salt_role"]},
        "associate_eip": {aws["edge_address"]["name"]},
    }
    assert profiles[aws["edge_address"]["machine"].rpartition("-")[0]]["associate_eip"]
    assert set(aws["security_groups"]) == {
        role for role, profile in profiles.items() if "securitygroupname" in profile
    }


def test_salt_profile_has_the_fixed_address(
    profiles: dict[str, dict[str, Any]], pillar: dict[str, Any]
) -> None:
    aws = pillar["aws"]
    fixed = {
        role: profile["private_ip"] for role, profile in profiles.items() if "private_ip" in profile
    }
    assert fixed == {"salt": aws["salt_address"]}
    subnet = ipaddress.IPv4Network(aws["subnet"]["cidr"])
    # AWS reserves the first four addresses and the last one.
    assert ipaddress.IPv4Address(aws["salt_address"]) in list(subnet)[4:-1]
    assert subnet.subnet_of(ipaddress.IPv4Network(aws["vpc"]["cidr"]))


def test_profiles_use_allowed_types_and_tags(
    profiles: dict[str, dict[str, Any]], pillar: dict[str, Any]
) -> None:
    aws = pillar["aws"]
    sizes = {profile["size"] for profile in profiles.values() if "size" in profile}
    assert sizes == set(aws["instance_types"])
    projects = {profile["tag"]["project"] for profile in profiles.values() if "tag" in profile}
    assert projects == {aws["project"]}
    assert aws["image_owners"] == [catalog.OWNER_ALIAS, catalog.OWNER]
