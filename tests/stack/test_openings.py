"""Who reaches which port of the stack: by the security groups alone, and by the machines alone.

AWS has both, and each has to hold without the other. So one is taken away, and every machine and
this host try every port of every machine. The groups also hold what leaves a machine; what may come
in and may not leave is closed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.machines import CLOUD_LABEL, INSTANCE_LABEL
from probing import HOST, Pair, reached
from stackctl import local
from stackctl.account import enter
from stackctl.machines import Machine, ec2_client, find_machines
from wholestack import Stack

OTHERS = (111, 3306, 9100)
"""Ports that nobody may reach."""
_OPEN: Any = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]


@pytest.fixture(scope="module")
def machines(stack: Stack) -> dict[str, Machine]:
    """The running machines, by name."""
    stack.healthy()
    with enter(stack.deployment):
        found = find_machines(ec2_client(stack.deployment), stack.deployment)
    return {machine.name: machine for machine in found if machine.state == "running"}


@pytest.fixture(scope="module")
def containers(stack: Stack, machines: dict[str, Machine]) -> dict[str, str]:
    """The machines' containers, by the machines' names."""
    label = f"label={CLOUD_LABEL}={local.cloud_name(stack.deployment)}"
    shown = f'{{{{.ID}}}} {{{{.Label "{INSTANCE_LABEL}"}}}}'
    done = subprocess.run(
        ["docker", "ps", "--filter", label, "--format", shown],
        capture_output=True,
        text=True,
        check=True,
    )
    ids = {instance: container for container, instance in map(str.split, done.stdout.splitlines())}
    return {name: ids[machine.instance_id] for name, machine in machines.items()}


@contextmanager
def without_firewalls(containers: dict[str, str]) -> Iterator[None]:
    """Take the machines' own rules away meanwhile."""
    try:
        for container in containers.values():
            _nft(container, "delete", "table", "inet", "stack")
        yield
    finally:
        for container in containers.values():
            _nft(container, "--file", "/etc/nftables.conf")


def _nft(container: str, *arguments: str) -> None:
    subprocess.run(["docker", "exec", container, "nft", *arguments], check=True)


@contextmanager
def with_open_groups(stack: Stack) -> Iterator[None]:
    """Let everything in and out at the security groups meanwhile."""
    names = list(stack.deployment.base_pillar("aws")["security_groups"].values())
    with enter(stack.deployment):
        ec2 = ec2_client(stack.deployment)
    named: Any = [{"Name": "group-name", "Values": names}]
    ids = [
        group["GroupId"] for group in ec2.describe_security_groups(Filters=named)["SecurityGroups"]
    ]
    opened = []
    try:
        for group in ids:
            opened.append(group)
            ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=_OPEN)
            ec2.authorize_security_group_egress(GroupId=group, IpPermissions=_OPEN)
        yield
    finally:
        for group in opened:
            with suppress(ClientError):
                ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=_OPEN)
            with suppress(ClientError):
                ec2.revoke_security_group_egress(GroupId=group, IpPermissions=_OPEN)


def wanted(stack: Stack, names: list[str], *, whole_vpc: bool) -> set[Pair]:
    """Return who reaches what, as pillar `endpoints` says.

    Args:
        stack: whose pillar.
        names: of the machines.
        whole_vpc: `any-role` are all addresses of the VPC, of which this host has one, as for the
            machines' own firewalls.
    """

    def may(source: str, endpoint: dict[str, Any]) -> bool:
        clients = set(endpoint["clients"])
        if source == HOST:
            return bool(
                clients & ({"internet", "operators"} | ({"any-role"} if whole_vpc else set()))
            )
        return bool(clients & {"internet", "any-role", source.rpartition("-")[0]})

    endpoints = stack.deployment.base_pillar("endpoints").values()

    def leaves(source: str, name: str, port: int) -> bool:
        """Return whether the source's group lets it out."""
        ends = {"any-role", "internet", name.rpartition("-")[0]}
        return any(
            endpoint["port"] == port
            and ends & set(endpoint["listeners"])
            and {"any-role", source.rpartition("-")[0]} & set(endpoint["clients"])
            for endpoint in endpoints
        )

    return {
        (source, name, endpoint["port"])
        for endpoint in endpoints
        for name in names
        if {"any-role", name.rpartition("-")[0]} & set(endpoint["listeners"])
        for source in (HOST, *names)
        if source != name and may(source, endpoint)
        if whole_vpc or source == HOST or leaves(source, name, endpoint["port"])
    }


def probed(stack: Stack, machines: dict[str, Machine], containers: dict[str, str]) -> set[Pair]:
    ports = {endpoint["port"] for endpoint in stack.deployment.base_pillar("endpoints").values()}
    addresses = {name: machine.private_address for name, machine in machines.items()}
    return reached(addresses, containers, [*ports, *OTHERS])


def test_groups_alone_let_in_what_the_pillar_says(
    stack: Stack, machines: dict[str, Machine], containers: dict[str, str]
) -> None:
    with without_firewalls(containers):
        found = probed(stack, machines, containers)
    assert found == wanted(stack, list(machines), whole_vpc=False)


def test_firewalls_alone_let_in_what_the_pillar_says(
    stack: Stack, machines: dict[str, Machine], containers: dict[str, str]
) -> None:
    with with_open_groups(stack):
        found = probed(stack, machines, containers)
    assert found == wanted(stack, list(machines), whole_vpc=True)


# Whether this machine connects to a host of the internet, and what the proxy answers for it.
_WAYS_OUT = """
import json, socket, sys
host, proxy, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
try:
    socket.create_connection((host, 443), timeout=3).close()
    direct = True
except OSError:
    direct = False
with socket.create_connection((proxy, port), 30) as connection:
    connection.sendall(f"CONNECT {host}:443 HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode())
    print(json.dumps([direct, int(connection.makefile("rb").readline().split()[1])]))
"""


def ways_out(container: str, host: str, proxy: str, port: int) -> tuple[bool, int]:
    done = subprocess.run(
        ["docker", "exec", container, "python3", "-c", _WAYS_OUT, host, proxy, str(port)],
        capture_output=True,
        text=True,
        check=True,
    )
    direct, status = json.loads(done.stdout)
    return direct, status


def test_private_machine_leaves_by_the_proxy_to_its_hosts_alone(
    stack: Stack, machines: dict[str, Machine], containers: dict[str, str]
) -> None:
    public = {name for name, machine in machines.items() if machine.public_address}
    assert public == {name for name in machines if name.startswith(("salt-", "lb-"))}
    master = stack.deployment.master()
    proxy = machines[master].private_address
    port = stack.deployment.base_pillar("endpoints")["proxy"]["port"]
    with ThreadPoolExecutor(len(machines)) as pool:
        for host, status in (("deb.debian.org", 200), ("example.com", 403)):
            found = dict(
                zip(
                    machines,
                    pool.map(
                        lambda name, host=host: ways_out(containers[name], host, proxy, port),
                        machines,
                    ),
                    strict=True,
                )
            )
            assert {name: answer for name, (_, answer) in found.items()} == dict.fromkeys(
                machines, status
            )
            direct = {name for name, (directly, _) in found.items() if directly}
            # A load balancer asks the EC2 API, whose addresses change.
            allowed = {name for name in machines if name.startswith("lb-")} | {master}
            assert direct <= allowed
            assert status == 403 or direct == allowed
    for name, container in containers.items():
        if name.endswith("-1"):
            update = ["docker", "exec", container, "apt-get", "update", "-qq", "--error-on=any"]
            done = subprocess.run(update, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{name}: {done.stderr}"
