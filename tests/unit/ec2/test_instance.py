"""Names that had a machine before; the local cloud knows ClientTokens, which moto does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from localcloud import catalog, cloud
from localcloud.faults import Fault
from memorycloud import MemoryHost, Running, running
from saltext.ec2 import _instance
from saltext.ec2 import options as _options
from saltext.ec2._request import Launch
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import LaunchError

MISMATCH = Fault("error", "RunInstances", code="IdempotentParameterMismatch", status=400)


@pytest.fixture
def local(tmp_path: Path, opts: dict[str, Any]) -> Iterator[Running]:
    """Return a local cloud with a network, and make it the provider's endpoint."""
    with running(tmp_path / "cloud", MemoryHost()) as made:
        keys = made.credentials
        provider = {
            "endpoint_url": made.url,
            "id": keys.access_key_id,
            "key": keys.secret_access_key,
        }
        opts["providers"]["cloud"]["ec2"] |= provider
        vpc = made.ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
        name = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "a"}]}]
        made.ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/24", TagSpecifications=name)
        yield made


@pytest.fixture
def web(local: Running, opts: dict[str, Any]) -> dict[str, Any]:
    """Return what the core hands to `create` for web-1."""
    profile = {
        "provider": "cloud:ec2",
        "image": catalog.IMAGE_ID,
        "size": "t2.micro",
        "subnetname": "a",
    }
    opts["profiles"]["small"] = profile
    return {**opts["providers"]["cloud"]["ec2"], **profile, "profile": "small", "name": "web-1"}


@pytest.fixture(params=["tags", "no-tags"])
def answers(request: pytest.FixtureRequest, web: dict[str, Any], opts: dict[str, Any]) -> None:
    """Have RunInstances return the tags of existing instances, or not: EC2 may do either."""

    def forget(parsed: dict[str, Any], **_: Any) -> None:
        for instance in parsed.get("Instances", []):
            if instance["State"]["Name"] != "pending":
                del instance["Tags"]

    events: Any = driver._context().connect(_options.resolve(web, opts)).ec2.meta.events
    if request.param == "no-tags":
        events.register("after-call.ec2.RunInstances", forget)


def wanted(opts: dict[str, Any], web: dict[str, Any], name: str) -> Launch:
    """Return a launch of this name with the options of web-1, and without a minion."""
    resolved = _options.resolve(web, opts)
    return Launch(driver._context().connect(resolved), resolved, name, deploy=False)


def hide_by_name(local: Running, opts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    opts["rename_on_destroy"] = True


def hide_by_age(local: Running, opts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "REMEMBER", timedelta(0))


@pytest.mark.parametrize("hide", [hide_by_name, hide_by_age])
def test_machine_is_replaced_though_ec2_hides_its_predecessors(
    local: Running,
    opts: dict[str, Any],
    web: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    hide: Callable[..., None],
) -> None:
    hide(local, opts, monkeypatch)
    made = set()
    for _ in range(3):
        made.add(driver.create(dict(web))["id"])
        driver.destroy("web-1")
        local.settle()
        local.cloud.reconcile()
    assert len(made) == 3


def test_machine_is_replaced_while_its_predecessor_shuts_down(
    local: Running, opts: dict[str, Any], web: dict[str, Any]
) -> None:
    opts["rename_on_destroy"] = True
    first = driver.create(dict(web))
    local.host.gate.clear()
    driver.destroy("web-1")
    launched = _instance.launch(wanted(opts, web, "web-1"), [])
    assert local.state(first["id"]) == "shutting-down"
    assert launched.id != first["id"]


@pytest.mark.usefixtures("answers")
def test_launch_of_old_name_leaves_renamed_machine_alone(
    local: Running, web: dict[str, Any]
) -> None:
    kept = driver.create(dict(web))
    driver.rename("web-1", {"newname": "web-3"}, call="action")
    made = driver.create(dict(web))
    assert {name: node["id"] for name, node in driver.list_nodes().items()} == {
        "web-3": kept["id"],
        "web-1": made["id"],
    }


@pytest.mark.usefixtures("answers")
def test_launch_finds_instance_whose_answer_was_lost(
    local: Running, opts: dict[str, Any], web: dict[str, Any]
) -> None:
    ids = set()
    for _ in range(2):  # the answer of the first launch is lost
        launched = _instance.launch(wanted(opts, web, "web-1"), [])
        local.settle()
        ids.add(launched.id)
    assert len(ids) == 1


def test_launch_skips_token_of_another_request(
    local: Running, opts: dict[str, Any], web: dict[str, Any]
) -> None:
    """A launch template may have changed since the token was used."""
    with local.faults.inject(replace(MISMATCH, times=2)):
        assert driver.create(dict(web))["state"] == "running"
    with local.faults.inject(MISMATCH) as client:
        with pytest.raises(LaunchError, match=f"web-2: EC2 remembers the last {_instance.TOKENS}"):
            _instance.launch(wanted(opts, web, "web-2"), [])
        assert client.seen().calls["RunInstances"] == _instance.TOKENS
