"""The whole stack on this machine, brought up once for all tests of this folder as a user brings it up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localcloud import service
from stackctl import local
from stackctl.deployment import LOCAL, Deployment, repository_root

UP_SECONDS = 1500


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.stack)
            item.add_marker(pytest.mark.timeout(UP_SECONDS + 300))


@dataclass(frozen=True)
class Stack:
    """The stack as its operator handles it."""

    deployment: Deployment

    @property
    def url(self) -> str:
        """The address that users type."""
        return str(self.deployment.settings()["base_url"])

    def ctl(self, *arguments: str, accept: tuple[int, ...] = (0,), timeout: float = 300) -> str:
        """Run stackctl and return what it prints; any other exit code than `accept`'s fails the test."""
        done = subprocess.run(
            [sys.executable, "-m", "stackctl", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self.deployment.root,
        )
        assert done.returncode in accept, f"stackctl {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self) -> str:
        """Bring up what is missing."""
        return self.ctl("up", timeout=UP_SECONDS)

    def sh(self, machine: str, command: str, *, accept: tuple[int, ...] = (0,)) -> str:
        """Run a shell command as root on a machine."""
        return self.ctl("exec", machine, "--", command, accept=accept)

    def secret(self, lock: str, leaf: str) -> str:
        """Return a secret's plaintext."""
        return self.ctl("secrets", "show", lock, leaf).strip()

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the table of `status`."""
        return {row["machine"]: row for row in json.loads(self.ctl("status", "--json", accept=(0, 1)))}


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The running stack; if it did not run before, it is taken down afterwards and the image is kept."""
    deployment = Deployment(LOCAL, repository_root())
    ran_before = service.status(local.cloud_folder(deployment)).running
    made = Stack(deployment)
    print(made.up())
    yield made
    if not ran_before:
        made.ctl("down", "--keep-image")


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool], str, float], None]:
    """A wait for something to become true: what to ask, what it is, seconds."""

    def wait(holds: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
            time.sleep(1)

    return wait
