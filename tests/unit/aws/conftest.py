"""An emulated account without machines, to which the operator's states are applied."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
import salt.client
import salt.config
import yaml

import awsenvironment
from cloudsite import HOST_KEY
from memorycloud import MemoryHost, Running, emptied, restore, running, saved
from plainpillar import DEPLOYMENT, ROOT
from saltext.ec2 import _client, _images, _request
from saltext.ec2 import options as _options

OPERATOR = "198.51.100.7/32"  # RFC 5737: an address for documentation
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGkbQBpO2s3MoOYRT0nsTu7cTyL1ZRjPnz9d8yKdHyW6"

States = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def pillar() -> dict[str, Any]:
    """The production pillar that the states read, with the names of the deployment `test`."""
    found = {component: DEPLOYMENT.base_pillar(component) for component in ("aws", "endpoints")}
    return {component: _named(content) for component, content in found.items()}


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    return DEPLOYMENT.in_account(value) if isinstance(value, str) else value


class Consoles(MemoryHost):
    """Machines in memory whose consoles show a host key."""

    def console(self, instance_id: str, until: datetime) -> str:  # noqa: ARG002
        return HOST_KEY


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A local cloud with an empty account, whose machines exist in memory only."""
    with running(tmp_path_factory.mktemp("cloud"), Consoles()) as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(cloud: Running) -> str:
    """The address of an empty account."""
    return cloud.url


@pytest.fixture(scope="session")
def operator() -> str:
    """The network from which the operator comes."""
    return OPERATOR


@pytest.fixture(scope="module")
def environment(cloud: Running, endpoint: str) -> dict[str, str]:
    """The environment in which boto3 uses that account only."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return inherited | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": cloud.credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": cloud.credentials.secret_access_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Minion:
    """The minion `operator`, which applies `aws` with the production states in this process.

    It uses the account of the environment. There is one for all deployments: Salt mixes up two
    minions of one process, and a process of its own would take seconds to start.
    """

    def __init__(self, folder: Path) -> None:
        """Write its configuration into an empty folder."""
        self._pillar = folder / "pillar"
        self._pillar.mkdir()
        minion = {
            "id": "operator",
            "file_client": "local",
            "file_roots": {"base": [str(ROOT / "salt")]},
            "pillar_roots": {"base": [str(self._pillar), str(ROOT / "pillar" / "base")]},
            "root_dir": str(folder / "root"),
            "module_dirs": [str(ROOT / "salt")],
            "hash_type": "sha256",
            "log_level": "critical",
        }
        self._config = folder / "minion"
        self._config.write_text(yaml.safe_dump(minion))

    @functools.cached_property
    def _caller(self) -> salt.client.Caller:
        """It renders the pillar as soon as it is made."""
        return salt.client.Caller(mopts=salt.config.minion_config(str(self._config)))

    def apply(self, settings: Mapping[str, Any], *, test: bool) -> States:
        """Apply the states with a deployment's settings, and return their results."""
        (self._pillar / "settings.sls").write_text(yaml.safe_dump({"settings": dict(settings)}))
        states = self._caller.cmd("state.apply", "aws", test=test)
        assert isinstance(states, dict), states
        return dict(states)


@dataclass(frozen=True)
class Operator:
    """The operator of one deployment.

    Attributes:
        minion: which applies the states.
        settings: of the deployment.
    """

    minion: Minion
    settings: Mapping[str, Any]

    def __call__(self, *, test: bool = False) -> States:
        """Apply the states, and return their results."""
        return self.minion.apply(self.settings, test=test)


@pytest.fixture(scope="session")
def minion(tmp_path_factory: pytest.TempPathFactory) -> Minion:
    """The minion of all operators."""
    return Minion(tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="module")
def operator_of(minion: Minion, environment: dict[str, str]) -> Iterator[Callable[..., Operator]]:
    """A function that makes the operator of a deployment: its name, SSH key and more settings."""

    def make(name: str, key: str = PUBLIC_KEY, **settings: Any) -> Operator:
        decided = {"deployment": name, "ssh_public_key": key, "operator_cidrs": [OPERATOR]}
        return Operator(minion, decided | settings)

    with pytest.MonkeyPatch.context() as patch:
        awsenvironment.clear(patch)
        for name, value in environment.items():
            patch.setenv(name, value)
        yield make


@pytest.fixture(scope="module")
def apply(operator_of: Callable[..., Operator]) -> Operator:
    """A function that applies `aws` for the deployment `test`."""
    return operator_of("test")


@pytest.fixture(scope="session")
def foundations() -> list[tuple[States, bytes]]:
    """The states' results on an empty account and what it held then, once a test has asked."""
    return []


@pytest.fixture(scope="module")
def foundation(
    cloud: Running, apply: Operator, foundations: list[tuple[States, bytes]]
) -> tuple[States, bytes]:
    """The states' results on an empty account, and what it holds then."""
    if not foundations:
        emptied(cloud)
        states = apply()
        assert all(state["result"] for state in states.values())
        foundations.append((states, saved(cloud)))
    return foundations[0]


@pytest.fixture(scope="module")
def applied(cloud: Running, foundation: tuple[States, bytes]) -> States:
    """The states' results on the empty account, which has the foundation since."""
    states, content = foundation
    restore(cloud, content)
    return states


@pytest.fixture
def founded(cloud: Running, foundation: tuple[States, bytes]) -> Running:
    """An account with the foundation and nothing else: the states' own work, which is kept."""
    restore(cloud, foundation[1])
    return cloud


@pytest.fixture(scope="module")
def client(environment: dict[str, str], pillar: dict[str, Any]) -> Callable[[str], Any]:
    """A function that returns a client of one of the account's services."""
    session: Any = boto3.session.Session(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=pillar["aws"]["region"],
    )

    @functools.cache
    def make(service: str) -> Any:
        return session.client(service, endpoint_url=environment["AWS_ENDPOINT_URL"])

    return make


@pytest.fixture(scope="module")
def requests(
    applied: States, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Role -> the arguments of RunInstances that the driver makes of the role's profile."""
    folder = tmp_path_factory.mktemp("cloud")
    for name in ("cloud.providers.d", "cloud.profiles.d"):
        (folder / name).symlink_to(ROOT / name)
    main = {
        "cachedir": str(folder),
        "log_file": str(folder / "log"),
        "owned_by": DEPLOYMENT.owner(),
    }
    (folder / "cloud").write_text(yaml.safe_dump(main))
    opts = salt.config.cloud_config(str(folder / "cloud"))
    provider = opts["providers"]["eu-west-1"]["ec2"]
    account = {
        "endpoint_url": environment["AWS_ENDPOINT_URL"],
        "id": environment["AWS_ACCESS_KEY_ID"],
        "key": environment["AWS_SECRET_ACCESS_KEY"],
    }
    owned = {"owned_by": DEPLOYMENT.owner()}
    connection = _client.connect(provider | account | owned, str(folder))
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        image = _images.Image("ami-0d13a6d641d0cb0c4", "/dev/xvda", 8)
        patch.setattr(_images, "find", lambda *_: image)
        for role, profile in opts["profiles"].items():
            machine = {**provider, **profile, "name": f"{role}-1", "driver": "eu-west-1:ec2"}
            resolved = _options.resolve(machine, opts)
            launch = _request.Launch(connection, resolved, f"{role}-1")
            made[role] = _request.build(_request.places(launch)[0])
    return {role: made[role] for role in made if "securitygroupname" in opts["profiles"][role]}
