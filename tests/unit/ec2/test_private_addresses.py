"""A machine waits for the private address that its predecessor still has."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from saltext.ec2 import _private_addresses
from saltext.ec2._request import Launch
from saltext.ec2.errors import ApiError, ConfigurationError, LaunchError
from waiting import without_waiting

ADDRESS = "10.20.1.250"
REQUEST: dict[str, Any] = {
    "NetworkInterfaces": [{"SubnetId": "subnet-1", "PrivateIpAddress": ADDRESS}]
}
LAUNCHED: Any = {"InstanceId": "i-2"}


class Account:
    """Refuses launches while an instance has the address."""

    def __init__(self, *states: str | None, code: str = _private_addresses.IN_USE) -> None:
        self.states = list(states)
        self.code = code
        self.asked: list[dict[str, Any]] = []
        self.launches = 0

    def run(self) -> Any:
        self.launches += 1
        if not self.states:
            return LAUNCHED
        raise ApiError(f"launching salt-1 failed: {self.code}", self.code)

    def get_paginator(self, _: str) -> Account:
        return self

    def paginate(self, Filters: list[dict[str, Any]]) -> list[Any]:  # noqa: N803
        self.asked.append({one["Name"]: one["Values"] for one in Filters})
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state == "gone":
            self.states.clear()
        tags = [{"Key": "Name", "Value": "salt-1"}]
        if state in (None, "gone"):
            return []
        found = {"InstanceId": "i-1", "State": {"Name": state}, "Tags": tags}
        return [{"Reservations": [{"Instances": [found]}]}]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of the driver, for which nobody waits."""
    return without_waiting(monkeypatch, _private_addresses)


Try = Callable[..., Any]


@pytest.fixture
def launch(clock: list[float]) -> Try:
    def try_it(account: Account, request: dict[str, Any] = REQUEST) -> Any:
        connection: Any = SimpleNamespace(ec2=account)
        options = {"wait_for_ip_timeout": 600, "wait_for_ip_interval": 1}
        wanted = Launch(connection, options, "salt-1")
        return _private_addresses.when_free(wanted, request, account.run)

    return try_it


def test_free_address_is_not_asked_about(launch: Try, clock: list[float]) -> None:
    account = Account()
    assert launch(account) == LAUNCHED
    assert (account.launches, account.asked, clock) == (1, [], [])


def test_address_of_a_machine_that_ends_is_awaited(launch: Try, clock: list[float]) -> None:
    account = Account("shutting-down", "shutting-down", "terminated", None, "gone")
    assert launch(account) == LAUNCHED
    assert account.launches == 6
    assert account.asked[0] == {"private-ip-address": [ADDRESS], "subnet-id": ["subnet-1"]}
    assert clock == [1, 2, 4, 8, 15]


def test_machine_that_ends_for_ever_is_named(launch: Try, clock: list[float]) -> None:
    with pytest.raises(
        LaunchError, match=rf"^salt-1: the private address {ADDRESS} is still held by i-1 after 600"
    ):
        launch(Account("shutting-down"))
    assert 600 < sum(clock) < 600 + 2 * _private_addresses.LONGEST_PAUSE


def test_interface_without_instance_is_awaited_for_less(launch: Try, clock: list[float]) -> None:
    with pytest.raises(LaunchError, match="a network interface that belongs to no instance"):
        launch(Account(None))
    assert 60 < sum(clock) < 60 + 2 * _private_addresses.LONGEST_PAUSE


@pytest.mark.parametrize("state", ["pending", "running", "stopping", "stopped"])
def test_address_is_not_taken_from_a_living_machine(
    launch: Try, clock: list[float], state: str
) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"belongs to i-1 \(salt-1, {state}\), and is not taken from it"
    ):
        launch(Account(state))
    assert clock == []


@pytest.mark.parametrize(
    ("code", "request_"),
    [("InsufficientInstanceCapacity", REQUEST), (_private_addresses.IN_USE, {"SubnetId": "s"})],
)
def test_other_refusal_is_raised_at_once(
    launch: Try, clock: list[float], code: str, request_: dict[str, Any]
) -> None:
    with pytest.raises(ApiError):
        launch(Account("shutting-down", code=code), request_)
    assert clock == []


@pytest.mark.parametrize(
    ("request_", "addresses"),
    [
        ({"PrivateIpAddress": "a"}, ["a"]),
        ({"NetworkInterfaces": [{"PrivateIpAddress": "a"}, {}]}, ["a"]),
        (
            {"NetworkInterfaces": [{"PrivateIpAddresses": [{"PrivateIpAddress": "b"}]}]},
            ["b"],
        ),
        ({"SubnetId": "s"}, []),
    ],
)
def test_addresses_of_a_request(request_: dict[str, Any], addresses: list[str]) -> None:
    assert cast(Any, _private_addresses)._named(request_, "PrivateIpAddress") == addresses
