"""A local cloud for the session, and a machine that most tests use."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import docker
import pytest

from localcloud import engine, image, ruleset, service
from localcloud.config import CloudConfig
from localcloud.machines import CLOUD_LABEL
from realcloud import EDGE, PROMPT, ROOT, SHARED, Machine, Place, RealCloud, free_port


@pytest.fixture(scope="session")
def docker_client() -> docker.DockerClient:
    """A client of Docker's engine."""
    if not engine.reachable():
        pytest.skip("no Docker engine runs here; `make image` starts one")
    return engine.connect()


@pytest.fixture(scope="session")
def machine_image(docker_client: docker.DockerClient) -> str:
    """The tag of the machines' image, which is built if it is missing."""
    return image.ensure(docker_client, print, ROOT / "requirements/salt.txt")


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    """The name and the addresses of this test run."""
    with Place.take() as taken:
        yield taken


@pytest.fixture(scope="session")
def cloud(
    docker_client: docker.DockerClient,
    machine_image: str,
    place: Place,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RealCloud]:
    """A running cloud; afterwards nothing of it is left."""
    folder = tmp_path_factory.mktemp("cloud")
    published = {EDGE: {443: ("127.0.0.1", free_port())}}
    config = CloudConfig(
        place.name, folder / "state", free_port(), machine_image, published, PROMPT
    )
    service.destroy(config, print)  # left over from a killed run
    made = RealCloud(place, config, service.start(config, print), folder / "key")
    try:
        made.make_network()
        yield made
    finally:
        service.destroy(config, print)
    label: dict[str, str | list[str] | bool] = {"label": f"{CLOUD_LABEL}={place.name}"}
    assert docker_client.containers.list(all=True, filters=label) == []
    assert docker_client.networks.list(filters=label) == []
    for command in (["nft", "list", "tables"], ["iptables", "-w", "-S", "DOCKER-USER"]):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ruleset.table(place.name) not in done.stdout.split()
    assert not service.status(config.state_dir).running
    assert [path.name for path in config.state_dir.iterdir()] == ["localcloud.log"]


@pytest.fixture(scope="session")
def machine(cloud: RealCloud) -> Machine:
    """A machine with user data."""
    return cloud.launch(
        SHARED, UserData="#!/bin/sh\necho first-boot\necho once >> /root/user-data\n"
    )
