"""salt-cloud's functions for Amazon EC2: one thin function for each query, action and function.

A provider needs `driver: ec2` and a `location`; the package's options.md lists all options. A
machine is known by its Name tag. Every failure raises an error with a sentence.

Each docstring names the IAM actions that a call needs. With `role_arn`, each call also needs
sts:AssumeRole.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import salt.utils.cloud

# Salt loads this module also where boto3 is not installed.
MISSING = ""
try:
    from saltext.ec2 import (
        _accounts,
        _arguments,
        _attributes,
        _cachedir,
        _check,
        _client,
        _create,
        _destroy,
        _images,
        _instance,
        _key_pairs,
        _machine,
        _minion_keys,
        _nodes,
        _permissions,
        _regions,
        _snapshots,
        _tags,
        _volumes,
        errors,
    )
    from saltext.ec2._client import Connection
    from saltext.ec2._context import Context
    from saltext.ec2._machine import Machine
    from saltext.ec2._nodes import Nodes
    from saltext.ec2.errors import Ec2Error, QueryFailed
except ImportError as error:
    MISSING = str(error)

if TYPE_CHECKING:
    # Salt's loader puts these into the module.
    __opts__: dict[str, Any]
    __utils__: dict[str, Callable[..., Any]]
    __active_provider_name__: Any

log = logging.getLogger(__name__)

__virtualname__ = "ec2"

Returned = TypeVar("Returned")
Arguments = Mapping[str, Any] | None


def __virtual__() -> str | tuple[bool, str]:
    if MISSING:
        return False, f"{MISSING}: install boto3 into the Python environment of salt-cloud"
    return __virtualname__


def _context() -> Context:
    """Return what Salt's loader has put into this module."""
    active = __active_provider_name__
    name = active.value() if hasattr(active, "value") else active
    return Context(__opts__, __utils__, str(name or __virtualname__))


# -- decorators ------------------------------------------------------------------------------------
# They are in this module because Salt sets __active_provider_name__ in the globals of the very
# function that it calls, which is the decorators' wrapper.


