"""The whole stack on this machine, brought up once for all tests, as a user brings it up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import builtrelease
from localcloud import service
from stackctl import local
from stackctl.deployment import LOCAL, Deployment, repository_root
from wholestack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The running stack; unless it ran before, it is removed afterwards, and the image is kept."""
    deployment = Deployment(LOCAL, repository_root())
    ran_before = service.status(local.cloud_folder(deployment)).running
    made = Stack(deployment)
    print(made.up())
    if not builtrelease.is_kept():
        builtrelease.keep(made.containers()[deployment.master()])
    yield made
    if not ran_before:
        made.ctl("down", "--keep-image")
