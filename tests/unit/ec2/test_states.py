"""The driver's state module `cloud`, which calls Salt's own."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import salt.states.cloud
from salt.exceptions import SaltCloudSystemExit

from saltext.ec2.states import cloud


class Machines:
    """Salt's execution functions for one machine, `web-1`.

    Attributes:
        deployed: the machine's deploy tag; empty: there is no such machine.
        calls: the functions that were called to change something.
        lost: whether the machine's key is accepted although it is gone.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deployed: str, *, lost: bool = False):
        self.deployed, self.lost = deployed, lost
        self.calls: list[str] = []
        functions = {
            "cmd.retcode": lambda *_, **__: 0,
            "cloud.has_instance": lambda **_: bool(self.deployed),
            "cloud.action": self.action,
            "cloud.profile": lambda *_, **__: self.change("profile"),
            "cloud.create": lambda *_, **__: self.change("create"),
            "cloud.destroy": self.destroy,
        }
        monkeypatch.setattr(cloud, "__salt__", functions, raising=False)
        monkeypatch.setattr(cloud, "__opts__", {"test": False}, raising=False)

    def action(self, **_: Any) -> dict[str, Any]:
        if not self.deployed:
            return {"Not Actioned/Not Running": ["web-1"], "Not Found": ["web-1"]}
        return {"one": {"ec2": {"web-1": {"tags": {"salt-cloud:deploy": self.deployed}}}}}

    def change(self, call: str) -> dict[str, Any]:
        self.calls.append(call)
        return {"web-1": {"id": "i-1"}}

    def destroy(self, name: str) -> dict[str, Any]:
        if not self.deployed and not self.lost:
            raise SaltCloudSystemExit(f"The following VM's were not found: {name}")
        return self.change("destroy")


def apply_profile() -> dict[str, Any]:
    return cloud.profile("web-1", "small")


def apply_present() -> dict[str, Any]:
    return cloud.present("web-1", "one", image="ami-1")


@pytest.mark.parametrize(("state", "call"), [(apply_profile, "profile"), (apply_present, "create")])
@pytest.mark.parametrize(("deployed", "changed"), [("done", False), ("pending", True), ("", True)])
def test_machine_is_created_unless_it_is_deployed(
    monkeypatch: pytest.MonkeyPatch, state: Any, call: str, deployed: str, changed: bool
) -> None:
    machines = Machines(monkeypatch, deployed)
    result = state()
    assert result["result"] is True, result
    assert machines.calls == [call] * changed
    assert bool(result["changes"]) is changed


def test_test_mode_says_that_failed_machine_needs_to_be_created(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machines = Machines(monkeypatch, "pending")
    cloud.__opts__["test"] = True
    result = apply_profile()
    assert (result["result"], machines.calls) == (None, [])
    assert "needs to be created" in result["comment"]


def test_failure_is_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(monkeypatch, "")

    def fail(*_: Any, **__: Any) -> None:
        raise SaltCloudSystemExit("unknown option rubbish")

    cloud.__salt__["cloud.profile"] = fail
    result = apply_profile()
    assert (result["result"], result["comment"]) == (False, "unknown option rubbish")
    assert machines.calls == []


@pytest.mark.parametrize(("lost", "calls"), [(True, ["destroy"]), (False, [])])
def test_absent_removes_key_of_lost_machine(
    monkeypatch: pytest.MonkeyPatch, lost: bool, calls: list[str]
) -> None:
    machines = Machines(monkeypatch, "", lost=lost)
    result = cloud.absent("web-1")
    assert (result["result"], machines.calls) == (True, calls)
    assert bool(result["changes"]) is lost


def test_module_has_all_states_of_salt() -> None:
    def states(module: Any) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(function).parameters)
            for name, function in vars(module).items()
            if inspect.isfunction(function)
            and function.__module__ == module.__name__
            and not name.startswith("_")
        }

    assert states(cloud) == states(salt.states.cloud)