def _action(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """Make an action, which Salt calls by a machine's name, of a function that takes a machine."""

    @functools.wraps(function)
    def call_action(
        name: str | None = None, kwargs: Arguments = None, call: str | None = None
    ) -> Returned:
        if call != "action" or not name:
            action = function.__name__
            raise Ec2Error(f"{action} is an action on a machine: salt-cloud -a {action} NAME")
        arguments = _arguments.bind(function, kwargs)
        return function(_find(name), **arguments)

    return call_action


def _function(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """Make a function, which Salt calls by a provider's name, of one that takes a connection."""

    @functools.wraps(function)
    def call_function(*given: Any, kwargs: Arguments = None, call: str | None = None) -> Returned:
        arguments = _function_arguments(function, given, kwargs, call)
        return function(_context().connect(), **arguments)

    return call_function


def _function_arguments(
    function: Callable[..., Any], given: tuple[Any, ...], kwargs: Arguments, call: str | None
) -> dict[str, Any]:
    """Return the arguments of a function; Salt's core calls an action with a machine's name.

    Raises:
        Ec2Error: it is called as an action, or with arguments that it does not take.
    """
    first, *rest = given or (None,)
    if "action" in (call, *rest) or isinstance(first, str):
        name = function.__name__
        raise Ec2Error(f"{name} is not an action on a machine: salt-cloud -f {name} PROVIDER")
    return _arguments.bind(function, first if kwargs is None else kwargs)


def _query(
    listed: str,
) -> Callable[[Callable[..., Returned]], Callable[..., Returned]]:
    """Make a function whose failure Salt's core does not take for an empty list.

    Args:
        listed: what the function lists: "machines".
    """

    def decorate(function: Callable[..., Returned]) -> Callable[..., Returned]:
        @functools.wraps(function)
        def call_query(*given: Any, kwargs: Arguments = None, call: str | None = None) -> Returned:
            arguments = _function_arguments(function, given, kwargs, call)
            try:
                return function(_context().connect_to_query(), **arguments)
            except Exception as error:
                provider = _context().provider_name
                log.debug("The %s of %s cannot be listed", listed, provider, exc_info=True)
                # Without the cause, since the core prints the whole traceback.
                raise QueryFailed(
                    f"the {listed} of {provider} cannot be listed: {errors.describe(error)}"
                ) from None

        return call_query

    return decorate


def _action_or_function(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """Make both of a function that takes a connection, and a machine or None."""

    @functools.wraps(function)
    def call_either(
        name: str | None = None, kwargs: Arguments = None, call: str | None = None
    ) -> Returned:
        arguments = _arguments.bind(function, kwargs)
        if call == "action" and name:
            machine = _find(name)
            return function(machine.connection, machine, **arguments)
        return function(_context().connect(), None, **arguments)

    return call_either


def _only_ec2_errors(function: Callable[..., Returned]) -> Callable[..., Returned]:
    """Raise every other exception as an Ec2Error.

    Salt's core takes a KeyError for a missing setting and goes on. Others end a whole map, and with
    `--parallel` lose its result.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Returned:
        try:
            return function(*args, **kwargs)
        except Ec2Error:
            raise
        except Exception as error:
            log.debug("%s stopped", function.__name__, exc_info=True)
            raise Ec2Error(f"{function.__name__} stopped: {errors.describe(error)}") from error

    return call


def _find(name: str, *, ended: bool = False) -> Machine:
    context = _context()
    provider = context.provider_of_machine()
    return _machine.find(context.connect(provider), provider, name, ended=ended)


# -- queries ---------------------------------------------------------------------------------------


def get_configured_provider() -> dict[str, Any] | bool:
    """Return the active provider's options, or False when there is none.

    The core asks for each provider before it does anything. A fault of one provider is therefore
    logged here, and raised when that provider is used.

    IAM: none
    """
    context = _context()
    provider = context.configured_provider()
    if provider is None:
        return False
    context.warn_of_faults()
    _client.model_loader()  # the core calls this before it forks, so that all processes have it
    return provider


def optimize_providers(providers: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the providers to query: of those that share an account and region, one.

    The core calls this before it queries the providers in processes of their own. A map or profile
    that is about to be applied is tried with DryRun: one machine of each profile.

    IAM: ec2:DescribeInstances
    IAM, depending on use: ec2:CreateTags, ec2:DescribeImages, ec2:DescribeSecurityGroups,
        ec2:DescribeSubnets, ec2:RunInstances, iam:PassRole, ssm:GetParameters

    Raises:
        ConfigurationError: the map or profile that is about to be applied has faults.
        ApiError: AWS denies a launch of it.
        Ec2Error: EC2 did not answer, a provider cannot be used, or a map names an unknown provider.
    """
    _check.refuse_run(_context())
    kept = _accounts.optimize(_context(), providers)
    _permissions.require(_context())
    return kept


@_query("machines")
def list_nodes(connection: Connection) -> Nodes:
    """Return the machines: id, image, size, state and addresses of each.

    While a map or profile is applied, the core creates the machines that are not listed.

    CLI Example: ``salt-cloud -Q``

    IAM: ec2:DescribeInstances

    Raises:
        QueryFailed: EC2 did not answer.
    """
    return _nodes.listed(_context(), connection)


@_query("machines")
def list_nodes_min(connection: Connection) -> Nodes:
    """Return the machines of `list_nodes` with their ids and states.

    IAM: ec2:DescribeInstances

    Raises:
        QueryFailed: EC2 did not answer.
    """
    nodes = _nodes.listed(_context(), connection)
    return {name: {"id": node["id"], "state": node["state"]} for name, node in nodes.items()}


@_query("machines")
def list_nodes_full(connection: Connection) -> Nodes:
    """Return the machines with everything that EC2 describes.

    CLI Example: ``salt-cloud -F``

    IAM: ec2:DescribeInstances

    Raises:
        QueryFailed: EC2 did not answer.
    """
    return _nodes.full(_context(), connection)


@_query("machines")
def list_nodes_select(connection: Connection) -> Nodes:
    """Return the machines with the fields in `query.selection` of the cloud configuration.

    CLI Example: ``salt-cloud -S``

    IAM: ec2:DescribeInstances

    Raises:
        QueryFailed: EC2 did not answer.
    """
    nodes = _nodes.full(_context(), connection)
    return dict(salt.utils.cloud.list_nodes_select(nodes, __opts__["query.selection"]))


@_action_or_function
def show_instance(
    connection: Connection, machine: Machine | None, *, name: str = "", instance_id: str = ""
) -> dict[str, Any]:
    """Return everything that EC2 describes of one machine.

    CLI Example: ``salt-cloud -a show_instance web-1``; ``salt-cloud -f show_instance PROVIDER
    name=web-1``, or ``instance_id=i-…``

    IAM: ec2:DescribeInstances

    Raises:
        NotFound: there is no such machine.
    """
    if machine is None:
        if not (name or instance_id):
            raise errors.ConfigurationError(
                "show_instance needs a machine: salt-cloud -a show_instance NAME; a function needs"
                " name=… or instance_id=…"
            )
        machine = _machine.find(connection, _context().provider(), instance_id or name)
    node = _nodes.describe(machine.instance)
    _cachedir.put(_context(), node)
    return node


@_query("regions")
def avail_locations(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return the regions that the account may use and the provider allows.

    CLI Example: ``salt-cloud --list-locations PROVIDER``

    IAM: ec2:DescribeRegions

    Raises:
        QueryFailed: EC2 did not answer.
    """
    return _regions.usable(
        connection, (_context().configured_provider() or {}).get("allowed_regions")
    )


@_query("instance types")
def avail_sizes(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return the instance types that the region offers, as EC2 describes them today.

    CLI Example: ``salt-cloud --list-sizes PROVIDER``

    IAM: ec2:DescribeInstanceTypes

    Raises:
        QueryFailed: EC2 did not answer.
    """
    return _regions.instance_types(connection)


@_query("images")
def avail_images(connection: Connection, *, owner: str = "") -> dict[str, dict[str, Any]]:
    """Return the images of the given `owner`, of the provider's, or of the account.

    CLI Example: ``salt-cloud -f avail_images PROVIDER owner=136693071363``

    IAM: ec2:DescribeImages

    Raises:
        QueryFailed: EC2 did not answer.
    """
    return _images.owned(
        connection, str(owner or (_context().configured_provider() or {}).get("owner") or "self")
    )


def check(kwargs: Arguments = None, call: str | None = None) -> dict[str, Any]:
    """Read all providers, profiles and maps, and name everything that is wrong with them.

    Maps are those of `cloud.maps.d`, and one more with `map=FILE`. Nothing is changed.

    CLI Example: ``salt-cloud -f check PROVIDER``; ``salt-cloud -f check PROVIDER map=FILE``

    IAM: none
    IAM, depending on use: ec2:DescribeAddresses, ec2:DescribeImages, ec2:DescribeKeyPairs,
        ec2:DescribeSecurityGroups, ec2:DescribeSubnets, ssm:GetParameters

    Raises:
        ConfigurationError: there are faults; the message has a line `FILE:LINE: sentence` for each.
    """
    if call == "action":
        raise Ec2Error("check is not an action on a machine: salt-cloud -f check PROVIDER")
    arguments = {name: value for name, value in (kwargs or {}).items() if name[:2] != "__"}
    map_path = str(arguments.pop("map", ""))
    if arguments:
        raise errors.ConfigurationError(f"check does not take {', '.join(arguments)}; it takes map")
    if found := _check.all_faults(_context(), map_path):
        raise errors.ConfigurationError("\n".join(found))
    return {"faults": []}


@_function
def show_image(connection: Connection, *, image: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return an image; `image` has any of the forms that it may have in a profile.

    CLI Example: ``salt-cloud -f show_image PROVIDER image=ssm:/aws/service/debian/release/13/…``

    IAM: ec2:DescribeImages
    IAM, depending on use: ssm:GetParameters
    """
    return _images.describe(connection, image)


@_function
def list_availability_zones(connection: Connection) -> dict[str, str]:
    """Return the region's availability zones and their states.

    CLI Example: ``salt-cloud -f list_availability_zones PROVIDER``

    IAM: ec2:DescribeAvailabilityZones
    """
    return _regions.zones(connection)


# -- the life of a machine -------------------------------------------------------------------------


@_only_ec2_errors
def create(vm_: dict[str, Any]) -> dict[str, Any]:
    """Launch one machine and install its minion; the core calls this for each name of a map.

    A living machine of that name is not launched again, but deployed again.

    IAM: ec2:CreateTags, ec2:DescribeInstances, ec2:RunInstances
    IAM, depending on use: ec2:AllocateAddress, ec2:AssociateAddress, ec2:AttachVolume,
        ec2:CancelSpotInstanceRequests, ec2:DescribeAddresses, ec2:DescribeImages,
        ec2:DescribeSecurityGroups, ec2:DescribeSubnets, ec2:DisassociateAddress,
        ec2:GetConsoleOutput, ec2:ModifyInstanceAttribute, ec2:ModifyNetworkInterfaceAttribute,
        ec2:ReleaseAddress, ec2:StartInstances, ec2:TerminateInstances, iam:PassRole,
        ssm:GetParameters

    Raises:
        Ec2Error: the machine does not run, or its minion is not installed.
    """
    return _create.create(_context(), vm_)


@_only_ec2_errors
def destroy(name: str, call: str | None = None) -> dict[str, Any]:
    """Terminate one machine. The core removes its key from the master.

    For a machine that has been terminated already, the rest is done, such as releasing addresses.
    What EC2 does not release with it, such as an elastic address, is in the answer under `left`.

    CLI Example: ``salt-cloud --destroy web-1``

    IAM: ec2:DescribeAddresses, ec2:DescribeInstances, ec2:TerminateInstances
    IAM, depending on use: ec2:CancelSpotInstanceRequests, ec2:CreateTags,
        ec2:DisassociateAddress, ec2:ReleaseAddress

    Raises:
        NotFound: there is no such machine.
        ApiError: EC2 refuses, as it does for a machine with termination protection.
    """
    if call == "function":
        raise Ec2Error("destroy needs a machine: salt-cloud --destroy NAME")
    return _destroy.destroy(_context(), _find(name, ended=True))


@_action
def start(machine: Machine) -> list[dict[str, Any]]:
    """Start a stopped machine.

    CLI Example: ``salt-cloud -a start web-1``

    IAM: ec2:DescribeInstances, ec2:StartInstances
    """
    _context().event(machine.name, "starting", "starting instance", {"instance_id": machine.id})
    return _instance.start(machine)


@_action
def stop(machine: Machine) -> list[dict[str, Any]]:
    """Stop a running machine; its volumes stay.

    CLI Example: ``salt-cloud -a stop web-1``

    IAM: ec2:DescribeInstances, ec2:StopInstances
    """
    _context().event(machine.name, "stopping", "stopping instance", {"instance_id": machine.id})
    return _instance.stop(machine)


@_action
def reboot(machine: Machine) -> dict[str, Any]:
    """Reboot a running machine.

    CLI Example: ``salt-cloud -a reboot web-1``

    IAM: ec2:DescribeInstances, ec2:RebootInstances
    """
    return _instance.reboot(machine)


@_action
def rename(machine: Machine, *, newname: str) -> dict[str, Any]:
    """Give a machine, and its key on this master, another name.

    A machine whose minion runs is refused: the minion would keep its id.

    CLI Example: ``salt-cloud -a rename web-1 newname=web-3``

    IAM: ec2:CreateTags, ec2:DescribeInstances

    Raises:
        NotFound: another machine has the new name.
        ConfigurationError: the machine runs a minion.
    """
    renamed = _attributes.rename(machine, newname)
    _minion_keys.rename(__opts__, machine.name, newname)
    return renamed


@_action
def get_console_output(machine: Machine) -> dict[str, Any]:
    """Return what a machine printed on its console, as far as EC2 shows it.

    CLI Example: ``salt-cloud -a get_console_output web-1``

    IAM: ec2:DescribeInstances, ec2:GetConsoleOutput
    """
    return _instance.console_output(machine)


# -- tags ------------------------------------------------------------------------------------------


@_action_or_function
def get_tags(
    connection: Connection, machine: Machine | None, *, resource_id: str = "", instance_id: str = ""
) -> dict[str, str]:
    """Return the tags of a machine, or of any resource.

    CLI Example: ``salt-cloud -a get_tags web-1``; ``salt-cloud -f get_tags PROVIDER resource_id=…``

    IAM: ec2:DescribeTags
    IAM, depending on use: ec2:DescribeInstances
    """
    return _tags.read(
        connection, _tags.target(machine.id if machine else "", resource_id, instance_id)
    )


@_action_or_function
def set_tags(
    connection: Connection,
    machine: Machine | None,
    /,
    *,
    resource_id: str = "",
    instance_id: str = "",
    **tags: Any,
) -> dict[str, str]:
    """Set tags of a machine, or of any resource, and return all its tags.

    The Name of a machine is changed by `rename`.

    CLI Example: ``salt-cloud -a set_tags web-1 tier=front``

    IAM: ec2:CreateTags, ec2:DescribeTags
    IAM, depending on use: ec2:DescribeInstances
    """
    resource = _tags.target(machine.id if machine else "", resource_id, instance_id)
    _tags.set_some(connection, resource, tags)
    return _tags.read(connection, resource)


@_action_or_function
def del_tags(
    connection: Connection,
    machine: Machine | None,
    *,
    tags: str | list[str],
    resource_id: str = "",
    instance_id: str = "",
) -> dict[str, str]:
    """Remove tags of a machine, or of any resource, and return those that are left.

    CLI Example: ``salt-cloud -a del_tags web-1 tags=tier,owner``

    IAM: ec2:DeleteTags, ec2:DescribeTags
    IAM, depending on use: ec2:DescribeInstances
    """
    resource = _tags.target(machine.id if machine else "", resource_id, instance_id)
    _tags.remove(connection, resource, tags.split(",") if isinstance(tags, str) else tags)
    return _tags.read(connection, resource)


# -- attributes ------------------------------------------------------------------------------------


@_action
def show_term_protect(machine: Machine) -> bool:
    """Return whether EC2 refuses to terminate a machine.

    CLI Example: ``salt-cloud -a show_term_protect web-1``

    IAM: ec2:DescribeInstanceAttribute, ec2:DescribeInstances
    """
    return _attributes.termination_protection(machine)


@_action
def enable_term_protect(machine: Machine) -> bool:
    """Have EC2 refuse to terminate a machine.

    CLI Example: ``salt-cloud -a enable_term_protect web-1``

    IAM: ec2:DescribeInstanceAttribute, ec2:DescribeInstances, ec2:ModifyInstanceAttribute
    """
    return _attributes.set_termination_protection(machine, protect=True)


@_action
def disable_term_protect(machine: Machine) -> bool:
    """Let EC2 terminate a machine again.

    CLI Example: ``salt-cloud -a disable_term_protect web-1``

    IAM: ec2:DescribeInstanceAttribute, ec2:DescribeInstances, ec2:ModifyInstanceAttribute
    """
    return _attributes.set_termination_protection(machine, protect=False)


@_action
def show_detailed_monitoring(machine: Machine) -> str:
    """Return the state of a machine's detailed monitoring.

    CLI Example: ``salt-cloud -a show_detailed_monitoring web-1``

    IAM: ec2:DescribeInstances
    """
    return _attributes.monitoring(machine)


@_action
def enable_detailed_monitoring(machine: Machine) -> str:
    """Switch a machine's detailed monitoring on.

    CLI Example: ``salt-cloud -a enable_detailed_monitoring web-1``

    IAM: ec2:DescribeInstances, ec2:MonitorInstances
    """
    return _attributes.enable_monitoring(machine)


@_action
def disable_detailed_monitoring(machine: Machine) -> str:
    """Switch a machine's detailed monitoring off.

    CLI Example: ``salt-cloud -a disable_detailed_monitoring web-1``

    IAM: ec2:DescribeInstances, ec2:UnmonitorInstances
    """
    return _attributes.disable_monitoring(machine)


@_action
def show_delvol_on_destroy(
    machine: Machine, *, device: str | None = None, volume_id: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return by device whether EC2 deletes the volumes of a machine with it.

    CLI Example: ``salt-cloud -a show_delvol_on_destroy web-1 device=/dev/xvda``

    IAM: ec2:DescribeInstances
    """
    return _attributes.volume_deletion(machine, device, volume_id)


@_action
def delvol_on_destroy(
    machine: Machine, *, device: str | None = None, volume_id: str | None = None
) -> dict[str, dict[str, Any]]:
    """Have EC2 delete volumes with their machine: all, or the one of a `device` or `volume_id`.

    CLI Example: ``salt-cloud -a delvol_on_destroy web-1``

    IAM: ec2:DescribeInstances, ec2:ModifyInstanceAttribute
    """
    return _attributes.set_volume_deletion(machine, device, volume_id, delete=True)


@_action
def keepvol_on_destroy(
    machine: Machine, *, device: str | None = None, volume_id: str | None = None
) -> dict[str, dict[str, Any]]:
    """Have volumes outlive their machine: all, or the one of a `device` or `volume_id`.

    CLI Example: ``salt-cloud -a keepvol_on_destroy web-1 device=/dev/sdf``

    IAM: ec2:DescribeInstances, ec2:ModifyInstanceAttribute
    """
    return _attributes.set_volume_deletion(machine, device, volume_id, delete=False)


# -- volumes ---------------------------------------------------------------------------------------


@_action
def show_volumes(machine: Machine) -> dict[str, dict[str, Any]]:
    """Return the volumes of a machine, by id.

    CLI Example: ``salt-cloud -a show_volumes web-1``

    IAM: ec2:DescribeInstances, ec2:DescribeVolumes
    """
    return _volumes.attached(machine)


@_action_or_function
def show_volume(
    connection: Connection, machine: Machine | None, *, volume_id: str
) -> dict[str, Any]:
    """Return one volume; as an action, only if it is attached to the machine.

    CLI Example: ``salt-cloud -f show_volume PROVIDER volume_id=vol-1``

    IAM: ec2:DescribeVolumes
    IAM, depending on use: ec2:DescribeInstances
    """
    return _volumes.describe(connection, volume_id, machine)


@_function
def describe_volumes(connection: Connection, *, volume_id: str = "") -> dict[str, dict[str, Any]]:
    """Return the region's volumes, or those of the comma-separated ids in `volume_id`.

    CLI Example: ``salt-cloud -f describe_volumes PROVIDER``

    IAM: ec2:DescribeVolumes
    """
    ids = volume_id.split(",") if volume_id else []
    return _volumes.described(connection, [{"Name": "volume-id", "Values": ids}] if ids else [])


volume_list = describe_volumes


@_function
def create_volume(
    connection: Connection, *, zone: str, tags: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """Make a volume: gp3, encrypted and of 10 GiB by default.

    CLI Example: ``salt-cloud -f create_volume PROVIDER zone=eu-west-1a size=20``

    IAM: ec2:CreateVolume
    IAM, depending on use: ec2:CreateTags

    Args:
        connection: the region.
        zone: the availability zone.
        tags: its tags, as a mapping.
        settings: `size` in GiB or `snapshot`; `type`, `iops`, `throughput`, `encrypted`,
            `kms_key_id` (or `kmskeyid`).
    """
    return _volumes.create(connection, zone, tags or {}, settings)


volume_create = create_volume


@_function
def delete_volume(connection: Connection, *, volume_id: str) -> dict[str, Any]:
    """Delete a volume that is attached to no machine.

    CLI Example: ``salt-cloud -f delete_volume PROVIDER volume_id=vol-1``

    IAM: ec2:DeleteVolume
    """
    return _volumes.delete(connection, volume_id)


@_action
def attach_volume(machine: Machine, *, volume_id: str, device: str) -> dict[str, Any]:
    """Attach a volume to a machine.

    CLI Example: ``salt-cloud -a attach_volume web-1 volume_id=vol-1 device=/dev/sdf``

    IAM: ec2:AttachVolume, ec2:DescribeInstances
    """
    return _volumes.attach(machine, volume_id, device)


@_action
def detach_volume(machine: Machine, *, volume_id: str) -> dict[str, Any]:
    """Detach a volume from a machine.

    CLI Example: ``salt-cloud -a detach_volume web-1 volume_id=vol-1``

    IAM: ec2:DescribeInstances, ec2:DetachVolume
    """
    return _volumes.detach(machine, volume_id)


# -- snapshots and images --------------------------------------------------------------------------


@_function
def create_snapshot(
    connection: Connection, *, volume_id: str, description: str = ""
) -> dict[str, Any]:
    """Make a snapshot of a volume.

    CLI Example: ``salt-cloud -f create_snapshot PROVIDER volume_id=vol-1 description=upgrade``

    IAM: ec2:CreateSnapshot
    """
    return _snapshots.create(connection, volume_id, str(description))


@_function
def copy_snapshot(
    connection: Connection, *, source_region: str, source_snapshot_id: str, description: str = ""
) -> dict[str, Any]:
    """Copy a snapshot from an allowed region into this one, encrypted.

    CLI Example: ``salt-cloud -f copy_snapshot PROVIDER source_region=… source_snapshot_id=snap-1``

    IAM: ec2:CopySnapshot

    Raises:
        RegionRefused: `allowed_regions` does not contain the source region.
    """
    _client.check_region(source_region, _context().provider())
    return _snapshots.copy(connection, source_region, source_snapshot_id, str(description))


@_function
def describe_snapshots(
    connection: Connection, *, snapshot_id: str = "", owner: str = "self"
) -> dict[str, dict[str, Any]]:
    """Return the snapshots of an owner, or those of the comma-separated ids in `snapshot_id`.

    CLI Example: ``salt-cloud -f describe_snapshots PROVIDER``

    IAM: ec2:DescribeSnapshots
    """
    if snapshot_id:
        return _snapshots.described(connection, {"SnapshotIds": snapshot_id.split(",")})
    return _snapshots.described(connection, {"OwnerIds": [str(owner)]})


@_function
def delete_snapshot(connection: Connection, *, snapshot_id: str) -> dict[str, Any]:
    """Delete a snapshot.

    CLI Example: ``salt-cloud -f delete_snapshot PROVIDER snapshot_id=snap-1``

    IAM: ec2:DeleteSnapshot
    """
    return _snapshots.delete(connection, snapshot_id)


@_function
def register_image(
    connection: Connection, *, ami_name: str, root_device_name: str, **settings: Any
) -> dict[str, Any]:
    """Make an image of a snapshot: x86_64, HVM, with a gp3 root volume, deleted with its machine.

    CLI Example: ``salt-cloud -f register_image PROVIDER ami_name=web root_device_name=/dev/xvda
    snapshot_id=snap-1``

    IAM: ec2:RegisterImage

    Args:
        connection: the region.
        ami_name: its name.
        root_device_name: the device of its root volume.
        settings: `snapshot_id`, or `block_device_mapping` with EC2's list; `description`,
            `volume_type`, `architecture`.
    """
    return _images.register(connection, ami_name, root_device_name, settings)


# -- key pairs -------------------------------------------------------------------------------------


@_function
def create_keypair(connection: Connection, *, keyname: str) -> dict[str, Any]:
    """Make a key pair. Only the answer contains its private half.

    CLI Example: ``salt-cloud -f create_keypair PROVIDER keyname=deploy``

    IAM: ec2:CreateKeyPair
    """
    return _key_pairs.create(connection, keyname)


@_function
def import_keypair(connection: Connection, *, keyname: str, file: str) -> dict[str, Any]:
    """Make a key pair of the public key in a file.

    CLI Example: ``salt-cloud -f import_keypair PROVIDER keyname=deploy file=/root/key.pub``

    IAM: ec2:ImportKeyPair
    """
    return _key_pairs.import_public(connection, keyname, file)


@_function
def show_keypair(connection: Connection, *, keyname: str) -> dict[str, Any]:
    """Return the public half and the fingerprint of a key pair.

    CLI Example: ``salt-cloud -f show_keypair PROVIDER keyname=deploy``

    IAM: ec2:DescribeKeyPairs
    """
    return _key_pairs.describe(connection, keyname)


@_function
def delete_keypair(connection: Connection, *, keyname: str) -> dict[str, Any]:
    """Remove a key pair from EC2.

    CLI Example: ``salt-cloud -f delete_keypair PROVIDER keyname=deploy``

    IAM: ec2:DeleteKeyPair
    """
    return _key_pairs.delete(connection, keyname)
