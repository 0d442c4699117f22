"""Every alert has a runbook and tests that see it fire and keep silent; what is left out is found.

promtool runs those tests on the monitor machine: tests/states/test_monitor.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from plainpillar import ROOT
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
