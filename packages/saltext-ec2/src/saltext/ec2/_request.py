"""The RunInstances request that a profile's options amount to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from saltext.ec2 import _images, _networks, _tags
from saltext.ec2._client import Connection
from saltext.ec2._option_table import OBSOLETE_KEYS
from saltext.ec2.errors import ConfigurationError
from saltext.ec2.tags import DEPLOY_TAG

# The names that images give to their root devices.
ROOT_DEVICES = frozenset(("/dev/sda", "/dev/sda1", "/dev/xvda", "/dev/xvda1"))
TAGGED = ("instance", "volume", "network-interface")
NUMBER = re.compile(r"[0-9]+$")  # at the end of a machine's name


@dataclass(frozen=True)
class Launch:
    """A machine that is to be launched.

    Attributes:
        connection: the connection to its region, where names in the options are looked up.
        options: its options, see `options.resolve`.
        name: its name.
        userdata: its rendered user data.
        deploy: whether a minion will be installed on it.
        report: is called with each request before it is sent.
    """

    connection: Connection
    options: Mapping[str, Any]
    name: str
    userdata: str = ""
    deploy: bool = True
    report: Callable[[Mapping[str, Any]], None] = lambda _: None


def places(launch: Launch) -> list[Launch]:
    """Return the launch once for each place that may be tried, in order.

    One of `subnetname`, `subnetid` and `availability_zone` may be a list of places. With `spread`,
    the machine's number says with which one to begin.

    Raises:
        ConfigurationError: two of them are lists.
    """
    options, lists = launch.options, _lists_of_places(launch.options)
    choices = [{key: place} for key in lists for place in options[key]]
    if choices and options.get("spread") and (number := NUMBER.search(launch.name)):
        first = (int(number[0]) - 1) % len(choices)
        choices = choices[first:] + choices[:first]
    return [
        dataclasses.replace(launch, options={**options, **choice}) for choice in choices or [{}]
    ]


def _lists_of_places(options: Mapping[str, Any]) -> list[str]:
    """Return the option that is a list of places, if there is one."""
    lists = [
        key
        for key in ("subnetname", "subnetid", "availability_zone")
        if isinstance(options.get(key), (list, tuple))
    ]
    if len(lists) > 1:
        raise ConfigurationError(f"{' and '.join(lists)} are lists: one of them can be")
    return lists


def check(options: Mapping[str, Any], name: str) -> None:
    """Check what can be checked without a call to EC2.

    Args:
        options: those of a machine, see `options.resolve`.
        name: its name.

    Raises:
        ConfigurationError: an option is absent or malformed.
    """
    template = options.get("launch_template")
    for needed in ("image", "size"):
        if not options.get(needed) and not template:
            raise ConfigurationError(f"{name}: {needed} is not set")
    if not options.get("image") and options.get("del_root_vol_on_destroy") is False:
        raise ConfigurationError(
            f"{name}: del_root_vol_on_destroy needs image:"
            " without image, launch_template alone decides about the root volume"
        )
    if template:
        _launch_template(template, name)
    _lists_of_places(options)
    _hardware(options)
    volumes = options.get("volumes") or []
    new_volumes(volumes)
    mappings = [_block_device(entry) for entry in options.get("block_device_mappings") or []]
    devices = [volume["device"] for volume in volumes]
    devices += [mapping["DeviceName"] for mapping in mappings]
    if twice := sorted({device for device in devices if devices.count(device) > 1}):
        raise ConfigurationError(
            f"{name}: block_device_mappings and volumes name {', '.join(twice)} twice"
        )
    _check_network(options, name)
    _check_tags(options, name)


def _check_tags(options: Mapping[str, Any], name: str) -> None:
    tag = options.get("tag") or {}
    if not isinstance(tag, Mapping):
        raise ConfigurationError(f"{name}: tag must be a mapping, not {tag!r}")
    if tag.get("Name", name) != name:
        raise ConfigurationError(
            f"{name}: the tag Name is the machine's name and cannot be {tag['Name']!r}"
        )


def _check_network(options: Mapping[str, Any], name: str) -> None:
    if options.get("network_interfaces"):
        for option, key in ON_INTERFACE.items():
            if options.get(option) not in (None, "", []):
                raise ConfigurationError(
                    f"{name}: with network_interfaces, {option} is set on each interface: {key}"
                )
        for given in options["network_interfaces"]:
            _all_known(
                "network_interfaces", given, (*INTERFACE, *INTERFACE_NAMES, *INTERFACE_LATER)
            )
        return
    if options.get("subnetid") and options.get("subnetname"):
        raise ConfigurationError(f"{name}: a subnet is given by name and by id")
    # EC2 accepts this choice only as part of an interface.
    public = options.get("associate_public_ip") is not None
    if public and not (options.get("subnetid") or options.get("subnetname")):
        raise ConfigurationError(f"{name}: associate_public_ip needs subnetname or subnetid")


def build(launch: Launch) -> dict[str, Any]:
    """Return the arguments of RunInstances, without ClientToken.

    Raises:
        ConfigurationError: an option is absent or malformed.
        NotFound: the image, subnet or a security group does not exist.
        ApiError: EC2 did not answer.
    """
    check(launch.options, launch.name)
    connection, options, name = launch.connection, launch.options, launch.name
    template = options.get("launch_template")
    image = _images.Image("")
    if options.get("image"):
        image = _images.find(connection, options["image"])
    network = _network(connection, options, name)
    wanted: dict[str, Any] = {
        "MinCount": 1,
        "MaxCount": 1,
        "MetadataOptions": metadata_options(options.get("metadata_options") or {}),
        "BlockDeviceMappings": block_devices(
            [
                *(options.get("block_device_mappings") or []),
                *new_volumes(options.get("volumes") or []),
            ],
            image,
            delete_root=options.get("del_root_vol_on_destroy"),
            delete_others=options.get("del_all_vols_on_destroy"),
        ),
        "TagSpecifications": tag_specifications(
            launch, interfaces=network.get("NetworkInterfaces", ())
        ),
        **network,
        **_hardware(options),
    }
    if image.id:
        wanted["ImageId"] = image.id
    if template:
        wanted["LaunchTemplate"] = _launch_template(template, name)
    if launch.userdata:
        wanted["UserData"] = launch.userdata
    return {key: value for key, value in wanted.items() if value not in ({}, [])}


def _launch_template(given: Any, name: str) -> dict[str, str]:
    keys = {"id": "LaunchTemplateId", "name": "LaunchTemplateName", "version": "Version"}
    if not isinstance(given, Mapping) or set(given) - set(keys):
        raise ConfigurationError(
            f"{name}: launch_template is a mapping with id or name, and perhaps version"
        )
    return {keys[key]: str(value) for key, value in given.items()}


def _hardware(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the request about the machine itself."""
    machine: dict[str, Any] = {}
    plain = {
        "size": "InstanceType",
        "keyname": "KeyName",
        "termination_protection": "DisableApiTermination",
        "shutdown_behavior": "InstanceInitiatedShutdownBehavior",
        "ebs_optimized": "EbsOptimized",
    }
    for option, key in plain.items():
        if options.get(option) is not None:
            machine[key] = options[option]
    if profile := options.get("iam_profile"):
        machine["IamInstanceProfile"] = {"Arn" if profile.startswith("arn:") else "Name": profile}
    if credits := options.get("credit_specification"):
        machine["CreditSpecification"] = (
            {camel(key): value for key, value in credits.items()}
            if isinstance(credits, Mapping)
            else {"CpuCredits": credits}
        )
    if cpu := options.get("cpu_options"):
        machine["CpuOptions"] = {camel(key): value for key, value in cpu.items()}
    if options.get("monitoring") is not None:
        machine["Monitoring"] = {"Enabled": options["monitoring"]}
    if options.get("hibernation") is not None:
        machine["HibernationOptions"] = {"Configured": options["hibernation"]}
    places = {
        "availability_zone": "AvailabilityZone",
        "placementgroup": "GroupName",
        "tenancy": "Tenancy",
    }
    if place := {key: options[option] for option, key in places.items() if options.get(option)}:
        machine["Placement"] = place
    if (spot := options.get("spot_config")) is not None:
        machine["InstanceMarketOptions"] = spot_options(spot)
    return machine


