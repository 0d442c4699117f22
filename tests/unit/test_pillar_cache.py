"""What the Salt master keeps of a pillar, by the loader and the readers of Salt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import salt.cache
import salt.config
import yaml
from salt.pillar import PillarCache
from salt.utils.minions import CkMinions

from plainpillar import ROOT

SECRET = "in plaintext"
PILLAR = {"secrets": {"redis-tls": {"key": SECRET}}, "settings": {"deployment": "test"}}


@pytest.fixture
def master(tmp_path: Path) -> dict[str, Any]:
    """The options of a master, with the line of its configuration that names the driver."""
    lines = (ROOT / "salt/master/files/master.conf.j2").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("pillar.cache_driver: ")]
    roots = tmp_path / "pillar"
    roots.mkdir()
    (roots / "top.sls").write_text("base: {'*': [all]}")
    (roots / "all.sls").write_text(yaml.safe_dump(PILLAR))
    (tmp_path / "pki/minions").mkdir(parents=True)
    folders = {"pki_dir": "pki", "cachedir": "cache", "extension_modules": "extensions"}
    given = {name: str(tmp_path / folder) for name, folder in folders.items()} | {
        "module_dirs": [str(ROOT / "salt")],
        "pillar_roots": {"base": [str(roots)]},
        "file_roots": {"base": [str(roots)]},
    }
    opts: dict[str, Any] = salt.config.apply_master_config(given | yaml.safe_load(line))
    return opts


def kept(opts: dict[str, Any]) -> bytes:
    """Return all that the cache has on the disk."""
    files = [path for path in Path(opts["cachedir"]).rglob("*") if path.is_file()]
    assert files
    return b"".join(path.read_bytes() for path in files)


def compiled(opts: dict[str, Any]) -> Any:
    """Return the pillar that the master sends."""
    return PillarCache(opts, {"id": "redis-1"}, "redis-1", "base").compile_pillar()


def test_minion_gets_what_the_master_does_not_keep(master: dict[str, Any]) -> None:
    assert compiled(master) == PILLAR
    assert SECRET.encode() not in kept(master)


def test_without_the_driver_the_master_keeps_secrets(master: dict[str, Any]) -> None:
    compiled(master | {"pillar.cache_driver": None})
    assert SECRET.encode() in kept(master)


def test_minions_are_found_by_the_rest_of_their_pillar(master: dict[str, Any]) -> None:
    compiled(master)
    cache = salt.cache.factory(master)
    cache.store("grains", "redis-1", {"id": "redis-1"})
    (Path(master["pki_dir"]) / "minions/redis-1").write_text("a key")

    def found(expression: str) -> list[str]:
        answer = CkMinions(master).check_minions(expression, "pillar")
        return list(answer["minions"])

    assert found("settings:deployment:test") == ["redis-1"]
    assert found("settings:deployment:other") == []
    assert found(f"secrets:redis-tls:key:{SECRET}") == []


def test_what_is_kept_can_be_listed_and_removed(master: dict[str, Any]) -> None:
    compiled(master)
    cache = salt.cache.factory(master, driver=master["pillar.cache_driver"])
    assert cache.list("pillar") == ["redis-1"]
    assert cache.contains("pillar", "redis-1")
    assert cache.updated("pillar", "redis-1")
    assert cache.fetch("pillar", "redis-1") == {"settings": PILLAR["settings"]}
    assert cache.flush("pillar", "redis-1")
    assert cache.flush("pillar", "redis-1") is False
    assert not cache.contains("pillar", "redis-1")
