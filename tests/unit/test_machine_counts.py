"""The number of machines of each role: the settings', and within their bounds the present one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saltmodules import load

BOUNDS = {"minimum": 2, "maximum": 4}


def counts(machines: Any, path: Path) -> dict[str, int]:
    settings = {} if machines is None else {"machines": machines}
    module = load("_modules", "machine_counts", __pillar__={"settings": settings})
    found: dict[str, int] = module.wanted(str(path))
    return found


@pytest.mark.parametrize(
    ("machines", "present", "wanted"),
    [
        (None, None, {}),
        ({}, 3, {}),
        ({"web": 3}, None, {"web": 3}),
        ({"web": 3}, 4, {"web": 3}),
        ({"web": BOUNDS}, None, {"web": 2}),
        ({"web": BOUNDS}, 3, {"web": 3}),
        ({"web": BOUNDS}, 9, {"web": 4}),
        ({"web": BOUNDS}, 1, {"web": 2}),
    ],
)
def test_number_is_the_settings_or_within_them(
    tmp_path: Path, machines: Any, present: int | None, wanted: dict[str, int]
) -> None:
    path = tmp_path / "machines.conf"
    if present:
        path.write_text(json.dumps({"machine_counts": {"web": present}}))
    assert counts(machines, path) == wanted


@pytest.mark.parametrize(
    ("machines", "role"), [({}, ""), ({"web": 3}, ""), ({"web": BOUNDS}, "web")]
)
def test_master_chooses_only_between_bounds(machines: dict[str, Any], role: str) -> None:
    module = load("_modules", "machine_counts", __pillar__={"settings": {"machines": machines}})
    assert module.growing()["role"] == role


def test_last_change_is_told(tmp_path: Path) -> None:
    module = load("_modules", "machine_counts", __pillar__={})
    config, state = tmp_path / "config.json", tmp_path / "state.json"
    assert module.told(str(config)) == ""
    config.write_text(json.dumps({"role": "", **BOUNDS, "state": str(state)}))
    assert module.told(str(config)) == ""
    config.write_text(json.dumps({"role": "web", **BOUNDS, "state": str(state)}))
    assert module.told(str(config)) == "web grows from 2 to 4: no change yet"
    state.write_text(json.dumps({"last": "web 2 -> 3 at noon"}))
    assert module.told(str(config)) == "web grows from 2 to 4: web 2 -> 3 at noon"
