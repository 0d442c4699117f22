"""Loads Salt, the driver and botocore's API descriptions into the process that imports this."""

from __future__ import annotations

import importlib

from saltext.ec2 import _client

for name in (
    "pytest",  # each forked process would import it, since it is the main module of the tests
    "salt.cli.call",
    "salt.cloud.cli",
    "salt.cloud.libcloudfuncs",
    "salt.minion",
    "salt.scripts",
    "saltext.ec2.clouds.ec2",
):
    importlib.import_module(name)
_client.model_loader()
