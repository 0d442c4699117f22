"""What the edge says and does about passwords is one thing, in the files that say it."""

from __future__ import annotations

import yaml

from plainpillar import DEPLOYMENT, ROOT

PASSWORDS = DEPLOYMENT.base_pillar("haproxy")["passwords"]


def test_refusal_tells_the_seconds_of_the_limit() -> None:
    pages = yaml.safe_load((ROOT / "salt/haproxy/pages.yaml").read_text())["pages"]
    assert pages["passwords"]["retry"] == PASSWORDS["seconds"]


def test_airflow_allows_a_user_what_the_edge_does() -> None:
    limit = DEPLOYMENT.base_pillar("airflow")["login_rate_limit"]
    assert limit == f"{PASSWORDS['wrong_of_user']} per {PASSWORDS['seconds']} seconds"
