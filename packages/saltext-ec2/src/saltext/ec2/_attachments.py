"""What a machine gets only once it runs: existing volumes, elastic addresses and a few settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from saltext.ec2 import _lookup, _networks, _request, _tags
from saltext.ec2._client import Connection
from saltext.ec2._machine import Machine
from saltext.ec2._wait import Wait
from saltext.ec2.errors import ApiError, ConfigurationError, LaunchError, api_errors
from saltext.ec2.tags import RELEASE_TAG

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import AddressTypeDef, FilterTypeDef

log = logging.getLogger(__name__)


def needed(options: Mapping[str, Any]) -> bool:
    """Return whether a machine with these options needs `attach`."""
    return any(
        volume.get("volume_id") or volume.get("tags") for volume in _volumes(options)
    ) or any(set(_request.INTERFACE_LATER) & set(interface) for interface in _interfaces(options))


def attach(machine: Machine) -> bool:
    """Attach existing volumes and elastic addresses, tag single volumes, set SourceDestCheck.

    What the machine has already is left alone.

    Returns:
        Whether the machine got an address.

    Raises:
        ApiError: EC2 refuses.
    """
    options = machine.options
    _attach_volumes(machine, _volumes(options))
    interfaces = {
        interface["Attachment"]["DeviceIndex"]: interface
        for interface in machine.instance.get("NetworkInterfaces", [])
    }
    changed = False
    for wanted in _interfaces(options):
        interface = interfaces[wanted.get("DeviceIndex", 0)]
        _set_source_dest_check(machine, wanted, interface)
        if any(
            wanted.get(key) for key in ("associate_eip", "allocate_new_eip", "allocate_new_eips")
        ):
            changed |= _associate_addresses(machine, wanted, interface)
    return changed


def _interfaces(options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of `network_interfaces`, or what the machine says of its only one."""
    if options.get("associate_eip"):
        return [{"associate_eip": options["associate_eip"]}]
    return list(options.get("network_interfaces") or [])


