"""A machine that runs Airflow as its documentation starts it, beside the machines of the stack.

It has their image, size and network, the release of a web machine, and a copy of the metadata in a
database of its own on the same PostgreSQL. FAB is its auth manager, so that the same visitors can
log in. Everything else is a default: `airflow api-server`, one uvicorn, the pools of Airflow.
"""

from __future__ import annotations

import subprocess
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import NotFound

from bench.machines import MACHINES_CORE, Machine
from localcloud.machines import INSTANCE_LABEL, container_options
from localcloud.sizes import memory_left

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

NAME = "bench-stock"
DATABASE = "bench_stock"
ROLE = "bench_stock"
PORT = 8080
DATABASE_PORT = 5432
START_SECONDS = 180
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
ACCESS = "bench-stock"  # marks a line of pg_hba.conf and a rule of the firewall


@dataclass(frozen=True)
class Account:
    """Where the machine is made: Docker's engine, and the API of the local cloud."""

    docker: docker.DockerClient
    ec2: EC2Client


DATABASE_SCRIPT = f"""set -eu
cd /
runuser -u postgres -- psql -q -c "CREATE ROLE {ROLE} LOGIN PASSWORD '$PASSWORD'"
runuser -u postgres -- createdb -O {ROLE} {DATABASE}
runuser -u postgres -- pg_dump --no-owner --no-privileges airflow \
  | runuser -u postgres -- psql -q -d {DATABASE} -c 'SET ROLE {ROLE}' -f - >/dev/null
hba=$(runuser -u postgres -- psql -qAt -c 'SHOW hba_file')
echo "hostssl {DATABASE} {ROLE} $ADDRESS/32 scram-sha-256 # {ACCESS}" >> "$hba"
runuser -u postgres -- psql -qAt -c 'SELECT pg_reload_conf()' >/dev/null
nft insert rule inet stack input ip saddr "$ADDRESS" tcp dport 5432 accept comment '"{ACCESS}"'
"""
REMOVAL_SCRIPT = f"""cd /
hba=$(runuser -u postgres -- psql -qAt -c 'SHOW hba_file')
sed -i '/# {ACCESS}$/d' "$hba"
runuser -u postgres -- psql -qAt -c 'SELECT pg_reload_conf()' >/dev/null
nft -a list chain inet stack input | sed -n 's/.*{ACCESS}.*handle //p' \
  | xargs -r -n1 nft delete rule inet stack input handle
runuser -u postgres -- dropdb --if-exists --force {DATABASE}
runuser -u postgres -- psql -q -c 'DROP ROLE IF EXISTS {ROLE}'
"""


def environment(password: str, database_host: str) -> dict[str, str]:
    """Return all that differs from Airflow's defaults: where data is, and who logs in how."""
    # Debian's OpenSSL asks for more than a self-signed name; the copy is not under test.
    place = f"{ROLE}:{password}@{database_host}/{DATABASE}"
    return {
        "AIRFLOW_HOME": "/var/lib/airflow",
        "AIRFLOW__CORE__AUTH_MANAGER": FAB,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{place}?sslmode=require",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{place}?ssl=require",
        "AIRFLOW__API__SECRET_KEY": password,
        "AIRFLOW__API_AUTH__JWT_SECRET": password * 2,
    }


def remove(client: docker.DockerClient, postgres: Machine | None, ec2: EC2Client | None) -> None:
    """Remove the machine, its database, its access and its place in the account.

    Args:
        client: Docker's engine.
        postgres: the machine of the database, where it exists.
        ec2: the API of the account, where it answers.
    """
    with suppress(NotFound):
        client.containers.get(NAME).remove(force=True, v=True)
    if postgres is not None:
        postgres.run(REMOVAL_SCRIPT)
    if ec2 is not None:
        _leave(ec2)


