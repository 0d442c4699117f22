"""What can be known about a machine before its launch, without a call to EC2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import salt.config
import salt.utils.cloud
import salt.utils.files

from saltext.ec2 import _archive, _images, _login, _positions, _request, options
from saltext.ec2._context import Context
from saltext.ec2.errors import ConfigurationError, describe
from saltext.ec2.options import Fault


@dataclass(frozen=True)
class Plan:
    """What a machine is launched with.

    Attributes:
        options: its options, see `options.resolve`.
        deploy: whether a minion is installed on it.
        userdata: its rendered user data.
        archive: what is sent to it, see `_archive.build`; empty: nothing.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    deploy: bool = True
    userdata: str = ""
    archive: bytes = b""


def faults(context: Context, vm_: Mapping[str, Any]) -> list[Fault]:
    """Return what is wrong in the sources of a machine: main file, profile, and the machine's own.

    Args:
        context: Salt's configuration.
        vm_: the machine as the core merged it from them.
    """
    opts, profile_name = context.opts, vm_.get("profile")
    profile = opts.get("profiles", {}).get(profile_name) or {}
    provider = context.configured_provider() or {}
    source = f"{vm_['name']} (profile {profile_name})"
    found = options.main_faults(opts)
    found += options.faults(_plain(profile), f"profile {profile_name}")
    found += options.faults(own(vm_, provider, profile, opts), source)
    return found + options.misplaced(vm_, provider, source, opts)


def _plain(profile: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in profile.items() if not str(key).startswith("__")}


def own(
    vm_: Mapping[str, Any],
    provider: Mapping[str, Any],
    profile: Mapping[str, Any],
    opts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the options of a machine that neither its provider nor its profile has.

    With `--profile`, the core also merges the main file into the machine.
    """
    merges_main = bool(opts.get("profile"))

    def inherited(key: str, value: Any) -> bool:
        if any(key in source and source[key] == value for source in (provider, profile)):
            return True
        # Salt has changed the form of some of its own values, such as paths, since it read them.
        same = opts.get(key) == value or key not in options.TABLE
        return merges_main and key in opts and key not in profile and same

    return {key: value for key, value in vm_.items() if not inherited(key, value)}


def plan(context: Context, vm_: Mapping[str, Any]) -> Plan:
    """Return what a machine is launched with.

    Raises:
        ConfigurationError: something is wrong with it; the message names everything that is.
    """
    planned, found = collect(context, vm_)
    options.refuse(found)
    return planned


def collect(context: Context, vm_: Mapping[str, Any]) -> tuple[Plan, list[Fault]]:
    """Return what a machine is launched with, and what is wrong with it.

    Raises:
        ConfigurationError: a value has another type than its option.
    """
    name, opts = str(vm_["name"]), context.opts
    resolved = _interfaces_first(options.resolve(vm_, opts), context, vm_)
    deploy = _deploys(vm_, opts)
    found: list[Fault] = []
    userdata, archive = "", b""
    with _collected(found, name, "userdata"):
        userdata = _userdata(name, resolved, context, vm_)
    with _collected(found, name, "image"):
        _request.check(resolved, name)
        if resolved["image"]:
            _images.check(resolved["image"])
    if deploy:
        with _collected(found, name, "private_key"):
            _login.private_key(resolved)
        with _collected(found, name, "ssh_gateway_private_key"):
            _login.check_files(resolved)
        with _collected(found, name, "script"):
            archive = _archive.build(vm_, opts)
    return Plan(resolved, deploy, userdata, archive), found


def _interfaces_first(
    resolved: dict[str, Any], context: Context, vm_: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options without those that interfaces replace where only the provider sets them.

    A provider may say what holds for its machines without interfaces.
    """
    provider = context.configured_provider() or {}
    if not resolved["network_interfaces"] or provider.get("network_interfaces"):
        return resolved
    replaced = {
        option: None
        for option in _request.ON_INTERFACE
        if option in provider and vm_.get(option) == provider[option]
    }
    profile = context.opts.get("profiles", {}).get(vm_.get("profile")) or {}
    return resolved | {key: None for key in replaced if key not in profile}


def _deploys(vm_: Mapping[str, Any], opts: Mapping[str, Any]) -> bool:
    given = salt.config.get_cloud_config_value("deploy", vm_, opts)
    return bool(options.value("deploy", given, str(vm_["name"])))


@contextlib.contextmanager
def _collected(found: list[Fault], name: str, option: str) -> Iterator[None]:
    """Add the error of the block to the faults of a machine."""
    try:
        yield
    except ConfigurationError as error:
        found.append(Fault(name, option, str(error).removeprefix(f"{name}: ")))


def _userdata(
    name: str, resolved: Mapping[str, Any], context: Context, vm_: Mapping[str, Any]
) -> str:
    text: str = resolved.get("userdata") or ""
    if path := resolved.get("userdata_file"):
        if text:
            raise ConfigurationError(f"{name}: userdata and userdata_file are both set")
        try:
            with salt.utils.files.fopen(path, "r") as handle:
                text = handle.read()
        except OSError as error:
            raise ConfigurationError(f"{name}: userdata_file cannot be read: {error}") from error
    if not text:
        return ""
    try:
        with _positions.silent_templates():
            return str(salt.utils.cloud.userdata_template(context.opts, vm_, text) or "")
    except Exception as error:
        renderer = resolved.get("userdata_template")
        raise ConfigurationError(
            f"{name}: userdata cannot be rendered with userdata_template: {renderer}:"
            f" {describe(error).splitlines()[0]}"
        ) from error
