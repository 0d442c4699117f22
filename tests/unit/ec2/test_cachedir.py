"""Salt's cache of machines: the events that report differences, and files that are broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saltext.ec2 import _cachedir
from saltext.ec2._context import Context


@pytest.fixture
def context(opts: dict[str, Any], tmp_path: Path) -> Context:
    (tmp_path / "master_event_pull.ipc").touch()  # as if a master ran
    opts |= {"update_cachedir": True, "diff_cache_events": True}
    return Context(opts, {}, "cloud:ec2")


@pytest.fixture
def events(context: Context) -> list[tuple[str, dict[str, Any]]]:
    """Return the events from now on: tags without `salt/cloud/`, with their data."""
    fired: list[tuple[str, dict[str, Any]]] = []

    def fire(key: str, message: str, tag: str, args: dict[str, Any], **_: Any) -> None:
        fired.append((tag.removeprefix("salt/cloud/"), args))

    context.utils["cloud.fire_event"] = fire  # type: ignore[index]
    return fired


def test_differences_are_reported_without_stripped_fields(
    context: Context, opts: dict[str, Any], events: list[tuple[str, dict[str, Any]]]
) -> None:
    opts["cache_event_strip_fields"] = ["password"]
    _cachedir.put_all(context, {"web-1": {"size": 1, "password": "x"}, "web-2": {"size": 1}})
    _cachedir.put_all(context, {"web-1": {"size": 1, "password": "x"}, "web-2": {"size": 2}})
    _cachedir.put_all(context, {"web-2": {"size": 2}})
    assert events == [
        ("web-1/cache_node_new", {"name": "web-1", "new_data": {"size": 1}}),
        ("web-2/cache_node_new", {"name": "web-2", "new_data": {"size": 1}}),
        (
            "web-2/cache_node_diff",
            {"name": "web-2", "new_data": {"size": 2}, "cache_data": {"size": 1}},
        ),
        ("web-1/cache_node_missing", {"name": "web-1", "missing node": "web-1"}),
    ]


def test_machine_of_another_provider_is_removed(context: Context, tmp_path: Path) -> None:
    other = Context(context.opts, context.utils, "other:ec2")
    _cachedir.index(other, {"name": "web-1", "profile": "p1"})
    _cachedir.put(other, {"name": "web-1"})
    _cachedir.remove(context, "web-1")
    assert not list(tmp_path.rglob("web-1.p"))


def test_broken_index_is_replaced(context: Context, tmp_path: Path) -> None:
    (tmp_path / "index.p").write_bytes(b"\xc1")
    _cachedir.index(context, {"name": "web-1", "profile": "p1"})
    assert b"web-1" in (tmp_path / "index.p").read_bytes()


def test_unwritable_cache_is_only_logged(context: Context, tmp_path: Path) -> None:
    (tmp_path / "index.p").mkdir()
    (tmp_path / "active").touch()
    _cachedir.index(context, {"name": "web-1", "profile": "p1"})
    _cachedir.put(context, {"name": "web-1"})
    _cachedir.remove(context, "web-1")
