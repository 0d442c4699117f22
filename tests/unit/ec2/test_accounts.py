"""Providers of one account and region: which of them are queried, and what each lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from saltext.ec2 import _accounts, _client
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import Ec2Error, QueryFailed

Machine = Callable[..., dict[str, Any]]


@pytest.fixture
def two(opts: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the providers `cloud` and `two`, by alias; profiles name each."""
    opts["providers"]["two"] = {"ec2": dict(opts["providers"]["cloud"]["ec2"])}
    web = {"image": "ssm:/images/web", "size": "t3.micro", "deploy": False}
    opts["profiles"] = {
        name: {**web, "provider": provider, "profile": name}
        for name, provider in {"p1": "cloud:ec2", "p2": "two:ec2"}.items()
    }
    return {alias: drivers["ec2"] for alias, drivers in opts["providers"].items()}


def listed(opts: dict[str, Any], alias: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the machines that a worker lists for a provider."""
    monkeypatch.setattr(driver, "__active_provider_name__", f"{alias}:ec2")
    pid = os.getpid()
    with monkeypatch.context() as worker:
        worker.setattr(os, "getpid", lambda: pid + 1)
        return set(driver.list_nodes())


def test_first_provider_of_account_is_queried(ec2: Any, two: dict[str, Any]) -> None:
    assert list(driver.optimize_providers(two)) == ["cloud"]


def test_provider_of_profile_is_queried(
    ec2: Any, opts: dict[str, Any], two: dict[str, Any]
) -> None:
    opts |= {"profile": "p2", "destroy": True}
    assert list(driver.optimize_providers(two)) == ["two"]


def test_provider_of_another_region_is_queried(ec2: Any, two: dict[str, Any]) -> None:
    two["two"] |= {"location": "eu-west-2", "allowed_regions": ["eu-west-2"]}
    assert list(driver.optimize_providers(two)) == ["cloud", "two"]


def test_clients_of_one_role_share_their_account(ec2: Any, opts: dict[str, Any]) -> None:
    options = {**opts["providers"]["cloud"]["ec2"], "role_arn": "arn:aws:iam::123456789012:role/s"}
    first, second = (
        _client.connect({**options, "max_attempts": attempts}, opts["cachedir"])
        for attempts in (2, 3)
    )
    assert first is not second
    assert first.account == second.account


def test_map_divides_machines_among_its_providers(
    opts: dict[str, Any],
    two: dict[str, Any],
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a1", "b1", "other"):
        driver.create(machine(name))
    opts["map_data"] = {"p1": ["a1"], "p2": ["b1", "b2"]}
    assert list(driver.optimize_providers(two)) == ["cloud", "two"]
    assert listed(opts, "cloud", monkeypatch) == {"a1", "other"}
    assert listed(opts, "two", monkeypatch) == {"b1"}


def test_worker_uses_inherited_machines_for_short_time(
    opts: dict[str, Any], two: dict[str, Any], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.optimize_providers(two)
    driver.create(machine("a1"))
    assert set(driver.list_nodes()) == {"a1"}, "the process that listed them asks again"
    assert listed(opts, "cloud", monkeypatch) == set()
    monkeypatch.setattr(_accounts, "SECONDS", -1)
    assert listed(opts, "cloud", monkeypatch) == {"a1"}


@pytest.mark.parametrize(("names", "error"), [(["a1"], QueryFailed), (None, Ec2Error)])
def test_provider_without_answer_is_named(
    ec2: Any,
    opts: dict[str, Any],
    two: dict[str, Any],
    names: list[str] | None,
    error: type[BaseException],
) -> None:
    opts |= {"destroy": True, "names": names}
    two["two"] |= {"id": "other", "key": ""}
    with pytest.raises(error, match=r"machines of two:ec2 cannot be listed: id and key belong"):
        driver.optimize_providers(two)
