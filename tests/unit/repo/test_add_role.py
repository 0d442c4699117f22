"""The steps of CONTRIBUTING.md add a role that every part of the tree knows.

They are taken in a copy of the tree, for a role `cache` that runs memcached. The sixth step is
tests, which this file stands for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLE = Path(__file__).parent / "example_role"
PORT = 11211
IDS = "E@^cache-[1-9][0-9]*$"
Facts = dict[str, Any]


def insert(path: Path, before: str, text: str) -> Path:
    """Put text in front of the first line that begins with `before`; at the end for ''."""
    lines = path.read_text().splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if before and line.startswith(before)]
    number = found[0] if before else len(lines)
    path.write_text("".join([*lines[:number], text, *lines[number:]]))
    return path


def machine(tree: Path) -> list[Path]:
    profile = "\ncache:\n  extends: debian-13\n  securitygroupname: airflow-cache\n"
    return [
        insert(tree / "cloud.profiles.d/machines.conf", "", profile),
        insert(tree / "cloud.maps.d/small.map", "", "cache: [cache-1]\n"),
    ]


def role(tree: Path) -> list[Path]:
    row = """\
  cache:
    unit: memcached
    service: cache
    check: {endpoint: cache}
    certificate: {secret: cache-tls, path: /etc/memcached/tls/certificate.pem}
"""
    return [insert(tree / "pillar/base/roles.sls", "", row)]


def network(tree: Path) -> list[Path]:
    endpoint = f"  cache: {{port: {PORT}, listeners: [cache], clients: [web]}}\n"
    return [
        insert(tree / "pillar/base/endpoints.sls", "", endpoint),
        insert(
            tree / "pillar/base/aws.sls", "    redis: airflow-redis", "    cache: airflow-cache\n"
        ),
    ]


def pillar(tree: Path) -> list[Path]:
    secrets = ("cache-tls", "logs-client-tls", "metrics-scrape", "metrics-tls")
    section = "".join([f"  '{IDS}':\n", *(f"    - secrets.{name}\n" for name in secrets)])
    return [insert(tree / "pillar/base/top.sls", "", section)]


def state(tree: Path) -> list[Path]:
    shutil.copytree(EXAMPLE / "component", tree / "salt/cache")
    deploy = tree / "salt/orch/deploy.sls"
    text = deploy.read_text()
    stores = "['postgres', 'redis']"
    assert stores in text
    deploy.write_text(text.replace(stores, "['postgres', 'redis', 'cache']"))
    files = sorted((tree / "salt/cache").rglob("*"))
    return [
        *(path for path in files if path.is_file()),
        insert(tree / "salt/top.sls", "", f"  '{IDS}':\n    - cache\n"),
        deploy,
    ]


STEPS: list[Callable[[Path], list[Path]]] = [machine, role, network, pillar, state]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree without the role."""
    copy = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def changed(tree: Path) -> list[list[str]]:
    """The files that each step has changed or made, once the role is added to the copy."""
    return [[str(path.relative_to(tree)) for path in step(tree)] for step in STEPS]


@pytest.fixture(scope="module")
def facts(tree: Path, changed: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the parts of the copy say about the role."""
    assert changed
    sources = [*tree.glob("packages/*/src"), tree / "tests/support"]
    done = subprocess.run(
        [sys.executable, EXAMPLE / "facts.py", tmp_path_factory.mktemp("work")],
        cwd=tree, env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sources))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: Facts = json.loads(done.stdout.splitlines()[-1])
    return found


def documented_steps() -> list[str]:
    """Return the text of each step of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a role")[2]
    return re.split(r"^\d\. ", text, flags=re.MULTILINE)[1:]


def names_file(step: str, path: str) -> bool:
    """Return whether a step names a file, or a folder that holds it."""
    tokens = re.findall(r"`([^`]+)`", step.replace("<component>", "cache"))
    return any(path == token or (token.endswith("/") and token in f"{path}/") for token in tokens)


def test_document_names_every_file_of_its_step(changed: list[list[str]]) -> None:
    steps = documented_steps()
    assert len(steps) == 6
    assert [
        f"step {number}: {path}"
        for number, (step, paths) in enumerate(zip(steps, changed, strict=False), start=1)
        for path in paths
        if not names_file(step, path)
    ] == []
    assert names_file(steps[5], "tests/states/test_cache.py")


def test_undocumented_file_is_found() -> None:
    step = "1. Add it to `pillar/base/roles.sls`, and write `salt/<component>/`."
    assert names_file(step, "pillar/base/roles.sls")
    assert names_file(step, "salt/cache/files/memcached.conf.j2")
    assert not names_file(step, "pillar/base/aws.sls")
    assert not names_file(step, "salt/top.sls")


def test_states_and_templates_render(facts: Facts) -> None:
    assert "cache-1" in facts["machines"]
    assert facts["errors"] == []
    assert "cache" in facts["sls"]
    assert f"-p {PORT}\n" in facts["configuration"]


def test_machine_gets_its_states_and_secrets_only(facts: Facts) -> None:
    assert facts["top"] == ["base", "cache"]
    shared = ["logs-client-tls", "metrics-scrape", "metrics-tls"]
    assert facts["secrets"]["cache-1"] == ["cache-tls", *shared]
    readers = {name for name, secrets in facts["secrets"].items() if "cache-tls" in secrets}
    assert readers == {"cache-1"}


def test_firewall_opens_its_port_to_its_clients_only(facts: Facts) -> None:
    opened = {
        name: [line.split() for line in rules.splitlines() if f"dport {PORT}" in line]
        for name, rules in facts["firewalls"].items()
    }
    (rule,) = opened.pop("cache-1")
    assert not any(opened.values())
    addresses = {line.split()[1]: line.split()[0] for line in facts["hosts"].splitlines() if line}
    web = {address for name, address in addresses.items() if name.startswith("web-")}
    assert {token.strip(",") for token in rule if token.startswith("10.")} == web


def test_security_group_opens_its_port_to_its_clients_only(facts: Facts) -> None:
    opened = {
        (group, rule.get("group_name"), rule.get("cidr_ip"))
        for group, rules in facts["security_groups"].items()
        for rule in rules
        if rule["from_port"] <= PORT <= rule["to_port"]
    }
    assert opened == {("airflow-cache", "airflow-web", None)}


def test_other_machines_know_its_names(facts: Facts) -> None:
    names = {name for line in facts["hosts"].splitlines() for name in line.split()[1:]}
    assert {"cache-1", "cache.stack.internal", "cache-1.stack.internal"} <= names
    assert {"cache-1", "cache.stack.internal", "cache-1.stack.internal"} == set(
        facts["certificate_names"]
    )


def test_orchestration_applies_its_states(facts: Facts) -> None:
    assert [target for target in facts["deployed"] if "cache-1" in target] != []


def test_logs_print_its_unit(facts: Facts) -> None:
    assert facts["log_command"].split()[-2:] == ["-u", "memcached"]


def test_status_row_is_green_when_it_serves(facts: Facts) -> None:
    row = facts["status_rows"]["serves"]
    assert (row["role"], row["service"]) == ("cache", "memcached active")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["certificate"])
    assert row["healthy"] is True


def test_status_row_is_red_when_it_does_not_serve(facts: Facts) -> None:
    row = facts["status_rows"]["refuses"]
    assert row["service"] == "memcached active"
    assert "refused" in row["problem"]
    assert row["healthy"] is False
