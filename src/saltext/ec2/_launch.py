"""The RunInstances request that a profile's options amount to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from saltext.ec2 import _lookup
from saltext.ec2._client import Connection
from saltext.ec2._errors import ConfigurationError

DEPLOY_TAG = "salt-cloud:deploy"  # `pending` from launch until the minion is installed, then `done`
TAGGED = ("instance", "volume", "network-interface")


def request(
    connection: Connection, options: Mapping[str, Any], name: str, *, userdata: str = "", deploy: bool = True
) -> dict[str, Any]:
    """Return the arguments of RunInstances for one machine, all but its ClientToken.

    Args:
        connection: where to look up the names that the options hold.
        options: see `_options.resolve`.
        name: the machine's name.
        userdata: rendered user data.
        deploy: whether a minion will be installed on it.

    Raises:
        ConfigurationError: an option is absent or malformed.
        NotFound: the image, subnet or a security group does not exist.
    """
    for needed in ("image", "size"):
        if not options.get(needed):
            raise ConfigurationError(f"{name}: {needed} is not set")
    image = _lookup.image(connection, options["image"])
    wanted: dict[str, Any] = {
        "ImageId": image.id,
        "InstanceType": options["size"],
        "MinCount": 1,
        "MaxCount": 1,
        "MetadataOptions": metadata_options(options["metadata_options"]),
        "BlockDeviceMappings": block_devices(
            options.get("block_device_mappings") or [],
            image,
            delete_root=options.get("del_root_vol_on_destroy"),
            delete_all=options.get("del_all_vols_on_destroy"),
        ),
        "TagSpecifications": tag_specifications(name, options.get("tag") or {}, deploy=deploy),
        **_network(connection, options, name),
    }
    if options.get("keyname"):
        wanted["KeyName"] = options["keyname"]
    if profile := options.get("iam_profile"):
        wanted["IamInstanceProfile"] = {"Arn" if str(profile).startswith("arn:") else "Name": profile}
    if credits := options.get("credit_specification"):
        wanted["CreditSpecification"] = credits if isinstance(credits, Mapping) else {"CpuCredits": credits}
    if options.get("availability_zone"):
        wanted["Placement"] = {"AvailabilityZone": options["availability_zone"]}
    if options.get("termination_protection"):
        wanted["DisableApiTermination"] = True
    if options.get("ebs_optimized") is not None:
        wanted["EbsOptimized"] = bool(options["ebs_optimized"])
    if userdata:
        wanted["UserData"] = userdata
    return wanted


def client_token(region: str, name: str, wanted: Mapping[str, Any], predecessors: Iterable[str]) -> str:
    """Return the ClientToken under which this machine is launched once and only once.

    The same machine asked for again, from this process or another one, has the same token, so EC2 answers with the
    instance that it started the first time. A machine made anew differs by its predecessors.

    Args:
        region: where it is launched.
        name: its name.
        wanted: the rest of the request.
        predecessors: ids of terminated instances of the same name.
    """
    text = json.dumps([region, name, wanted, sorted(predecessors)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()  # 64 characters, the longest token that EC2 takes


def metadata_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return MetadataOptions with IMDSv2 required where `given` does not say otherwise.

    Args:
        given: EC2's keys, as `HttpTokens` or `http_tokens`.
    """
    return {"HttpTokens": "required", "HttpEndpoint": "enabled"} | {camel(key): value for key, value in given.items()}


def camel(key: str) -> str:
    """Return EC2's spelling of a key: `http_tokens` is `HttpTokens`."""
    return "".join(part[:1].upper() + part[1:] for part in key.split("_"))