def _volumes(options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of `volumes`, and the tagged ones of `block_device_mappings` as such."""
    tagged = [
        {"device": entry["DeviceName"], "tags": entry["tag"]}
        for entry in options.get("block_device_mappings") or []
        if entry.get("tag")
    ]
    return [*(options.get("volumes") or []), *tagged]


def _attach_volumes(machine: Machine, volumes: Sequence[Mapping[str, Any]]) -> None:
    attached = {
        mapping.get("DeviceName"): mapping.get("Ebs", {}).get("VolumeId")
        for mapping in machine.instance.get("BlockDeviceMappings", [])
    }
    ec2 = machine.connection.ec2
    for volume in volumes:
        device = volume["device"]
        volume_id = volume.get("volume_id") or attached.get(device)
        if not volume_id:
            continue
        if attached.get(device) != volume_id:
            with api_errors(f"attaching {volume_id} to {machine.name}"):
                ec2.attach_volume(InstanceId=machine.id, VolumeId=volume_id, Device=device)
        if volume.get("tags"):
            with api_errors(f"tagging {volume_id} of {machine.name}"):
                ec2.create_tags(Resources=[volume_id], Tags=_tags.as_list(volume["tags"]))


def _set_source_dest_check(
    machine: Machine, wanted: Mapping[str, Any], interface: Mapping[str, Any]
) -> None:
    current = interface.get("SourceDestCheck")
    if wanted.get("SourceDestCheck", current) == current:
        return
    with api_errors(f"setting SourceDestCheck of {machine.name}"):
        machine.connection.ec2.modify_network_interface_attribute(
            NetworkInterfaceId=interface["NetworkInterfaceId"],
            SourceDestCheck={"Value": wanted["SourceDestCheck"]},
        )


# -- elastic addresses -----------------------------------------------------------------------------


def _associate_addresses(
    machine: Machine, wanted: Mapping[str, Any], interface: Mapping[str, Any]
) -> bool:
    ec2, interface_id = machine.connection.ec2, interface["NetworkInterfaceId"]
    with api_errors(f"looking up the elastic addresses of {machine.name}"):
        held = ec2.describe_addresses(
            Filters=[{"Name": "network-interface-id", "Values": [interface_id]}]
        )["Addresses"]
    served = {address.get("PrivateIpAddress") or interface["PrivateIpAddress"] for address in held}
    changed = False
    for private in interface["PrivateIpAddresses"]:
        if private["PrivateIpAddress"] in served or not (
            private.get("Primary") or wanted.get("allocate_new_eips")
        ):
            continue
        allocation = ""
        if wanted.get("associate_eip"):
            allocation = _networks.elastic_address(machine.connection, wanted["associate_eip"])
            _wait_for_address(machine, allocation)
        with api_errors(f"giving {machine.name} an elastic address"):
            ec2.associate_address(
                AllocationId=allocation or _allocation(machine),
                NetworkInterfaceId=interface_id,
                PrivateIpAddress=private["PrivateIpAddress"],
                AllowReassociation=False,
            )
        changed = True
    return changed


def check_addresses(connection: Connection, options: Mapping[str, Any], name: str) -> None:
    """Check before the launch of a machine that no other keeps the elastic addresses for it.

    Raises:
        ConfigurationError: a machine that is not about to end has an address of `associate_eip`.
        NotFound: there is no such address, or several have its name.
        ApiError: EC2 did not answer.
    """
    for allocation in address_ids(connection, options):
        _is_held(connection, allocation, name)


def address_ids(connection: Connection, options: Mapping[str, Any]) -> list[str]:
    """Return the allocation ids of the elastic addresses that `associate_eip` names.

    Raises:
        NotFound: there is no such address, or several have its name.
        ApiError: EC2 did not answer.
    """
    names = [interface.get("associate_eip") for interface in _interfaces(options)]
    return [_networks.elastic_address(connection, name) for name in names if name]


def _is_held(connection: Connection, allocation: str, name: str) -> bool:
    """Return whether a machine that is about to end still has an elastic address.

    Raises:
        ConfigurationError: another machine or interface has it.
        ApiError: EC2 did not answer.
    """
    with api_errors(f"looking up the elastic address {allocation}"):
        (address,) = connection.ec2.describe_addresses(AllocationIds=[allocation])["Addresses"]
    holder = address.get("InstanceId") or address.get("NetworkInterfaceId")
    if not holder:
        return False
    instance: Mapping[str, Any] = {}
    if address.get("InstanceId"):
        instance = _lookup.instances_by_id(connection, [holder]).get(holder, {})
    state = instance.get("State", {}).get("Name", "in use")
    if state in ("shutting-down", "terminated"):
        return True
    owner = _tags.as_dict(instance).get("Name")
    raise ConfigurationError(
        f"{name}: associate_eip {allocation} belongs to {holder}"
        f" ({f'{owner}, ' if owner else ''}{state}), and is not taken from it"
    )


def _wait_for_address(machine: Machine, allocation: str) -> None:
    """Wait until a machine that is being terminated has released an elastic address.

    Raises:
        ConfigurationError: another machine or interface has it.
        LaunchError: `wait_for_ip_timeout` has passed.
        ApiError: EC2 did not answer.
    """
    options = machine.options
    wait = Wait.lasting(options["wait_for_ip_timeout"], machine.watch())
    while _is_held(machine.connection, allocation, machine.name):
        if wait.over:
            raise LaunchError(
                f"{machine.name}: associate_eip {allocation} is still held by a terminated machine"
                f" after {options['wait_for_ip_timeout']:g} s"
            )
        wait.pause(options["wait_for_ip_interval"])


def _allocation(machine: Machine) -> str:
    """Allocate an elastic address for a machine, or return one that an earlier run left unused."""
    for address in allocated_addresses(machine.connection, machine.id):
        if not address.get("AssociationId"):
            return address["AllocationId"]
    tags = _tags.as_list({"Name": machine.name, RELEASE_TAG: machine.id})
    return machine.connection.ec2.allocate_address(
        Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": tags}]
    )["AllocationId"]


def allocated_addresses(connection: Connection, instance_id: str) -> list[AddressTypeDef]:
    """Return the elastic addresses that were allocated for a machine."""
    own: Sequence[FilterTypeDef] = [{"Name": f"tag:{RELEASE_TAG}", "Values": [instance_id]}]
    return connection.ec2.describe_addresses(Filters=own)["Addresses"]


def release_addresses(machine: Machine, addresses: Sequence[AddressTypeDef]) -> list[str]:
    """Release elastic addresses of a machine that is being terminated.

    Returns:
        Messages about those that EC2 does not release. They raise no error: the machine is gone,
        and no later run would find it again to destroy it.
    """
    failures = []
    for address in addresses:
        allocation = address["AllocationId"]
        try:
            with api_errors(f"releasing {allocation} ({address['PublicIp']}) of {machine.name}"):
                if address.get("AssociationId"):
                    _disassociate(machine.connection, address["AssociationId"])
                machine.connection.ec2.release_address(AllocationId=allocation)
        except ApiError as error:
            log.error(
                "%s is destroyed, but its elastic address is left and costs money: %s",
                machine.name,
                error,
            )
            failures.append(str(error))
    return failures


def _disassociate(connection: Connection, association_id: str) -> None:
    try:
        connection.ec2.disassociate_address(AssociationId=association_id)
    except ClientError as error:  # EC2 disassociates it from a terminated instance by itself
        if error.response.get("Error", {}).get("Code") != "InvalidAssociationID.NotFound":
            raise
