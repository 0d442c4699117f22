"""Settings and hooks for all tests."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from _pytest._code.code import ExceptionRepr
from _pytest.terminal import TerminalReporter
from salt._logging import shutdown_temp_handler
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from evidence import Evidence

MARKS = {"cloud": pytest.mark.docker, "states": pytest.mark.docker, "stack": pytest.mark.stack}
"""The folders whose tests need machines, and the mark of each folder's tests."""
MACHINES_SECONDS = 2400
"""The timeout of one such test: the first test of a session waits until its machines are made."""
REASON_CHARACTERS = 500
"""Of the beginning of an error that is told at once, and as many of its end."""
GROUPS = {
    "web app": ("airflow", "edge_tls", "load", "nginx", "secrets", "status", "web_answers"),
    "load balancer": ("drain", "haproxy"),
    "database": ("backups", "cleaning", "postgres"),
}
"""Files of tests/states that use the same machines, which take minutes to make."""
LONGEST = {"web app": 0, "cloud": 1, "load balancer": 2}

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
    # Salt has its loggers make records of every level, which nobody reads here.
    logging.disable(logging.INFO)
    server = config.pluginmanager.get_plugin("saltfactories-log-server")
    if server is not None:
        server.log_host = "127.0.0.1"


def machines_of(path: Path) -> str:
    """Return which machines the tests of a file use: those of a group, of tests/cloud, its own.

    Tests that use the same machines stay on one worker.
    """
    if path.parent.name != "states":
        return path.parent.name
    name = path.stem.removeprefix("test_")
    return next((group for group, names in GROUPS.items() if name in names), name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need machines, by their folder; those that take longest begin."""
    for item in items:
        for folder, mark in MARKS.items():
            if item.path.is_relative_to(Path(__file__).parent / folder):
                item.add_marker(mark)
                item.add_marker(pytest.mark.timeout(MACHINES_SECONDS))
    items.sort(key=lambda item: LONGEST.get(machines_of(item.path), len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have a test that fails show the ends of its machines' logs.

    They belong to the error: the sections of a report are not shown (`--show-capture` in
    pyproject.toml).
    """
    report = yield
    if report.failed and isinstance(report.longrepr, ExceptionRepr):
        for fixture in getattr(item, "funcargs", {}).values():
            if isinstance(fixture, Evidence):
                for title, text in fixture.logs():
                    report.longrepr.addsection(title, text)
    return report


class TellsAtOnce:
    """Says which test failed, and why, when it does: a run that is stopped prints no summary."""

    def __init__(self, terminal: TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print the name and the error of a test that has failed."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = (crash.message if crash else report.longreprtext).strip()
            if len(why) > 2 * REASON_CHARACTERS:
                why = f"{why[:REASON_CHARACTERS]}\n…\n{why[-REASON_CHARACTERS:]}"
            self._terminal.write_line(f"\n{report.when} of {report.nodeid} failed: {why}")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Tell failures at once; the workers of xdist have no terminal."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        session.config.pluginmanager.register(TellsAtOnce(terminal))


def pytest_unconfigure() -> None:
    """Drop the log lines that Salt would write at exit, to a stream that pytest has closed."""
    shutdown_temp_handler()


class ByMachines(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """Gives tests that share machines to one worker, which takes others when it is done.

    xdist's groups do the same, but xdist 3.8 writes them into a field that pytest 9.2 lacks.
    """

    def _split_scope(self, nodeid: str) -> str:
        return machines_of(Path(nodeid.partition("::")[0]))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """Have `--dist=loadscope` mean machines, in the order of the collection."""
    if config.getoption("dist") != "loadscope":
        return None
    config.option.loadscopereorder = False
    return ByMachines(config, log)
