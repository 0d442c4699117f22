"""Every alert has a runbook and tests that see it fire and keep silent; what is left out is found.

promtool runs those tests on the monitor machine: tests/states/test_monitor.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from plainpillar import ROOT, PlainPillar
from rendering import Compiler, addresses
from saltmodules import TREE

RULES = TREE / "prometheus/files/rules"
TESTS = ROOT / "tests/alerts"
AREAS = sorted(path.stem for path in RULES.glob("*.yml"))
ALWAYS = {"Watchdog"}  # what fires always has no test that sees it keep silent
SEVERITIES = {"page", "warning", "none"}


def alerts(area: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / f"{area}.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def names() -> set[str]:
    return {alert["alert"] for area in AREAS for alert in alerts(area)}


def untested(rules: list[dict[str, Any]], tests: list[dict[str, Any]]) -> list[str]:
    """Return what the tests of some rules leave out."""
    seen: dict[str, set[bool]] = {rule["alert"]: set() for rule in rules}
    for question in (question for test in tests for question in test["alert_rule_test"]):
        seen[question["alertname"]].add(bool(question.get("exp_alerts")))
    found = [f"{name} never fires" for name, answers in seen.items() if True not in answers]
    quiet = {name for name, answers in seen.items() if False in answers} | ALWAYS
    return found + [f"{name} always fires" for name in seen if name not in quiet]


@pytest.mark.parametrize("area", AREAS)
def test_every_alert_is_seen_to_fire_and_to_keep_silent(area: str) -> None:
    tests = yaml.safe_load((TESTS / f"{area}.yml").read_text())
    assert tests["rule_files"] == [f"/etc/prometheus/rules/{area}.yml"]
    assert untested(alerts(area), tests["tests"]) == []


def test_alert_without_a_test_is_found() -> None:
    rules = [{"alert": "A"}, {"alert": "B"}]
    tests = [{"alert_rule_test": [{"alertname": "A", "exp_alerts": [{}]}]}]
    assert untested(rules, tests) == ["B never fires", "A always fires", "B always fires"]


def test_every_alert_has_its_runbook() -> None:
    """A heading that says its name; and no heading is left of an alert that is gone."""
    text = (ROOT / "docs/runbooks.md").read_text()
    section = text.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    headings = re.findall(r"^### (\w+)$", section, re.MULTILINE)
    assert sorted(headings) == sorted(names())
    for alert in (alert for area in AREAS for alert in alerts(area)):
        runbook = alert["annotations"]["runbook"]
        assert runbook == f"docs/runbooks.md#{alert['alert'].lower()}"
        assert alert["annotations"]["summary"]
        assert alert["labels"]["severity"] in SEVERITIES


def test_no_name_is_used_twice_and_inhibitions_name_alerts() -> None:
    every = [alert["alert"] for area in AREAS for alert in alerts(area)]
    assert len(every) == len(set(every))
    text = Path(TREE / "prometheus/files/alertmanager.yml.j2").read_text()
    named = set(re.findall(r"alertname !?=~? \"?([\w|]+)", text))
    assert {name for words in named for name in words.split("|")} <= names()


HOOKS = {"webhook": "https://hooks.example.org/x", "watchdog": "https://dead.example.org:443/y"}


def file(tmp_path: Path, minion_id: str, sls: str, state: str, **settings: Any) -> str:
    """Return the content of a file on a machine of a deployment with these settings."""
    (tmp_path / "pillar").mkdir()
    compiler = Compiler(
        minion_id, tmp_path / "minion", PlainPillar(tmp_path / "pillar", **settings)
    )
    compiler.know(addresses() | {"monitor-1": "10.20.1.30"})
    (chunk,) = (each for each in compiler.states(sls).chunks if each["__id__"] == state)
    return str(compiler.render(chunk)["data"])


def receivers(tmp_path: Path, **settings: Any) -> dict[str, list[dict[str, Any]]]:
    """Return receiver -> the webhooks that it has, and that every route leads to one of them."""
    text = file(tmp_path, "monitor-1", "prometheus.alerts", "prometheus-alerts-config", **settings)
    config = yaml.safe_load(text)
    found = {each["name"]: each.get("webhook_configs", []) for each in config["receivers"]}
    routes = [config["route"], *config["route"]["routes"]]
    assert {route["receiver"] for route in routes} <= found.keys()
    return found


def test_alerts_leave_by_the_proxy_alone(tmp_path: Path) -> None:
    found = receivers(tmp_path, alerts=HOOKS)
    proxied = {"proxy_url": f"http://{addresses()['salt-1']}:3128"}
    assert found == {
        "nobody": [],
        "people": [{"url": HOOKS["webhook"], "send_resolved": True, "http_config": proxied}],
        "watchdog": [{"url": HOOKS["watchdog"], "send_resolved": False, "http_config": proxied}],
    }


@pytest.mark.parametrize("settings", [{}, {"alerts": {}}, {"alerts": None}], ids=str)
def test_deployment_without_addresses_tells_nobody(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert receivers(tmp_path, **settings) == {"nobody": []}


def test_proxy_leads_to_the_receivers_besides(tmp_path: Path) -> None:
    text = file(tmp_path, "salt-1", "proxy", "proxy-config", alerts=HOOKS)
    (line,) = re.findall(r"^acl packages dstdomain -n (.*)$", text, re.MULTILINE)
    assert line.split()[-2:] == ["hooks.example.org", "dead.example.org"]
    assert "deb.debian.org" in line.split()
