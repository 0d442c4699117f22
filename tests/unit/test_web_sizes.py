"""The pools of a web machine, and what is refused because it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from plainpillar import DEPLOYMENT, PlainPillar
from rendering import Compiler
from saltmodules import load

web_sizes = load("_modules", "web_sizes")
SIZES = {
    "workers": 1,
    "requests_per_worker": 3,
    "worker_megabytes": 200,
    "new_worker_megabytes": 60,
    "shared_megabytes": 260,
    "memory_high_megabytes": 520,
    "rows_per_page": 25,
}


def checked(machines: int = 4, allowed: int = 72, **sizes: Any) -> dict[str, int]:
    pools: dict[str, int] = web_sizes.checked(SIZES | sizes, machines, allowed)
    return pools


def test_pools_serve_every_request_that_a_worker_lets_in() -> None:
    assert checked() == {"synchronous": 8, "asynchronous": 1}
    assert checked(requests_per_worker=1) == {"synchronous": 4, "asynchronous": 1}


def test_connections_are_those_of_both_pools_of_every_worker_and_of_a_new_one() -> None:
    assert web_sizes.connections(SIZES) == 18
    assert web_sizes.connections(SIZES | {"workers": 2}) == 27


@pytest.mark.parametrize("name", ["workers", "requests_per_worker", "rows_per_page"])
@pytest.mark.parametrize("value", [0, -1, "two", None, True, 1.5])
def test_number_that_is_none_is_refused(name: str, value: object) -> None:
    with pytest.raises(CommandExecutionError, match=f"airflow:{name} is .*a number from 1 on"):
        web_sizes.checked(SIZES | {name: value}, 4, 72)


def test_missing_number_is_refused() -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "workers"}
    with pytest.raises(CommandExecutionError, match="airflow:workers is None"):
        web_sizes.checked(sizes, 1, 72)


def test_machine_beyond_the_budget_of_connections_is_refused() -> None:
    with pytest.raises(
        CommandExecutionError,
        match=r"5 web machines with 2 workers of 3 .* up to 90 connections, .* allows 72",
    ):
        checked(machines=5)


def test_workers_beyond_the_memory_are_refused() -> None:
    with pytest.raises(CommandExecutionError, match=r"hold up to 720 MiB, .*megabytes is 520"):
        checked(workers=2, allowed=1000)
    with pytest.raises(CommandExecutionError, match=r"a new one, hold up to 521 MiB"):
        checked(worker_megabytes=201)


def test_page_with_more_rows_than_an_answer_is_refused() -> None:
    assert checked(rows_per_page=100)
    with pytest.raises(CommandExecutionError, match="rows_per_page is 101; Airflow answers"):
        checked(rows_per_page=101)


@pytest.mark.parametrize(
    ("decided", "reason"),
    [
        ({"workers": "many"}, "airflow:workers is 'many'"),
        ({"rows_per_page": "many"}, "airflow:rows_per_page is 'many'"),
        ({"workers": 9}, "10 workers of 3 requests, one"),
        ({"requests_per_worker": 20}, "2 workers of 20 requests, one"),
        ({"worker_megabytes": 400}, "hold up to 720 MiB"),
    ],
)
def test_sizes_that_do_not_fit_stop_the_run_before_it_changes_anything(
    tmp_path: Path, decided: dict[str, Any], reason: str
) -> None:
    for folder in ("pillar", "minion"):
        (tmp_path / folder).mkdir()
    pillar = PlainPillar(tmp_path / "pillar")
    (tmp_path / "pillar/airflow.sls").write_text(
        yaml.safe_dump({"airflow": DEPLOYMENT.base_pillar("airflow") | decided})
    )
    compiled = Compiler("web-1", tmp_path / "minion", pillar).states("airflow")
    assert reason in "".join(compiled.errors)
    assert compiled.chunks == []
