"""An emulated account without machines, to which the operator's states are applied."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


class Operator:
    """The minion `operator` of one deployment, which applies `aws` with the production states.

    It uses the account of the environment.
    """

    def __init__(self, folder: Path, name: str, key: str = PUBLIC_KEY, **settings: Any) -> None:
        """Write its configuration.

        Args:
            folder: an empty one.
            name: of the deployment.
            key: its public SSH key.
            settings: further settings of the deployment.
        """
        deployment = folder / "pillar"
        deployment.mkdir(parents=True)
        decided = {"deployment": name, "ssh_public_key": key, "operator_cidrs": [OPERATOR]}
        text = yaml.safe_dump({"settings": decided | settings})
        (deployment / "settings.sls").write_text(text)
        minion = {
            "id": "operator",
            "file_client": "local",
            "file_roots": {"base": [str(ROOT / "salt")]},
            "pillar_roots": {"base": [str(deployment), str(ROOT / "pillar" / "base")]},
            "root_dir": str(folder / "root"),
            "module_dirs": [str(ROOT / "salt")],
            "hash_type": "sha256",
            "log_level": "critical",
        }
        (folder / "minion").write_text(yaml.safe_dump(minion))
        self._folder = folder

    def __call__(self, *, test: bool = False) -> States:
        """Apply the states in a process of their own, and return their results."""
        salt_call = [str(Path(sys.executable).parent / "salt-call"), "--local"]
        options = ["--config-dir", str(self._folder), "--out=json", "--log-level=critical"]
        command = [*salt_call, *options, "state.apply", "aws", f"test={test}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
        states = json.loads(done.stdout)["local"]
        assert isinstance(states, dict), f"{states}\n{done.stderr}"
        return states


class NearOperator(Operator):
    """The same in this process, which is faster; Salt mixes two of them up."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder, name)
        opts = salt.config.minion_config(str(folder / "minion"))
        self._caller = salt.client.Caller(mopts=opts)

    def __call__(self, *, test: bool = False) -> States:
        """Apply the states, and return their results."""
        states = self._caller.cmd("state.apply", "aws", test=test)
        assert isinstance(states, dict), states
        return dict(states)


@pytest.fixture(scope="module")
def operator_of(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Operator]]:
    """A function that makes the operator of another deployment in the account."""

    def make(name: str, key: str = PUBLIC_KEY, **settings: Any) -> Operator:
        return Operator(tmp_path_factory.mktemp("operator"), name, key, **settings)

    with pytest.MonkeyPatch.context() as patch:
        awsenvironment.clear(patch)
        for name, value in environment.items():
            patch.setenv(name, value)
        yield make


@pytest.fixture(scope="module")
def apply(
    operator_of: Callable[..., Operator],
    tmp_path_factory: pytest.TempPathFactory,
) -> Operator:
    """A function that applies `aws` for the deployment `test`."""
    return NearOperator(tmp_path_factory.mktemp("operator"), "test")


@pytest.fixture(scope="module")
def applied(apply: Callable[..., States]) -> States:
    """The states' results on the empty account."""
    return apply()


@pytest.fixture(scope="session")
def foundations() -> list[bytes]:
    """What an account with the foundation holds, once a test has made it."""
    return []


@pytest.fixture
def founded(cloud: Running, apply: Operator, foundations: list[bytes]) -> Running:
    """An account with the foundation and nothing else: the states' own work, which is kept."""
    if not foundations:
        emptied(cloud)
        assert all(state["result"] for state in apply().values())
        foundations.append(saved(cloud))
    restore(cloud, foundations[0])
    return cloud


@pytest.fixture(scope="module")
def client(environment: dict[str, str], pillar: dict[str, Any]) -> Callable[[str], Any]:
    """A function that returns a client of one of the account's services."""
    session: Any = boto3.session.Session(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=pillar["aws"]["region"],
    )
    return lambda service: session.client(service, endpoint_url=environment["AWS_ENDPOINT_URL"])


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
