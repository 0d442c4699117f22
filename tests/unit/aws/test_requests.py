"""The profiles' requests: protection of data, the master's address, encrypted disks."""

from __future__ import annotations

from typing import Any

Requests = dict[str, dict[str, Any]]


def test_postgres_disk_and_instance_are_protected(requests: Requests) -> None:
    assert {role for role, request in requests.items() if request.get("DisableApiTermination")} == {
        "postgres"
    }
    kept = {
        role
        for role, request in requests.items()
        for device in request["BlockDeviceMappings"]
        if device["Ebs"]["DeleteOnTermination"] is False
    }
    assert kept == {"postgres"}


def test_new_master_requests_the_fixed_address(requests: Requests, pillar: dict[str, Any]) -> None:
    asked = {
        role: interface["PrivateIpAddress"]
        for role, request in requests.items()
        for interface in request["NetworkInterfaces"]
        if "PrivateIpAddress" in interface
    }
    assert asked == {"salt": pillar["aws"]["salt_address"]}


def test_only_master_and_edge_have_public_addresses(requests: Requests) -> None:
    public = {
        role
        for role, request in requests.items()
        for interface in request["NetworkInterfaces"]
        if interface["AssociatePublicIpAddress"]
    }
    assert public == {"salt", "lb"}


def test_every_disk_is_encrypted(requests: Requests, pillar: dict[str, Any]) -> None:
    assert requests.keys() == pillar["aws"]["security_groups"].keys()
    for request in requests.values():
        (device,) = request["BlockDeviceMappings"]
        assert device["DeviceName"] == "/dev/xvda"
        assert (device["Ebs"]["VolumeType"], device["Ebs"]["Encrypted"]) == ("gp3", True)
