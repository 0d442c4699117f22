"""Which machine gets which secret on a running stack, and where no secret may appear."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import salt.cache

from harness import Fleet, Machine
from plainpillar import DEPLOYMENT
from waiting import until

SECRETS = {
    "lb-1": {"acme-account", "edge-client-tls", "edge-tls"},
    "web-1": {
        "airflow-admin",
        "airflow-keys",
        "postgres-airflow",
        "postgres-owner",
        "redis-airflow",
        "redis-check",
        "web-tls",
    },
    "postgres-1": {
        "postgres-airflow",
        "postgres-cluster-tls",
        "postgres-owner",
        "postgres-backup",
        "postgres-replication",
    },
    "redis-1": {
        "redis-airflow",
        "redis-check",
        "redis-replication",
        "redis-sentinel",
        "redis-tls",
    },
}
for readable in SECRETS.values():
    # They use it where there is a monitor machine.
    readable |= {"logs-client-tls", "metrics-scrape", "metrics-tls"}
STORES = ("postgres-1", "redis-1")
# The files that hold a secret of the machine, as their service needs it.
HOLDERS = {
    "lb-1": {"/etc/haproxy/client.pem", "/etc/haproxy/tls.pem"},
    "web-1": {
        "/etc/airflow/owner.env",
        "/etc/airflow/secrets.env",
        "/etc/haproxy/haproxy.cfg",
        "/etc/nginx/tls/key.pem",
    },
    "postgres-1": {
        "/etc/etcd/tls/key.pem",
        "/etc/patroni/config.yml",
        "/etc/pgbackrest/pgbackrest.conf",
        "/etc/postgresql/tls/key.pem",
    },
    "redis-1": {
        "/etc/redis/redis.conf",
        "/etc/redis/role.json",
        "/etc/redis/sentinel.conf",
        "/etc/redis/tls/key.pem",
        "/var/lib/redis/sentinel.conf",
    },
}
FOLDERS = ("/etc", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var")
COPY = "/var/cache/salt/minion/highstate.cache.p"  # of what a highstate has rendered
ROLES = ("lb-1", "web-1", *STORES)


def secret_names(machine: Machine) -> set[str]:
    """Return the names of the secrets in the machine's pillar."""
    return set(machine.salt("pillar.items", unmask=True)["secrets"])


def private_values(fleet: Fleet) -> dict[str, str]:
    """Return every private value in a form that survives JSON and line breaks."""
    values = {
        name: value
        for name, value in fleet.pillar.values().items()
        if not name.endswith(":certificate")
    }
    return {
        name: value.splitlines()[1] if "PRIVATE KEY" in value else value
        for name, value in values.items()
    }


def leaks(fleet: Fleet, text: str) -> list[str]:
    """Return the names of the secrets that the text holds."""
    return [name for name, value in private_values(fleet).items() if value in text]


@pytest.fixture
def store(converged: Callable[[str], Machine], request: pytest.FixtureRequest) -> Machine:
    return converged(request.param)


@pytest.fixture(scope="module")
def roles(fleet: Fleet, converged: Callable[[str], Machine]) -> dict[str, Machine]:
    """A converged machine of each role."""
    fleet.web_app()
    return {minion_id: converged(minion_id) for minion_id in ROLES}


@pytest.mark.parametrize("minion_id", SECRETS)
def test_machine_gets_its_own_secrets_only(fleet: Fleet, minion_id: str) -> None:
    assert secret_names(fleet.machine(minion_id)) == SECRETS[minion_id]


@pytest.fixture
def false_grains_machine(fleet: Fleet) -> Iterator[Machine]:
    """A web machine that claims to be the database."""
    machine = fleet.machine("web-1")
    false_grains = dict.fromkeys(("id", "host", "fqdn", "nodename"), "postgres-1") | {
        "role": "postgres"
    }
    machine.put("/etc/salt/grains", json.dumps(false_grains))
    machine.salt("saltutil.refresh_grains")
    until(
        lambda: bool(machine.salt("grains.get", "role") == "postgres"),
        "the minion has loaded its false grains",
    )
    yield machine
    machine.run("rm", "/etc/salt/grains")
    machine.salt("saltutil.refresh_grains")


def test_false_grains_give_no_other_secret(false_grains_machine: Machine) -> None:
    assert secret_names(false_grains_machine) == SECRETS["web-1"]


def test_minion_with_id_of_other_machine_is_refused(fleet: Fleet) -> None:
    machine = fleet.machine("web-1")
    answer = machine.run(
        "timeout", "30", "/opt/salt/bin/salt-call", "--id=postgres-1", "pillar.items", "unmask=True"
    )
    assert answer.returncode != 0
    assert leaks(fleet, f"{answer.stdout}{answer.stderr}") == []


