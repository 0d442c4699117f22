"""Creating a machine: check the options, launch the instance, install the minion, mark it done."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import salt.config

from saltext.ec2 import (
    _attachments,
    _cachedir,
    _destroy,
    _install,
    _instance,
    _lookup,
    _minion_keys,
    _nodes,
    _preflight,
    _request,
    _tags,
    host_keys,
    options,
)
from saltext.ec2._context import DRIVER, Context
from saltext.ec2._machine import Machine
from saltext.ec2.errors import (
    ApiError,
    DeployError,
    Ec2Error,
    LaunchError,
    describe,
)
from saltext.ec2.tags import DEPLOY_TAG, HOST_KEY_TAG

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """A machine that Salt's core wants to exist.

    Attributes:
        context: Salt's configuration.
        vm_: the machine as the core hands it to `create`; the driver adds its address.
        deploy: whether to install a minion.
    """

    context: Context
    vm_: dict[str, Any]
    deploy: bool

    @property
    def name(self) -> str:
        """The machine's name."""
        return str(self.vm_["name"])


def create(context: Context, vm_: dict[str, Any]) -> dict[str, Any]:
    """Make a machine exist, run, and have its minion.

    A living machine of that name is not launched again, but deployed again, since the core has put
    new keys for it on the master.

    Returns:
        Its description, see `_nodes.describe`.

    Raises:
        Ec2Error: the machine does not run, or its minion is not installed.
    """
    for name in [name for name in vm_ if name.startswith("__")]:
        del vm_[name]  # Salt's execution module `cloud` adds __pub_fun and so on
    # A value of another type, which is refused later, may have left an accepted key.
    deploy = salt.config.get_cloud_config_value("deploy", vm_, context.opts) is not False
    order = Order(context, vm_, deploy)
    with _before_launch(order):
        plan = _prepare(order)
        order = dataclasses.replace(order, deploy=plan.deploy)
        machine, new = _launch(order, plan)
    _cachedir.index(context, vm_)
    try:
        _report_launch(order, machine, new=new)
        machine = _deploy(order, machine, plan.archive)
    except Exception as error:
        log.debug("%s is launched, but not ready", order.name, exc_info=True)
        raise _failure(order, machine, error, new=new) from error
    return _finish(order, machine)


@contextlib.contextmanager
def _before_launch(order: Order) -> Iterator[None]:
    """If the block launches no machine, remove the key that the core has accepted for it."""
    try:
        yield
    except Exception as error:
        if order.deploy:
            _minion_keys.remove_accepted(order.vm_, order.context.opts)
        if not isinstance(error, Ec2Error):
            log.debug("%s is not launched", order.name, exc_info=True)
            raise Ec2Error(f"{order.name} is not launched: {describe(error)}") from error
        if not isinstance(error, ApiError):
            raise
        raise ApiError(
            f"{error}; run the same command again:"
            " it finds what EC2 may have launched, and launches nothing twice",
            error.code,
        ) from error


def _prepare(order: Order) -> _preflight.Plan:
    """Check everything that can be checked without a machine."""
    context, vm_ = order.context, order.vm_
    context.provider()
    options.refuse(_preflight.faults(context, vm_))
    plan = _preflight.plan(context, vm_)
    data = {**vm_, **_identity(order)}
    creating = context.filtered("creating", data, _identity(order))
    context.send(order.name, "creating", "starting create", creating)
    if plan.deploy:
        _minion_keys.remove_pending(vm_, context.opts)
    return plan


def _launch(order: Order, plan: _preflight.Plan) -> tuple[Machine, bool]:
    """Launch the machine, unless it exists; start it if it has been stopped.

    Returns:
        The machine, and whether it is new.
    """
    name, resolved = order.name, plan.options
    connection = order.context.connect(resolved)
    instance, predecessors = _lookup.before_launch(connection, name)
    if instance is None:
        _attachments.check_addresses(connection, resolved, name)
        launch = _request.Launch(
            connection,
            resolved,
            name,
            plan.userdata,
            plan.deploy,
            functools.partial(_report_request, order, connection.region),
        )
        return _instance.launch(launch, predecessors), True
    machine = Machine(connection, resolved, name, instance)
    log.warning("%s exists already as %s: it is not launched again", name, machine.id)
    if machine.state in ("stopping", "stopped"):
        _instance.start(machine)
    return machine, False


def _identity(order: Order) -> dict[str, Any]:
    """Return what the events at the beginning and at the end say about a machine."""
    return {
        "name": order.name,
        "profile": order.vm_.get("profile"),
        "provider": order.context.provider_name,
        "driver": DRIVER,
    }


