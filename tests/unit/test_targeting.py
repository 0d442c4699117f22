"""Which machine runs which states and gets which secrets, also with false grains."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from plainpillar import DEPLOYMENT, ROOT, PlainPillar
from rendering import Compiler

STATES = {
    "salt": ["base", "master"],
    "lb": ["base", "haproxy"],
    "web": ["base", "airflow"],
    "postgres": ["base", "postgres"],
    "redis": ["base", "redis"],
}
SECRETS = {
    "salt": {"cloud-ssh"},
    "lb": {"edge-tls"},
    "web": {"airflow-admin", "airflow-keys", "postgres-airflow", "postgres-owner", "redis-airflow"},
    "postgres": {"postgres-airflow", "postgres-owner", "postgres-tls"},
    "redis": {"redis-airflow", "redis-tls"},
}
MACHINES = DEPLOYMENT.machines()

Compile = Callable[..., Compiler]


@pytest.fixture(scope="module")
def pillar(tmp_path_factory: pytest.TempPathFactory) -> PlainPillar:
    return PlainPillar(tmp_path_factory.mktemp("pillar"))


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
