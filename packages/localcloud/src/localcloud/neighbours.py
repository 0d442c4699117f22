"""Networks in Docker that have addresses which a cloud is to have.

Docker refuses a network that overlaps another one, at the launch of the first machine. Another
cloud's network stays when its API ends, as do its stopped machines.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import docker

from localcloud.machines import CLOUD_LABEL, FOLDER_LABEL


@dataclass(frozen=True)
class Neighbour:
    """A network that has addresses which a cloud is to have.

    Attributes:
        network: its name in Docker.
        cidr: its addresses.
        cloud: the name of the local cloud that made it; empty where none did.
        state_dir: that cloud's folder; None where it did not say so.
    """

    network: str
    cidr: str
    cloud: str = ""
    state_dir: Path | None = None


def overlapping(client: docker.DockerClient, cidr: str, cloud: str) -> list[Neighbour]:
    """Return the networks that overlap another one and are not the named cloud's, by name."""
    wanted = ipaddress.ip_network(cidr)
    found = []
    for network in client.networks.list():
        labels = network.attrs["Labels"] or {}
        for config in network.attrs["IPAM"]["Config"] or ():
            subnet = ipaddress.ip_network(config["Subnet"])
            if subnet.version == wanted.version and subnet.overlaps(wanted):
                owner, folder = labels.get(CLOUD_LABEL, ""), labels.get(FOLDER_LABEL)
                state_dir = Path(folder) if folder else None
                found.append(Neighbour(str(network.name), config["Subnet"], owner, state_dir))
    return sorted((one for one in found if one.cloud != cloud), key=lambda one: one.network)