def test_unknown_minion_key_is_not_accepted(fleet: Fleet) -> None:
    machine = fleet.machine("web-1")
    config = {
        "id": "postgres-9",
        "master": fleet.master.config["interface"],
        "pki_dir": "/root/stranger/pki",
    }
    machine.put("/root/stranger/minion", json.dumps(config))
    command = (
        "timeout",
        "30",
        "/opt/salt/bin/salt-call",
        "--config-dir=/root/stranger",
        "pillar.items",
    )

    def keys() -> dict[str, list[str]]:
        assert machine.run(*command).returncode != 0
        listed: dict[str, list[str]] = fleet.master.salt_key_cli().run("--list", "all").data
        assert "postgres-9" not in listed["minions"]
        return listed

    until(
        lambda: "postgres-9" in keys()["minions_pre"], "the stranger has asked to be accepted", 180
    )


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_state_return_holds_no_secret(fleet: Fleet, store: Machine) -> None:
    role = store.id.removesuffix("-1")
    certificate = DEPLOYMENT.base_pillar("roles")[role]["certificate"]["path"]
    key = str(Path(certificate).with_name("key.pem"))
    store.put(key, "damaged\n")  # the return of a changed file may show the change
    store.run("rm", COPY)  # as on a machine of an earlier version
    returned = json.dumps(fleet.converge(store))
    assert key in returned
    assert store.run("readlink", COPY).stdout.strip() == "/dev/null"
    assert leaks(fleet, returned) == []


@pytest.mark.parametrize("minion_id", ROLES)
def test_journal_holds_no_secret(fleet: Fleet, roles: dict[str, Machine], minion_id: str) -> None:
    journal = roles[minion_id].run("journalctl", "--no-pager", "--output=cat").stdout
    assert "salt-minion" in journal
    assert leaks(fleet, journal) == []


@pytest.mark.parametrize("minion_id", ROLES)
def test_secrets_are_in_the_files_of_their_services_only(
    fleet: Fleet, roles: dict[str, Machine], minion_id: str
) -> None:
    """Salt's own copies count too: a snapshot of the volume has them."""
    machine = roles[minion_id]
    machine.salt("saltutil.refresh_pillar", wait=True)
    values = [
        value
        for name, value in private_values(fleet).items()
        if name.partition(":")[0] in SECRETS[minion_id]
    ]
    patterns = [f"--regexp={value}" for value in values]
    assert patterns
    search = ("grep", "--devices=skip", "-rlFsa", *patterns, *FOLDERS)
    planted = "/var/cache/salt/minion/planted.p"
    machine.put(planted, f"highstate\0{values[0]}\0")
    try:
        assert set(machine.run(*search).stdout.splitlines()) == HOLDERS[minion_id] | {planted}
        assert not machine.run(*search, user="nobody").stdout.replace(planted, "").strip()
    finally:
        machine.run("rm", planted)


def test_master_keeps_pillar_without_secrets(fleet: Fleet, roles: dict[str, Machine]) -> None:
    """It keeps what `salt -I` needs."""
    for machine in roles.values():
        machine.salt("saltutil.refresh_pillar", wait=True)
    folder = Path(fleet.master.config["cachedir"])
    kept = salt.cache.factory(fleet.master.config)

    def holders() -> set[str]:
        return {
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file()
            and path.relative_to(folder).parts[0] != "jobs"  # below
            and leaks(fleet, path.read_bytes().decode(errors="replace"))
        }

    assert holders() == set()
    for minion_id in roles:
        assert kept.fetch("pillar", minion_id)["settings"]["deployment"] == "test"
    planted = folder / "planted.p"
    planted.write_text(fleet.pillar.secrets["redis-airflow"]["password"])
    try:
        assert holders() == {planted.name}
    finally:
        planted.unlink()


def test_job_cache_of_states_holds_no_secret(
    fleet: Fleet, converged: Callable[[str], Machine]
) -> None:
    for minion_id in STORES:
        converged(minion_id)
    assert secret_names(fleet.machine("redis-1"))  # this answer holds secrets
    jobs = {
        path: path.read_bytes()
        for path in Path(fleet.master.config["cachedir"], "jobs").rglob("return.p")
    }
    leaky = {path for path, answer in jobs.items() if leaks(fleet, answer.decode(errors="replace"))}
    asked = {path for path in jobs if b"unmask" in (path.parents[1] / ".load.p").read_bytes()}
    assert leaky
    assert leaky <= asked
    assert jobs.keys() - asked


SAMPLER = """
import pathlib, time
seen = set()
while not pathlib.Path("/run/sampled").exists():
    for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            seen.add(process.read_text().replace(chr(0), " "))
        except OSError:
            pass
pathlib.Path("/run/seen").write_text(chr(10).join(seen))
pathlib.Path("/run/seen").rename("/run/command-lines")
"""


def test_command_lines_hold_no_secret(fleet: Fleet, converged: Callable[[str], Machine]) -> None:
    """Sample all processes while Salt sets the password of the database role again."""
    machine = converged("postgres-1")
    machine.put("/root/sampler.py", SAMPLER)

    def command_lines() -> str:
        machine.run("psql", "-c", "ALTER ROLE airflow PASSWORD 'other'", user="postgres")
        machine.run("rm", "-f", "/run/sampled", "/run/command-lines")
        machine.run("systemd-run", "--collect", "python3", "/root/sampler.py")
        states = machine.apply("postgres")
        machine.run("touch", "/run/sampled")
        assert any("postgres-role" in tag and state["changes"] for tag, state in states.items())
        until(
            lambda: machine.run("test", "-e", "/run/command-lines").returncode == 0,
            "the sampler has written",
        )
        return str(machine.run("cat", "/run/command-lines").stdout)

    seen = ""
    for _ in range(10):  # the command runs for some hundredths of a second
        seen += command_lines()
        if 'ALTER ROLE "airflow"' in seen:
            break
    assert 'ALTER ROLE "airflow"' in seen
    assert leaks(fleet, seen) == []
