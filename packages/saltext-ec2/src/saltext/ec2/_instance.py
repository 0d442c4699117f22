"""One instance: launch it, wait until it is ready, start, stop, reboot and terminate it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saltext.ec2 import (
    _answers,
    _attachments,
    _console,
    _lookup,
    _private_addresses,
    _request,
    _tags,
)
from saltext.ec2._client import Connection
from saltext.ec2._machine import Machine
from saltext.ec2._request import Launch
from saltext.ec2.errors import ApiError, LaunchError, api_errors

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

log = logging.getLogger(__name__)

PROFILE_SECONDS = 60  # for which EC2 may not know an instance profile that IAM has just made
PROFILE_INTERVAL = 3
TOKENS = 50  # tried by a launch: EC2 remembers a token for a day after its instance has ended

# EC2's error codes when a place has no capacity; another place may have some.
NO_CAPACITY = frozenset((
    "InsufficientInstanceCapacity", "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity", "InsufficientFreeAddressesInSubnet",
    "SpotMaxPriceTooLow", "Unsupported",
))  # fmt: skip

# EC2's error codes when an earlier launch has used a ClientToken.
TOKEN_USED = frozenset(("IdempotentInstanceTerminated", "IdempotentParameterMismatch"))


# -- launching -------------------------------------------------------------------------------------


def launch(wanted: Launch, predecessors: Sequence[str]) -> Machine:
    """Launch an instance in the first place that has capacity.

    Args:
        wanted: the machine.
        predecessors: ids of terminated instances of that name.

    Raises:
        ConfigurationError: see `_request.build`.
        NotFound: see `_request.build`.
        ApiError: EC2 refuses the launch in every place.
        LaunchError: EC2 remembers too many machines of that name, or another machine keeps its
            private address.
    """
    *others, last = _request.places(wanted)
    for place in others:
        try:
            return _launch_in(place, predecessors)
        except ApiError as error:
            if error.code not in NO_CAPACITY:
                raise
            log.warning("%s; trying the next place", error)
    return _launch_in(last, predecessors)


def _launch_in(wanted: Launch, predecessors: Sequence[str]) -> Machine:
    connection, name = wanted.connection, wanted.name
    request = _request.build(wanted)
    wanted.report(request)
    for _ in range(TOKENS):
        # EC2 remembers a token for longer than it shows the instance that the token launched.
        token = _request.client_token(connection.region, name, request, predecessors)
        call = {**request, "ClientToken": token}
        run = functools.partial(_run_instance, connection, name, call)
        try:
            instance = _private_addresses.when_free(wanted, request, run)
        except ApiError as error:
            if error.code not in TOKEN_USED:
                raise
            predecessors = [*predecessors, token]
            continue
        _lookup.forget_name(connection, name)
        if instance["State"]["Name"] in _lookup.LIVING and _has_name(connection, name, instance):
            log.info("%s is launched as %s", name, instance["InstanceId"])
            return Machine(connection, wanted.options, name, instance)
        predecessors = [*predecessors, instance["InstanceId"]]
    raise LaunchError(
        f"{name}: EC2 remembers the last {TOKENS} machines that were launched just like it,"
        " and launches no other; run the same command again tomorrow, or with another tag"
    )


def _run_instance(connection: Connection, name: str, request: dict[str, Any]) -> InstanceTypeDef:
    """Call RunInstances; retry while EC2 does not know the instance profile yet."""
    deadline = time.monotonic() + PROFILE_SECONDS
    while True:
        try:
            with api_errors(f"launching {name}"):
                return connection.ec2.run_instances(**request)["Instances"][0]
        except ApiError as error:
            unknown_profile = (
                error.code == "InvalidParameterValue"
                and "iam instance profile" in str(error).lower()
            )
            if not unknown_profile or time.monotonic() > deadline:
                raise
            log.warning("%s; retrying: EC2 learns of new instance profiles with a delay", error)
        time.sleep(PROFILE_INTERVAL)


def _has_name(connection: Connection, name: str, launched: InstanceTypeDef) -> bool:
    """Return whether the instance in RunInstances' answer still has this name.

    For a token that it knows, EC2 repeats its first answer, with the current state; the instance
    may have been renamed since then.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Run_Instance_Idempotency.html
    """
    if launched["State"]["Name"] == "pending" and _tags.as_dict(launched).get("Name") == name:
        return True
    instance_id = launched["InstanceId"]
    found = _lookup.instances_by_id(connection, [instance_id]).get(instance_id)
    return found is None or _tags.as_dict(found).get("Name") == name


def wait_until_ready(machine: Machine) -> Machine:
    """Return the machine once it runs, has its attachments, and has an address.

    Raises:
        LaunchError: it was terminated, or `wait_for_ip_timeout` has passed.
        ApiError: EC2 did not answer, or refuses an attachment.
    """
    options = machine.options
    deadline = time.monotonic() + options["wait_for_ip_timeout"]
    attached = False
    while True:
        machine = machine.refresh()
        if machine.state == "running" and not attached:
            attached = True
            if _attachments.attach(machine):
                continue  # its address has changed
        if machine.state == "running" and machine.address:
            return machine
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{machine.name} is {machine.state} and has {'an' if machine.address else 'no'}"
                f" address in {options['ssh_interface']} after {options['wait_for_ip_timeout']:g} s"
            )


# -- states ----------------------------------------------------------------------------------------


def start(machine: Machine) -> list[dict[str, Any]]:
    """Start a machine; if it is stopping, wait until it has stopped.

    Returns:
        A list with its states, as the 3007 driver returned it.

    Raises:
        ApiError: EC2 refuses.
    """
    ec2 = machine.connection.ec2
    with api_errors(f"starting {machine.name}"):
        if machine.state == "stopping":
            ec2.get_waiter("instance_stopped").wait(InstanceIds=[machine.id])
        answer = ec2.start_instances(InstanceIds=[machine.id])
    return [_answers.state_change(change) for change in answer["StartingInstances"]]


def stop(machine: Machine) -> list[dict[str, Any]]:
    """Stop a machine.

    Returns:
        A list with its states, as the 3007 driver returned it.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"stopping {machine.name}"):
        answer = machine.connection.ec2.stop_instances(InstanceIds=[machine.id])
    return [_answers.state_change(change) for change in answer["StoppingInstances"]]


