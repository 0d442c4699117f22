"""The profiles name the resources that the account's states create."""

from __future__ import annotations

import ipaddress
from itertools import combinations
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
            DEPLOYMENT.in_account(name)
            for profile in profiles.values()
            if option in profile
            for name in listed(profile[option])
        }
        for option in ("keyname", "subnetname", "securitygroupname", "iam_profile")
    }
    aws = pillar["aws"]
    assert named == {
        "keyname": {aws["key_pair"]},
        "subnetname": {subnet["name"] for subnet in subnets_of(aws)},
        "securitygroupname": set(aws["security_groups"].values()),
        "iam_profile": {aws["salt_role"], *aws["machine_roles"].values()},
    }
    assert set(aws["security_groups"]) == {
        role for role, profile in profiles.items() if "securitygroupname" in profile
    }


def listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def subnets_of(aws: dict[str, Any]) -> list[dict[str, str]]:
    """Return the subnets of pillar `aws`, the master's first."""
    return [aws["subnet"], *aws["other_subnets"].values()]


@pytest.mark.parametrize("role", ["lb", "web", "postgres", "redis", "monitor"])
def test_machines_begin_with_the_zone_of_their_number(
    profiles: dict[str, dict[str, Any]], pillar: dict[str, Any], role: str
) -> None:
    profile = {**profiles["debian-13"], **profiles[role]}
    assert profile["spread"] is True
    zones = {subnet["name"]: subnet["zone"] for subnet in subnets_of(pillar["aws"])}
    names = [DEPLOYMENT.in_account(name) for name in profile["subnetname"]]
    assert [zones[name] for name in names] == ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    # Whose clients come from the internet is in no private subnet, and only that.
    assert [name for name in names if "private" in name] == ([] if role == "lb" else names)


def test_subnets_do_not_overlap(pillar: dict[str, Any]) -> None:
    networks = [ipaddress.IPv4Network(subnet["cidr"]) for subnet in subnets_of(pillar["aws"])]
    vpc = ipaddress.IPv4Network(pillar["aws"]["vpc"]["cidr"])
    assert all(network.subnet_of(vpc) for network in networks)
    assert not any(one.overlaps(other) for one, other in combinations(networks, 2))


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
