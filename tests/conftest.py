"""Settings and hooks for all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from salt._logging import shutdown_temp_handler
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

MARKS = {"cloud": pytest.mark.docker, "states": pytest.mark.docker, "stack": pytest.mark.stack}
"""The folders whose tests need machines, and the mark of each folder's tests."""
MACHINES_SECONDS = 2400
"""The timeout of one such test: the first test of a session waits until its machines are made."""

# Salt's import hook for PyNaCl predates `find_spec`, which pytest asks of every finder.
sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep the caller's terminal, proxies and account away from the tests.

    The log server of salt-factories, which starts with the session, listens on loopback only.
    """
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        os.environ.pop(name, None)
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "localhost"
    if direct != "*":
        direct += ",127.0.0.1,localhost"
    os.environ.update(no_proxy=direct, NO_PROXY=direct, AWS_EC2_METADATA_DISABLED="true")
    server = config.pluginmanager.get_plugin("saltfactories-log-server")
    if server is not None:
        server.log_host = "127.0.0.1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need machines, by their folder."""
    for folder, mark in MARKS.items():
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent / folder):
                item.add_marker(mark)
                item.add_marker(pytest.mark.timeout(MACHINES_SECONDS))


def pytest_unconfigure() -> None:
    """Drop the log lines that Salt would write at exit, to a stream that pytest has closed."""
    shutdown_temp_handler()


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """Keeps the tests of a folder on one worker: they share machines."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("/")[1]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """Have `--dist=loadscope` mean folders."""
    return ByFolder(config, log) if config.getoption("dist") == "loadscope" else None