def spot_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return InstanceMarketOptions.

    Args:
        given: `spot_price`, `type`, `interruption` and `tag`, all of them optional.

    Raises:
        ConfigurationError: it has another key.
    """
    _all_known("spot_config", given, ("spot_price", "type", "interruption", "tag"))
    known = {
        "type": "SpotInstanceType",
        "interruption": "InstanceInterruptionBehavior",
        "spot_price": "MaxPrice",
    }
    options = {key: str(given[option]) for option, key in known.items() if given.get(option)}
    return {"MarketType": "spot", **({"SpotOptions": options} if options else {})}


def _all_known(option: str, given: Iterable[str], known: Collection[str]) -> None:
    if unknown := set(given) - set(known):
        raise ConfigurationError(
            f"{option}: unknown: {', '.join(sorted(unknown))}; it knows {', '.join(known)}"
        )


def client_token(
    region: str, name: str, wanted: Mapping[str, Any], predecessors: Iterable[str]
) -> str:
    """Return the ClientToken with which EC2 launches this machine once and only once.

    The same request for the same machine has the same token, also from another process, and EC2
    answers it with the instance that it launched the first time. The predecessors give a machine
    that replaces a terminated one another token.

    Args:
        region: where it is launched.
        name: its name.
        wanted: the rest of the request.
        predecessors: ids of terminated instances of the same name.
    """
    text = json.dumps([region, name, wanted, sorted(predecessors)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()  # 64 characters, as many as EC2 takes


def metadata_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return MetadataOptions that require IMDSv2 unless `given` overrides that.

    Args:
        given: EC2's keys, as `HttpTokens` or `http_tokens`.
    """
    return {"HttpTokens": "required", "HttpEndpoint": "enabled"} | {
        camel(key): value for key, value in given.items()
    }


