"""Connects moto's EC2 to the local cloud's machines.

moto answers every EC2 call from data alone. The wrappers here change a machine when a call changes
its instance, and correct moto where it differs from EC2 in something that a launch depends on.
The docstring of a wrapper says what EC2 does.
"""

from __future__ import annotations

import contextvars
import copy
import hashlib
import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from moto import settings
from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.exceptions import DependencyViolationError, EC2ClientError, OperationNotPermitted4
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_ip_addresses import ElasticAddress, ElasticAddressBackend
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instance_types import (
    INSTANCE_TYPES,
    InstanceType,
    InstanceTypeBackend,
    InstanceTypeOfferingBackend,
)
from moto.ec2.models.instances import Instance, InstanceBackend, InstanceState, Reservation
from moto.ec2.models.security_groups import SecurityGroupBackend
from moto.ec2.models.subnets import Subnet, SubnetBackend
from moto.ec2.responses.general import General
from moto.ec2.responses.instances import InstanceResponse
from moto.s3.models import FakeKey
from moto.servicequotas.models import ServiceQuotasBackend

from localcloud import account, dependencies, endpoints, groups, routes, s3, volumes
from localcloud.account import Wanted
from localcloud.cloud import Cloud
from localcloud.state import BODY_DIGEST

ROOT_GIB = 8
"""Size of the root volume of Debian's AMI."""
CONSOLE_BYTES = 64 * 1024
"""The most that GetConsoleOutput returns, of the end of the output.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html"""
ELASTIC_ADDRESSES = 5
"""The elastic addresses of an account in a region, unless Amazon has raised the quota.
https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html"""
NO_CLIENT_TOKEN = "ABCDE"  # noqa: S105
"""The ClientToken that moto gives to a request without one."""

_request: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar(
    "localcloud_run_instances"
)


