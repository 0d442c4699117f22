"""One instance: launched once, awaited, equipped, terminated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from saltext.ec2 import _lookup, _request
from saltext.ec2._client import Connection
from saltext.ec2.errors import ApiError, LaunchError, api_errors
from saltext.ec2.tags import RELEASE_TAG

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import AddressTypeDef, FilterTypeDef, InstanceTypeDef

log = logging.getLogger(__name__)

ADDRESSES = {"private_ips": "PrivateIpAddress", "public_ips": "PublicIpAddress"}
WATCH_SECONDS = 15  # between two looks at an instance whose sshd is awaited
PROFILE_SECONDS = 60  # for which EC2 may not know an instance profile yet
PROFILE_INTERVAL = 3
TOKENS = (
    50  # that a launch tries: EC2 remembers each for a day after its instance has ended, or longer
)


def launch(
    connection: Connection,
    options: Mapping[str, Any],
    name: str,
    predecessors: Sequence[str],
    *,
    userdata: str = "",
    deploy: bool = True,
) -> InstanceTypeDef:
    """Launch an instance in the first place that has room.

    Args:
        connection: the region.
        options: see `options.resolve`.
        name: the machine's name.
        predecessors: ids of terminated instances of that name.
        userdata: rendered user data.
        deploy: whether a minion will be installed on it.

    Raises:
        ConfigurationError: see `_request.request`.
        NotFound: see `_request.request`.
        ApiError: EC2 refuses the launch, in every place.
        LaunchError: EC2 remembers too many machines of that name.
    """
    places = _request.variants(options)
    for place in places[:-1]:
        try:
            return _launch_in(
                connection, place, name, predecessors, userdata=userdata, deploy=deploy
            )
        except ApiError as error:
            if error.code not in _request.NO_ROOM:
                raise
            log.warning("%s; the next place is tried", error)
    return _launch_in(connection, places[-1], name, predecessors, userdata=userdata, deploy=deploy)


def _launch_in(
    connection: Connection,
    options: Mapping[str, Any],
    name: str,
    predecessors: Sequence[str],
    *,
    userdata: str,
    deploy: bool,
) -> InstanceTypeDef:
    wanted = _request.request(connection, options, name, userdata=userdata, deploy=deploy)
    for _ in range(TOKENS):
        # EC2 remembers a token for longer than it shows the instance that it stood for, or shows it by that name.
        token = _request.client_token(connection.region, name, wanted, predecessors)
        try:
            instance = _run_instance(connection, name, {**wanted, "ClientToken": token})
        except ApiError as error:
            if error.code not in _request.SPENT:
                raise
            predecessors = [*predecessors, token]
            continue
        _lookup.changed(connection, name)
        if instance["State"]["Name"] in _lookup.LIVING and _is_called(connection, name, instance):
            log.info("%s is launched as %s", name, instance["InstanceId"])
            return instance
        predecessors = [*predecessors, instance["InstanceId"]]
    raise LaunchError(
        f"{name}: EC2 remembers the last {TOKENS} machines that were launched just like it, and launches no other;"
        " run the same command again tomorrow, or with another tag"
    )


def _is_called(connection: Connection, name: str, launched: InstanceTypeDef) -> bool:
    """Tell whether what RunInstances answered with has this name: an instance of an earlier launch may be renamed.

    To a token that it knows, EC2 repeats its first answer, in which only the state is sure to be of today.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Run_Instance_Idempotency.html
    """
    if launched["State"]["Name"] == "pending" and _lookup.tags(launched).get("Name") == name:
        return True
    instance_id = launched["InstanceId"]
    found = _lookup.instances_by_id(connection, [instance_id]).get(instance_id)
    return found is None or _lookup.tags(found).get("Name") == name


def _run_instance(connection: Connection, name: str, wanted: dict[str, Any]) -> InstanceTypeDef:
    """Ask for an instance; its profile may be so new that EC2 has not heard of it from IAM."""
    deadline = time.monotonic() + PROFILE_SECONDS
    while True:
        try:
            with api_errors(f"launching {name}"):
                return connection.ec2.run_instances(**wanted)["Instances"][0]
        except ApiError as error:
            unheard = (
                error.code == "InvalidParameterValue"
                and "iam instance profile" in str(error).lower()
            )
            if not unheard or time.monotonic() > deadline:
                raise
            log.warning(
                "%s; it is tried again: what IAM has just made, EC2 learns a little later", error
            )
        time.sleep(PROFILE_INTERVAL)


def look_again(
    connection: Connection,
    options: Mapping[str, Any],
    name: str,
    instance: InstanceTypeDef,
    age: float = 0,
) -> InstanceTypeDef:
    """Return the instance as it is now; right after a launch EC2 may not know it yet.

    Args:
        connection: the region.
        options: see `options.resolve`; `wait_for_ip_interval` is how often EC2 is asked, for all machines together.
        name: the machine's name.
        instance: what was known of it.
        age: seconds that the answer may be old.

    Raises:
        LaunchError: it has been terminated.
        ApiError: EC2 could not be asked.
    """
    instance_id = instance["InstanceId"]
    since, every = time.time() - age, options["wait_for_ip_interval"]
    found = connection.cache.poll(
        instance_id, lambda ids: _lookup.instances_by_id(connection, ids), since, every
    )
    instance = found or instance
    if instance["State"]["Name"] not in _lookup.LIVING:
        reason = instance.get("StateReason", {}).get("Message") or "EC2 gives no reason"
        raise LaunchError(
            f"{name} ({instance_id}) is {instance['State']['Name']} instead of running: {reason};"
            " run the same command again to launch another"
        )
    return instance


def watch(
    connection: Connection, options: Mapping[str, Any], name: str, instance: InstanceTypeDef
) -> Callable[[], None]:
    """Return a check that the instance still lives; call it as often as you like, EC2 is asked seldom."""
    asked = time.monotonic()

    def alive() -> None:
        nonlocal asked
        if time.monotonic() - asked > WATCH_SECONDS:
            asked = time.monotonic()
            look_again(connection, options, name, instance, WATCH_SECONDS)

    return alive


def ready(
    connection: Connection, options: Mapping[str, Any], name: str, instance: InstanceTypeDef
) -> InstanceTypeDef:
    """Return the instance once it runs, is equipped, and has the address that `ssh_interface` asks for.

    Raises:
        LaunchError: it was terminated, or `wait_for_ip_timeout` has passed.
        ApiError: EC2 could not be asked, or refuses what the machine is to be equipped with.
    """
    deadline = time.monotonic() + options["wait_for_ip_timeout"]
    equipped = False
    while True:
        instance = look_again(connection, options, name, instance)
        state = instance["State"]["Name"]
        if state == "running" and not equipped:
            equipped = True
            if equip(connection, options, name, instance):
                continue  # it has another address now
        reachable = bool(address(options, instance))
        if state == "running" and reachable:
            return instance
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{name} is {state} and has {'an' if reachable else 'no'} address in {options['ssh_interface']}"
                f" after {options['wait_for_ip_timeout']:g} s"
            )


def address(options: Mapping[str, Any], instance: Mapping[str, Any]) -> str:
    """Return where salt-cloud reaches the instance; empty: it has no such address."""
    return str(instance.get(ADDRESSES[options["ssh_interface"]]) or "")


# -- what a launch cannot give --------------------------------------------------------------------------------------


def needs_equipment(options: Mapping[str, Any]) -> bool:
    """Tell whether there is anything for `equip` to give."""
    return any(
        volume.get("volume_id") or volume.get("tags") for volume in options.get("volumes") or []
    ) or any(
        set(_request.INTERFACE_LATER) & set(interface)
        for interface in options.get("network_interfaces") or []
    )


def equip(
    connection: Connection, options: Mapping[str, Any], name: str, instance: InstanceTypeDef
) -> bool:
    """Give a running instance existing volumes, tags of single volumes, and elastic addresses; do nothing twice.

    Returns:
        Whether it was given an address.

    Raises:
        ApiError: EC2 refuses one of these.
    """
    given = False
    _volumes(connection, options.get("volumes") or [], name, instance)
    interfaces = {
        each["Attachment"]["DeviceIndex"]: each for each in instance.get("NetworkInterfaces", [])
    }
    for wanted in options.get("network_interfaces") or []:
        interface = interfaces[wanted.get("DeviceIndex", 0)]
        if (
            "SourceDestCheck" in wanted
            and interface.get("SourceDestCheck") != wanted["SourceDestCheck"]
        ):
            with api_errors(f"setting SourceDestCheck of {name}"):
                connection.ec2.modify_network_interface_attribute(
                    NetworkInterfaceId=interface["NetworkInterfaceId"],
                    SourceDestCheck={"Value": wanted["SourceDestCheck"]},
                )
        if any(
            wanted.get(key) for key in ("associate_eip", "allocate_new_eip", "allocate_new_eips")
        ):
            given |= _elastic_addresses(connection, name, instance["InstanceId"], wanted, interface)
    return given


def _volumes(
    connection: Connection,
    volumes: Sequence[Mapping[str, Any]],
    name: str,
    instance: InstanceTypeDef,
) -> None:
    devices = {
        each.get("DeviceName"): each.get("Ebs", {}).get("VolumeId")
        for each in instance.get("BlockDeviceMappings", [])
    }
    for volume in volumes:
        volume_id = volume.get("volume_id") or devices.get(volume["device"])
        if not volume_id:
            continue
        if devices.get(volume["device"]) != volume_id:
            with api_errors(f"attaching {volume_id} to {name}"):
                connection.ec2.attach_volume(
                    InstanceId=instance["InstanceId"], VolumeId=volume_id, Device=volume["device"]
                )
        if volume.get("tags"):
            with api_errors(f"tagging {volume_id} of {name}"):
                connection.ec2.create_tags(
                    Resources=[volume_id], Tags=_request.tag_list(volume["tags"])
                )


def _elastic_addresses(
    connection: Connection,
    name: str,
    instance_id: str,
    wanted: Mapping[str, Any],
    interface: Mapping[str, Any],
) -> bool:
    given = False
    interface_id = interface["NetworkInterfaceId"]
    with api_errors(f"looking up the elastic addresses of {name}"):
        held = connection.ec2.describe_addresses(
            Filters=[{"Name": "network-interface-id", "Values": [interface_id]}]
        )["Addresses"]
    served = {each.get("PrivateIpAddress") or interface["PrivateIpAddress"] for each in held}
    for private in interface["PrivateIpAddresses"]:
        if private["PrivateIpAddress"] in served or not (
            private.get("Primary") or wanted.get("allocate_new_eips")
        ):
            continue
        with api_errors(f"giving {name} an elastic address"):
            allocation = wanted.get("associate_eip") or _spare_address(connection, instance_id)
            if not allocation:
                allocation = connection.ec2.allocate_address(
                    Domain="vpc",
                    TagSpecifications=[
                        {
                            "ResourceType": "elastic-ip",
                            "Tags": _request.tag_list({"Name": name, RELEASE_TAG: instance_id}),
                        }
                    ],
                )["AllocationId"]
            connection.ec2.associate_address(
                AllocationId=allocation,
                NetworkInterfaceId=interface_id,
                PrivateIpAddress=private["PrivateIpAddress"],
                AllowReassociation=False,
            )
        given = True
    return given


def _spare_address(connection: Connection, instance_id: str) -> str | None:
    """Return an address that a run allocated for this machine before it failed."""
    spare = (
        each["AllocationId"]
        for each in _own_addresses(connection, instance_id)
        if not each.get("AssociationId")
    )
    return next(spare, None)


def _own_addresses(connection: Connection, instance_id: str) -> list[AddressTypeDef]:
    """Return the elastic addresses that were allocated for a machine."""
    mine: Sequence[FilterTypeDef] = [{"Name": f"tag:{RELEASE_TAG}", "Values": [instance_id]}]
    return connection.ec2.describe_addresses(Filters=mine)["Addresses"]


# -- states ---------------------------------------------------------------------------------------------------------


def start(connection: Connection, name: str, instance: InstanceTypeDef) -> dict[str, Any]:
    """Start an instance, when it has stopped."""
    instance_id = instance["InstanceId"]
    with api_errors(f"starting {name}"):
        if instance["State"]["Name"] == "stopping":
            connection.ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance_id])
        return _change(
            connection.ec2.start_instances(InstanceIds=[instance_id])["StartingInstances"][0]
        )


def stop(connection: Connection, name: str, instance: InstanceTypeDef) -> dict[str, Any]:
    """Stop an instance."""
    with api_errors(f"stopping {name}"):
        answer = connection.ec2.stop_instances(InstanceIds=[instance["InstanceId"]])
    return _change(answer["StoppingInstances"][0])


def release(
    connection: Connection, options: Mapping[str, Any], name: str, instance: InstanceTypeDef
) -> None:
    """Let a machine be terminated with the volumes of its launch, whatever protects it: nothing is on them yet.

    Raises:
        ApiError: EC2 refuses.
    """
    existing = {volume.get("volume_id") for volume in options.get("volumes") or []}
    kept: Any = [
        {"DeviceName": each["DeviceName"], "Ebs": {"DeleteOnTermination": True}}
        for each in instance.get("BlockDeviceMappings", [])
        if not each["Ebs"].get("DeleteOnTermination") and each["Ebs"]["VolumeId"] not in existing
    ]
    changes: list[dict[str, Any]] = [{"BlockDeviceMappings": kept}] if kept else []
    if options.get("termination_protection"):
        changes.append({"DisableApiTermination": {"Value": False}})
    for change in changes:
        with api_errors(f"releasing {name}"):
            connection.ec2.modify_instance_attribute(InstanceId=instance["InstanceId"], **change)


def terminate(connection: Connection, name: str, instance: InstanceTypeDef) -> dict[str, Any]:
    """Terminate an instance, and release the elastic addresses that were allocated for it.

    Returns:
        Its states; and in `left`, where there is something, what could not be released, and why. That is no error:
        the machine is gone, and nobody would find it again to destroy it.

    Raises:
        ApiError: EC2 refuses, as it does for a machine with termination protection; it lives on.
    """
    with api_errors(f"looking up the elastic addresses of {name}"):
        addresses = _own_addresses(connection, instance["InstanceId"])
    _cancel_spot_request(connection, name, instance)
    with api_errors(f"destroying {name}"):
        answer = connection.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    _lookup.changed(connection, name)
    change = _change(answer["TerminatingInstances"][0])
    for each in addresses:
        try:
            with api_errors(f"releasing {each['AllocationId']} ({each['PublicIp']}) of {name}"):
                if each.get("AssociationId"):
                    _disassociate(connection, each["AssociationId"])
                connection.ec2.release_address(AllocationId=each["AllocationId"])
        except ApiError as error:
            log.error(
                "%s is destroyed, but its elastic address is left, and paid for: %s", name, error
            )
            change.setdefault("left", []).append(str(error))
    return change


def _cancel_spot_request(connection: Connection, name: str, instance: InstanceTypeDef) -> None:
    """Keep EC2 from launching a successor, as it does for a persistent request that is open."""
    if not (request := instance.get("SpotInstanceRequestId")):
        return
    try:
        with api_errors(f"cancelling the spot request of {name}"):
            connection.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request])
    except ApiError as error:
        if error.code != "InvalidSpotInstanceRequestID.NotFound":
            raise


def _disassociate(connection: Connection, association_id: str) -> None:
    try:
        connection.ec2.disassociate_address(AssociationId=association_id)
    except ClientError as error:  # EC2 takes the address off a terminated instance by itself
        if error.response.get("Error", {}).get("Code") != "InvalidAssociationID.NotFound":
            raise


def _change(change: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": change["InstanceId"],
        "previousState": change["PreviousState"]["Name"],
        "currentState": change["CurrentState"]["Name"],
    }
