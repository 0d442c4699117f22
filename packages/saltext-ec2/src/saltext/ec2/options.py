"""The options of a provider, profile or map: checked, and resolved to typed values."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import salt.config

from saltext.ec2._option_table import OPTIONS, Option
from saltext.ec2._option_types import BOOLEAN, WrongType
from saltext.ec2.errors import ConfigurationError

__all__ = ["DOCUMENT", "OPTIONS", "TABLE", "Option", "check", "check_provider", "resolve", "value"]

log = logging.getLogger(__name__)

DOCUMENT = Path(__file__).parent / "docs" / "options.md"
TABLE: Mapping[str, Option] = {option.name: option for option in OPTIONS}

# What salt-cloud's core itself adds to what it passes to `create`.
INTERNAL = frozenset((
    "inline_script", "level", "master_pem", "master_pub", "name", "os", "preseed_minion_keys",
    "priv_key", "profile", "profiles", "pub_key", "salt_host", "ssh_host",
))  # fmt: skip


def check(given: Mapping[str, Any], source: str, opts: Mapping[str, Any] | None = None) -> None:
    """Refuse unknown and refused options, and warn of options without effect.

    Args:
        given: the options of a provider, or of a machine as salt-cloud's core merged them.
        source: where the options stand, for the message: "profile web".
        opts: Salt's configuration. The core merges the main cloud configuration file into each
            machine, with words that mean something to Salt alone.

    Raises:
        ConfigurationError: an option is unknown or refused. The message names the option and what
            to use instead.
    """
    opts = opts or {}
    profile = opts.get("profiles", {}).get(given.get("profile"), {})
    merged = set(opts) - set(profile) if "profile" in given else set()
    for name in sorted(set(given) - INTERNAL):
        option = TABLE.get(name)
        if option is not None:
            _check_status(option, source)
        elif name not in merged:
            similar = difflib.get_close_matches(name, TABLE, n=1)
            hint = f"did you mean {similar[0]}?" if similar else f"{DOCUMENT} lists all options"
            raise ConfigurationError(f"{source}: unknown option {name}; {hint}")
    for option in OPTIONS:
        if option.main_file and option.name in opts:
            _check_status(option, "the main cloud configuration")


def check_provider(
    machine: Mapping[str, Any], provider: Mapping[str, Any], source: str, opts: Mapping[str, Any]
) -> None:
    """Refuse a machine that the driver could launch but not find again.

    Only `create` sees the options of profile and map. Queries, actions and `destroy` see those of
    the provider, so that another region or account in a profile would hide the machine from them.

    Args:
        machine: what salt-cloud's core merged from provider, profile and map.
        provider: the options of the machine's provider.
        source: where the options of the machine stand, for the message.
        opts: Salt's configuration.

    Raises:
        ConfigurationError: an option that belongs to the provider differs for the machine.
    """
    for option in OPTIONS:
        default = opts.get(option.name) if option.main_file else None
        own = provider.get(option.name, default)
        # The message does not show the value, which may be a secret.
        if option.provider_only and machine.get(option.name, own) != own:
            raise ConfigurationError(
                f"{source}: {option.name} differs from its provider's, but queries, actions and"
                f" --destroy use the provider's: make a provider with this {option.name}, and name"
                " it in the profile"
            )


def _check_status(option: Option, source: str) -> None:
    if option.status == "refused":
        raise ConfigurationError(f"{source}: {option.name} is not supported. {option.text}")
    if option.status == "ignored":
        log.warning("%s: %s has no effect. %s", source, option.name, option.text)


def resolve(machine: Mapping[str, Any], opts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every option that the driver itself reads, for one machine.

    Every value has the type of its option: a number is a number, whether or not it was quoted.

    Args:
        machine: what salt-cloud's core merged from provider, profile and map.
        opts: Salt's configuration, which may hold options of the main cloud configuration file.

    Raises:
        ConfigurationError: a value has another type than its option.
    """
    source = str(machine.get("name"))
    return {
        option.name: value(
            option.name,
            salt.config.get_cloud_config_value(
                option.name,
                machine,
                opts,
                default=copy.deepcopy(option.default),
                search_global=option.main_file,
            ),
            source,
        )
        for option in OPTIONS
        if option.status in ("same", "changed", "new")
    }


def value(name: str, given: Any, source: str) -> Any:
    """Return the value of an option in the type of that option.

    Args:
        name: the option.
        given: the value as the user wrote it. None stands for the default; a boolean stays None.
        source: where the value stands, for the message: "web-1".

    Raises:
        ConfigurationError: the value has another type, and the option's type refuses that.
    """
    option = TABLE[name]
    if given is None:
        if option.type is BOOLEAN or option.default is None:
            return None
        given = copy.deepcopy(option.default)
    try:
        return option.type.read(given)
    except WrongType:
        if not option.type.refuses:
            return given
        message = f"{source}: {name} is {option.type.words}, not {given!r}"
        raise ConfigurationError(message) from None
