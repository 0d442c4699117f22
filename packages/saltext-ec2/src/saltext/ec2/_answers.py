"""The keys of the answers: EC2's, and those of Salt 3007's driver, which scripts read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where the 3007 driver's key is not EC2's with a small first letter.
_OLD_NAMES = {
    "BlockDeviceMappings": "blockDeviceMapping",
    "NetworkInterfaces": "networkInterfaceSet",
    "PublicDnsName": "dnsName",
    "PublicIpAddress": "ipAddress",
    "SecurityGroups": "groupSet",
    "State": "instanceState",
    "Tags": "tagSet",
}


def instance(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the 3007 driver's keys of an instance, as EC2 describes it.

    `ipv6Address` is always among them, perhaps empty.
    """
    addresses = [
        address["Ipv6Address"]
        for interface in described.get("NetworkInterfaces", [])
        for address in interface.get("Ipv6Addresses", [])
    ]
    found = {
        _OLD_NAMES.get(key, _small(key)): _old(value)
        for key, value in described.items()
        if key != "ResponseMetadata"
    }
    return {"ipv6Address": addresses[0] if addresses else "", **found}


def small(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer of EC2 with keys that begin with a small letter."""
    return {_small(key): _old(value) for key, value in answer.items()}


def state_change(change: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the start, the stop or the end of an instance changes."""
    return {
        "id": change["InstanceId"],
        "instanceId": change["InstanceId"],
        "previousState": _old(change["PreviousState"]),
        "currentState": _old(change["CurrentState"]),
    }


def _small(key: str) -> str:
    return key[:1].lower() + key[1:]


def _old(value: Any) -> Any:
    """Return a value as the 3007 driver returned it: lists are under `item`."""
    if isinstance(value, Mapping):
        return small(value)
    if isinstance(value, list):
        return {"item": [_old(entry) for entry in value]}
    return value
