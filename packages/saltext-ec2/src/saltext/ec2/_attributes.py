"""Attributes of a machine: name, termination protection, monitoring, deletion of volumes."""

from __future__ import annotations

from typing import Any

from saltext.ec2 import _lookup, _machine, _tags
from saltext.ec2._machine import Machine
from saltext.ec2.errors import ConfigurationError, NotFound, api_errors
from saltext.ec2.tags import DEPLOY_TAG


def rename(machine: Machine, newname: str) -> dict[str, Any]:
    """Change the Name tag of a machine.

    Raises:
        NotFound: another machine has the new name.
        ConfigurationError: the machine runs a minion, which would keep the old name as its id.
        ApiError: EC2 refuses.
    """
    connection, name = machine.connection, machine.name
    deployed = _tags.as_dict(machine.instance).get(DEPLOY_TAG) == "done"
    if deployed and machine.state in ("pending", "running"):
        raise ConfigurationError(
            f"{name} is not renamed, because its minion runs and would keep the id {name}: set the"
            f" id to {newname} in /etc/salt/minion on the machine, then salt-cloud -a stop {name};"
            f" salt-cloud -a rename {name} newname={newname}; salt-cloud -a start {newname}"
        )
    if _lookup.only(newname, _lookup.named(connection, newname)) is not None:
        raise NotFound(f"{name} cannot be renamed: there is a machine called {newname}")
    _tags.write(connection, [machine.id], {"Name": newname})
    _lookup.forget_name(connection, name)
    _lookup.forget_name(connection, newname)
    return {"id": machine.id, "name": newname}


# -- termination protection ------------------------------------------------------------------------


def termination_protection(machine: Machine) -> bool:
    """Return whether EC2 refuses to terminate a machine.

    Raises:
        ApiError: EC2 did not answer.
    """
    with api_errors(f"reading the termination protection of {machine.name}"):
        answer = machine.connection.ec2.describe_instance_attribute(
            InstanceId=machine.id, Attribute="disableApiTermination"
        )
    return bool(answer["DisableApiTermination"]["Value"])


def set_termination_protection(machine: Machine, *, protect: bool) -> bool:
    """Have EC2 refuse to terminate a machine, or not; return what EC2 says afterwards.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"setting the termination protection of {machine.name}"):
        machine.connection.ec2.modify_instance_attribute(
            InstanceId=machine.id, DisableApiTermination={"Value": protect}
        )
    return termination_protection(machine)


# -- detailed monitoring ---------------------------------------------------------------------------


def monitoring(machine: Machine) -> str:
    """Return the state of a machine's detailed monitoring."""
    return str(machine.instance.get("Monitoring", {}).get("State", "unknown"))


def enable_monitoring(machine: Machine) -> str:
    """Switch a machine's detailed monitoring on, and return its state.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"monitoring {machine.name}"):
        answer = machine.connection.ec2.monitor_instances(InstanceIds=[machine.id])
    return str(answer["InstanceMonitorings"][0]["Monitoring"]["State"])


def disable_monitoring(machine: Machine) -> str:
    """Switch a machine's detailed monitoring off, and return its state.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"ending the monitoring of {machine.name}"):
        answer = machine.connection.ec2.unmonitor_instances(InstanceIds=[machine.id])
    return str(answer["InstanceMonitorings"][0]["Monitoring"]["State"])


# -- volumes that EC2 deletes with their machine ---------------------------------------------------


def volume_deletion(
    machine: Machine, device: str | None, volume_id: str | None
) -> dict[str, dict[str, Any]]:
    """Return by device whether EC2 deletes the volumes of a machine with it.

    Args:
        machine: the machine.
        device: only the volume of this device.
        volume_id: only this volume.

    Raises:
        NotFound: the machine has no such volume.
    """
    found = {
        mapping["DeviceName"]: {
            "volume_id": mapping["Ebs"]["VolumeId"],
            "deleted": mapping["Ebs"]["DeleteOnTermination"],
        }
        for mapping in machine.instance["BlockDeviceMappings"]
        if device in (None, mapping["DeviceName"])
        and volume_id in (None, mapping["Ebs"]["VolumeId"])
    }
    if not found:
        wanted = {"device": device, "volume_id": volume_id}
        given = {key: value for key, value in wanted.items() if value is not None}
        raise NotFound(f"{machine.id} has no such volume: {given}")
    return found


def set_volume_deletion(
    machine: Machine, device: str | None, volume_id: str | None, *, delete: bool
) -> dict[str, dict[str, Any]]:
    """Have EC2 delete volumes with their machine, or not; return what EC2 says afterwards.

    Args:
        machine: the machine.
        device: only the volume of this device.
        volume_id: only this volume.
        delete: whether EC2 deletes them.

    Raises:
        NotFound: the machine has no such volume.
        ApiError: EC2 refuses.
    """
    mappings: Any = [
        {"DeviceName": each, "Ebs": {"VolumeId": found["volume_id"], "DeleteOnTermination": delete}}
        for each, found in volume_deletion(machine, device, volume_id).items()
    ]
    with api_errors(f"changing the volumes of {machine.name}"):
        machine.connection.ec2.modify_instance_attribute(
            InstanceId=machine.id, BlockDeviceMappings=mappings
        )
    machine = _machine.find(machine.connection, machine.options, machine.name)
    return volume_deletion(machine, device, volume_id)
