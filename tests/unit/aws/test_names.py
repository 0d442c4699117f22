"""What the profiles name is what the foundation makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PROFILES = Path(__file__).parents[3] / "cloud.profiles.d"


def test_profiles_name_what_the_foundation_makes(pillar: dict[str, Any]) -> None:
    profiles: dict[str, dict[str, str]] = {}
    for path in PROFILES.glob("*.conf"):
        profiles |= yaml.safe_load(path.read_text())
    named = {option: {one[option] for one in profiles.values() if option in one} for option in
             ("keyname", "subnetname", "securitygroupname", "iam_profile")}  # fmt: skip
    aws = pillar["aws"]
    assert named == {
        "keyname": {aws["key_pair"]},
        "subnetname": {aws["subnet"]["name"]},
        "securitygroupname": set(aws["security_groups"].values()),
        "iam_profile": {aws["salt_role"]},
    }
    assert set(aws["security_groups"]) == {role for role, one in profiles.items() if "securitygroupname" in one}
