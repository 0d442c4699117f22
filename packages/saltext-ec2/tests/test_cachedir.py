"""The folder in which salt-cloud keeps what it knows of its machines (`update_cachedir`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest

from sandbox import Sandbox


def index(sandbox: Sandbox) -> dict[str, Any]:
    """Return the index, which salt-ssh's cloud roster reads: it is kept whatever the options."""
    path = sandbox.folder / "cache/index.p"
    return dict(msgpack.unpackb(path.read_bytes())) if path.exists() else {}


def cached(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """Return what the cache holds of the machines of provider `one`."""
    folder: Path = sandbox.folder / "cache/active/ec2/one"
    paths = folder.glob("*.p") if folder.exists() else ()
    return {path.stem: msgpack.unpackb(path.read_bytes()) for path in paths}


@pytest.fixture
def caching(sandbox: Sandbox) -> Sandbox:
    sandbox.main |= {"update_cachedir": True, "query.selection": ["id", "state"]}
    return sandbox


def test_create_adds_machine_to_index(sandbox: Sandbox) -> None:
    sandbox.launch("n1")
    entry = {"id": "n1", "profile": "p1", "driver": "ec2", "provider": "one"}
    assert index(sandbox) == {"n1": entry}
    assert cached(sandbox) == {}  # without update_cachedir


def test_create_caches_machine(caching: Sandbox) -> None:
    caching.launch("n1", "n2")
    found = cached(caching)
    assert set(found) == {"n1", "n2"}
    assert found["n1"]["id"] == caching.instances()["n1"]["InstanceId"]
    assert found["n1"]["name"] == "n1"


@pytest.mark.parametrize("query", ["--full-query", "--select-query"])
def test_query_updates_cache(caching: Sandbox, query: str) -> None:
    caching.launch("n1", "n2")
    caching.ec2.terminate_instances(InstanceIds=[caching.instances()["n2"]["InstanceId"]])
    done = caching.salt_cloud(query)
    assert not done.code, done
    assert set(done.answer["one"]["ec2"]) == set(cached(caching)) == {"n1"}


def test_destroy_removes_machine_key_and_cache_entry(caching: Sandbox) -> None:
    caching.launch("n1", "n2")
    done = caching.salt_cloud("--destroy", "n1")
    assert not done.code, done
    assert set(caching.instances()) == caching.accepted_keys() == {"n2"}
    assert set(index(caching)) == set(cached(caching)) == {"n2"}


def test_parallel_destroy_removes_machines_keys_and_cache_entries(caching: Sandbox) -> None:
    caching.launch("n1", "n2")
    done = caching.salt_cloud("--parallel", "--destroy", "n1", "n2")
    assert not done.code, done
    assert "Error" not in done.output, done
    assert caching.instances() == cached(caching) == index(caching) == {}
    assert caching.accepted_keys() == set()


def test_show_instance_caches_machine(caching: Sandbox) -> None:
    caching.launch("n1")
    for path in (caching.folder / "cache").rglob("n1.p"):
        path.unlink()
    done = caching.salt_cloud("--action=show_instance", "n1")
    assert not done.code, done
    assert set(cached(caching)) == {"n1"}


def test_query_compares_cache_without_error(caching: Sandbox) -> None:
    caching.main["diff_cache_events"] = True
    caching.launch("n1")
    for _ in range(2):
        done = caching.salt_cloud("--full-query")
        assert not done.code, done
        assert "corrupt" not in done.output, done
    assert set(cached(caching)) == {"n1"}
