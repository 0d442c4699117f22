"""Releases in the bucket: taken when their hash is right; a bucket without use is no failure."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.config import Config
from salt.exceptions import CommandExecutionError

import awsenvironment
from localcloud.faults import Fault
from memorycloud import MemoryHost, Running, running
from saltmodules import load

NAME = "3.3.2-abc"
BUCKET = "stack-prod-123456789012-eu-west-1"
KEY = f"releases/{NAME}/{NAME}.tar.zst"
CONTENT = bytes(range(256)) * 12_000


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("cloud"), MemoryHost()) as made:
        made.client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        yield made


@pytest.fixture
def s3(cloud: Running) -> Any:
    """A client of the empty bucket's owner."""
    client = cloud.client("s3")
    for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=one["Key"])
    return client


@pytest.fixture
def store(cloud: Running, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    awsenvironment.use(monkeypatch, cloud)
    aws = {"region": "eu-west-1", "bucket": {"name": "stack-prod-{account}-eu-west-1"}}
    return load("_modules", "release_bucket", __salt__={"aws.settings": lambda: aws})


def archive(folder: Path, content: bytes = CONTENT, digest: str = "") -> Path:
    """Write an archive with its digest, and return its path."""
    path = folder / f"{NAME}.tar.zst"
    path.write_bytes(content)
    found = digest or hashlib.sha256(content).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{found}  {path.name}\n")
    return path


def test_new_master_gets_what_another_has_put(store: ModuleType, s3: Any, tmp_path: Path) -> None:
    assert not store.has(NAME)
    path = archive(tmp_path)
    line = path.with_name(f"{path.name}.sha256").read_bytes()
    assert store.put(NAME, str(tmp_path)) == f"s3://{BUCKET}/{KEY}"
    assert store.has(NAME)
    assert not store.has("3.3.2-ab"), "another release's name begins with the same letters"
    assert store.same(NAME, str(tmp_path))
    (tmp_path / "new").mkdir()
    store.get(NAME, str(tmp_path / "new"))
    assert (tmp_path / "new" / path.name).read_bytes() == CONTENT
    assert (tmp_path / "new" / f"{path.name}.sha256").read_bytes() == line
    modes = {one.name: one.stat().st_mode & 0o777 for one in (tmp_path / "new").iterdir()}
    assert modes == {path.name: 0o644, f"{path.name}.sha256": 0o644}


def test_archive_that_was_built_again_is_another(
    store: ModuleType, s3: Any, tmp_path: Path
) -> None:
    archive(tmp_path)
    assert not store.same(NAME, str(tmp_path))
    store.put(NAME, str(tmp_path))
    archive(tmp_path, CONTENT[1:])
    assert not store.same(NAME, str(tmp_path))
    store.put(NAME, str(tmp_path))
    assert store.same(NAME, str(tmp_path))


def test_archive_without_digest_is_not_there(store: ModuleType, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"half")
    assert not store.has(NAME)


@pytest.mark.parametrize(
    ("digest", "why"),
    [("0" * 64, f"its SHA-256 is .*, and not {'0' * 64}"), ("", "and not told")],
)
def test_broken_archive_is_refused_and_leaves_nothing(
    store: ModuleType, s3: Any, tmp_path: Path, digest: str, why: str
) -> None:
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=CONTENT)
    s3.put_object(Bucket=BUCKET, Key=f"{KEY}.sha256", Body=digest.encode())
    with pytest.raises(CommandExecutionError, match=why):
        store.get(NAME, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_archive_that_is_not_what_its_digest_says_is_not_kept(
    store: ModuleType, s3: Any, tmp_path: Path
) -> None:
    archive(tmp_path, digest="no digest")
    with pytest.raises(CommandExecutionError, match="hex"):
        store.put(NAME, str(tmp_path))
    assert not store.has(NAME)


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchBucket"])
def test_refusal_is_named(store: ModuleType, cloud: Running, tmp_path: Path, code: str) -> None:
    archive(tmp_path)
    with cloud.faults.inject(
        Fault("error", "*Object*", code=code, status=403 if code == "AccessDenied" else 404)
    ):
        for call in (store.has, store.get, store.put):
            with pytest.raises(CommandExecutionError, match=code):
                call(*((NAME,) if call is store.has else (NAME, str(tmp_path))))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{NAME}.tar.zst", f"{NAME}.tar.zst.sha256"}


def test_bucket_that_cannot_be_reached_costs_a_moment(
    store: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(CommandExecutionError, match="Could not connect"):
        store.has(NAME)
    assert time.monotonic() - began < 10
    patience: Config = store.PATIENCE
    attempts = patience.retries["total_max_attempts"]  # type: ignore[attr-defined]
    # Two calls, and what lies between the attempts: less than a build takes by far.
    assert 2 * attempts * (patience.connect_timeout + patience.read_timeout) <= 140  # type: ignore[attr-defined]


def test_slow_archive_is_given_up(
    store: ModuleType, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path)
    store.put(NAME, str(tmp_path))
    (tmp_path / "new").mkdir()
    monkeypatch.setattr(store, "GET_SECONDS", -1)
    with pytest.raises(CommandExecutionError, match="did not come within"):
        store.get(NAME, str(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []
