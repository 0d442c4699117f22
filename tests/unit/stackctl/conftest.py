"""A checkout of its own for each test: nothing here touches the repository's deployments."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends

import awsenvironment
import localcloud.engine
from memorycloud import MemoryHost, Running, running
from stackctl import local
from stackctl.deployment import Deployment
from stackctl.initialise import initialise
from stackctl.machines import ec2_client
from stackctl.run import Log

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

ROOT = Path(__file__).parents[3]


def make_checkout(folder: Path) -> Path:
    """Make a folder that stackctl accepts as a checkout, with the production map and so on."""
    for part in ("cloud.maps.d", "cloud.profiles.d", "cloud.providers.d", "pillar/base"):
        shutil.copytree(ROOT / part, folder / part)
    modules = Path("salt/_modules")
    (folder / modules).mkdir(parents=True)
    for name in ("elastic_ip", "operators", "web_sizes"):
        shutil.copy(ROOT / modules / f"{name}.py", folder / modules)
    (folder / "pyproject.toml").touch()
    return folder


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from this host's Docker engine, which may run a real stack."""

    def refuse(*_: object) -> None:
        raise AssertionError("a unit test asked for Docker's engine")

    monkeypatch.setattr(localcloud.engine, "reachable", lambda: False)
    monkeypatch.setattr(localcloud.engine, "installed", lambda: False)
    for name in ("ensure", "connect", "_connect"):
        monkeypatch.setattr(localcloud.engine, name, refuse)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test from asking Amazon for this host's address."""
    monkeypatch.setenv("STACK_OPERATOR_ADDRESS", "")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without any deployment."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the deployment `local`, whose keys and secrets are made."""
    root = make_checkout(tmp_path_factory.mktemp("whole") / "checkout")
    for name in ("airflow", "postgres"):
        (root / "salt" / name).mkdir()
        shutil.copy(ROOT / f"salt/{name}/defaults.yaml", root / "salt" / name)
    initialise(Deployment("local", root), local.base_url())
    return root


@pytest.fixture
def mine(made: Deployment, tmp_path: Path) -> Deployment:
    """A copy of the deployment that the file calls `made`, to be changed."""
    shutil.copytree(made.root, tmp_path / "mine")
    return Deployment("local", tmp_path / "mine")


@pytest.fixture
def deployment(checkout: Path) -> Deployment:
    """The deployment `local` of that checkout, not yet initialised."""
    return Deployment("local", checkout)


@pytest.fixture
def prod(checkout: Path) -> Deployment:
    """A real deployment in moto's account."""
    made = Deployment("prod", checkout)
    made.pillar_dir.mkdir()
    made.settings_path.write_text(
        "settings: {aws_account: '123456789012', operator_cidrs: [198.51.100.7/32]}\n"
    )
    return made


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log."""
    return Log(tmp_path / "log", "test")


@pytest.fixture(scope="module")
def account() -> Iterator[EC2Client]:
    """An account in this process. Making one takes half a second."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        yield ec2_client(Deployment("local", ROOT))


@pytest.fixture
def client(account: EC2Client) -> Iterator[EC2Client]:
    """The account without machines."""
    yield account
    backend = ec2_backends[DEFAULT_ACCOUNT_ID][account.meta.region_name]
    if ids := [
        instance.id for group in backend.reservations.values() for instance in group.instances
    ]:
        account.terminate_instances(InstanceIds=ids)
    # moto keeps what is terminated, and every later test would wait for its description.
    backend.reservations.clear()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Running]:
    """A local cloud with an empty account, whose machines exist in memory only."""
    with running(tmp_path / "cloud", MemoryHost()) as made:
        yield made


@pytest.fixture
def in_cloud(cloud: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """That local cloud, which boto3 uses with its owner's key."""
    awsenvironment.use(monkeypatch, cloud)
    return cloud
