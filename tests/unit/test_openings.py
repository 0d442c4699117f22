"""What the small map's firewalls let in, and security groups in and out, as literal lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plainpillar import DEPLOYMENT, PlainPillar
from rendering import Chunk, Compiler

OPERATORS = ["198.51.100.7/32", "203.0.113.0/24"]  # RFC 5737: addresses for documentation
ANYBODY = "0.0.0.0/0"
VPC = "10.20.0.0/16"
MASTER = "10.20.1.10"
POSTGRES = "10.20.1.12"
REDIS = "10.20.1.13"
WEB = ["10.20.1.14", "10.20.1.15"]

# Minion id -> port -> the addresses and networks that may connect.
FIREWALLS: dict[str, dict[int, list[str]]] = {
    "salt-1": {22: [MASTER, f"not {VPC}"], 3128: [VPC], 4505: [VPC], 4506: [VPC]},
    "lb-1": {22: [MASTER], 80: [ANYBODY], 443: [ANYBODY]},
    "postgres-1": {
        22: [MASTER],
        2379: [POSTGRES],
        8432: [POSTGRES],
        2380: [POSTGRES],
        5432: [POSTGRES, *WEB],
        8008: [POSTGRES, *WEB],
    },
    "redis-1": {22: [MASTER], 6379: [REDIS, *WEB], 26379: [REDIS]},
    "web-1": {22: [MASTER], 8080: ["10.20.1.11"]},
    "web-2": {22: [MASTER], 8080: ["10.20.1.11"]},
}
GROUPS = [
    "airflow-lb", "airflow-monitor", "airflow-postgres", "airflow-redis", "airflow-salt",
    "airflow-web",
]  # fmt: skip
# The exporter of the machine itself.
_FROM_MONITOR = {9100: ["airflow-monitor"]}
# Role -> port -> the security groups and networks that may connect.
SECURITY_GROUPS: dict[str, dict[int, list[str]]] = {
    "salt": {
        22: [*OPERATORS, "airflow-salt"],
        3128: GROUPS,
        4505: GROUPS,
        4506: GROUPS,
        **_FROM_MONITOR,
    },
    "lb": {
        22: ["airflow-salt"],
        80: [ANYBODY],
        443: [ANYBODY],
        8405: ["airflow-monitor"],
        **_FROM_MONITOR,
    },
    "monitor": {22: ["airflow-salt"], 19532: GROUPS, **_FROM_MONITOR},
    "postgres": {
        22: ["airflow-salt"],
        2379: ["airflow-postgres"],
        8432: ["airflow-postgres"],
        2380: ["airflow-postgres"],
        5432: ["airflow-monitor", "airflow-postgres", "airflow-web"],
        8008: ["airflow-monitor", "airflow-postgres", "airflow-web"],
        **_FROM_MONITOR,
    },
    "redis": {
        22: ["airflow-salt"],
        6379: ["airflow-monitor", "airflow-redis", "airflow-web"],
        26379: ["airflow-redis"],
        **_FROM_MONITOR,
    },
    "web": {22: ["airflow-salt"], 8080: ["airflow-lb"], **_FROM_MONITOR},
}
S3 = "com.amazonaws.eu-west-1.s3"
# And the logs of all.
_BY_ALL = {
    **{port: ["airflow-salt"] for port in (3128, 4505, 4506)},
    19532: ["airflow-monitor"],
}
# Role -> port -> the security groups, networks and prefix lists to which it may connect.
EGRESS: dict[str, dict[int, list[str]]] = {
    "salt": {22: GROUPS, 80: [ANYBODY], 443: [ANYBODY, S3], **_BY_ALL},
    "lb": {443: [ANYBODY], 8080: ["airflow-web"], **_BY_ALL},
    "monitor": {
        **{port: ["airflow-postgres"] for port in (5432, 8008)},
        6379: ["airflow-redis"],
        8405: ["airflow-lb"],
        9100: GROUPS,
        **_BY_ALL,
    },
    "postgres": {
        443: [S3],
        **{port: ["airflow-postgres"] for port in (2379, 2380, 5432, 8008, 8432)},
        **_BY_ALL,
    },
    "redis": {6379: ["airflow-redis"], 26379: ["airflow-redis"], **_BY_ALL},
    "web": {
        **{port: ["airflow-postgres"] for port in (5432, 8008)},
        6379: ["airflow-redis"],
        **_BY_ALL,
    },
}
ACCEPT = re.compile(
    r"^ *(?:ip saddr (?:\{ (?P<sources>[^}]+) \}|!= (?P<outside>\S+)) )?"
    r"tcp dport (?P<port>\d+) accept"
)

Openings = dict[int, list[str]]


@pytest.fixture(scope="module")
def pillar(tmp_path_factory: pytest.TempPathFactory) -> PlainPillar:
    return PlainPillar(
        tmp_path_factory.mktemp("pillar"),
        ssh_public_key="ssh-ed25519 AAAA",
        operator_cidrs=OPERATORS,
    )


def firewall_openings(rules: str) -> Openings:
    """Return port -> sources of the nftables rules that accept TCP connections."""
    found: Openings = {}
    for line in rules.splitlines():
        if "tcp dport" in line:
            rule = ACCEPT.match(line)
            assert rule is not None, line
            sources = rule["sources"].split(", ") if rule["sources"] else [ANYBODY]
            if rule["outside"]:
                sources = [f"not {rule['outside']}"]
            found.setdefault(int(rule["port"]), []).extend(sources)
    return {port: sorted(sources) for port, sources in found.items()}


def group_openings(chunk: Chunk) -> Openings:
    """Return port -> the other ends of a security group's rules."""
    found: Openings = {}
    for rule in chunk["rules"]:
        assert rule["ip_protocol"] == "tcp"
        assert rule["from_port"] == rule["to_port"]
        (source,) = rule.keys() & {"cidr_ip", "group_name", "prefix_list"}
        found.setdefault(rule["from_port"], []).append(rule[source])
    return {port: sorted(sources) for port, sources in found.items()}


@pytest.mark.parametrize("minion_id", DEPLOYMENT.machines())
def test_firewall_lets_in_these_sources_only(
    pillar: PlainPillar, tmp_path: Path, minion_id: str
) -> None:
    compiler = Compiler(minion_id, tmp_path / "minion", pillar)
    (rules,) = (
        chunk
        for chunk in compiler.states("base").chunks
        if chunk["__id__"] == "base-firewall-rules"
    )
    assert firewall_openings(compiler.render(rules)["data"]) == FIREWALLS[minion_id]


@pytest.mark.parametrize(
    ("prefix", "expected"), [("aws-rules-", SECURITY_GROUPS), ("aws-egress-", EGRESS)]
)
def test_security_groups_let_in_and_out_this_only(
    pillar: PlainPillar, tmp_path: Path, prefix: str, expected: dict[str, Openings]
) -> None:
    chunks = Compiler("operator", tmp_path / "minion", pillar).states("aws").chunks
    assert {
        chunk["__id__"].removeprefix(prefix): group_openings(chunk)
        for chunk in chunks
        if chunk["__id__"].startswith(prefix)
    } == expected