def block_devices(
    given: Iterable[Mapping[str, Any]], image: _lookup.Image, *, delete_root: bool | None, delete_all: bool | None
) -> list[dict[str, Any]]:
    """Return BlockDeviceMappings in which each EBS volume is gp3 and encrypted unless `given` says otherwise.

    Args:
        given: EC2's list; keys of `Ebs` may be nested or written `Ebs.VolumeSize`.
        image: its root device is added when `given` does not mention it.
        delete_root: whether the root volume goes with the machine; None: as the image says.
        delete_all: the same for every volume; it outranks `delete_root`.

    Raises:
        ConfigurationError: an entry has no DeviceName.
    """
    devices = [_block_device(entry) for entry in given]
    if image.root_device and image.root_device not in {device["DeviceName"] for device in devices}:
        devices.insert(0, {"DeviceName": image.root_device, "Ebs": {}})
    for device in devices:
        if "Ebs" not in device:
            continue
        ebs = {"VolumeType": "gp3", "Encrypted": True} | device["Ebs"]
        is_root = device["DeviceName"] == image.root_device
        if is_root and image.root_size and "SnapshotId" not in ebs:
            ebs.setdefault("VolumeSize", image.root_size)
        keep = delete_root if is_root and delete_all is None else delete_all
        if keep is not None:
            ebs.setdefault("DeleteOnTermination", bool(keep))
        device["Ebs"] = ebs
    return devices


def _block_device(entry: Mapping[str, Any]) -> dict[str, Any]:
    device = {key: value for key, value in entry.items() if not key.startswith("Ebs")}
    if not device.get("DeviceName"):
        raise ConfigurationError(f"block_device_mappings: an entry has no DeviceName: {dict(entry)}")
    ebs = dict(entry.get("Ebs") or {})
    ebs |= {key.removeprefix("Ebs."): value for key, value in entry.items() if key.startswith("Ebs.")}
    if ebs or not ({"VirtualName", "NoDevice"} & set(device)):
        device["Ebs"] = ebs
    return device


def tag_specifications(name: str, tag: Mapping[str, Any], *, deploy: bool) -> list[dict[str, Any]]:
    """Return TagSpecifications that tag the machine, its volumes and its interfaces from the first moment.

    Args:
        name: the machine's name.
        tag: the profile's tags.
        deploy: whether the instance starts with its deployment pending.

    Raises:
        ConfigurationError: the tags are no mapping, or name the machine differently.
    """
    if not isinstance(tag, Mapping):
        raise ConfigurationError(f"{name}: tag must be a mapping, not {tag!r}")
    if tag.get("Name", name) != name:
        raise ConfigurationError(f"{name}: the tag Name is the machine's name and cannot be {tag['Name']!r}")
    common = {str(key): str(value) for key, value in tag.items()} | {"Name": name}
    specifications = []
    for resource in TAGGED:
        own = common | {DEPLOY_TAG: "pending"} if deploy and resource == "instance" else common
        specifications.append(
            {"ResourceType": resource, "Tags": [{"Key": key, "Value": value} for key, value in own.items()]}
        )
    return specifications


def _network(connection: Connection, options: Mapping[str, Any], name: str) -> dict[str, Any]:
    subnet_id = options.get("subnetid")
    if options.get("subnetname"):
        if subnet_id:
            raise ConfigurationError(f"{name}: subnetname and subnetid are both set")
        subnet_id = _lookup.subnet(connection, options["subnetname"])
    names: list[str] = []
    for option in ("securitygroup", "securitygroupname", "securitygroupid"):
        given = options.get(option) or []
        names += [given] if isinstance(given, str) else given
    groups = _lookup.security_groups(connection, names, subnet_id or "")
    network: dict[str, Any] = {}
    if subnet_id:
        network["SubnetId"] = subnet_id
    if options.get("private_ip"):
        network["PrivateIpAddress"] = options["private_ip"]
    public = options.get("associate_public_ip")
    if public is None:
        return network | ({"SecurityGroupIds": groups} if groups else {})
    # EC2 takes this choice only as part of an interface.
    if not subnet_id:
        raise ConfigurationError(f"{name}: associate_public_ip needs subnetname or subnetid")
    interface = {"DeviceIndex": 0, "AssociatePublicIpAddress": bool(public), "DeleteOnTermination": True, **network}
    return {"NetworkInterfaces": [interface | ({"Groups": groups} if groups else {})]}