class Hooks:
    """The wrappers of one cloud around moto's classes, until `remove`."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._undo: list[Callable[[], None]] = []
        try:
            self._install()
        except BaseException:
            self.remove()  # moto is the whole process's
            raise

    def _install(self) -> None:
        self._settings()
        self._requests()
        self._launches()
        self._ends()
        self._lives()
        self._addresses()
        self._groups()
        self._elastic_addresses()
        self._contents()
        self._limits()
        groups.hook(self._replace)
        routes.hook(self._replace, self._give_later)
        endpoints.hook(self._replace)
        s3.hook(self._replace)
        volumes.hook(self._replace, ROOT_GIB)
        volumes.hook_modifications(self._replace, self._cloud.delays)
        volumes.hook_creation(self._replace)
        volumes.hook_attachments(self._replace)

    def remove(self) -> None:
        """Restore moto's own behaviour."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, owner: Any, name: str, new: Any) -> Any:
        original = owner.__dict__.get(name)
        setattr(owner, name, new)

        def undo() -> None:
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

        self._undo.append(undo)
        return original

    def _launches(self) -> None:
        cloud = self._cloud

        def run_instances(
            backend: Any, image_id: str, count: int, user_data: Any, *groups: Any, **options: Any
        ) -> Reservation:
            """Launch all instances or none, up to MaxCount; return those of a known ClientToken.

            EC2 remembers a token for longer than it lists its instances. Here none is forgotten.
            """
            given = _request.get({})
            digest = _digest([image_id, count, str(user_data), *groups, options])
            token = options.get("client_token") or NO_CLIENT_TOKEN
            launches: dict[str, Reservation] = vars(backend).setdefault("launches", {})  # by token
            if token in launches:
                return _same_launch(launches[token], token, digest)
            options["disable_api_termination"] = given.get("disable_api_termination", False)
            interfaces = copy.deepcopy(options.get("nics") or [])
            count = max(count, given.get("max_count", 1))
            if options["instance_type"] in INSTANCE_TYPES:  # otherwise moto refuses it
                spot = options.get("instance_market_options") == "spot"
                zone = _zone(backend, options)
                wanted = Wanted(options["instance_type"], zone, count, spot=spot)
                cloud.account.check_launch(backend, wanted)
            before = set(backend.reservations)
            try:
                reservation = original_run(backend, image_id, count, user_data, *groups, **options)
            except Exception:
                for name in set(backend.reservations) - before:
                    for instance in backend.reservations[name].instances:
                        _complete(instance, interfaces)
                        original_terminate(instance)
                    del backend.reservations[name]
                raise
            reservation.request_digest = digest
            if token != NO_CLIENT_TOKEN:
                launches[token] = reservation
            for instance in reservation.instances:
                _complete(instance, interfaces, options.get("tags") or {})
                instance.cpu_credits = given.get("cpu_credits") or "standard"
                cloud.set_state(instance, "pending")
                cloud.follow(instance)
            return reservation

        def setup_defaults(instance: Instance) -> None:
            """Give an instance without block device mappings the image's root volume."""
            backend = instance.ec2_backend
            volume = backend.create_volume(
                size=ROOT_GIB, zone_name=instance.availability_zone, volume_type="gp3"
            )
            backend.attach_volume(volume.id, instance.id, instance.root_device_name, True)

        original_terminate = Instance.terminate
        original_run = self._replace(InstanceBackend, "run_instances", run_instances)
        self._replace(Instance, "setup_defaults", setup_defaults)

    def _settings(self) -> None:
        """Have moto refuse unknown images, keys and types, and load no images of its own."""
        for name in (
            "ENABLE_AMI_VALIDATION",
            "ENABLE_KEYPAIR_VALIDATION",
            "EC2_ENABLE_INSTANCE_TYPE_VALIDATION",
        ):
            self._replace(settings, name, True)
        before = os.environ.get("MOTO_EC2_LOAD_DEFAULT_AMIS", "true")
        os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
        self._undo.append(lambda: os.environ.update(MOTO_EC2_LOAD_DEFAULT_AMIS=before))

    def _requests(self) -> None:
        limits = self._cloud.account

        def respond(response: InstanceResponse) -> ActionResult:
            """Keep the parameters of RunInstances that moto's parser drops.

            DryRun names a zone that does not have the type, and nothing else that is missing there.
            """
            if response._get_param("DryRun"):
                names = {
                    "nics": "NetworkInterfaces",
                    "placement": "Placement.AvailabilityZone",
                    "subnet_id": "SubnetId",
                }
                options = {name: response._get_param(key) for name, key in names.items()}
                backend = response.ec2_backend
                wanted = Wanted(response._get_param("InstanceType"), _zone(backend, options))
                limits.check_offer(backend, wanted)
            token = _request.set(
                {
                    "max_count": int(response._get_param("MaxCount", if_none="1")),
                    "disable_api_termination": bool(response._get_param("DisableApiTermination")),
                    "cpu_credits": response._get_param("CreditSpecification.CpuCredits"),
                }
            )
            try:
                return original_respond(response)
            finally:
                _request.reset(token)

        def credit_specifications(response: InstanceResponse) -> ActionResult:
            """Return the credit mode of each instance as it was launched."""
            found = response.ec2_backend.describe_instance_credit_specifications(
                response._get_param("InstanceIds", [])
            )
            return ActionResult(
                {
                    "InstanceCreditSpecifications": [
                        {
                            "InstanceId": instance.id,
                            "CpuCredits": getattr(instance, "cpu_credits", "standard"),
                        }
                        for instance in found
                    ]
                }
            )

        original_respond = self._replace(InstanceResponse, "run_instances", respond)
        # moto answers "pending" even to a known token whose instance has left that state.
        transformers = {
            key: value
            for key, value in InstanceResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER.items()
            if not key.startswith("RunInstances.")
        }
        self._replace(InstanceResponse, "RESPONSE_KEY_PATH_TO_TRANSFORMER", transformers)
        self._replace(
            InstanceResponse, "describe_instance_credit_specifications", credit_specifications
        )

    def _ends(self) -> None:
        cloud = self._cloud

        def terminate(instance: Instance) -> InstanceState:
            """The state is shutting-down, then terminated; a second call changes nothing."""
            if instance.state in ("shutting-down", "terminated"):
                return copy.copy(instance._state)
            previous = terminate_quietly(instance)
            cloud.set_state(instance, "shutting-down")
            cloud.follow(instance)
            return previous

        def terminate_quietly(instance: Instance) -> InstanceState:
            instance.ended = datetime.now(UTC)
            previous: InstanceState = original_terminate(instance)
            # moto frees the address at once, but the machine still has it.
            for nic in instance.nics.values():
                nic.subnet._subnet_ips.setdefault(nic.private_ip_address, instance)
                nic.subnet._unused_ips.discard(nic.private_ip_address)
            return previous

        def terminate_instances(backend: Any, instance_ids: list[str]) -> Any:
            """If one instance is protected, no instance of the call is terminated."""
            for instance in backend.get_multi_instances_by_id(instance_ids):
                if instance.disable_api_termination is True and instance.state != "terminated":
                    raise OperationNotPermitted4(instance.id)
            return original_terminate_instances(backend, instance_ids)

        original_terminate = self._replace(Instance, "terminate", terminate)
        self._replace(Instance, "terminate_quietly", terminate_quietly)
        original_terminate_instances = self._replace(
            InstanceBackend, "terminate_instances", terminate_instances
        )

    def _lives(self) -> None:
        cloud = self._cloud

        def stop(instance: Instance) -> InstanceState:
            """The state is stopping, then stopped."""
            if instance.state in ("stopping", "stopped"):
                return copy.copy(instance._state)
            _require(instance, {"running", "pending"}, "stopped")
            previous: InstanceState = original_stop(instance)
            cloud.set_state(instance, "stopping")
            cloud.follow(instance)
            return previous

        def start(instance: Instance) -> InstanceState:
            """The state is pending, then running."""
            if instance.state in ("pending", "running"):
                return copy.copy(instance._state)
            _require(instance, {"stopped"}, "started")
            previous: InstanceState = original_start(instance)
            cloud.set_state(instance, "pending")
            cloud.follow(instance)
            return previous

        def start_instances(backend: Any, instance_ids: list[str]) -> Any:
            """All instances are started, or none: what stands still takes nothing of the quota."""
            stopped = [
                account.of_instance(instance)
                for instance in backend.get_multi_instances_by_id(instance_ids)
                if instance.state == "stopped"
            ]
            cloud.account.check_start(backend, stopped)
            return original_start_instances(backend, instance_ids)

        def reboot(instance: Instance) -> None:
            """The state stays running."""
            _require(instance, {"running"}, "rebooted")
            cloud.reboot(instance)

        def modify_instance_attribute(
            backend: Any, instance_id: str, key: str, value: Any
        ) -> Instance:
            """Type and user data of an instance can be changed only while it is stopped."""
            instance = backend.get_instance(instance_id)
            if key in ("instance_type", "user_data") and instance.state != "stopped":
                raise EC2ClientError(
                    "IncorrectInstanceState",
                    f"The instance '{instance_id}' is not in the 'stopped' state.",
                )
            return original_modify(backend, instance_id, key, value)

        original_stop = self._replace(Instance, "stop", stop)
        original_start = self._replace(Instance, "start", start)
        original_start_instances = self._replace(
            InstanceBackend, "start_instances", start_instances
        )
        self._replace(Instance, "reboot", reboot)
        self._replace(Instance, "stop_quietly", original_stop)
        original_modify = self._replace(
            InstanceBackend, "modify_instance_attribute", modify_instance_attribute
        )

    def _addresses(self) -> None:
        cloud = self._cloud

        def get_available_subnet_ip(subnet: Subnet, instance: Instance) -> str:
            """Return the first free address after the last one, as EC2 reuses none at once.

            EC2 chooses no address of a reservation.
            https://docs.aws.amazon.com/vpc/latest/userguide/subnet-cidr-reservation.html
            """
            usable, taken = _usable(subnet), _taken(subnet) | _reserved(subnet)
            start = usable.index(subnet.handed_out) + 1 if hasattr(subnet, "handed_out") else 0
            for address in usable[start:] + usable[:start]:
                if address not in taken:
                    subnet._subnet_ips[address] = instance
                    subnet.handed_out = address
                    return address
            raise EC2ClientError(
                "InsufficientFreeAddressesInSubnet",
                f"There are not enough free addresses in subnet '{subnet.id}'.",
            )

        def request_ip(subnet: Subnet, ip: str, instance: Instance) -> None:
            """Refuse an address that is taken, reserved or outside, with EC2's error codes."""
            if ip in _taken(subnet):
                raise EC2ClientError("InvalidIPAddress.InUse", f"Address {ip} is in use.")
            if ipaddress.ip_address(ip) not in subnet.cidr:
                raise EC2ClientError(
                    "InvalidParameterValue",
                    f"Address {ip} does not fall within the subnet's address range",
                )
            if ip not in _usable(subnet):
                raise EC2ClientError(
                    "InvalidParameterValue", f"Address {ip} is in subnet's reserved address range"
                )
            subnet._subnet_ips[ip] = instance

        def delete_subnet(backend: Any, subnet_id: str) -> Subnet:
            """A subnet with instances cannot be deleted."""
            for instance in backend.all_instances():
                if instance.state != "terminated" and any(
                    nic.subnet.id == subnet_id for nic in instance.nics.values()
                ):
                    raise DependencyViolationError(
                        f"The subnet '{subnet_id}' has dependencies and cannot be deleted."
                    )
            subnet: Subnet = original_delete(backend, subnet_id)
            cloud.forget_subnet(subnet_id)
            return subnet

        self._replace(Subnet, "get_available_subnet_ip", get_available_subnet_ip)
        self._replace(Subnet, "request_ip", request_ip)
        original_delete = self._replace(SubnetBackend, "delete_subnet", delete_subnet)

    def _groups(self) -> None:
        def delete_security_group(
            backend: Any, name: str | None = None, group_id: str | None = None
        ) -> None:
            """A group that something needs cannot be deleted."""
            if group_id:
                dependencies.require_unused_group(backend, group_id)
            original(backend, name, group_id)

        original = self._replace(
            SecurityGroupBackend, "delete_security_group", delete_security_group
        )

    def _give_later(self, give: Callable[[], None]) -> None:
        self._cloud.address_later(give)

    def _elastic_addresses(self) -> None:
        def allocate_address(backend: Any, *given: Any, **options: Any) -> ElasticAddress:
            """An account has a number of elastic addresses in each region."""
            if len(backend.addresses) >= ELASTIC_ADDRESSES:
                raise EC2ClientError(
                    "AddressLimitExceeded", "The maximum number of addresses has been reached."
                )
            allocated: ElasticAddress = original_allocate(backend, *given, **options)
            return allocated

        def instance_id(address: ElasticAddress) -> str:
            """An address of an interface is also the address of the interface's instance."""
            instance = address.eni.instance if address.eni else None
            return str(instance.id) if instance else ""

        def stop(interface: NetworkInterface) -> None:
            """An elastic address stays while its instance is stopped."""
            original_stop(interface)
            keep(interface)

        def check_auto_public_ip(interface: NetworkInterface) -> None:
            """An interface with an elastic address gets no other public address."""
            original_check(interface)
            keep(interface)

        def keep(interface: NetworkInterface) -> None:
            for address in interface.ec2_backend.addresses:
                if address.eni is interface:
                    interface.public_ip = address.public_ip

        original_allocate = self._replace(
            ElasticAddressBackend, "allocate_address", allocate_address
        )
        self._replace(ElasticAddress, "instance_id", property(instance_id))
        original_stop = self._replace(NetworkInterface, "stop", stop)
        original_check = self._replace(
            NetworkInterface, "check_auto_public_ip", check_auto_public_ip
        )

    def _limits(self) -> None:
        limits = self._cloud.account

        def instance_types(backend: Any, kinds: Any = None, filters: Any = None) -> Any:
            """Which types are eligible for the free tier depends on the account's plan."""
            found: list[InstanceType] = original_types(backend, kinds)
            return limits.instance_types(found, filters)

        def offerings(backend: Any, location_type: Any = None, filters: Any = None) -> Any:
            """A zone's offer differs between accounts, whose letters mean other buildings."""
            found = original_offerings(backend, location_type, filters)
            return [offer for offer in found if limits.offers(offer)]

        def quota(backend: Any, service_code: str, quota_code: str) -> dict[str, Any]:
            """The quota of the vCPUs is known."""
            if (service_code, quota_code) == ("ec2", account.QUOTA_CODE):
                return limits.quota(backend.region_name)
            found: dict[str, Any] = original_quota(backend, service_code, quota_code)
            return found

        original_types = self._replace(
            InstanceTypeBackend, "describe_instance_types", instance_types
        )
        original_offerings = self._replace(
            InstanceTypeOfferingBackend, "describe_instance_type_offerings", offerings
        )
        original_quota = self._replace(ServiceQuotasBackend, "get_service_quota", quota)

    def _contents(self) -> None:
        cloud = self._cloud

        def block_device_mappings(ami: Ami) -> list[dict[str, Any]]:
            """Return the root volume of Debian's AMI."""
            ebs = {
                "SnapshotId": ami.ebs_snapshot.id,
                "VolumeSize": ROOT_GIB,
                "DeleteOnTermination": True,
                "VolumeType": "gp3",
            }
            return [{"DeviceName": ami.root_device_name, "Ebs": ebs}]

        def get_console_output(response: General) -> ActionResult:
            """Return the last copy of a console, or with Latest, on Nitro alone, the console."""
            instance = response.ec2_backend.get_instance(response._get_param("InstanceId"))
            latest = str(response._get_param("Latest")).lower() == "true"
            if latest and not _is_nitro(instance.instance_type):
                raise EC2ClientError(
                    "UnsupportedOperation",
                    "This instance type does not support retrieving the latest console logs.",
                )
            text, copied = cloud.console(instance, latest=latest)
            shown = text.encode()[-CONSOLE_BYTES:].decode(errors="replace")
            return ActionResult(
                {
                    "InstanceId": instance.id,
                    "Timestamp": copied.replace(tzinfo=None) if copied else utcnow(),
                    **({"Output": Base64EncodedString.from_raw_string(shown)} if shown else {}),
                }
            )

        def set_value(key: Any, value: bytes) -> None:
            vars(key).pop(BODY_DIGEST, None)
            original_value.fset(key, value)

        original_value = FakeKey.value
        self._replace(FakeKey, "value", property(original_value.fget, set_value))
        self._replace(Ami, "block_device_mappings", property(block_device_mappings))
        self._replace(General, "get_console_output", get_console_output)