def camel(key: str) -> str:
    """Return EC2's spelling of a key: `http_tokens` is `HttpTokens`."""
    return "".join(part[:1].upper() + part[1:] for part in key.split("_"))


def new_volumes(given: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the option `volumes` as block devices, without existing volumes (`volume_id`).

    Existing volumes are attached when the machine runs.

    Raises:
        ConfigurationError: an entry has no device, or an unknown key.
    """
    known = {
        "size": "VolumeSize",
        "snapshot": "SnapshotId",
        "type": "VolumeType",
        "iops": "Iops",
        "throughput": "Throughput",
        "encrypted": "Encrypted",
        "kmskeyid": "KmsKeyId",
        "kms_key_id": "KmsKeyId",
    }
    devices = []
    for volume in given:
        given_keys = set(volume) - set(OBSOLETE_KEYS["volumes"])
        _all_known("volumes", given_keys, ("device", "volume_id", "tags", *known))
        if not volume.get("device"):
            raise ConfigurationError(f"volumes: an entry has no device: {dict(volume)}")
        if not volume.get("volume_id"):
            ebs = {
                key: volume[option]
                for option, key in known.items()
                if volume.get(option) is not None
            }
            devices.append({"DeviceName": volume["device"], "Ebs": ebs})
    return devices


def block_devices(
    given: Iterable[Mapping[str, Any]],
    image: _images.Image,
    *,
    delete_root: bool | None = None,
    delete_others: bool | None = None,
) -> list[dict[str, Any]]:
    """Return BlockDeviceMappings with EBS volumes that are gp3 and encrypted by default.

    Args:
        given: EC2's list; keys of `Ebs` may be nested or written `Ebs.VolumeSize`.
        image: its root device is added if `given` does not contain it.
        delete_root: whether EC2 deletes the root volume with the machine; None: the image decides.
        delete_others: the same for all other volumes.

    Raises:
        ConfigurationError: an entry has no DeviceName, or means the root device and names another.
    """
    devices = [_block_device(entry) for entry in given]
    for device in devices:
        _check_root(device, image)
    if image.root_device and image.root_device not in {device["DeviceName"] for device in devices}:
        devices.insert(0, {"DeviceName": image.root_device, "Ebs": {}})
    for device in devices:
        if "Ebs" not in device:
            continue
        ebs = {"VolumeType": "gp3", "Encrypted": True} | device["Ebs"]
        is_root = device["DeviceName"] == image.root_device
        if is_root and image.root_size and "SnapshotId" not in ebs:
            ebs.setdefault("VolumeSize", image.root_size)
        delete = delete_root if is_root else delete_others
        if delete is not None:
            ebs.setdefault("DeleteOnTermination", delete)
        device["Ebs"] = ebs
    return devices


def _check_root(device: Mapping[str, Any], image: _images.Image) -> None:
    """Refuse a new volume under the name that the root device has in other images."""
    name = device["DeviceName"]
    if (
        image.root_device
        and name in ROOT_DEVICES - {image.root_device}
        and "Ebs" in device
        and "SnapshotId" not in device["Ebs"]
    ):
        raise ConfigurationError(
            f"block_device_mappings: {name} would be a second volume: the root device of"
            f" {image.id} is {image.root_device}"
        )


def _block_device(entry: Mapping[str, Any]) -> dict[str, Any]:
    device = {
        key: value
        for key, value in entry.items()
        if key != "tag" and not key.startswith("Ebs")  # see `_attachments.attach`
    }
    if not device.get("DeviceName"):
        raise ConfigurationError(
            f"block_device_mappings: an entry has no DeviceName: {dict(entry)}"
        )
    ebs = dict(entry.get("Ebs") or {})
    ebs |= {
        key.removeprefix("Ebs."): value for key, value in entry.items() if key.startswith("Ebs.")
    }
    if ebs or not ({"VirtualName", "NoDevice"} & set(device)):
        device["Ebs"] = ebs
    return device


def tag_specifications(
    launch: Launch, *, interfaces: Collection[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return TagSpecifications: EC2 tags machine, volumes and interfaces when it creates them.

    Args:
        launch: its tags are those of `tag` and `owned_by`; `tag` of `spot_config` is for the spot
            request alone.
        interfaces: the request's; EC2 refuses tags for interfaces that exist already.
    """
    name, tag = launch.name, launch.options.get("tag") or {}
    spot = launch.options.get("spot_config")
    own: dict[str, dict[str, Any]] = {resource: {} for resource in TAGGED}
    if interfaces and all("NetworkInterfaceId" in interface for interface in interfaces):
        del own["network-interface"]
    if launch.deploy:
        own["instance"] = {DEPLOY_TAG: "pending"}
    if spot is not None:
        own["spot-instances-request"] = spot.get("tag") or {}
    owner = launch.connection.owned_by
    return [
        {"ResourceType": resource, "Tags": _tags.as_list({**tag, **owner, "Name": name, **tags})}
        for resource, tags in own.items()
    ]


def _network(connection: Connection, options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the part of the request about the network."""
    if options.get("network_interfaces"):
        return {
            "NetworkInterfaces": [
                _interface(connection, given, name) for given in options["network_interfaces"]
            ]
        }

    subnet = _subnet(connection, options.get("subnetid"), options.get("subnetname"), name)
    names = _names(options, ("securitygroup", "securitygroupname", "securitygroupid"))
    groups = _networks.security_groups(connection, names, subnet.vpc_id if subnet else "")
    network: dict[str, Any] = {}
    if subnet:
        network["SubnetId"] = subnet.id
    if options.get("private_ip"):
        network["PrivateIpAddress"] = options["private_ip"]
    public = options.get("associate_public_ip")
    if public is None:
        return network | {"SecurityGroupIds": groups}
    interface = {
        "DeviceIndex": 0,
        "AssociatePublicIpAddress": public,
        "DeleteOnTermination": True,
        **network,
    }
    return {"NetworkInterfaces": [interface | ({"Groups": groups} if groups else {})]}


def _names(given: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Return the names under several keys; each key may hold one name or a list."""
    values = [given.get(key) or [] for key in keys]
    return [name for value in values for name in ([value] if isinstance(value, str) else value)]


def _subnet(
    connection: Connection, subnet_id: str | None, name: str | None, machine: str
) -> _networks.Subnet | None:
    if subnet_id and name:
        raise ConfigurationError(f"{machine}: a subnet is given by name and by id")
    return _networks.subnet(connection, subnet_id or name or "") if subnet_id or name else None


# The keys of EC2 that an interface of a profile may have.
INTERFACE = (
    "DeviceIndex", "NetworkCardIndex", "NetworkInterfaceId", "SubnetId", "PrivateIpAddress",
    "PrivateIpAddresses", "SecondaryPrivateIpAddressCount", "AssociatePublicIpAddress",
    "DeleteOnTermination", "Description", "InterfaceType", "Ipv6AddressCount",
)  # fmt: skip
# Options of the machine that its interfaces replace, and their keys there.
ON_INTERFACE = {
    "subnetid": "SubnetId", "subnetname": "SubnetName", "private_ip": "PrivateIpAddress",
    "securitygroup": "SecurityGroupId", "securitygroupname": "SecurityGroupId",
    "securitygroupid": "SecurityGroupId", "associate_public_ip": "AssociatePublicIpAddress",
    "associate_eip": "associate_eip",
}  # fmt: skip
# Keys whose names or ids are looked up.
INTERFACE_NAMES = ("SubnetName", "subnetname", "SecurityGroupId", "securitygroupname", "Groups")
# Keys that RunInstances does not know: see `_attachments.attach`.
INTERFACE_LATER = ("SourceDestCheck", "associate_eip", "allocate_new_eip", "allocate_new_eips")


def _interface(connection: Connection, given: Mapping[str, Any], machine: str) -> dict[str, Any]:
    interface = {key: given[key] for key in INTERFACE if key in given}
    interface.setdefault("DeviceIndex", 0)
    if "NetworkInterfaceId" not in interface:
        interface.setdefault("DeleteOnTermination", True)
    subnet = _subnet(
        connection,
        given.get("SubnetId"),
        given.get("subnetname") or given.get("SubnetName"),
        machine,
    )
    if subnet:
        interface["SubnetId"] = subnet.id
    names = _names(given, ("SecurityGroupId", "securitygroupname", "Groups"))
    if names:
        interface["Groups"] = _networks.security_groups(
            connection, names, subnet.vpc_id if subnet else ""
        )
    # The old documentation shows `PrivateIpAddresses: [{Primary: true}]`, which EC2 refuses.
    addresses = [
        address
        for address in interface.pop("PrivateIpAddresses", [])
        if address.get("PrivateIpAddress")
    ]
    return interface | ({"PrivateIpAddresses": addresses} if addresses else {})
