"""Which machine runs which states and gets which secrets, also with false grains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from plainpillar import DEPLOYMENT, ROOT, SPARE_ROLE, PlainPillar
from rendering import Compiler

STATES = {
    "salt": ["base", "master"],
    "lb": ["base", "haproxy"],
    "web": ["base", "airflow"],
    "postgres": ["base", "postgres"],
    "redis": ["base", "redis"],
    "monitor": ["base", "journal_remote", "prometheus"],
}
SECRETS = {
    "salt": {"cloud-ssh"},
    "lb": {"acme-account", "edge-client-tls", "edge-tls"},
    "web": {
        "airflow-admin",
        "airflow-keys",
        "postgres-airflow",
        "postgres-owner",
        "redis-airflow",
        "redis-check",
        "web-tls",
    },
    "postgres": {
        "postgres-airflow",
        "postgres-backup",
        "postgres-cluster-tls",
        "postgres-owner",
        "postgres-replication",
    },
    "redis": {
        "redis-airflow",
        "redis-check",
        "redis-replication",
        "redis-sentinel",
        "redis-tls",
    },
    "monitor": {"logs-tls"},
}
for readable in SECRETS.values():
    readable |= {"logs-client-tls", "metrics-scrape", "metrics-tls"}
MACHINES = replace(DEPLOYMENT, map_name="production").machines()
SPARE = "spare-1"

Compile = Callable[..., Compiler]


@pytest.fixture(scope="module")
def pillar(tmp_path_factory: pytest.TempPathFactory) -> PlainPillar:
    return PlainPillar(tmp_path_factory.mktemp("pillar"), roles=SPARE_ROLE)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory, pillar: PlainPillar) -> Compile:
    return lambda minion_id, **grains: Compiler(
        minion_id, tmp_path_factory.mktemp("minion"), pillar, grains
    )


@pytest.mark.parametrize(("minion_id", "role"), MACHINES.items())
def test_top_file_gives_states_of_role(compiler: Compile, minion_id: str, role: str) -> None:
    assert compiler(minion_id).top() == STATES[role]


@pytest.mark.parametrize(("minion_id", "role"), MACHINES.items())
def test_pillar_gives_secrets_of_role(compiler: Compile, minion_id: str, role: str) -> None:
    assert set(compiler(minion_id).pillar()["secrets"]) == SECRETS[role]


def test_spare_runs_the_base_alone_and_knows_no_secret(compiler: Compile) -> None:
    spare = compiler(SPARE)
    machines = [*(name for name in MACHINES if name != "monitor-1"), SPARE]
    spare.know({name: f"10.20.1.{n}" for n, name in enumerate(machines, 10)})
    assert spare.top() == ["base"]
    assert "secrets" not in spare.pillar()
    compiled = spare.highstate()
    assert compiled.errors == []
    (role,) = (chunk for chunk in compiled.chunks if chunk["__id__"] == "base-role")
    assert (role["dataset"]["unit"], role["dataset"]["ports"]) == ("salt-minion", [22])
    (hosts,) = (chunk for chunk in compiled.chunks if chunk["__id__"] == "base-hosts")
    named = [
        machine["names"][0]
        for machine in hosts["context"]["machines"]
        for name in machine["names"]
        if name in ("postgres.stack.internal", "redis.stack.internal")
    ]
    # Any machine of a store may lead.
    assert named == [
        *("postgres-1", "postgres-2", "postgres-3"),
        *("redis-1", "redis-2", "redis-3"),
    ]


def test_every_secret_but_the_ca_has_a_reader(pillar: PlainPillar) -> None:
    assert set(pillar.secrets) - set().union(*SECRETS.values()) == {"deployment-ca"}


@pytest.mark.parametrize("role", ["postgres", "salt"])
def test_false_grains_give_no_secret(compiler: Compile, role: str) -> None:
    false_grains = dict.fromkeys(("id", "host", "fqdn", "nodename", "localhost"), f"{role}-1")
    minion = compiler("web-1", role=role, roles=[role], **false_grains)
    assert set(minion.pillar()["secrets"]) == SECRETS["web"]
    assert minion.top() == STATES["web"]


# Each looks like a machine of the stack to a glob or to an unanchored expression.
NOT_OURS = (
    "intruder-1",
    "postgres",
    "xpostgres-1",
    "web_1",
    "operator",
    "web-evil",
    "web-proxy-1",
    "redis-sentinel-1",
    "web-01",
    "web-0",
    "web-",
    "xweb-1",
    "web-1.evil",
    "web-1-2",
    "salt-1_master",
)


@pytest.mark.parametrize("minion_id", NOT_OURS)
def test_unknown_id_gets_no_secret(compiler: Compile, minion_id: str) -> None:
    unknown = compiler(minion_id)
    assert "secrets" not in unknown.pillar()
    assert unknown.top() == ["base"]


@pytest.mark.parametrize("top", ["salt/top.sls", "pillar/base/top.sls"])
def test_top_files_match_ids_only(top: str) -> None:
    rules = yaml.safe_load((ROOT / top).read_text())
    assert list(rules) == ["base"]
    assert set(rules["base"]) == {"*"} | {f"E@^{role}-[1-9][0-9]*$" for role in STATES}
    assert all(isinstance(sls, str) for entries in rules["base"].values() for sls in entries), (
        "a matcher beside the id"
    )
