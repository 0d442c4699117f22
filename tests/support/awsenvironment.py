"""The environment in which boto3 uses a cloud of a test, and nothing of whoever runs the test."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.loaders import Loader

from memorycloud import Running


def clear(patch: pytest.MonkeyPatch) -> None:
    """Forget all credentials, endpoints and profiles."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        patch.setenv(name, os.devnull)
    # An earlier test's session keeps what it found in the environment.
    patch.setattr(boto3, "DEFAULT_SESSION", None)


def use(patch: pytest.MonkeyPatch, cloud: Running, key: str = "", secret: str = "") -> None:
    """Have boto3 use a cloud with an access key, or with its owner's."""
    clear(patch)
    patch.setenv("AWS_ENDPOINT_URL", cloud.url)
    patch.setenv("AWS_ACCESS_KEY_ID", key or cloud.credentials.access_key_id)
    patch.setenv("AWS_SECRET_ACCESS_KEY", secret or cloud.credentials.secret_access_key)


SERVICES = (
    "ec2", "freetier", "iam", "resourcegroupstaggingapi", "s3", "service-quotas", "ssm", "sts",
)  # fmt: skip


def lead(home: Path, cloud: Running) -> None:
    """Have boto3 in processes with this home find a cloud where it finds Amazon otherwise.

    Real deployments refuse all settings of endpoints. This is none: boto3 reads another description
    of where the services are.
    """
    for service in SERVICES:
        version = Loader().determine_latest_version(service, "endpoint-rule-set-1")
        folder = home / ".aws" / "models" / service / version
        folder.mkdir(parents=True)
        endpoint = {"url": cloud.url, "properties": {}, "headers": {}}
        rule = {"conditions": [], "endpoint": endpoint, "type": "endpoint"}
        rules: dict[str, Any] = {"version": "1.0", "parameters": {}, "rules": [rule]}
        if service == "s3":  # whose rules also say where the bucket's name is
            rules["parameters"] = {"Bucket": {"type": "String", "required": False}}
            given = {"fn": "isSet", "argv": [{"ref": "Bucket"}]}
            of_bucket = {**endpoint, "url": f"{cloud.url}/{{Bucket}}"}
            rules["rules"].insert(0, {**rule, "conditions": [given], "endpoint": of_bucket})
        (folder / "endpoint-rule-set-1.json").write_text(json.dumps(rules))
