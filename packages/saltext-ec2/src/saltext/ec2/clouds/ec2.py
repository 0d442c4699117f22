"""salt-cloud's functions for Amazon EC2.

A provider needs no more than `driver: ec2` and a `location`; the package's options.md lists the options.
A machine is known by its Name tag. Whatever fails, fails aloud: with a sentence, and not as an empty list.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import salt.config
import salt.utils.cloud
import salt.utils.files

from saltext.ec2 import _client, _deploy, _instance, _lookup, _request, errors, host_keys
from saltext.ec2 import options as _options
from saltext.ec2._client import Connection
from saltext.ec2.errors import (
    ApiError,
    ConfigurationError,
    DeployError,
    Ec2Error,
    LaunchError,
    NotFound,
    QueryFailed,
)
from saltext.ec2.tags import DEPLOY_TAG

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
    """Raise whatever goes wrong as an Ec2Error.

    The core takes a KeyError for a missing setting, and goes on; others end a map, and with `-P` cost its whole result.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Returned:
        try:
            return function(*args, **kwargs)
        except Ec2Error:
            raise
        except Exception as error:
            log.debug("%s stopped", function.__name__, exc_info=True)
            raise Ec2Error(f"{function.__name__} stopped: {_words(error)}") from error

    return wrapped


def _words(error: Exception) -> str:
    """Return what an error says; one that is not ours may say as little as `'x'`."""
    return str(error) if isinstance(error, Ec2Error) else f"{type(error).__name__}: {error}"


def _query(listed: str) -> Callable[[Callable[..., Returned]], Callable[..., Returned]]:
    """Raise a query's failure as what the core does not mistake for an empty answer.

    Args:
        listed: what the query lists: "machines".
    """

    def decorate(function: Callable[..., Returned]) -> Callable[..., Returned]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Returned:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                log.debug("The %s of %s cannot be listed", listed, _provider_name(), exc_info=True)
                # Without the cause: the core prints the whole traceback.
                raise QueryFailed(
                    f"the {listed} of {_provider_name()} cannot be listed: {_words(error)}"
                ) from None

        return wrapped

    return decorate


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
    provider = salt.config.is_provider_configured(
        __opts__, _provider_name(), ("driver",), log_message=False
    )
    if not provider:
        return False
    _options.check(provider, f"provider {_provider_name()}", __opts__)
    _client.region_of(provider)
    _client.model_loader()  # here, before the core forks
    return dict(provider)


def _provider() -> dict[str, Any]:
    provider = get_configured_provider()
    if not isinstance(provider, dict):
        raise ConfigurationError(
            f"there is no provider {_provider_name()} with driver: {__virtualname__}"
        )
    return provider


def _connection(options: Mapping[str, Any] | None = None) -> Connection:
    return _client.connect(options if options is not None else _provider(), __opts__["cachedir"])


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
        **_lookup.plain(instance),
        "id": instance["InstanceId"],
        "image": instance.get("ImageId"),
        "size": instance.get("InstanceType"),
        "state": instance["State"]["Name"],
        "private_ips": _addresses(instance, "PrivateIpAddress"),
        "public_ips": _addresses(instance, "PublicIpAddress"),
        "name": _lookup.tags(instance).get("Name"),
        "tags": _lookup.tags(instance),
    }


def _addresses(instance: Mapping[str, Any], key: str) -> list[str]:
    return [instance[key]] if instance.get(key) else []


def _launching() -> bool:
    """Tell whether the core asks which machines it need not create: it is about to apply a map or a profile."""
    applies = any(__opts__.get(name) for name in ("map", "map_data", "map_pillar", "profile"))
    other = any(__opts__.get(name) for name in ("destroy", "action", "selected_query_option"))
    return applies and not other


