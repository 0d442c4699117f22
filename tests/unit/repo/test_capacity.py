"""The sizes of the services fit together, for every map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from plainpillar import DEPLOYMENT

ROOT = Path(__file__).parents[3]


def sizes(component: str) -> dict[str, Any]:
    """Return the sizes of a component as its states take them without a pillar that says otherwise."""
    values: dict[str, Any] = yaml.safe_load(
        (ROOT / "salt" / component / "defaults.yaml").read_text()
    )[component]
    return values | DEPLOYMENT.base_pillar(component)


def connections(airflow: dict[str, Any], machines: int) -> int:
    """Return how many connections the web machines open at most: a worker has two pools."""
    return (
        machines
        * int(airflow["workers"])
        * 2
        * (int(airflow["pool_size"]) + int(airflow["max_overflow"]))
    )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "cloud.maps.d").glob("*.map")), ids=lambda path: path.stem
)
def test_the_database_has_a_connection_for_every_web_worker(path: Path) -> None:
    machines = len(yaml.safe_load(path.read_text())["web"])
    assert machines > 0
    assert connections(sizes("airflow"), machines) <= sizes("postgres")["role_connections"]


def test_the_database_has_room_for_a_third_web_machine() -> None:
    assert connections(sizes("airflow"), 3) <= sizes("postgres")["role_connections"]


def test_people_who_repair_have_connections_left() -> None:
    postgres = sizes("postgres")
    assert postgres["max_connections"] - postgres["role_connections"] >= 10


def test_the_guard_trips() -> None:
    assert connections(sizes("airflow"), 4) > sizes("postgres")["role_connections"]
