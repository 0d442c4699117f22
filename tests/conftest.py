"""What holds for every kind of tests."""

from __future__ import annotations

import pytest
from salt._logging import shutdown_temp_handler


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep salt-factories' log server, which starts with the session, off every interface but loopback."""
    server = config.pluginmanager.get_plugin("saltfactories-log-server")
    if server is not None:
        server.log_host = "127.0.0.1"


def pytest_unconfigure() -> None:
    """Drop what Salt would still write at exit, to a stream that pytest has closed by then."""
    shutdown_temp_handler()
