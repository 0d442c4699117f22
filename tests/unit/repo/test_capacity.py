"""The database allows the connections that the web machines of every map open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from plainpillar import DEPLOYMENT

ROOT = Path(__file__).parents[3]


def sizes(component: str) -> dict[str, Any]:
    """Return the sizes of a component: its defaults, changed by `pillar/base`."""
    values: dict[str, Any] = yaml.safe_load(
        (ROOT / "salt" / component / "defaults.yaml").read_text()
    )[component]
    return values | DEPLOYMENT.base_pillar(component)


def connections(airflow: dict[str, Any], machines: int) -> int:
    """Return how many connections the web machines open at most: each worker has two pools."""
    return (
        machines
        * int(airflow["workers"])
        * 2
        * (int(airflow["pool_size"]) + int(airflow["max_overflow"]))
    )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "cloud.maps.d").glob("*.map")), ids=lambda path: path.stem
)
def test_database_allows_connections_of_every_web_worker(path: Path) -> None:
    machines = len(yaml.safe_load(path.read_text())["web"])
    assert machines > 0
    assert connections(sizes("airflow"), machines) <= sizes("postgres")["role_connections"]


def test_database_allows_a_third_web_machine() -> None:
    assert connections(sizes("airflow"), 3) <= sizes("postgres")["role_connections"]


def test_operators_have_connections_left() -> None:
    postgres = sizes("postgres")
    assert postgres["max_connections"] - postgres["role_connections"] >= 10


def test_fourth_web_machine_is_refused() -> None:
    assert connections(sizes("airflow"), 4) > sizes("postgres")["role_connections"]
