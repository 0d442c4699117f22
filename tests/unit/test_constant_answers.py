"""What nginx answers in place of the web app holds for a site at the root of its name only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plainpillar import PlainPillar
from rendering import Compiler

CONFIGS = {"web-1": ("nginx", "/page.html"), "lb-1": ("haproxy", "is_constant")}


def config(folder: Path, minion_id: str, **settings: Any) -> str:
    """Return the configuration of nginx or HAProxy."""
    for name in ("pillar", "minion"):
        (folder / name).mkdir()
    pillar = PlainPillar(folder / "pillar", **settings)
    minion = Compiler(minion_id, folder / "minion", pillar)
    name, _ = CONFIGS[minion_id]
    (chunk,) = (chunk for chunk in minion.highstate().chunks if chunk["__id__"] == f"{name}-config")
    return str(minion.render(chunk)["data"])


@pytest.mark.parametrize(("minion_id", "text"), [(key, text) for key, (_, text) in CONFIGS.items()])
def test_web_app_answers_below_a_path(tmp_path: Path, minion_id: str, text: str) -> None:
    """Its page names the path, and its routes begin with it."""
    for number, (url, found) in enumerate(
        {
            "https://example.org": True,
            "https://example.org/": True,
            "https://example.org:8443": True,
            "https://example.org/airflow": False,
            "https://example.org/airflow/": False,
        }.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert (text in config(folder, minion_id, base_url=url)) is found, url
