"""Machines that are to be destroyed, but that EC2 does not show any more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import QueryFailed

Machine = Callable[..., dict[str, Any]]


@pytest.fixture
def destroying(opts: dict[str, Any]) -> Callable[..., set[str]]:
    """Return a function that lists machines as `salt-cloud -d NAMES` does, with their keys."""
    keys = Path(opts["pki_dir"], "minions")
    keys.mkdir(parents=True)

    def listed(*names: str) -> set[str]:
        for name in names:
            (keys / name).touch()
        opts.update(destroy=True, names=list(names))
        driver.optimize_providers({"cloud": opts["providers"]["cloud"]["ec2"]})
        return set(driver.list_nodes_min())

    return listed


def test_key_without_machine_is_reported(ec2: Any, destroying: Callable[..., set[str]]) -> None:
    with pytest.raises(QueryFailed, match=r"called web-9, but .* to remove it: salt-key -d web-9"):
        destroying("web-9")


def test_key_without_machine_is_logged_beside_others(
    machine: Machine, destroying: Callable[..., set[str]], caplog: pytest.LogCaptureFixture
) -> None:
    driver.create(machine("web-1"))
    assert destroying("web-1", "web-9") == {"web-1"}
    assert "salt-key -d web-9" in caplog.text


def test_key_is_left_to_other_clouds(
    ec2: Any, opts: dict[str, Any], destroying: Callable[..., set[str]]
) -> None:
    opts["providers"]["other"] = {"gce": {}}
    assert destroying("web-9") == set()


def test_terminated_machine_of_somebody_else_is_not_listed(
    ec2: Any, machine: Machine, destroying: Callable[..., set[str]]
) -> None:
    made = driver.create(machine("web-1"))  # without a minion, so without the deploy tag
    ec2.terminate_instances(InstanceIds=[made["id"]])
    with pytest.raises(QueryFailed, match="salt-key -d web-1"):
        destroying("web-1")


def test_terminated_machine_is_listed_unless_its_name_lives(
    ec2: Any, machine: Machine, destroying: Callable[..., set[str]]
) -> None:
    made = driver.create(machine("web-1"))
    ec2.create_tags(Resources=[made["id"]], Tags=[{"Key": "salt-cloud:deploy", "Value": "done"}])
    ec2.terminate_instances(InstanceIds=[made["id"]])
    assert destroying("web-1") == {"web-1"}
    assert driver.destroy("web-1")["instanceId"] == made["id"]
    successor = driver.create(machine("web-1"))
    assert destroying("web-1") == {"web-1"}
    assert driver.list_nodes_min()["web-1"]["id"] == successor["id"]