def reboot(machine: Machine) -> dict[str, Any]:
    """Reboot a machine.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"rebooting {machine.name}"):
        machine.connection.ec2.reboot_instances(InstanceIds=[machine.id])
    return {"id": machine.id, "rebooted": True, "Reboot": "Complete"}


def console_output(machine: Machine) -> dict[str, Any]:
    """Return what a machine printed on its console.

    Raises:
        ApiError: EC2 refuses.
    """
    output = _console.read(machine)
    return {
        "id": machine.id,
        "instanceId": machine.id,
        "output": output,
        "output_decoded": output,
    }


# -- the end ---------------------------------------------------------------------------------------


def allow_termination(machine: Machine) -> None:
    """Let EC2 terminate a machine that its options protect, with all volumes of its launch.

    For machines whose deployment failed: their volumes hold no data yet.

    Raises:
        ApiError: EC2 refuses.
    """
    options = machine.options
    existing = {volume.get("volume_id") for volume in options.get("volumes") or []}
    kept: Any = [
        {"DeviceName": mapping["DeviceName"], "Ebs": {"DeleteOnTermination": True}}
        for mapping in machine.instance.get("BlockDeviceMappings", [])
        if not mapping["Ebs"].get("DeleteOnTermination")
        and mapping["Ebs"]["VolumeId"] not in existing
    ]
    changes: list[dict[str, Any]] = [{"BlockDeviceMappings": kept}] if kept else []
    if options.get("termination_protection"):
        changes.append({"DisableApiTermination": {"Value": False}})
    for change in changes:
        with api_errors(f"allowing the termination of {machine.name}"):
            machine.connection.ec2.modify_instance_attribute(InstanceId=machine.id, **change)


def terminate(machine: Machine) -> dict[str, Any]:
    """Terminate a machine, and release the elastic addresses that were allocated for it.

    Returns:
        Its states; under `left`, if there are any, messages about addresses that EC2 did not
        release.

    Raises:
        ApiError: EC2 refuses, as it does for a machine with termination protection; the machine
            still exists.
    """
    connection, name = machine.connection, machine.name
    with api_errors(f"looking up the elastic addresses of {name}"):
        addresses = _attachments.allocated_addresses(connection, machine.id)
    _cancel_spot_request(machine)
    with api_errors(f"destroying {name}"):
        answer = connection.ec2.terminate_instances(InstanceIds=[machine.id])
    _lookup.forget_name(connection, name)
    change = _answers.state_change(answer["TerminatingInstances"][0])
    if left := _attachments.release_addresses(machine, addresses):
        change["left"] = left
    return change


def _cancel_spot_request(machine: Machine) -> None:
    """Cancel the spot request: for an open persistent one, EC2 would launch a successor."""
    request = machine.instance.get("SpotInstanceRequestId")
    if not request:
        return
    try:
        with api_errors(f"cancelling the spot request of {machine.name}"):
            machine.connection.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request])
    except ApiError as error:
        if error.code != "InvalidSpotInstanceRequestID.NotFound":
            raise
