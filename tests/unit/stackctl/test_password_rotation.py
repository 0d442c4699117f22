"""Rotations during which two values of a secret are taken: what the files hold at each step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from stackctl import catalogue, password_rotation, secret_check
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.initialise import initialise
from stackctl.password_rotation import OVERLAPPING, STAGED, TURNS, current, go_on
from stackctl.secret_store import SecretStore

pytestmark = pytest.mark.skipif(
    shutil.which("gpg") is None, reason="gpg is not installed: it makes the ciphertext"
)

ROOT = Path(__file__).parents[3]
URL = "https://127.0.0.1:8443"
ROLES = {
    "postgres-airflow": ["airflow", "airflow_b"],
    "postgres-replication": ["replicator", "replicator_b"],
}


@pytest.fixture
def mine(tmp_path: Path) -> Deployment:
    """A deployment with all secrets."""
    for folder in ("pillar/base", "cloud.maps.d"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    deployment = Deployment("local", tmp_path)
    initialise(deployment, URL)
    return deployment


def read(mine: Deployment, secret: str) -> dict[str, str]:
    return SecretStore(mine).read(secret)


def rotate(mine: Deployment, *secrets: str, at_once: bool = False) -> list[str]:
    return initialise(mine, URL, frozenset(secrets), at_once=at_once)


def assert_whole(mine: Deployment) -> None:
    assert [str(finding) for finding in secret_check.check(mine)] == []


def of(fields: Mapping[str, str], secret: str, prefix: str = "") -> dict[str, str]:
    """Return the value of a secret, of which there are two during a rotation."""
    names = [name for name in OVERLAPPING[secret] if f"{prefix}{name}" in fields]
    return {name: fields[f"{prefix}{name}"] for name in names}


@pytest.mark.parametrize("secret", sorted(OVERLAPPING.keys() - {*STAGED}))
def test_old_value_is_taken_until_the_rotation_goes_on(mine: Deployment, secret: str) -> None:
    before = read(mine, secret)
    assert current(mine) is None
    assert rotate(mine, secret) == [secret]
    during = read(mine, secret)
    old, new = of(during, secret, "previous_"), of(during, secret)
    assert old == {**({"user": ROLES[secret][0]} if secret in TURNS else {}), **of(before, secret)}
    assert not {*old.values()} & {*new.values()}
    assert str(current(mine)).startswith(f"two values are taken of {secret}: after stackctl up")
    assert_whole(mine)
    assert go_on(mine) == [f"{secret}: the old value is taken no more."]
    after = read(mine, secret)
    assert of(after, secret) == new
    assert not any(name.startswith("previous_") for name in after)
    assert current(mine) is None
    assert_whole(mine)


@pytest.mark.parametrize("secret", STAGED)
def test_new_value_of_machines_of_one_kind_is_taken_before_it_is_used(
    mine: Deployment, secret: str
) -> None:
    before = read(mine, secret)
    rotate(mine, secret)
    first = read(mine, secret)
    assert before.items() <= first.items()
    new = of(first, secret, "next_")
    assert_whole(mine)
    assert go_on(mine) == [f"{secret}: the new value is used; the old one is still taken."]
    second = read(mine, secret)
    assert of(second, secret) == new
    assert before.items() <= of(second, secret, "previous_").items()
    assert_whole(mine)
    assert go_on(mine) == [f"{secret}: the old value is taken no more."]
    assert read(mine, secret) == new
    assert current(mine) is None


@pytest.mark.parametrize("secret", sorted(TURNS))
def test_roles_take_turns(mine: Deployment, secret: str) -> None:
    users = []
    for _ in range(3):
        rotate(mine, secret)
        while current(mine):
            go_on(mine)
        users.append(read(mine, secret)["user"])
    assert users == [ROLES[secret][turn] for turn in (1, 0, 1)]


def test_other_keys_of_airflow_are_new_at_once(mine: Deployment) -> None:
    before = read(mine, "airflow-keys")
    rotate(mine, "airflow-keys")
    during = read(mine, "airflow-keys")
    assert {*during} == {*before, "previous_fernet_key"}
    assert all(during[name] != before[name] for name in before)


@pytest.mark.parametrize("secret", sorted(OVERLAPPING))
def test_rotation_that_is_on_is_not_begun_again(mine: Deployment, secret: str) -> None:
    """A third value would end the first one, which machines may still have."""
    rotate(mine, secret)
    if secret in STAGED:
        go_on(mine)
    before = read(mine, secret)
    with pytest.raises(SecretsError, match=f"The last rotation of {secret} is not finished"):
        rotate(mine, "redis-tls", secret)
    assert read(mine, secret) == before


def test_staged_value_is_not_used_by_beginning_again(mine: Deployment) -> None:
    """Only `go_on` asks first whether every machine takes it."""
    rotate(mine, "redis-sentinel")
    before = read(mine, "redis-sentinel")
    with pytest.raises(SecretsError, match="The last rotation of redis-sentinel is not finished"):
        rotate(mine, "redis-sentinel")
    assert read(mine, "redis-sentinel") == before


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("secret", sorted(OVERLAPPING.keys() - {"airflow-keys"}))
def test_value_that_others_know_goes_at_once(mine: Deployment, secret: str, begun: bool) -> None:
    known = read(mine, secret)["password"]
    if begun:
        rotate(mine, secret)
    rotate(mine, secret, at_once=True)
    after = read(mine, secret)
    assert known not in after.values()
    assert current(mine) is None
    assert_whole(mine)


def test_what_is_encrypted_can_be_read_also_when_keys_go_at_once(mine: Deployment) -> None:
    before = read(mine, "airflow-keys")["fernet_key"]
    rotate(mine, "airflow-keys", at_once=True)
    assert read(mine, "airflow-keys")["previous_fernet_key"] == before


def test_going_on_with_some(mine: Deployment) -> None:
    rotate(mine, "redis-airflow", "redis-check")
    assert go_on(mine, ["redis-check"]) == ["redis-check: the old value is taken no more."]
    rotation = current(mine)
    assert rotation is not None
    assert rotation.secrets == ["redis-airflow"]
    with pytest.raises(SecretsError, match="No rotation of redis-check is on"):
        go_on(mine, ["redis-airflow", "redis-check"])
    assert current(mine) == rotation


def test_nothing_to_go_on_with(mine: Deployment) -> None:
    assert go_on(mine) == []


def test_every_password_by_which_the_site_is_served_is_rotated_so(mine: Deployment) -> None:
    """The others are of the migration, of what is in the bucket, of a person, and of Prometheus.

    While that one changes, machines are not asked for some minutes.
    """
    known = {name for name, fields in catalogue.fields(mine).items() if "password" in fields}
    others = {"postgres-owner", "postgres-backup", "airflow-admin", "metrics-scrape"}
    assert known - others == OVERLAPPING.keys() - {password_rotation.AIRFLOW_KEYS}
