"""Proves that the driver's tests cover the options that their marks name.

    PYTHONPATH=tests/support pytest -p ignoring tests/unit/ec2

Each test runs once for each option that it covers, under a driver that ignores this option. The
test must then fail with at least one of its own parameters. The others are listed, and the run ends
with 1.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Generator, Mapping
from typing import Any

import pytest
import salt.config

# This plugin loads Salt before tests/conftest.py removes the import hook that pytest cannot use.
sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]

# By test and option: for each set of the test's parameters, whether the test failed.
FAILED: dict[tuple[str, str], list[bool]] = defaultdict(list)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each option that it names."""
    names = [name for mark in metafunc.definition.iter_markers("covers") for name in mark.args]
    metafunc.parametrize("_ignored_option", names, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that name no option."""
    marked = [
        item
        for item in items
        if item.get_closest_marker("covers") and not item.get_closest_marker("skip")
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in marked])
    items[:] = marked


@pytest.fixture(autouse=True)
def _ignored_option(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the driver ignore an option, wherever it is set."""
    ignored: str = request.param
    get_value, get_provider = salt.config.get_cloud_config_value, salt.config.is_provider_configured

    def get_cloud_config_value(
        name: str,
        vm_: Mapping[str, Any],
        opts: Mapping[str, Any],
        default: Any = None,
        search_global: bool = True,
    ) -> Any:
        given = default if name == ignored else get_value(name, vm_, opts, default, search_global)
        # Some machines never get an address.
        return min(given, 1) if name == "wait_for_ip_timeout" else given

    def is_provider_configured(*args: Any, **kwargs: Any) -> Any:
        found = get_provider(*args, **kwargs)
        return {key: value for key, value in found.items() if key != ignored} if found else found

    monkeypatch.setattr(salt.config, "get_cloud_config_value", get_cloud_config_value)
    monkeypatch.setattr(salt.config, "is_provider_configured", is_provider_configured)
    return ignored


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Record whether a test failed, and let it pass."""
    test = f"{pyfuncitem.path.name}::{pyfuncitem.originalname}"
    failed = FAILED[test, str(pyfuncitem.callspec.params["_ignored_option"])]
    try:
        result = yield
    except (Exception, pytest.fail.Exception):  # noqa: BLE001
        failed.append(True)
        return True
    failed.append(False)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End with 1 when a test passes without an option that it covers."""
    if any(not any(failed) for failed in FAILED.values()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that pass without an option that they cover."""
    for (test, option), failed in FAILED.items():
        if not any(failed):
            terminalreporter.write_line(f"{test} passes though {option} is ignored", red=True)
    options = {option for _, option in FAILED}
    terminalreporter.write_line(
        f"{len(options)} options were ignored, one at a time, in {len(FAILED)} runs of a test"
    )
