"""salt-cloud's functions for Amazon EC2.

A provider needs no more than `driver: ec2` and a `location`; the options are listed in docs/driver-options.md.
A machine is known by its Name tag. Whatever fails, fails aloud: with a sentence, and not as an empty list.
"""

from __future__ import annotations

import functools
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import salt.config
import salt.utils.cloud
import salt.utils.files

from saltext.ec2 import _deploy, _host_keys, _launch, _lookup, _options
from saltext.ec2._client import Connection, connect, region_of
from saltext.ec2._errors import (
    ApiError,
    ConfigurationError,
    DeployError,
    Ec2Error,
    LaunchError,
    NotFound,
    QueryFailed,
    api_errors,
)

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

    # Salt's loader puts these into the module.
    __opts__: dict[str, Any]
    __utils__: dict[str, Callable[..., Any]]
    __active_provider_name__: Any

log = logging.getLogger(__name__)

__virtualname__ = "ec2"

Returned = TypeVar("Returned")


def __virtual__() -> str:
    return __virtualname__


def _truthful(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """Keep the core from swallowing a mistake of ours: it takes a KeyError for a missing setting, and goes on."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Returned:
        try:
            return function(*args, **kwargs)
        except KeyError as error:
            raise Ec2Error(f"{function.__name__} stopped at an unexpected answer: no {error} in it") from error

    return wrapped


def _query(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """Raise a query's failure as what the core does not mistake for "there are no machines"."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Returned:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            log.debug("The machines of %s cannot be listed", _provider_name(), exc_info=True)
            # Without the cause: the core prints the whole traceback.
            raise QueryFailed(f"the machines of {_provider_name()} cannot be listed: {error}") from None

    return wrapped


# -- the provider ---------------------------------------------------------------------------------------------------


def _provider_name() -> str:
    active = __active_provider_name__
    value = active.value() if hasattr(active, "value") else active
    return str(value or __virtualname__)


def get_configured_provider() -> dict[str, Any] | bool:
    """Return the active provider's options, or False when there is none.

    Raises:
        ConfigurationError: an option is unknown, or the region is refused.
    """
    provider = salt.config.is_provider_configured(__opts__, _provider_name(), ("driver",), log_message=False)
    if not provider:
        return False
    _options.check(provider, f"provider {_provider_name()}", __opts__)
    region_of(provider)
    return dict(provider)


def _provider() -> dict[str, Any]:
    provider = get_configured_provider()
    if not isinstance(provider, dict):
        raise ConfigurationError(f"there is no provider {_provider_name()} with driver: {__virtualname__}")
    return provider


def _connection(options: Mapping[str, Any] | None = None) -> Connection:
    return connect(options if options is not None else _provider(), __opts__["cachedir"])


# -- queries --------------------------------------------------------------------------------------------------------


def _nodes() -> dict[str, dict[str, Any]]:
    """Return the machines that are not terminated; one without a name, or with another's, goes by its id."""
    connection = _connection()
    found = _lookup.instances(connection)
    connection.cache.put("names", _lookup.census(found), _lookup.CENSUS_SECONDS)
    alive = [instance for instance in found if instance["State"]["Name"] in _lookup.LIVING]
    names = [_lookup.tags(instance).get("Name") for instance in alive]
    return {
        name if name and names.count(name) == 1 else instance["InstanceId"]: _describe(instance)
        for name, instance in zip(names, alive, strict=True)
    }


def _describe(instance: InstanceTypeDef) -> dict[str, Any]:
    """Return an instance in EC2's words, plus the fields that salt-cloud promises for every cloud."""
    return {
        **_plain(instance),
        "id": instance["InstanceId"],
        "image": instance.get("ImageId"),
        "size": instance.get("InstanceType"),
        "state": instance["State"]["Name"],
        "private_ips": _addresses(instance, "PrivateIpAddress"),
        "public_ips": _addresses(instance, "PublicIpAddress"),
        "name": _lookup.tags(instance).get("Name"),
        "tags": _lookup.tags(instance),
    }


def _plain(answer: Any) -> Any:
    """Return an answer of the API with its times as text, which every outputter and the event bus can carry."""
    return json.loads(json.dumps(answer, default=lambda value: value.isoformat()))


def _addresses(instance: Mapping[str, Any], key: str) -> list[str]:
    return [instance[key]] if instance.get(key) else []


def _launching() -> bool:
    """Tell whether the core asks which machines it need not create: it is about to apply a map or a profile."""
    applies = any(__opts__.get(name) for name in ("map", "map_data", "map_pillar", "profile"))
    other = any(__opts__.get(name) for name in ("destroy", "action", "selected_query_option"))
    return applies and not other


@_query
def list_nodes(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the machines: id, image, size, state and addresses of each.

    While a map or profile is being applied, machines whose deployment never finished are left out: the core then
    calls `create` for them, which finds them and repairs them.

    CLI Example: ``salt-cloud -Q``

    Raises:
        QueryFailed: the account could not be asked.
    """
    _not_an_action("list_nodes", call)
    fields = ("id", "image", "size", "state", "private_ips", "public_ips")
    unfinished = _launching()
    return {
        name: {field: node[field] for field in fields}
        for name, node in _nodes().items()
        if not (unfinished and node["tags"].get(_launch.DEPLOY_TAG) == "pending")
    }


@_query
def list_nodes_min(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the machines with their state; see `list_nodes` for those left out.

    Raises:
        QueryFailed: the account could not be asked.
    """
    _not_an_action("list_nodes_min", call)
    return {name: {"id": node["id"], "state": node["state"]} for name, node in list_nodes().items()}


@_query
def list_nodes_full(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the machines with everything that EC2 says of them.

    CLI Example: ``salt-cloud -F``

    Raises:
        QueryFailed: the account could not be asked.
    """
    _not_an_action("list_nodes_full", call)
    nodes = _nodes()
    if __opts__.get("update_cachedir"):
        salt.utils.cloud.cache_node_list(nodes, _provider_name().split(":")[0], __opts__)
    return nodes


@_query
def list_nodes_select(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the machines with the fields that `query.selection` of the cloud configuration names.

    CLI Example: ``salt-cloud -S``

    Raises:
        QueryFailed: the account could not be asked.
    """
    selected = salt.utils.cloud.list_nodes_select(list_nodes_full(), __opts__["query.selection"], call)
    return dict(selected)


def show_instance(name: str, call: str | None = None) -> dict[str, Any]:
    """Return everything that EC2 says of one machine.

    CLI Example: ``salt-cloud -a show_instance web-1``

    Raises:
        NotFound: there is no such machine.
    """
    _only_an_action("show_instance", call)
    return _describe(_machine(_connection(), name))


def avail_locations(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the regions that the account may use and the provider allows.

    CLI Example: ``salt-cloud --list-locations PROVIDER``
    """
    _not_an_action("avail_locations", call)
    provider = _provider()
    allowed = provider.get("allowed_regions")
    with api_errors("listing the regions"):
        regions = _connection(provider).ec2.describe_regions()["Regions"]
    return {
        region["RegionName"]: {"name": region["RegionName"], "endpoint": region.get("Endpoint")}
        for region in regions
        if allowed is None or region["RegionName"] in allowed
    }


def avail_sizes(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the instance types that the region offers, as EC2 describes them today.

    CLI Example: ``salt-cloud --list-sizes PROVIDER``
    """
    _not_an_action("avail_sizes", call)
    with api_errors("listing the instance types"):
        pages = _connection().ec2.get_paginator("describe_instance_types").paginate()
        types = [each for page in pages for each in page["InstanceTypes"]]
    return {
        each["InstanceType"]: {
            "id": each["InstanceType"],
            "cores": each.get("VCpuInfo", {}).get("DefaultVCpus"),
            "ram_mib": each.get("MemoryInfo", {}).get("SizeInMiB"),
            "architectures": each.get("ProcessorInfo", {}).get("SupportedArchitectures", []),
            "network": each.get("NetworkInfo", {}).get("NetworkPerformance"),
            "burstable": each.get("BurstablePerformanceSupported", False),
        }
        for each in sorted(types, key=lambda one: one["InstanceType"])
    }


def avail_images(call: str | None = None, kwargs: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Return the images of the account, or of the `owner` that is given.

    CLI Example: ``salt-cloud -f avail_images PROVIDER owner=136693071363``
    """
    _not_an_action("avail_images", call)
    owner = str((kwargs or {}).get("owner") or _provider().get("owner") or "self")
    with api_errors(f"listing the images of {owner}"):
        found = _connection().ec2.describe_images(Owners=[owner])["Images"]
    return {image["ImageId"]: _plain(image) for image in found}


# -- the life of a machine ------------------------------------------------------------------------------------------


@_truthful
def create(vm_: dict[str, Any]) -> dict[str, Any]:
    """Launch one machine and install its minion; the core calls this for each name of a map or profile.

    A living machine of that name is not launched again: its deployment is repeated, since the core has just put new
    keys for it on the master.

    Raises:
        Ec2Error: the machine does not run, or its minion could not be installed.
    """
    name: str = vm_["name"]
    _options.check(vm_, f"{name} (profile {vm_.get('profile')})", __opts__)
    options = _options.resolve(vm_, __opts__)
    _event(name, "creating", "starting create", {"profile": vm_.get("profile"), "provider": vm_["driver"]})
    deploy = bool(salt.config.get_cloud_config_value("deploy", vm_, __opts__))
    payload = b""
    if deploy:
        _private_key(options)
        payload = _deploy.archive(vm_, __opts__)  # before the launch: what it lacks, it lacks before money is spent

    connection = _connection(options)
    instance = _adopt_or_launch(connection, options, vm_, deploy=deploy)
    if deploy:
        _install(connection, options, vm_, instance, payload)
    instance = _wait_until_running(connection, options, name, instance)
    _attach(connection, options, name, instance)
    if deploy:
        with api_errors(f"tagging {name} as deployed"):
            connection.ec2.create_tags(
                Resources=[instance["InstanceId"]], Tags=[{"Key": _launch.DEPLOY_TAG, "Value": "done"}]
            )
    result = _describe(instance)
    if deploy:
        result["deployed"] = True
    _event(name, "created", "created instance", {"instance_id": instance["InstanceId"], "provider": vm_["driver"]})
    return result


def _adopt_or_launch(
    connection: Connection, options: Mapping[str, Any], vm_: Mapping[str, Any], *, deploy: bool
) -> InstanceTypeDef:
    name = vm_["name"]
    instance, predecessors = _lookup.before_launch(connection, name)
    if instance is None:
        return _launch_somewhere(connection, options, vm_, predecessors, deploy=deploy)
    log.warning("%s exists already as %s: it is not launched again", name, instance["InstanceId"])
    if instance["State"]["Name"] in ("stopping", "stopped"):
        _start(connection, name, instance)
    return instance


def _launch_somewhere(
    connection: Connection, options: Mapping[str, Any], vm_: Mapping[str, Any], predecessors: list[str], *, deploy: bool
) -> InstanceTypeDef:
    """Launch in the first place that has room."""
    name = vm_["name"]
    userdata = _userdata(options, vm_)
    _event(name, "requesting", "requesting instance", {"kwargs": {"size": options["size"], "image": options["image"]}})
    places = _launch.variants(options)
    for number, place in enumerate(places):
        wanted = _launch.request(connection, place, name, userdata=userdata, deploy=deploy)
        try:
            return _launch_once(connection, name, wanted, predecessors)
        except ApiError as error:
            if error.code not in _launch.NO_ROOM or number == len(places) - 1:
                raise
            log.warning("%s; trying the next place", error)
    raise LaunchError(f"{name}: there is no place to launch it in")


def _launch_once(
    connection: Connection, name: str, wanted: Mapping[str, Any], predecessors: list[str]
) -> InstanceTypeDef:
    for _ in range(10):
        token = _launch.client_token(connection.region, name, wanted, predecessors)
        with api_errors(f"launching {name}"):
            instance = connection.ec2.run_instances(**wanted, ClientToken=token)["Instances"][0]
        _lookup.changed(connection, name)
        if instance["State"]["Name"] in _lookup.LIVING:
            log.info("%s is launched as %s", name, instance["InstanceId"])
            return instance
        # EC2 remembers a token for longer than it shows the terminated instance that it stood for.
        predecessors = [*predecessors, instance["InstanceId"]]
    raise LaunchError(f"{name}: EC2 answers with terminated instances only: {', '.join(predecessors)}")


def _look_again(connection: Connection, name: str, instance: InstanceTypeDef) -> InstanceTypeDef:
    """Return the instance as it is now; right after a launch EC2 may not know it yet.

    Raises:
        LaunchError: it has been terminated.
    """
    instance_id = instance["InstanceId"]
    found = _lookup.instances(connection, [{"Name": "instance-id", "Values": [instance_id]}])
    instance = found[0] if found else instance
    if instance["State"]["Name"] not in _lookup.LIVING:
        reason = instance.get("StateReason", {}).get("Message") or "EC2 gives no reason"
        raise LaunchError(f"{name} ({instance_id}) is {instance['State']['Name']} instead of running: {reason}")
    return instance


def _wait_until_running(
    connection: Connection, options: Mapping[str, Any], name: str, instance: InstanceTypeDef
) -> InstanceTypeDef:
    """Return the instance once it runs and has the address that `ssh_interface` asks for."""
    deadline = time.monotonic() + float(options["wait_for_ip_timeout"])
    while True:
        instance = _look_again(connection, name, instance)
        if instance["State"]["Name"] == "running" and _address(options, instance):
            return instance
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{name} ({instance['InstanceId']}) is {instance['State']['Name']} and has "
                f"{'an' if _address(options, instance) else 'no'} address in {options['ssh_interface']} after "
                f"{options['wait_for_ip_timeout']} s; it was left as it is, the next run goes on with it"
            )
        time.sleep(float(options["wait_for_ip_interval"]))


def _address(options: Mapping[str, Any], instance: Mapping[str, Any]) -> str:
    keys = {"private_ips": "PrivateIpAddress", "public_ips": "PublicIpAddress"}
    if options["ssh_interface"] not in keys:
        raise ConfigurationError(f"ssh_interface is private_ips or public_ips, not {options['ssh_interface']!r}")
    return str(instance.get(keys[options["ssh_interface"]]) or "")


def _attach(connection: Connection, options: Mapping[str, Any], name: str, instance: InstanceTypeDef) -> None:
    """Give a running machine what a launch cannot: existing volumes, tags of single volumes, fixed addresses."""
    instance_id = instance["InstanceId"]
    devices = {each.get("DeviceName"): each.get("Ebs", {}).get("VolumeId") for each in instance["BlockDeviceMappings"]}
    for volume in options.get("volumes") or []:
        volume_id = volume.get("volume_id")
        if volume_id and devices.get(volume["device"]) != volume_id:
            with api_errors(f"attaching {volume_id} to {name}"):
                connection.ec2.attach_volume(InstanceId=instance_id, VolumeId=volume_id, Device=volume["device"])
        volume_id = volume_id or devices.get(volume["device"])
        if volume.get("tags") and volume_id:
            with api_errors(f"tagging {volume_id} of {name}"):
                connection.ec2.create_tags(Resources=[volume_id], Tags=_launch.tag_list(volume["tags"]))
    interfaces = {each["Attachment"]["DeviceIndex"]: each for each in instance.get("NetworkInterfaces", [])}
    for wanted in options.get("network_interfaces") or []:
        interface = interfaces[wanted.get("DeviceIndex", 0)]
        if "SourceDestCheck" in wanted and interface.get("SourceDestCheck") != wanted["SourceDestCheck"]:
            with api_errors(f"setting SourceDestCheck of {name}"):
                connection.ec2.modify_network_interface_attribute(
                    NetworkInterfaceId=interface["NetworkInterfaceId"],
                    SourceDestCheck={"Value": wanted["SourceDestCheck"]},
                )
        _fixed_addresses(connection, name, wanted, interface)


def _fixed_addresses(
    connection: Connection, name: str, wanted: Mapping[str, Any], interface: Mapping[str, Any]
) -> None:
    """Associate elastic addresses with an interface, unless it has them already."""
    addresses = interface["PrivateIpAddresses"]
    if not (wanted.get("allocate_new_eips")):
        addresses = [each for each in addresses if each.get("Primary")]
    if not any(wanted.get(key) for key in ("associate_eip", "allocate_new_eip", "allocate_new_eips")):
        return
    for address in addresses:
        if address.get("Association", {}).get("IpOwnerId", "amazon") != "amazon":
            continue
        allocation = wanted.get("associate_eip")
        with api_errors(f"giving {name} an elastic address"):
            if not allocation:
                tags = {"Name": name, _launch.RELEASE_TAG: name}
                specification: Any = [{"ResourceType": "elastic-ip", "Tags": _launch.tag_list(tags)}]
                allocated = connection.ec2.allocate_address(Domain="vpc", TagSpecifications=specification)
                allocation = allocated["AllocationId"]
            connection.ec2.associate_address(
                AllocationId=allocation,
                NetworkInterfaceId=interface["NetworkInterfaceId"],
                PrivateIpAddress=address["PrivateIpAddress"],
                AllowReassociation=False,
            )


# -- the deployment -------------------------------------------------------------------------------------------------


def _install(
    connection: Connection,
    options: Mapping[str, Any],
    vm_: dict[str, Any],
    instance: InstanceTypeDef,
    payload: bytes,
) -> None:
    """Install the minion; the wait for the machine to run and the wait for its sshd are one.

    Raises:
        LaunchError: the machine does not come to run.
        DeployError: it runs; what kept the minion from being installed, and what became of the machine.
    """
    name, instance_id = vm_["name"], instance["InstanceId"]
    try:
        if not _address(options, instance):
            instance = _wait_until_running(connection, options, name, instance)
        vm_["ssh_host"] = vm_["salt_host"] = _address(options, instance)
        alive = _watch(connection, name, instance)
        _event(name, "deploying", "executing deploy script", {"instance_id": instance_id, "host": vm_["ssh_host"]})
        _deploy.install(
            name,
            _login(connection, options, name, instance, alive),
            payload,
            connect_timeout=float(options["ssh_connect_timeout"]),
            run_timeout=float(options["deploy_timeout"]),
            folder=options["tmp_dir"],
            keep=bool(options["keep_tmp"]),
            show=print if options["display_ssh_output"] and not __opts__.get("parallel") else log.debug,
            alive=alive,
        )
        _event(name, "deploy_script", f"{name} has been deployed at {vm_['ssh_host']}", {"host": vm_["ssh_host"]})
    except LaunchError:
        raise
    except (ApiError, DeployError) as error:
        if options["on_failure"] == "destroy":
            _destroy(connection, name, instance)
            salt.utils.cloud.remove_key(__opts__["pki_dir"], name)
            after = "it was destroyed, and its key removed, as on_failure says"
        else:
            after = "it was left as it is, with its key accepted: run the same command again to repair it"
        raise DeployError(f"deploying {name} ({instance_id}) failed: {error}; {after}") from error


def _watch(connection: Connection, name: str, instance: InstanceTypeDef) -> Callable[[], None]:
    """Return a check that the machine still lives, which asks EC2 every 15 seconds at most."""
    asked = time.monotonic()

    def alive() -> None:
        nonlocal asked
        if time.monotonic() - asked > 15:
            asked = time.monotonic()
            _look_again(connection, name, instance)

    return alive


def _login(
    connection: Connection,
    options: Mapping[str, Any],
    name: str,
    instance: InstanceTypeDef,
    alive: Callable[[], None],
) -> _deploy.Login:
    users = options["ssh_username"]
    users = [users] if isinstance(users, str) else list(users)
    address, port = _address(options, instance), int(options["ssh_port"])
    proxy = _deploy.proxy_command(options)
    if not proxy:
        _deploy.wait_for_port(address, port, float(options["ssh_connect_timeout"]), alive)
    return _deploy.Login(
        address,
        port,
        users,
        _host_key_options(connection, options, name, instance["InstanceId"], alive),
        _private_key(options),
        proxy,
        sudo=options["sudo"] is not False,
    )


def _host_key_options(
    connection: Connection, options: Mapping[str, Any], name: str, instance_id: str, alive: Callable[[], None]
) -> dict[str, str]:
    """Return OpenSSH's options for the machine's host key, once it is known."""
    if options["host_keys"] == "none":
        return {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
    if options["host_keys"] != "console":
        raise ConfigurationError(f"host_keys is console or none, not {options['host_keys']!r}")
    strict = {"StrictHostKeyChecking": "yes", "UpdateHostKeys": "no"}
    if options["known_hosts_file"] not in (None, "/dev/null"):
        return {**strict, "UserKnownHostsFile": str(options["known_hosts_file"])}
    known = _host_keys.KnownHosts(__opts__["cachedir"])
    deadline = time.monotonic() + float(options["ssh_connect_timeout"])
    while not known.knows(instance_id):
        if keys := _host_keys.read(connection, name, instance_id):
            known.learn(instance_id, keys)
            break
        if time.monotonic() > deadline:
            raise DeployError(
                "its console does not show its SSH host keys: they are printed at first boot by images with"
                " cloud-init; for others set known_hosts_file, or host_keys: none"
            )
        alive()
        time.sleep(float(options["wait_for_ip_interval"]))
    return {**strict, "UserKnownHostsFile": str(known.path), "HostKeyAlias": instance_id}


def _private_key(options: Mapping[str, Any]) -> str:
    path = options.get("private_key") or options.get("key_filename") or options.get("ssh_keyfile")
    if not path:
        if options.get("ssh_agent"):
            return ""
        raise ConfigurationError("private_key is not set: it names the file with the key pair's private half")
    if not Path(path).is_file():
        raise ConfigurationError(f"private_key {path} does not exist")
    return str(path)


def _userdata(options: Mapping[str, Any], vm_: Mapping[str, Any]) -> str:
    text: str = options.get("userdata") or ""
    if path := options.get("userdata_file"):
        if text:
            raise ConfigurationError(f"{vm_['name']}: userdata and userdata_file are both set")
        try:
            with salt.utils.files.fopen(path, "r") as handle:
                text = handle.read()
        except OSError as error:
            raise ConfigurationError(f"{vm_['name']}: userdata_file cannot be read: {error}") from error
    return str(salt.utils.cloud.userdata_template(__opts__, vm_, text) or "") if text else ""


# -- the end, and the states between --------------------------------------------------------------------------------


def destroy(name: str, call: str | None = None) -> dict[str, Any]:
    """Terminate one machine. Its key leaves the master with it: the core sees to that.

    CLI Example: ``salt-cloud --destroy web-1``

    Raises:
        NotFound: there is no such machine.
        ApiError: EC2 refuses, as it does for a machine with termination protection.
    """
    _not_a_function("destroy", call)
    connection = _connection()
    return _destroy(connection, name, _machine(connection, name))


def _destroy(connection: Connection, name: str, instance: InstanceTypeDef) -> dict[str, Any]:
    instance_id = instance["InstanceId"]
    _event(name, "destroying", "destroying instance", {"name": name, "instance_id": instance_id})
    with api_errors(f"destroying {name}"):
        change = _change(connection.ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"][0])
    _lookup.changed(connection, name)
    with api_errors(f"releasing the elastic addresses of {name}"):
        owned: Any = [{"Name": f"tag:{_launch.RELEASE_TAG}", "Values": [name]}]
        for address in connection.ec2.describe_addresses(Filters=owned)["Addresses"]:
            if address.get("AssociationId"):
                connection.ec2.disassociate_address(AssociationId=address["AssociationId"])
            connection.ec2.release_address(AllocationId=address["AllocationId"])
    renames = _provider().get("rename_on_destroy", __opts__.get("rename_on_destroy"))
    if renames:
        change["newname"] = f"{name}-DEL{uuid.uuid4().hex}"
        with api_errors(f"renaming {name}"):
            connection.ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "Name", "Value": change["newname"]}])
    _event(name, "destroyed", "destroyed instance", {"name": name, "instance_id": instance_id})
    if __opts__.get("update_cachedir"):
        salt.utils.cloud.delete_minion_cachedir(name, _provider_name().split(":")[0], __opts__)
    return change


def start(name: str, call: str | None = None) -> dict[str, Any]:
    """Start a stopped machine.

    CLI Example: ``salt-cloud -a start web-1``
    """
    _only_an_action("start", call)
    connection = _connection()
    return _start(connection, name, _machine(connection, name))


def _start(connection: Connection, name: str, instance: InstanceTypeDef) -> dict[str, Any]:
    with api_errors(f"starting {name}"):
        if instance["State"]["Name"] == "stopping":
            connection.ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance["InstanceId"]])
        return _change(connection.ec2.start_instances(InstanceIds=[instance["InstanceId"]])["StartingInstances"][0])


def stop(name: str, call: str | None = None) -> dict[str, Any]:
    """Stop a running machine; its volumes stay.

    CLI Example: ``salt-cloud -a stop web-1``
    """
    _only_an_action("stop", call)
    connection = _connection()
    instance_id = _machine(connection, name)["InstanceId"]
    with api_errors(f"stopping {name}"):
        return _change(connection.ec2.stop_instances(InstanceIds=[instance_id])["StoppingInstances"][0])


def reboot(name: str, call: str | None = None) -> dict[str, Any]:
    """Reboot a running machine.

    CLI Example: ``salt-cloud -a reboot web-1``
    """
    _only_an_action("reboot", call)
    connection = _connection()
    instance_id = _machine(connection, name)["InstanceId"]
    with api_errors(f"rebooting {name}"):
        connection.ec2.reboot_instances(InstanceIds=[instance_id])
    return {"id": instance_id, "rebooted": True}


# -- helpers --------------------------------------------------------------------------------------------------------


def _machine(connection: Connection, name: str) -> InstanceTypeDef:
    """Return the living machine that a name, or an instance id, stands for."""
    if name.startswith("i-"):
        by_id = _lookup.instances(connection, [{"Name": "instance-id", "Values": [name]}])
        instance = _lookup.only(name, by_id)
    else:
        instance = _lookup.only(name, _lookup.named(connection, name))
    if instance is None:
        raise NotFound(f"there is no machine called {name} in {connection.region}")
    return instance


def _change(change: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": change["InstanceId"],
        "previousState": change["PreviousState"]["Name"],
        "currentState": change["CurrentState"]["Name"],
    }


def _event(name: str, tag: str, message: str, data: Mapping[str, Any]) -> None:
    __utils__["cloud.fire_event"](
        "event",
        message,
        f"salt/cloud/{name}/{tag}",
        args={"name": name, **data},
        sock_dir=__opts__["sock_dir"],
        transport=__opts__["transport"],
    )


def _only_an_action(function: str, call: str | None) -> None:
    if call != "action":
        raise Ec2Error(f"{function} is an action on a machine: salt-cloud -a {function} NAME")


def _not_an_action(function: str, call: str | None) -> None:
    if call == "action":
        raise Ec2Error(f"{function} is not an action on a machine: salt-cloud -f {function} PROVIDER")


def _not_a_function(function: str, call: str | None) -> None:
    if call == "function":
        raise Ec2Error(f"{function} needs a machine: salt-cloud --{function} NAME")
