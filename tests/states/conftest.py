"""The fixtures of the state tests: a master and a fleet of machines for the session of a worker."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
import pytest
from saltfactories.manager import FactoriesManager
from saltfactories.plugins.event_listener import EventListener

from harness import (
    SUBNET,
    Fleet,
    Machine,
    address_plan,
    close_network,
    open_network,
    time_service,
)
from localcloud import image
from plainpillar import ROOT, SPARE_ROLE, PlainPillar
from webrequests import AUTHORITY, CLIENT


@pytest.fixture(scope="session")
def salt_factories_config() -> Iterator[dict[str, Any]]:
    """The folder of salt-factories: a short path, since sockets below it have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="stack-states-") as folder:
        yield {"root_dir": Path(folder), "slow_stop": False, "inject_sitecustomize": False}


@pytest.fixture(scope="session")
def event_listener() -> Iterator[EventListener]:
    """The listener to which the master forwards its events, on loopback only."""
    listener = EventListener()
    listener.host = "127.0.0.1"
    with listener:
        yield listener


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The Engine API."""
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def machine_image(docker_client: docker.DockerClient) -> str:
    """The tag of the local cloud's machine image, which is built when there is none."""
    return image.ensure(docker_client, print, ROOT / "requirements/salt.txt")


@pytest.fixture(scope="session")
def plain_pillar(tmp_path_factory: pytest.TempPathFactory) -> PlainPillar:
    """The test deployment's settings and secrets.

    The window of the login limit is long enough for six logins on a slow machine. The master is a
    process of this host, so no proxy runs at its address.
    """
    return PlainPillar(
        tmp_path_factory.mktemp("pillar"),
        cidr=str(SUBNET),
        login_rate_limit="5 per 10 minutes",
        proxied=False,
        roles=SPARE_ROLE,
    )


@pytest.fixture(scope="session")
def fleet(
    salt_factories: FactoriesManager,
    docker_client: docker.DockerClient,
    machine_image: str,
    plain_pillar: PlainPillar,
) -> Iterator[Fleet]:
    """The running master; machines boot on demand.

    Every part is removed, also when the removal of another one fails.
    """
    with ExitStack() as stack:
        network = open_network(docker_client)
        stack.callback(close_network, docker_client)
        clock = stack.enter_context(time_service(network))
        fleet = Fleet(salt_factories, docker_client, machine_image, plain_pillar, clock)
        stack.enter_context(fleet.master.started())
        fleet.publish_address(*address_plan())
        stack.callback(fleet.terminate)
        yield fleet


@pytest.fixture(scope="session")
def machine(fleet: Fleet) -> Callable[[str], Machine]:
    """`machine('redis-1')`: booted, its minion connected, nothing applied."""
    return fleet.machine


@pytest.fixture(scope="session")
def converged(fleet: Fleet) -> Callable[[str], Machine]:
    """`converged('redis-1')`: after its first highstate."""
    return fleet.converged


@pytest.fixture(scope="module")
def web(fleet: Fleet) -> Machine:
    """The first web machine, with the web app."""
    return fleet.web_app()


@pytest.fixture(scope="module")
def edge(fleet: Fleet, web: Machine) -> Machine:
    """The only machine that web machines listen to, with the certificate for that."""
    machine = fleet.machine("lb-1")
    own = fleet.pillar.secrets["edge-client-tls"]
    machine.put(CLIENT, own["certificate"] + own["private_key"], mode=0o600)
    machine.put(AUTHORITY, fleet.pillar.ca_certificate)
    return machine


@pytest.fixture(scope="module")
def password(fleet: Fleet) -> str:
    return fleet.pillar.secrets["airflow-admin"]["password"]
