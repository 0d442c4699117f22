"""The map that salt-cloud applies, as far as the driver has to know it before the core reads it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import salt.cloud
import salt.config
import salt.loader
from salt.template import compile_template

from saltext.ec2.errors import ConfigurationError

log = logging.getLogger(__name__)

Map = dict[str, dict[str, dict[str, Any]]]


def read(opts: Mapping[str, Any]) -> Map:
    """Return the options of each machine of the map, by profile and name; without a map, nothing.

    Salt's core has read it before, and reports what cannot be read.
    """
    try:
        return _read(opts)
    except Exception as error:
        log.debug("The map cannot be read: %s", error, exc_info=True)
        return {}


def _read(opts: Mapping[str, Any]) -> Map:
    given = {key: copy.deepcopy(opts.get(key)) for key in ("map_data", "map_pillar", "maps")}
    path = opts.get("map")
    if path and path.startswith("salt://"):
        given = dict(opts)
    elif path:  # the core would load all execution modules of Salt for it
        content = compile_template(
            path,
            salt.loader.render(opts, {}),
            opts.get("renderer", "jinja|yaml"),
            opts.get("renderer_blacklist"),
            opts.get("renderer_whitelist"),
        )
        if "include" in content:
            content = salt.config.include_config(content, path, verbose=False)
        given = {"map_data": content}
    found: Map = salt.cloud.Map.read(SimpleNamespace(opts=given))
    names = opts.get("names")
    return {
        profile: {name: options for name, options in machines.items() if not names or name in names}
        for profile, machines in found.items()
    }


def providers(opts: Mapping[str, Any]) -> dict[str, str]:
    """Return the alias of the provider of each machine of the map, by name.

    Raises:
        ConfigurationError: a machine names a provider that does not exist, or without its driver.
    """
    found = {}
    for profile, machines in read(opts).items():
        for name, options in machines.items():
            default = opts["profiles"].get(profile, {}).get("provider", "")
            provider = options.get("provider") or default
            if provider != default:
                _check_provider(f"{name} (profile {profile})", provider, opts)
            found[name] = str(provider).split(":")[0]
    return found


def _check_provider(machine: str, provider: Any, opts: Mapping[str, Any]) -> None:
    if provider not in _providers(opts):
        raise ConfigurationError(f"{machine}: {no_provider(provider, opts)}")


def no_provider(provider: Any, opts: Mapping[str, Any]) -> str:
    """Return the sentence about a map's provider that is in no file."""
    return (
        f"there is no provider {provider}; a map names a provider with its driver:"
        f" {' or '.join(_providers(opts))}"
    )


def _providers(opts: Mapping[str, Any]) -> list[str]:
    return [f"{alias}:{driver}" for alias, found in opts["providers"].items() for driver in found]


def provider_of_profile(opts: Mapping[str, Any]) -> str:
    """Return the alias of the provider of the profile on the command line; empty: there is none."""
    profile = opts.get("profiles", {}).get(opts.get("profile"), {})
    return str(profile.get("provider", "")).split(":")[0]