@_query("machines")
def list_nodes(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the machines: id, image, size, state and addresses of each.

    While a map or profile is being applied, these are the machines that the core need not create: see `_settled`.

    CLI Example: ``salt-cloud -Q``

    Raises:
        QueryFailed: the account could not be asked.
    """
    _not_an_action("list_nodes", call)
    fields = ("id", "image", "size", "state", "private_ips", "public_ips")
    nodes = _settled(_nodes()) if _launching() else _nodes()
    return {name: {field: node[field] for field in fields} for name, node in nodes.items()}


def _settled(nodes: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the machines that the core need not create.

    Those whose deployment never finished are left out: the core then calls `create`, which finds and repairs them.
    Those of one name are one, by that name: the core would take it for free, and replace the key of a working minion.
    """
    namesakes: dict[str, list[dict[str, Any]]] = {}
    for key, node in nodes.items():
        namesakes.setdefault(node["name"] or key, []).append(node)
    for name, found in namesakes.items():
        if len(found) > 1:
            ids = ", ".join(sorted(node["id"] for node in found))
            log.warning(
                "%d machines are called %s: %s; none is launched or deployed by that name",
                len(found),
                name,
                ids,
            )
    return {
        name: found[0]
        for name, found in namesakes.items()
        if len(found) > 1 or found[0]["tags"].get(DEPLOY_TAG) != "pending"
    }


@_query("machines")
def list_nodes_min(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the machines of `list_nodes` with their state.

    Raises:
        QueryFailed: the account could not be asked.
    """
    _not_an_action("list_nodes_min", call)
    return {name: {"id": node["id"], "state": node["state"]} for name, node in list_nodes().items()}


@_query("machines")
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


@_query("machines")
def list_nodes_select(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the machines with the fields that `query.selection` of the cloud configuration names.

    CLI Example: ``salt-cloud -S``

    Raises:
        QueryFailed: the account could not be asked.
    """
    selected = salt.utils.cloud.list_nodes_select(
        list_nodes_full(), __opts__["query.selection"], call
    )
    return dict(selected)


def show_instance(name: str, call: str | None = None) -> dict[str, Any]:
    """Return everything that EC2 says of one machine.

    CLI Example: ``salt-cloud -a show_instance web-1``

    Raises:
        NotFound: there is no such machine.
    """
    return _describe(_acted_on("show_instance", name, call)[1])


@_query("regions")
def avail_locations(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the regions that the account may use and the provider allows.

    CLI Example: ``salt-cloud --list-locations PROVIDER``

    Raises:
        QueryFailed: the account could not be asked.
    """
    _not_an_action("avail_locations", call)
    provider = _provider()
    allowed = provider.get("allowed_regions")
    with errors.api_errors("listing the regions"):
        regions = _connection(provider).ec2.describe_regions()["Regions"]
    return {
        region["RegionName"]: {"name": region["RegionName"], "endpoint": region.get("Endpoint")}
        for region in regions
        if allowed is None or region["RegionName"] in allowed
    }


@_query("instance types")
def avail_sizes(call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the instance types that the region offers, as EC2 describes them today.

    CLI Example: ``salt-cloud --list-sizes PROVIDER``

    Raises:
        QueryFailed: the account could not be asked.
    """
    _not_an_action("avail_sizes", call)
    with errors.api_errors("listing the instance types"):
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


@_query("images")
def avail_images(
    call: str | None = None, kwargs: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the images of the account, or of the `owner` that is given.

    CLI Example: ``salt-cloud -f avail_images PROVIDER owner=136693071363``

    Raises:
        QueryFailed: the account could not be asked.
    """
    _not_an_action("avail_images", call)
    owner = str((kwargs or {}).get("owner") or _provider().get("owner") or "self")
    with errors.api_errors(f"listing the images of {owner}"):
        found = _connection().ec2.describe_images(Owners=[owner])["Images"]
    return {image["ImageId"]: _lookup.plain(image) for image in found}


def show_image(kwargs: Mapping[str, Any] | None = None, call: str | None = None) -> dict[str, Any]:
    """Return an image, which may be given in each of the ways that a profile knows.

    CLI Example: ``salt-cloud -f show_image PROVIDER image=ssm:/aws/service/debian/release/13/latest/amd64``
    """
    _not_an_action("show_image", call)
    (wanted,) = _needed("show_image", kwargs, "image")
    connection = _connection()
    image = _lookup.image(connection, wanted)
    with errors.api_errors(f"looking up the image {image.id}"):
        return dict(_lookup.plain(connection.ec2.describe_images(ImageIds=[image.id])["Images"][0]))


def list_availability_zones(call: str | None = None) -> dict[str, str]:
    """Return the region's availability zones and their states.

    CLI Example: ``salt-cloud -f list_availability_zones PROVIDER``
    """
    _not_an_action("list_availability_zones", call)
    with errors.api_errors("listing the availability zones"):
        zones = _connection().ec2.describe_availability_zones()["AvailabilityZones"]
    return {zone["ZoneName"]: zone["State"] for zone in zones}


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
    deploy = bool(salt.config.get_cloud_config_value("deploy", vm_, __opts__))
    with _before_launch(vm_, deploy=deploy):
        source = f"{name} (profile {vm_.get('profile')})"
        _options.check(vm_, source, __opts__)
        _options.check_provider(vm_, _provider(), source, __opts__)
        options = _options.resolve(vm_, __opts__)
        _event(
            name,
            "creating",
            "starting create",
            {"profile": vm_.get("profile"), "provider": vm_["driver"]},
        )
        payload = b""
        if deploy:
            _private_key(options)
            payload = _deploy.archive(
                vm_, __opts__
            )  # what it lacks, it lacks before money is spent
            _drop_pending_key(vm_)
        connection = _connection(options)
        instance, new = _launched(connection, options, vm_, deploy=deploy)
    try:
        # Where neither holds, the wait for the machine to run and the wait for its sshd are one.
        awaited = _instance.needs_equipment(options) or not _instance.address(options, instance)
        if awaited:
            instance = _instance.ready(connection, options, name, instance)
        if deploy:
            _install(connection, options, vm_, instance, payload)
        if not awaited:
            instance = _instance.ready(connection, options, name, instance)
    except Exception as error:
        log.debug("%s is launched, but not ready", name, exc_info=True)
        raise _failure(connection, options, vm_, instance, error, deploy=deploy, new=new) from error
    result = _describe(instance)
    if deploy:
        try:
            _set_tags(connection, [instance["InstanceId"]], {DEPLOY_TAG: "done"})
        except ApiError as error:
            raise DeployError(
                f"{name} ({instance['InstanceId']}) is deployed, but cannot be marked so: {error};"
                " run the same command again, and it is deployed once more"
            ) from error
        result["tags"][DEPLOY_TAG] = "done"
        result["deployed"] = True
    if vm_.get(
        "make_master"
    ):  # where the core tells the other machines of the map to find their master
        result["deploy_kwargs"] = {"host": vm_.get("ssh_host"), "salt_host": vm_.get("salt_host")}
    _event(
        name,
        "created",
        "created instance",
        {"instance_id": instance["InstanceId"], "provider": vm_["driver"]},
    )
    return result


@contextlib.contextmanager
def _before_launch(vm_: Mapping[str, Any], *, deploy: bool) -> Iterator[None]:
    """When no machine comes of the block, say what to do, and accept its key no longer: nobody holds the other half."""
    try:
        yield
    except Exception as error:
        if deploy:
            _forget_key(vm_)
        if not isinstance(error, Ec2Error):
            log.debug("%s is not launched", vm_["name"], exc_info=True)
            raise Ec2Error(f"{vm_['name']} is not launched: {_words(error)}") from error
        if not isinstance(error, ApiError):
            raise
        again = "run the same command again: it finds what EC2 may have launched, and launches nothing twice"
        raise ApiError(f"{error}; {again}", error.code) from error


def _launched(
    connection: Connection, options: Mapping[str, Any], vm_: dict[str, Any], *, deploy: bool
) -> tuple[InstanceTypeDef, bool]:
    """Return the living machine of this name, started if it was stopped; launch it if there is none: then it is new."""
    name: str = vm_["name"]
    instance, predecessors = _lookup.before_launch(connection, name)
    if instance is None:
        _event(
            name,
            "requesting",
            "requesting instance",
            {"size": options["size"], "image": str(options["image"])},
        )
        userdata = _userdata(options, vm_)
        return _instance.launch(
            connection, options, name, predecessors, userdata=userdata, deploy=deploy
        ), True
    log.warning("%s exists already as %s: it is not launched again", name, instance["InstanceId"])
    if instance["State"]["Name"] in ("stopping", "stopped"):
        _instance.start(connection, name, instance)
    return instance, False


def _install(
    connection: Connection,
    options: Mapping[str, Any],
    vm_: dict[str, Any],
    instance: InstanceTypeDef,
    payload: bytes,
) -> None:
    """Install the minion.

    Raises:
        LaunchError: the machine is terminated meanwhile.
        ApiError: EC2 does not tell what is needed to log in.
        DeployError: what kept the minion from being installed.
    """
    name, instance_id = vm_["name"], instance["InstanceId"]
    deadline = time.monotonic() + options["ssh_connect_timeout"]
    vm_["ssh_host"] = vm_["salt_host"] = _instance.address(options, instance)
    alive = _instance.watch(connection, options, name, instance)
    _event(
        name,
        "deploying",
        "executing deploy script",
        {"instance_id": instance_id, "host": vm_["ssh_host"]},
    )
    _deploy.install(
        name,
        _login(connection, options, name, instance, deadline, alive),
        payload,
        deadline=deadline,
        run_timeout=options["deploy_timeout"],
        folder=options["tmp_dir"],
        keep=options["keep_tmp"],
        show=print if options["display_ssh_output"] and not __opts__.get("parallel") else log.debug,
        alive=alive,
    )
    _event(
        name,
        "deploy_script",
        f"{name} has been deployed at {vm_['ssh_host']}",
        {"host": vm_["ssh_host"]},
    )


def _failure(
    connection: Connection,
    options: Mapping[str, Any],
    vm_: Mapping[str, Any],
    instance: InstanceTypeDef,
    error: Exception,
    *,
    deploy: bool,
    new: bool,
) -> Ec2Error:
    """Return the error for a machine that was launched and is not ready: how it is, and what becomes of it."""
    name, state = vm_["name"], ""
    try:
        instance = _instance.look_again(connection, options, name, instance)
        state = f", {instance['State']['Name']}"
    except LaunchError as terminated:
        if deploy:
            _forget_key(vm_)
        return terminated
    except ApiError as silence:
        log.debug("how %s is cannot be told: %s", name, silence)
    if not deploy:
        after = "it was left as it is"
    elif options["on_failure"] == "destroy" and new:
        after = _give_up(connection, options, vm_, instance)
    else:
        after = (
            "it was left as it is, with its key accepted: run the same command again to repair it,"
            " or destroy it before that to replace it"
        )
    verb = "deploying" if deploy else "launching"
    kind = LaunchError if isinstance(error, LaunchError) else DeployError
    return kind(f"{verb} {name} ({instance['InstanceId']}{state}) failed: {_words(error)}; {after}")


def _minion_id(vm_: Mapping[str, Any]) -> str:
    """Return the id by which the core accepts a machine's key (`salt.cloud.Cloud.create`)."""
    minion = salt.config.get_cloud_config_value("minion", vm_, __opts__, default={})
    if vm_.get("use_fqdn") and vm_.get("domain"):
        minion["append_domain"] = vm_["domain"]
    minion_id = str(minion.get("id", vm_["name"]))
    return f"{minion_id}.{minion['append_domain']}" if "append_domain" in minion else minion_id


def _drop_pending_key(vm_: Mapping[str, Any]) -> None:
    """Remove the key with which a minion of this id asked to be accepted.

    The core has accepted the new key beside it, and a master for which both are there believes the pending one.
    """
    Path(__opts__["pki_dir"], "minions_pre", _minion_id(vm_)).unlink(missing_ok=True)


def _forget_key(vm_: Mapping[str, Any]) -> None:
    """Remove the key that the core has just accepted for a machine."""
    salt.utils.cloud.remove_key(__opts__["pki_dir"], _minion_id(vm_))


def _give_up(
    connection: Connection,
    options: Mapping[str, Any],
    vm_: Mapping[str, Any],
    instance: InstanceTypeDef,
) -> str:
    """Destroy a new machine whose deployment failed, and return what became of it."""
    name = vm_["name"]
    try:
        _instance.release(connection, options, name, instance)
        left = _destroy(connection, name, instance).get("left", [])
    except ApiError as error:
        return (
            f"it should be destroyed, as on_failure says, but still runs: {error};"
            " run the same command again to repair it"
        )
    _forget_key(vm_)
    return "; ".join(["it was destroyed, and its key removed, as on_failure says", *left])


def _login(
    connection: Connection,
    options: Mapping[str, Any],
    name: str,
    instance: InstanceTypeDef,
    deadline: float,
    alive: Callable[[], None],
) -> _deploy.Login:
    address, port = _instance.address(options, instance), options["ssh_port"]
    proxy = _deploy.proxy_command(options)
    if not proxy:
        _deploy.wait_for_port(address, port, deadline, alive)
    return _deploy.Login(
        address,
        port,
        options["ssh_username"],
        host_keys.ssh_options(
            connection, options, name, instance["InstanceId"], __opts__["cachedir"], deadline, alive
        ),
        _private_key(options),
        proxy,
        sudo=options["sudo"] is not False,
    )


def _private_key(options: Mapping[str, Any]) -> str:
    path = options.get("private_key") or options.get("key_filename") or options.get("ssh_keyfile")
    if not path:
        if options.get("ssh_agent"):
            return ""
        raise ConfigurationError(
            "private_key is not set: it names the file with the key pair's private half"
        )
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
            raise ConfigurationError(
                f"{vm_['name']}: userdata_file cannot be read: {error}"
            ) from error
    return str(salt.utils.cloud.userdata_template(__opts__, vm_, text) or "") if text else ""


@_truthful
def destroy(name: str, call: str | None = None) -> dict[str, Any]:
    """Terminate one machine. Its key leaves the master with it: the core sees to that.

    What is left of it, as an elastic address that EC2 would not release, is in the answer under `left`.

    CLI Example: ``salt-cloud --destroy web-1``

    Raises:
        NotFound: there is no such machine.
        ApiError: EC2 refuses, as it does for a machine with termination protection.
    """
    if call == "function":
        raise Ec2Error("destroy needs a machine: salt-cloud --destroy NAME")
    connection = _connection()
    return _destroy(connection, name, _machine(connection, name))


def _destroy(connection: Connection, name: str, instance: InstanceTypeDef) -> dict[str, Any]:
    data = {"instance_id": instance["InstanceId"]}
    _event(name, "destroying", "destroying instance", data)
    rename = _provider().get("rename_on_destroy", __opts__.get("rename_on_destroy"))
    change = _instance.terminate(connection, name, instance)
    if rename:
        newname = f"{name}-DEL{uuid.uuid4().hex}"
        try:
            _set_tags(connection, [instance["InstanceId"]], {"Name": newname})
            change["newname"] = newname
        except ApiError as error:
            log.error("%s is destroyed, but keeps its name: %s", name, error)
    _event(name, "destroyed", "destroyed instance", data)
    if __opts__.get("update_cachedir"):
        salt.utils.cloud.delete_minion_cachedir(name, _provider_name().split(":")[0], __opts__)
    return change


def start(name: str, call: str | None = None) -> dict[str, Any]:
    """Start a stopped machine.

    CLI Example: ``salt-cloud -a start web-1``
    """
    connection, instance = _acted_on("start", name, call)
    return _instance.start(connection, name, instance)


def stop(name: str, call: str | None = None) -> dict[str, Any]:
    """Stop a running machine; its volumes stay.

    CLI Example: ``salt-cloud -a stop web-1``
    """
    connection, instance = _acted_on("stop", name, call)
    return _instance.stop(connection, name, instance)


def reboot(name: str, call: str | None = None) -> dict[str, Any]:
    """Reboot a running machine.

    CLI Example: ``salt-cloud -a reboot web-1``
    """
    connection, instance = _acted_on("reboot", name, call)
    with errors.api_errors(f"rebooting {name}"):
        connection.ec2.reboot_instances(InstanceIds=[instance["InstanceId"]])
    return {"id": instance["InstanceId"], "rebooted": True}


def rename(
    name: str, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Give a machine another name, and its key on this master with it.

    CLI Example: ``salt-cloud -a rename web-1 newname=web-3``

    Raises:
        NotFound: another machine has the new name.
    """
    connection, instance = _acted_on("rename", name, call)
    (newname,) = _needed("rename", kwargs, "newname")
    if _lookup.only(newname, _lookup.named(connection, newname)) is not None:
        raise NotFound(f"{name} cannot be renamed: there is a machine called {newname}")
    _set_tags(connection, [instance["InstanceId"]], {"Name": newname})
    _lookup.changed(connection, name)
    _lookup.changed(connection, newname)
    salt.utils.cloud.rename_key(__opts__["pki_dir"], name, newname)
    return {"id": instance["InstanceId"], "name": newname}


def get_console_output(name: str, call: str | None = None) -> dict[str, Any]:
    """Return what a machine printed on its console, as far as EC2 shows it.

    CLI Example: ``salt-cloud -a get_console_output web-1``
    """
    connection, instance = _acted_on("get_console_output", name, call)
    with errors.api_errors(f"reading the console of {name}"):
        answer = connection.ec2.get_console_output(InstanceId=instance["InstanceId"])
    return {"id": instance["InstanceId"], "output": answer.get("Output", "")}


# -- tags -----------------------------------------------------------------------------------------------------------


def get_tags(
    name: str | None = None, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, str]:
    """Return the tags of a machine, or of any resource.

    CLI Example: ``salt-cloud -a get_tags web-1``; ``salt-cloud -f get_tags PROVIDER resource_id=vol-1``
    """
    connection, resource, _ = _tagged("get_tags", name, kwargs, call)
    with errors.api_errors(f"reading the tags of {name or resource}"):
        found = connection.ec2.describe_tags(
            Filters=[{"Name": "resource-id", "Values": [resource]}]
        )["Tags"]
    return {tag["Key"]: tag["Value"] for tag in found}


def set_tags(
    name: str | None = None, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, str]:
    """Set tags of a machine, or of any resource, and return all it has.

    A machine's Name is changed by `rename`.

    CLI Example: ``salt-cloud -a set_tags web-1 tier=front``
    """
    connection, resource, tags = _tagged("set_tags", name, kwargs, call)
    if not tags:
        raise ConfigurationError("set_tags needs at least one tag=value")
    if "Name" in tags and resource.startswith("i-"):
        raise ConfigurationError("set_tags leaves Name alone: salt-cloud -a rename NAME newname=…")
    _set_tags(connection, [resource], tags)
    return get_tags(name, kwargs, call)


def del_tags(
    name: str | None = None, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, str]:
    """Remove tags of a machine, or of any resource, and return those that are left.

    CLI Example: ``salt-cloud -a del_tags web-1 tags=tier,owner``
    """
    connection, resource, _ = _tagged("del_tags", name, kwargs, call)
    (tags,) = _needed("del_tags", kwargs, "tags")
    keys = tags.split(",") if isinstance(tags, str) else list(tags)
    with errors.api_errors(f"removing tags of {name or resource}"):
        connection.ec2.delete_tags(Resources=[resource], Tags=[{"Key": key} for key in keys])
    return get_tags(name, kwargs, call)


def _tagged(
    function: str, name: str | None, kwargs: Mapping[str, Any] | None, call: str | None
) -> tuple[Connection, str, dict[str, Any]]:
    given = dict(kwargs or {})
    resource = given.pop("resource_id", None) or given.pop("instance_id", None)
    if call == "action" and name:
        connection, instance = _acted_on(function, name, call)
        return connection, instance["InstanceId"], given
    if not resource:
        raise ConfigurationError(f"{function} needs resource_id=… when it is called as a function")
    return _connection(), resource, given


def _set_tags(connection: Connection, resources: list[str], tags: Mapping[str, Any]) -> None:
    with errors.api_errors(f"tagging {', '.join(resources)}"):
        connection.ec2.create_tags(Resources=resources, Tags=_request.tag_list(tags))


# -- attributes -----------------------------------------------------------------------------------------------------


def show_term_protect(name: str, call: str | None = None) -> bool:
    """Tell whether EC2 refuses to terminate a machine.

    CLI Example: ``salt-cloud -a show_term_protect web-1``
    """
    connection, instance = _acted_on("show_term_protect", name, call)
    with errors.api_errors(f"reading the termination protection of {name}"):
        answer = connection.ec2.describe_instance_attribute(
            InstanceId=instance["InstanceId"], Attribute="disableApiTermination"
        )
    return bool(answer["DisableApiTermination"]["Value"])


def enable_term_protect(name: str, call: str | None = None) -> bool:
    """Have EC2 refuse to terminate a machine.

    CLI Example: ``salt-cloud -a enable_term_protect web-1``
    """
    return _term_protect("enable_term_protect", name, call, protect=True)


def disable_term_protect(name: str, call: str | None = None) -> bool:
    """Let EC2 terminate a machine again.

    CLI Example: ``salt-cloud -a disable_term_protect web-1``
    """
    return _term_protect("disable_term_protect", name, call, protect=False)


def _term_protect(function: str, name: str, call: str | None, *, protect: bool) -> bool:
    connection, instance = _acted_on(function, name, call)
    with errors.api_errors(f"setting the termination protection of {name}"):
        connection.ec2.modify_instance_attribute(
            InstanceId=instance["InstanceId"], DisableApiTermination={"Value": protect}
        )
    return show_term_protect(name, call)


def show_detailed_monitoring(name: str, call: str | None = None) -> str:
    """Return the state of a machine's detailed monitoring.

    CLI Example: ``salt-cloud -a show_detailed_monitoring web-1``
    """
    _, instance = _acted_on("show_detailed_monitoring", name, call)
    return str(instance.get("Monitoring", {}).get("State", "unknown"))


def enable_detailed_monitoring(name: str, call: str | None = None) -> str:
    """Switch a machine's detailed monitoring on.

    CLI Example: ``salt-cloud -a enable_detailed_monitoring web-1``
    """
    connection, instance = _acted_on("enable_detailed_monitoring", name, call)
    with errors.api_errors(f"monitoring {name}"):
        answer = connection.ec2.monitor_instances(InstanceIds=[instance["InstanceId"]])
    return str(answer["InstanceMonitorings"][0]["Monitoring"]["State"])


def disable_detailed_monitoring(name: str, call: str | None = None) -> str:
    """Switch a machine's detailed monitoring off.

    CLI Example: ``salt-cloud -a disable_detailed_monitoring web-1``
    """
    connection, instance = _acted_on("disable_detailed_monitoring", name, call)
    with errors.api_errors(f"ending the monitoring of {name}"):
        answer = connection.ec2.unmonitor_instances(InstanceIds=[instance["InstanceId"]])
    return str(answer["InstanceMonitorings"][0]["Monitoring"]["State"])


def show_delvol_on_destroy(
    name: str, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return which volumes go with a machine, by device.

    CLI Example: ``salt-cloud -a show_delvol_on_destroy web-1 device=/dev/xvda``
    """
    _, instance = _acted_on("show_delvol_on_destroy", name, call)
    return {
        device: {"volume_id": ebs["VolumeId"], "deleted": ebs["DeleteOnTermination"]}
        for device, ebs in _volumes_of(instance, kwargs).items()
    }


def delvol_on_destroy(
    name: str, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, dict[str, Any]]:
    """Let volumes go with a machine: all of them, or the one of a `device` or `volume_id`.

    CLI Example: ``salt-cloud -a delvol_on_destroy web-1``
    """
    return _delvol("delvol_on_destroy", name, kwargs, call, delete=True)


def keepvol_on_destroy(
    name: str, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, dict[str, Any]]:
    """Let volumes outlive a machine: all of them, or the one of a `device` or `volume_id`.

    CLI Example: ``salt-cloud -a keepvol_on_destroy web-1 device=/dev/sdf``
    """
    return _delvol("keepvol_on_destroy", name, kwargs, call, delete=False)


def _delvol(
    function: str, name: str, kwargs: Mapping[str, Any] | None, call: str | None, *, delete: bool
) -> dict[str, dict[str, Any]]:
    connection, instance = _acted_on(function, name, call)
    mappings: Any = [
        {"DeviceName": device, "Ebs": {"VolumeId": ebs["VolumeId"], "DeleteOnTermination": delete}}
        for device, ebs in _volumes_of(instance, kwargs).items()
    ]
    with errors.api_errors(f"changing the volumes of {name}"):
        connection.ec2.modify_instance_attribute(
            InstanceId=instance["InstanceId"], BlockDeviceMappings=mappings
        )
    return show_delvol_on_destroy(name, kwargs, call)


def _volumes_of(
    instance: InstanceTypeDef, kwargs: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    wanted = kwargs or {}
    found = {
        mapping["DeviceName"]: dict(mapping["Ebs"])
        for mapping in instance["BlockDeviceMappings"]
        if wanted.get("device") in (None, mapping["DeviceName"])
        and wanted.get("volume_id") in (None, mapping["Ebs"]["VolumeId"])
    }
    if not found:
        raise NotFound(f"{instance['InstanceId']} has no such volume: {dict(wanted)}")
    return found


# -- volumes and snapshots ------------------------------------------------------------------------------------------


def show_volumes(name: str, call: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the volumes of a machine, by id.

    CLI Example: ``salt-cloud -a show_volumes web-1``
    """
    connection, instance = _acted_on("show_volumes", name, call)
    return _described_volumes(
        connection, [{"Name": "attachment.instance-id", "Values": [instance["InstanceId"]]}]
    )


def show_volume(
    name: str | None = None, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Return one volume.

    CLI Example: ``salt-cloud -f show_volume PROVIDER volume_id=vol-1``
    """
    (volume_id,) = _needed("show_volume", kwargs, "volume_id")
    filters: Any = [{"Name": "volume-id", "Values": [volume_id]}]
    if call == "action" and name:
        _, instance = _acted_on("show_volume", name, call)
        filters.append({"Name": "attachment.instance-id", "Values": [instance["InstanceId"]]})
    found = _described_volumes(_connection(), filters)
    if volume_id not in found:
        raise NotFound(f"there is no volume {volume_id}" + (f" at {name}" if name else ""))
    return found[volume_id]


def describe_volumes(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the region's volumes, or those of the comma-separated ids in `volume_id`.

    CLI Example: ``salt-cloud -f describe_volumes PROVIDER``
    """
    _not_an_action("describe_volumes", call)
    ids = (kwargs or {}).get("volume_id")
    return _described_volumes(
        _connection(), [{"Name": "volume-id", "Values": ids.split(",")}] if ids else []
    )


def volume_list(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the same as `describe_volumes`."""
    return describe_volumes(kwargs, call)


def _described_volumes(connection: Connection, filters: Any) -> dict[str, dict[str, Any]]:
    with errors.api_errors("listing the volumes"):
        pages = connection.ec2.get_paginator("describe_volumes").paginate(Filters=filters)
        return {
            volume["VolumeId"]: _lookup.plain(volume)
            for page in pages
            for volume in page["Volumes"]
        }


def create_volume(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Make a volume: gp3, encrypted, 10 GiB, unless said otherwise.

    CLI Example: ``salt-cloud -f create_volume PROVIDER zone=eu-west-1a size=20``

    Args:
        kwargs: `zone`; `size` in GiB or `snapshot`; `type`, `iops`, `throughput`, `encrypted`, `kms_key_id`
            (or `kmskeyid`), and `tags` as a mapping.
        call: how it was called.
    """
    _not_an_action("create_volume", call)
    given = dict(kwargs or {})
    (zone,) = _needed("create_volume", given, "zone")
    tags = given.pop("tags", None)
    numbers = {
        key: int(value) for key, value in given.items() if key in ("size", "iops", "throughput")
    }
    del given["zone"]
    (device,) = _request.new_volumes([{**given, **numbers, "device": "-"}])
    wanted = {"VolumeType": "gp3", "Encrypted": True} | device["Ebs"]
    wanted["Encrypted"] = str(wanted["Encrypted"]).lower() == "true"
    wanted = {{"VolumeSize": "Size"}.get(key, key): value for key, value in wanted.items()}
    if not {"Size", "SnapshotId"} & set(wanted):
        wanted["Size"] = 10
    if tags:
        wanted["TagSpecifications"] = [{"ResourceType": "volume", "Tags": _request.tag_list(tags)}]
    with errors.api_errors("creating a volume"):
        answer = _connection().ec2.create_volume(AvailabilityZone=zone, **wanted)
    return {
        key: value
        for key, value in dict(_lookup.plain(answer)).items()
        if key != "ResponseMetadata"
    }


def volume_create(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Do the same as `create_volume`."""
    return create_volume(kwargs, call)


def delete_volume(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Delete a volume that is attached to nothing.

    CLI Example: ``salt-cloud -f delete_volume PROVIDER volume_id=vol-1``
    """
    _not_an_action("delete_volume", call)
    (volume_id,) = _needed("delete_volume", kwargs, "volume_id")
    with errors.api_errors(f"deleting {volume_id}"):
        _connection().ec2.delete_volume(VolumeId=volume_id)
    return {"volume_id": volume_id, "deleted": True}


def attach_volume(
    name: str, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Attach a volume to a machine.

    CLI Example: ``salt-cloud -a attach_volume web-1 volume_id=vol-1 device=/dev/sdf``
    """
    connection, instance = _acted_on("attach_volume", name, call)
    volume_id, device = _needed("attach_volume", kwargs, "volume_id", "device")
    with errors.api_errors(f"attaching {volume_id} to {name}"):
        answer = connection.ec2.attach_volume(
            InstanceId=instance["InstanceId"], VolumeId=volume_id, Device=device
        )
    return {"volume_id": volume_id, "device": device, "state": answer["State"]}


def detach_volume(
    name: str, kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Detach a volume from a machine.

    CLI Example: ``salt-cloud -a detach_volume web-1 volume_id=vol-1``
    """
    connection, instance = _acted_on("detach_volume", name, call)
    (volume_id,) = _needed("detach_volume", kwargs, "volume_id")
    with errors.api_errors(f"detaching {volume_id} from {name}"):
        answer = connection.ec2.detach_volume(InstanceId=instance["InstanceId"], VolumeId=volume_id)
    return {"volume_id": volume_id, "state": answer["State"]}


def create_snapshot(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Make a snapshot of a volume.

    CLI Example: ``salt-cloud -f create_snapshot PROVIDER volume_id=vol-1 description="before the upgrade"``
    """
    _not_an_action("create_snapshot", call)
    (volume_id,) = _needed("create_snapshot", kwargs, "volume_id")
    with errors.api_errors(f"making a snapshot of {volume_id}"):
        answer = _connection().ec2.create_snapshot(
            VolumeId=volume_id, Description=str((kwargs or {}).get("description", ""))
        )
    return {"snapshot_id": answer["SnapshotId"], "state": answer.get("State")}


def copy_snapshot(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Copy a snapshot into this region, encrypted.

    CLI Example: ``salt-cloud -f copy_snapshot PROVIDER source_region=eu-west-1 source_snapshot_id=snap-1``
    """
    _not_an_action("copy_snapshot", call)
    region, source = _needed("copy_snapshot", kwargs, "source_region", "source_snapshot_id")
    _client.region_of({**_provider(), "location": region, "region": region})
    with errors.api_errors(f"copying {source}"):
        answer = _connection().ec2.copy_snapshot(
            SourceRegion=region,
            SourceSnapshotId=source,
            Description=str((kwargs or {}).get("description", "")),
            Encrypted=True,
        )
    return {"snapshot_id": answer["SnapshotId"]}


def describe_snapshots(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return snapshots: the account's, or those of `owner`, or of the comma-separated ids in `snapshot_id`.

    CLI Example: ``salt-cloud -f describe_snapshots PROVIDER``
    """
    _not_an_action("describe_snapshots", call)
    given = kwargs or {}
    wanted: Any = {"OwnerIds": [str(given.get("owner", "self"))]}
    if given.get("snapshot_id"):
        wanted = {"SnapshotIds": given["snapshot_id"].split(",")}
    with errors.api_errors("listing the snapshots"):
        pages = _connection().ec2.get_paginator("describe_snapshots").paginate(**wanted)
        return {
            snapshot["SnapshotId"]: _lookup.plain(snapshot)
            for page in pages
            for snapshot in page["Snapshots"]
        }


def delete_snapshot(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Delete a snapshot.

    CLI Example: ``salt-cloud -f delete_snapshot PROVIDER snapshot_id=snap-1``
    """
    _not_an_action("delete_snapshot", call)
    (snapshot_id,) = _needed("delete_snapshot", kwargs, "snapshot_id")
    with errors.api_errors(f"deleting {snapshot_id}"):
        _connection().ec2.delete_snapshot(SnapshotId=snapshot_id)
    return {"snapshot_id": snapshot_id, "deleted": True}


def register_image(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Make an image of a snapshot: x86_64, HVM, with a gp3 root volume that goes with its machine.

    CLI Example: ``salt-cloud -f register_image PROVIDER ami_name=web root_device_name=/dev/xvda snapshot_id=snap-1``

    Args:
        kwargs: `ami_name`, `root_device_name`, `snapshot_id`; `description`, `volume_type`, `architecture`; or
            `block_device_mapping`, EC2's list, in place of a snapshot.
        call: how it was called.
    """
    _not_an_action("register_image", call)
    given = dict(kwargs or {})
    name, root = _needed("register_image", given, "ami_name", "root_device_name")
    devices = given.get("block_device_mapping")
    if not devices:
        (snapshot,) = _needed("register_image", given, "snapshot_id")
        volume = {"VolumeType": given.get("volume_type", "gp3"), "DeleteOnTermination": True}
        devices = [{"DeviceName": root, "Ebs": {"SnapshotId": snapshot, **volume}}]
    with errors.api_errors(f"registering the image {name}"):
        answer = _connection().ec2.register_image(
            Name=name,
            Description=str(given.get("description", "")),
            Architecture=given.get("architecture", "x86_64"),
            VirtualizationType="hvm",
            EnaSupport=True,
            RootDeviceName=root,
            BlockDeviceMappings=devices,
        )
    return {"image_id": answer["ImageId"]}


# -- key pairs ------------------------------------------------------------------------------------------------------


def create_keypair(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Make a key pair. Its private half is in the answer, and nowhere else.

    CLI Example: ``salt-cloud -f create_keypair PROVIDER keyname=deploy``
    """
    _not_an_action("create_keypair", call)
    (keyname,) = _needed("create_keypair", kwargs, "keyname")
    with errors.api_errors(f"creating the key pair {keyname}"):
        answer = _connection().ec2.create_key_pair(KeyName=keyname)
    return {key: answer[key] for key in ("KeyName", "KeyPairId", "KeyFingerprint", "KeyMaterial")}


def import_keypair(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Bring a key of your own: its public half.

    CLI Example: ``salt-cloud -f import_keypair PROVIDER keyname=deploy file=/root/key.pub``
    """
    _not_an_action("import_keypair", call)
    keyname, path = _needed("import_keypair", kwargs, "keyname", "file")
    try:
        public = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"import_keypair: {error}") from error
    with errors.api_errors(f"importing the key pair {keyname}"):
        answer = _connection().ec2.import_key_pair(KeyName=keyname, PublicKeyMaterial=public)
    return {key: answer[key] for key in ("KeyName", "KeyPairId", "KeyFingerprint")}


def show_keypair(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Return a key pair's public half and fingerprint.

    CLI Example: ``salt-cloud -f show_keypair PROVIDER keyname=deploy``
    """
    _not_an_action("show_keypair", call)
    (keyname,) = _needed("show_keypair", kwargs, "keyname")
    with errors.api_errors(f"looking up the key pair {keyname}"):
        found = _connection().ec2.describe_key_pairs(KeyNames=[keyname], IncludePublicKey=True)[
            "KeyPairs"
        ]
    return dict(_lookup.plain(found[0]))


def delete_keypair(
    kwargs: Mapping[str, Any] | None = None, call: str | None = None
) -> dict[str, Any]:
    """Remove a key pair from EC2.

    CLI Example: ``salt-cloud -f delete_keypair PROVIDER keyname=deploy``
    """
    _not_an_action("delete_keypair", call)
    (keyname,) = _needed("delete_keypair", kwargs, "keyname")
    with errors.api_errors(f"deleting the key pair {keyname}"):
        _connection().ec2.delete_key_pair(KeyName=keyname)
    return {"KeyName": keyname, "deleted": True}


# -- helpers --------------------------------------------------------------------------------------------------------


def _acted_on(function: str, name: str, call: str | None) -> tuple[Connection, InstanceTypeDef]:
    """Return the machine that an action is for, and the connection to its region."""
    if call != "action":
        raise Ec2Error(f"{function} is an action on a machine: salt-cloud -a {function} NAME")
    connection = _connection()
    return connection, _machine(connection, name)


def _not_an_action(function: str, call: str | None) -> None:
    if call == "action":
        raise Ec2Error(
            f"{function} is not an action on a machine: salt-cloud -f {function} PROVIDER"
        )


def _needed(function: str, kwargs: Mapping[str, Any] | None, *names: str) -> list[Any]:
    """Return the arguments of these names.

    Raises:
        ConfigurationError: one was not given.
    """
    absent = [name for name in names if (kwargs or {}).get(name) in (None, "")]
    if absent:
        raise ConfigurationError(f"{function} needs {', '.join(f'{name}=…' for name in absent)}")
    return [(kwargs or {})[name] for name in names]


def _machine(connection: Connection, name: str) -> InstanceTypeDef:
    """Return the living machine that a name, or an instance id, stands for."""
    if name.startswith("i-"):
        found = _lookup.instances(connection, [{"Name": "instance-id", "Values": [name]}])
    else:
        found = _lookup.named(connection, name)
    instance = _lookup.only(name, found)
    if instance is None:
        raise NotFound(f"there is no machine called {name} in {connection.region}")
    return instance


def _event(name: str, tag: str, message: str, data: Mapping[str, Any]) -> None:
    """Tell the master's event bus; where no master listens, Salt would wait a second for one, every time."""
    if (
        __opts__.get("ipc_mode") != "tcp"
        and not Path(__opts__["sock_dir"], "master_event_pull.ipc").exists()
    ):
        log.debug("no master listens: %s of %s", tag, name)
        return
    __utils__["cloud.fire_event"](
        "event",
        message,
        f"salt/cloud/{name}/{tag}",
        args={"name": name, **data},
        sock_dir=__opts__["sock_dir"],
        transport=__opts__["transport"],
    )
