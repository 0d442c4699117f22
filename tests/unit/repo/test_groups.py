"""Which tests of `make machines` share machines, and so a worker."""

from __future__ import annotations

import re
from typing import Any

import pytest

from plainpillar import ROOT


def test_files_that_need_the_web_app_stay_together(pytestconfig: pytest.Config) -> None:
    """They call `web_app`, or use the fixture `web` of conftest.py and not one of their own."""
    conftest: Any = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests/conftest.py"))
    texts = {path.name: path.read_text() for path in (ROOT / "tests/states").glob("test_*.py")}
    needed = {
        name
        for name, text in texts.items()
        if "web_app()" in text or (re.search(r"\bweb: Machine", text) and "def web(" not in text)
    }
    groups = {
        group: {f"test_{name}.py" for name in names} for group, names in conftest.GROUPS.items()
    }
    assert needed == groups["web app"]
    assert set().union(*groups.values()) <= texts.keys()