def _is_nitro(instance_type: str) -> bool:
    kind = INSTANCE_TYPES[instance_type]
    return bool(kind.get("Hypervisor") == "nitro" or kind.get("BareMetal"))


def _zone(backend: Any, options: Mapping[str, Any]) -> str:
    """Return the zone of a launch: of its subnet or interface, or else as it says itself."""
    subnet_id = options.get("subnet_id")
    for nic in options.get("nics") or []:
        known = backend.enis.get(nic.get("NetworkInterfaceId"))
        subnet_id = known.subnet.id if known else nic.get("SubnetId") or subnet_id
        break  # all interfaces of an instance are in one zone
    if subnet_id:
        subnets = backend.describe_subnets(subnet_ids=[subnet_id])
        return str(subnets[0].availability_zone)
    return str(options.get("placement") or f"{backend.region_name}a")


def _digest(request: list[Any]) -> str:
    text = json.dumps(request, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _same_launch(known: Reservation, token: str, digest: str) -> Reservation:
    """Return the launch that a ClientToken stands for, if it is the same request and lives."""
    if known.request_digest != digest:
        raise EC2ClientError(
            "IdempotentParameterMismatch",
            f"The client token '{token}' was used with other parameters.",
        )
    if all(instance.state == "terminated" for instance in known.instances):
        raise EC2ClientError(
            "IdempotentInstanceTerminated",
            "The client token you have provided is associated with a terminated instance.",
        )
    return known


def _complete(
    instance: Instance,
    specs: list[dict[str, Any]],
    tags: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Give a new instance EC2's defaults, and its new interfaces their tags, which moto drops.

    The defaults are a root volume, the groups of its first interface, and interfaces that are
    deleted with the instance.
    """
    instance.security_groups = instance.security_groups or list(instance.nics[0]._group_set)
    if instance.root_device_name not in instance.block_device_mapping:
        instance.setup_defaults()
    given = {int(spec.get("DeviceIndex", 0)): spec for spec in specs}
    for index, nic in instance.nics.items():
        spec = given.get(index, {})
        if "NetworkInterfaceId" not in spec:
            nic.delete_on_termination = str(spec.get("DeleteOnTermination", True)).lower() == "true"
            nic.add_tags(dict((tags or {}).get("network-interface", {})))


def _require(instance: Instance, states: set[str], verb: str) -> None:
    if instance.state not in states:
        raise EC2ClientError(
            "IncorrectInstanceState",
            f"The instance '{instance.id}' is not in a state from which it can be {verb}.",
        )


def _usable(subnet: Subnet) -> list[str]:
    """Return the addresses of a subnet without its first four and its last, which AWS reserves."""
    network = ipaddress.ip_network(subnet.cidr_block)
    return [str(address) for address in list(network)[4:-1]]


def _reserved(subnet: Subnet) -> set[str]:
    return {str(address) for address in subnet._reserved_ips}


def _taken(subnet: Subnet) -> set[str]:
    taken = set(subnet._subnet_ips)
    for nic in subnet.ec2_backend.enis.values():
        if nic.subnet.id == subnet.id:
            taken.update(address["PrivateIpAddress"] for address in nic.private_ip_addresses)
    return taken
