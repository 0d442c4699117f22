"""One server for all tests of a module, and an empty account for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from salt._logging import shutdown_temp_handler

from sandbox import Sandbox, Server

# Salt's import hook for PyNaCl predates `find_spec`, which pytest asks of every finder.
sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]


def pytest_configure() -> None:
    """Keep the caller's proxies and account, and moto's thousand images, out of the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        no_proxy="127.0.0.1",
        NO_PROXY="127.0.0.1",
        AWS_EC2_METADATA_DISABLED="true",
        MOTO_EC2_LOAD_DEFAULT_AMIS="false",
    )


def pytest_unconfigure() -> None:
    """Drop the log lines that Salt would write at exit, to a stream that pytest has closed."""
    shutdown_temp_handler()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server().running() as running:
        yield running


@pytest.fixture
def sandbox(server: Server, tmp_path: Path) -> Sandbox:
    server.reset()
    made = Sandbox(server, tmp_path / "salt")
    server.calls.clear()
    return made
