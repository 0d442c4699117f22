"""salt-cloud's functions for Amazon EC2.

A provider needs no more than `driver: ec2` and a `location`; the options are listed in docs/driver-options.md.
A machine is known by its Name tag. Whatever fails, fails aloud: with a sentence, and not as an empty list.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import salt.config
import salt.utils.cloud
import salt.utils.files

from saltext.ec2 import _launch, _lookup, _options
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
    _options.check((name for name in provider if name not in __opts__), f"provider {_provider_name()}")
    region_of(provider)
    return dict(provider)


def _provider() -> dict[str, Any]:
    provider = get_configured_provider()
    if not isinstance(provider, dict):
        raise ConfigurationError(f"there is no provider {_provider_name()} with driver: {__virtualname__}")
    return provider


def _connection(options: Mapping[str, Any] | None = None) -> Connection:
    return connect(options if options is not None else _provider())


# -- queries --------------------------------------------------------------------------------------------------------


def _nodes() -> dict[str, dict[str, Any]]:
    """Return the machines that are not terminated; one without a name, or with another's, goes by its id."""
    alive = [one for one in _lookup.instances(_connection()) if one["State"]["Name"] in _lookup.LIVING]
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
    _options.check((option for option in vm_ if option not in __opts__), f"{name} (profile {vm_.get('profile')})")
    options = _options.resolve(vm_, __opts__)
    _event(name, "creating", "starting create", {"profile": vm_.get("profile"), "provider": vm_["driver"]})
    deploy = bool(salt.config.get_cloud_config_value("deploy", vm_, __opts__))
    if deploy:
        vm_["key_filename"] = _private_key(options)

    connection = connect(options)
    instance = _adopt_or_launch(connection, options, vm_, deploy=deploy)
    instance = _wait_until_running(connection, options, name, instance)
    result: dict[str, Any] = {}
    if deploy:
        result = _deploy(connection, options, vm_, instance)
    result |= _describe(instance)
    _event(name, "created", "created instance", {"instance_id": instance["InstanceId"], "provider": vm_["driver"]})
    return result


def _adopt_or_launch(
    connection: Connection, options: Mapping[str, Any], vm_: Mapping[str, Any], *, deploy: bool
) -> InstanceTypeDef:
    name = vm_["name"]
    known = _lookup.named(connection, name)
    instance = _lookup.only(name, known)
    if instance is None:
        return _launch_once(connection, options, vm_, [each["InstanceId"] for each in known], deploy=deploy)
    log.warning("%s exists already as %s: it is not launched again", name, instance["InstanceId"])
    if instance["State"]["Name"] in ("stopping", "stopped"):
        _start(connection, name, instance)
    return instance


def _launch_once(
    connection: Connection, options: Mapping[str, Any], vm_: Mapping[str, Any], predecessors: list[str], *, deploy: bool
) -> InstanceTypeDef:
    name = vm_["name"]
    wanted = _launch.request(connection, options, name, userdata=_userdata(options, vm_), deploy=deploy)
    _event(name, "requesting", "requesting instance", {"kwargs": {"size": options["size"], "image": options["image"]}})
    for _ in range(10):
        token = _launch.client_token(connection.region, name, wanted, predecessors)
        with api_errors(f"launching {name}"):
            instance = connection.ec2.run_instances(**wanted, ClientToken=token)["Instances"][0]
        if instance["State"]["Name"] in _lookup.LIVING:
            log.info("%s is launched as %s", name, instance["InstanceId"])
            return instance
        # EC2 remembers a token for longer than it shows the terminated instance that it stood for.
        predecessors = [*predecessors, instance["InstanceId"]]
    raise LaunchError(f"{name}: EC2 answers with terminated instances only: {', '.join(predecessors)}")


def _wait_until_running(
    connection: Connection, options: Mapping[str, Any], name: str, instance: InstanceTypeDef
) -> InstanceTypeDef:
    """Return the instance once it runs and has the address that `ssh_interface` asks for."""
    instance_id = instance["InstanceId"]
    deadline = time.monotonic() + float(options["wait_for_ip_timeout"])
    while True:
        try:
            found = _lookup.instances(connection, [{"Name": "instance-id", "Values": [instance_id]}])
        except ApiError as error:
            if error.code != "InvalidInstanceID.NotFound":
                raise
            found = []
        if found:
            instance = found[0]
            state = instance["State"]["Name"]
            if state == "running" and _address(options, instance):
                return instance
            if state in ("shutting-down", "terminated"):
                reason = instance.get("StateReason", {}).get("Message", "EC2 gives no reason")
                raise LaunchError(f"{name} ({instance_id}) is {state} instead of running: {reason}")
        if time.monotonic() > deadline:
            state = instance["State"]["Name"]
            raise LaunchError(
                f"{name} ({instance_id}) is {state} and has no address in {options['ssh_interface']}"
                f" after {options['wait_for_ip_timeout']} s; it was left as it is, the next run goes on with it"
            )
        time.sleep(float(options["wait_for_ip_interval"]))


def _address(options: Mapping[str, Any], instance: Mapping[str, Any]) -> str:
    keys = {"private_ips": "PrivateIpAddress", "public_ips": "PublicIpAddress"}
    if options["ssh_interface"] not in keys:
        raise ConfigurationError(f"ssh_interface is private_ips or public_ips, not {options['ssh_interface']!r}")
    return str(instance.get(keys[options["ssh_interface"]]) or "")


def _deploy(
    connection: Connection, options: Mapping[str, Any], vm_: dict[str, Any], instance: InstanceTypeDef
) -> dict[str, Any]:
    name = vm_["name"]
    vm_["ssh_host"] = _address(options, instance)
    vm_["salt_host"] = vm_["ssh_host"]
    result: dict[str, Any] = {}
    problem: object = None
    try:
        result = __utils__["cloud.bootstrap"](vm_, __opts__)
        problem = result.get("Error")
    except Exception as error:
        log.debug("Deploying %s failed", name, exc_info=True)
        problem = error
    if problem:
        after = "it was left running, with its key accepted: run the same command again to repair it"
        if options["on_failure"] == "destroy":
            destroy(name, call="action")
            after = "it was destroyed, as on_failure says"
        raise DeployError(f"deploying {name} ({instance['InstanceId']}) failed: {problem}; {after}")
    with api_errors(f"tagging {name} as deployed"):
        connection.ec2.create_tags(
            Resources=[instance["InstanceId"]], Tags=[{"Key": _launch.DEPLOY_TAG, "Value": "done"}]
        )
    return result


def _private_key(options: Mapping[str, Any]) -> str:
    path = options.get("private_key")
    if not path:
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


def destroy(name: str, call: str | None = None) -> dict[str, Any]:
    """Terminate one machine. Its key leaves the master with it: the core sees to that.

    CLI Example: ``salt-cloud --destroy web-1``

    Raises:
        NotFound: there is no such machine.
        ApiError: EC2 refuses, as it does for a machine with termination protection.
    """
    _not_a_function("destroy", call)
    connection = _connection()
    instance_id = _machine(connection, name)["InstanceId"]
    _event(name, "destroying", "destroying instance", {"name": name, "instance_id": instance_id})
    with api_errors(f"destroying {name}"):
        change = connection.ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"][0]
    _event(name, "destroyed", "destroyed instance", {"name": name, "instance_id": instance_id})
    if __opts__.get("update_cachedir"):
        salt.utils.cloud.delete_minion_cachedir(name, _provider_name().split(":")[0], __opts__)
    return _change(change)


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
        instance = _lookup.living(connection, name)
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
