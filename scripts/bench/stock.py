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

import docker
from docker.errors import NotFound

from bench.machines import MACHINES_CORE, Machine
from localcloud.machines import container_options

NAME = "bench-stock"
DATABASE = "bench_stock"
ROLE = "bench_stock"
PORT = 8080
START_SECONDS = 180
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
ACCESS = "bench-stock"  # marks a line of pg_hba.conf and a rule of the firewall

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


def remove(client: docker.DockerClient, postgres: Machine | None) -> None:
    """Remove the machine, its database and its access, where they exist."""
    with suppress(NotFound):
        client.containers.get(NAME).remove(force=True, v=True)
    if postgres is not None:
        postgres.run(REMOVAL_SCRIPT)


def create(client: docker.DockerClient, web: Machine, postgres: Machine, password: str) -> Machine:
    """Make the machine and wait until it serves.

    Args:
        client: Docker's engine.
        web: the web machine whose release it gets.
        postgres: the machine of the database.
        password: of its role in the database, a new one for each run.

    Raises:
        TimeoutError: it does not serve; the text has the end of its log.
    """
    remove(client, postgres)
    options = container_options(cpus=1, memory=1024)
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