def _report_request(order: Order, region: str, request: Mapping[str, Any]) -> None:
    """Send the event for a launch, without the user data, which may contain secrets."""
    shown = {key: value for key, value in request.items() if key != "UserData"}
    data = {
        "size": request.get("InstanceType"),
        "image": request.get("ImageId"),
        "location": region,
        "kwargs": order.context.filtered("requesting", shown, shown),
    }
    order.context.event(order.name, "requesting", "requesting instance", data)


def _report_launch(order: Order, machine: Machine, *, new: bool) -> None:
    """Send the events for what 3007's driver did after the launch; here it is part of it."""

    def event(tag: str, message: str, data: Mapping[str, Any]) -> None:
        order.context.event(order.name, tag, message, data)

    event("querying", "querying instance", {"instance_id": machine.id})
    if new:
        tags = _tags.as_dict(machine.instance)
        event("tagging", "setting tags", {"tags": tags, "instance_id": machine.id})
    if volumes := machine.options.get("volumes"):
        event("attaching_volumes", "attaching volumes", {"volumes": volumes})


def _deploy(order: Order, machine: Machine, archive: bytes) -> Machine:
    """Wait until the machine is ready, and install its minion.

    If its address is known from the launch and nothing is attached to it later, the wait for its
    sshd is also the wait for it to run.
    """
    wait_first = _attachments.needed(machine.options) or not machine.address
    if wait_first:
        machine = _instance.wait_until_ready(machine)
    if order.deploy:
        _install.install(order.context, machine, order.vm_, archive)
    return machine if wait_first else _instance.wait_until_ready(machine)


def _finish(order: Order, machine: Machine) -> dict[str, Any]:
    """Mark the machine as deployed, and return its description."""
    result = _nodes.describe(machine.instance)
    if order.deploy:
        tags = {DEPLOY_TAG: "done", **_host_key(order, machine)}
        try:
            _tags.write(machine.connection, [machine.id], tags)
        except ApiError as error:
            raise DeployError(
                f"{order.name} ({machine.id}) is deployed, but cannot be marked so: {error};"
                " run the same command again, and it is deployed once more"
            ) from error
        result["tags"].update(tags)
        result["deployed"] = True
    _cachedir.put(order.context, result)
    vm_ = order.vm_
    if vm_.get("make_master"):
        # The core reads the new master's address here, for the other machines of the map.
        result["deploy_kwargs"] = {"host": vm_.get("ssh_host"), "salt_host": vm_.get("salt_host")}
    keys = {
        **_identity(order),
        "instance_id": machine.id,
        "volumes": machine.options.get("volumes") or [],
    }
    created = order.context.filtered("created", {**vm_, **keys}, keys)
    order.context.send(order.name, "created", "created instance", created)
    return result


def _host_key(order: Order, machine: Machine) -> dict[str, str]:
    """Return the tag that tells other hosts which host key was read on the console, if one was."""
    known_hosts = host_keys.KnownHosts(order.context.opts["cachedir"])
    value = host_keys.tag_value(known_hosts.keys(machine.id))
    return {HOST_KEY_TAG: value} if value else {}


# -- failures --------------------------------------------------------------------------------------


def _failure(order: Order, machine: Machine, error: Exception, *, new: bool) -> Ec2Error:
    """Return the error for a machine that is launched, but not ready."""
    state = ""
    try:
        machine = machine.refresh()
        state = f", {machine.state}"
    except LaunchError as terminated:
        if order.deploy:
            _minion_keys.remove_accepted(order.vm_, order.context.opts)
        return terminated
    except ApiError as unknown:
        log.debug("the state of %s is unknown: %s", order.name, unknown)
    if not order.deploy:
        after = "it was left as it is"
    elif machine.options["on_failure"] == "destroy" and new:
        after = _destroy_failed(order, machine)
    else:
        after = (
            "it was left as it is, with its key accepted: run the same command again to repair it,"
            " or destroy it before that to replace it"
        )
    verb = "deploying" if order.deploy else "launching"
    kind = LaunchError if isinstance(error, LaunchError) else DeployError
    return kind(f"{verb} {order.name} ({machine.id}{state}) failed: {describe(error)}; {after}")


def _destroy_failed(order: Order, machine: Machine) -> str:
    """Destroy a new machine whose deployment failed, and return a message about the result."""
    try:
        _instance.allow_termination(machine)
        left = _destroy.destroy(order.context, machine).get("left", [])
    except ApiError as error:
        return (
            f"it should be destroyed, as on_failure says, but still runs: {error};"
            " run the same command again to repair it"
        )
    _minion_keys.remove_accepted(order.vm_, order.context.opts)
    return "; ".join(["it was destroyed, and its key removed, as on_failure says", *left])