def _join(ec2: EC2Client, stock: Machine, postgres: Machine) -> None:
    """Give the machine an interface and a group of its own, as the local cloud asks of each.

    The host reaches it, and it reaches the database.
    """
    found = ec2.describe_instances(InstanceIds=[postgres.container.labels[INSTANCE_LABEL]])[
        "Reservations"
    ]
    of_postgres = found[0]["Instances"][0]
    group = ec2.create_security_group(
        VpcId=of_postgres["VpcId"], GroupName=NAME, Description="stock Airflow of the bench"
    )["GroupId"]
    _allow(ec2, group, PORT, {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]})
    ec2.create_network_interface(
        SubnetId=of_postgres["SubnetId"],
        PrivateIpAddress=stock.address,
        Groups=[group],
        Description=NAME,
    )
    database = of_postgres["SecurityGroups"][0]["GroupId"]
    _allow(ec2, database, DATABASE_PORT, {"UserIdGroupPairs": [{"GroupId": group}]})


def _allow(ec2: EC2Client, group: str, port: int, source: Any) -> None:
    rule: Any = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **source}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])


def _leave(ec2: EC2Client) -> None:
    for group in _groups(ec2, "group-name", NAME):
        for other in _groups(ec2, "ip-permission.group-id", group):
            pair = {"UserIdGroupPairs": [{"GroupId": group}]}
            rule: Any = {"IpProtocol": "tcp", "FromPort": DATABASE_PORT, "ToPort": DATABASE_PORT}
            ec2.revoke_security_group_ingress(GroupId=other, IpPermissions=[rule | pair])
        having: Any = [{"Name": "group-id", "Values": [group]}]
        for interface in ec2.describe_network_interfaces(Filters=having)["NetworkInterfaces"]:
            ec2.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
        ec2.delete_security_group(GroupId=group)


def _groups(ec2: EC2Client, name: str, value: str) -> list[str]:
    found = ec2.describe_security_groups(Filters=[{"Name": name, "Values": [value]}])
    return [group["GroupId"] for group in found["SecurityGroups"]]


def create(account: Account, web: Machine, postgres: Machine, password: str) -> Machine:
    """Make the machine and wait until it serves.

    Args:
        account: Docker's engine, and the API of the account that gets it.
        web: the web machine whose release it gets.
        postgres: the machine of the database.
        password: of its role in the database, a new one for each run.

    Raises:
        TimeoutError: it does not serve; the text has the end of its log.
    """
    client = account.docker
    remove(client, postgres, account.ec2)
    options = container_options(cpus=1, memory=memory_left("t2.micro", 1024))
    options["environment"] |= environment(password, postgres.address)
    container = client.containers.create(
        web.container.attrs["Config"]["Image"],
        ["/opt/airflow/current/venv/bin/airflow", "api-server"],
        entrypoint=[],
        init=True,
        name=NAME,
        network=web.network,
        cpuset_cpus=str(MACHINES_CORE),
        labels={"bench": "stock"},
        **options,
    )
    machine = Machine(NAME, container)
    _copy_release(web, machine)
    container.start()
    _join(account.ec2, machine, postgres)
    script = f"ADDRESS={machine.address} PASSWORD={password}; {DATABASE_SCRIPT}"
    postgres.run(script)
    container.restart(timeout=1)  # it may have looked for its database before that was there
    wait(machine)
    return machine


def _copy_release(web: Machine, stock: Machine) -> None:
    """Copy the installed release; it has no absolute path of another machine."""
    read = ["docker", "exec", str(web.container.id), "tar", "-C", "/opt", "-cf", "-", "airflow"]
    write = ["docker", "cp", "-", f"{stock.container.id}:/opt"]
    with subprocess.Popen(read, stdout=subprocess.PIPE) as source:
        subprocess.run(write, stdin=source.stdout, check=True, stdout=subprocess.DEVNULL)


def wait(machine: Machine) -> None:
    """Wait until the machine serves; raise TimeoutError with the end of its log."""
    url = f"http://{machine.address}:{PORT}/api/v2/monitor/health"
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError as error:
            if time.monotonic() > ends:
                log = machine.container.logs(tail=20).decode(errors="replace")
                raise TimeoutError(f"the stock machine does not serve: {error}\n{log}") from error
        time.sleep(0.5)
