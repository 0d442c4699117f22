"""A checkout of its own for each test: nothing here touches the repository's deployments."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import localcloud.engine
from stackctl.deployment import Deployment
from stackctl.run import Log

ROOT = Path(__file__).parents[3]


def make_checkout(folder: Path) -> Path:
    """Make a folder that stackctl takes for a checkout, with the production map and the base pillar."""
    for part in ("cloud.maps.d", "pillar/base"):
        shutil.copytree(ROOT / part, folder / part)
    (folder / "pyproject.toml").touch()
    return folder


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from this host's Docker engine, which may hold a stack that somebody needs."""

    def refuse(*_: object) -> None:
        raise AssertionError("a unit test asked for Docker's engine")

    monkeypatch.setattr(localcloud.engine, "reachable", lambda: False)
    monkeypatch.setattr(localcloud.engine, "installed", lambda: False)
    for name in ("ensure", "connect", "_connect"):
        monkeypatch.setattr(localcloud.engine, name, refuse)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without any deployment."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture
def deployment(checkout: Path) -> Deployment:
    """The deployment `local` of that checkout, not yet initialised."""
    return Deployment("local", checkout)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log."""
    return Log(tmp_path / "log", "test")
