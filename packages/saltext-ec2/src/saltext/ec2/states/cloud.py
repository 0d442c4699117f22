"""Salt's states for cloud machines, with two more answers and without tracebacks.

The loader takes this module in place of `salt.states.cloud`, whose functions do the work. It adds:

- a machine of EC2 whose deployment failed is deployed again, instead of being "already present";
- `absent` also removes the key of a machine that EC2 has lost;
- a failure is a comment of one sentence.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import salt.states.cloud
from salt.exceptions import SaltException
from salt.utils.context import func_globals_inject

from saltext.ec2.tags import DEPLOY_TAG

if TYPE_CHECKING:
    # Salt's loader puts these into the module.
    __opts__: dict[str, Any]
    __salt__: dict[str, Callable[..., Any]]

__virtualname__ = "cloud"

Result = dict[str, Any]


def __virtual__() -> str | tuple[bool, str]:
    if "cloud.profile" in __salt__:
        return __virtualname__
    return False, "the execution module cloud is not loaded"


def _apply(
    state: Callable[..., Result],
    name: str,
    arguments: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]] | None = None,
) -> Result:
    """Call one of Salt's state functions, with other execution functions in place of some."""
    dunders = {"__opts__": __opts__, "__salt__": ChainMap(dict(functions or {}), __salt__)}
    try:
        with func_globals_inject(state, **dunders):
            return state(name, **arguments)
    except SaltException as error:
        return {"name": name, "changes": {}, "result": False, "comment": str(error)}


def _apply_or_repair(
    state: Callable[..., Result], name: str, arguments: Mapping[str, Any]
) -> Result:
    """Call a state function; for a machine whose deployment is pending, as if it did not exist.

    The driver then finds the machine, and deploys it.
    """
    result = _apply(state, name, arguments)
    if not str(result["comment"]).startswith("Already present") or not _pending(name):
        return result
    absent: dict[str, Callable[..., Any]] = {
        "cloud.action": lambda **_: {},
        "cloud.has_instance": lambda **_: False,
    }
    return _apply(state, name, arguments, absent)


def _pending(name: str) -> bool:
    """Return whether a machine is one of this driver whose deployment has not succeeded."""
    test = __opts__["test"]
    found = __salt__["cloud.action"](fun="show_instance", names=[name])
    __opts__["test"] = test  # the action may reset it, as salt.states.cloud says
    nodes = [
        node
        for drivers in found.values()
        if isinstance(drivers, Mapping)
        for node in (drivers.get("ec2") or {}).values()
    ]
    return any(node.get("tags", {}).get(DEPLOY_TAG) == "pending" for node in nodes)


def present(
    name: str,
    cloud_provider: str,
    onlyif: Any = None,
    unless: Any = None,
    opts: Any = None,
    **kwargs: Any,
) -> Result:
    """Make a machine of a provider exist and be deployed; see `salt.states.cloud.present`."""
    arguments = {
        "cloud_provider": cloud_provider,
        "onlyif": onlyif,
        "unless": unless,
        "opts": opts,
        **kwargs,
    }
    return _apply_or_repair(salt.states.cloud.present, name, arguments)


def profile(
    name: str,
    profile: str,
    onlyif: Any = None,
    unless: Any = None,
    opts: Any = None,
    **kwargs: Any,
) -> Result:
    """Make a machine of a profile exist and be deployed; see `salt.states.cloud.profile`."""
    arguments = {"profile": profile, "onlyif": onlyif, "unless": unless, "opts": opts, **kwargs}
    return _apply_or_repair(salt.states.cloud.profile, name, arguments)


def absent(name: str, onlyif: Any = None, unless: Any = None) -> Result:
    """Make a machine, and its key, not exist; see `salt.states.cloud.absent`."""
    result = _apply(salt.states.cloud.absent, name, {"onlyif": onlyif, "unless": unless})
    if __opts__["test"] or not str(result["comment"]).startswith("Already absent"):
        return result
    try:
        changes = __salt__["cloud.destroy"](name)
    except SaltException:  # there is no lost machine of this name either
        return result
    return {
        "name": name,
        "changes": changes,
        "result": True,
        "comment": f"Removed the key of {name}, which was terminated already",
    }


def volume_present(name: str, provider: str | None = None, **kwargs: Any) -> Result:
    """Make a volume exist; see `salt.states.cloud.volume_present`."""
    return _apply(salt.states.cloud.volume_present, name, {"provider": provider, **kwargs})


def volume_absent(name: str, provider: str | None = None, **kwargs: Any) -> Result:
    """Make a volume not exist; see `salt.states.cloud.volume_absent`."""
    return _apply(salt.states.cloud.volume_absent, name, {"provider": provider, **kwargs})


def volume_attached(
    name: str, server_name: str, provider: str | None = None, **kwargs: Any
) -> Result:
    """Make a volume be attached; see `salt.states.cloud.volume_attached`."""
    arguments = {"server_name": server_name, "provider": provider, **kwargs}
    return _apply(salt.states.cloud.volume_attached, name, arguments)


def volume_detached(
    name: str, server_name: str | None = None, provider: str | None = None, **kwargs: Any
) -> Result:
    """Make a volume not be attached; see `salt.states.cloud.volume_detached`."""
    arguments = {"server_name": server_name, "provider": provider, **kwargs}
    return _apply(salt.states.cloud.volume_detached, name, arguments)
