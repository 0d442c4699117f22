"""The options of a provider, profile or map: checked, and resolved to typed values."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import salt.config

from saltext.ec2._option_table import OBSOLETE_KEYS, OPTIONS, Option
from saltext.ec2._option_types import BOOLEAN, WrongType
from saltext.ec2.errors import ConfigurationError

__all__ = [
    "DOCUMENT",
    "OPTIONS",
    "TABLE",
    "Fault",
    "Option",
    "check",
    "faults",
    "main_faults",
    "misplaced",
    "refuse",
    "resolve",
    "value",
]

log = logging.getLogger(__name__)

DOCUMENT = Path(__file__).parent / "docs" / "options.md"
TABLE: Mapping[str, Option] = {option.name: option for option in OPTIONS}
MAIN = "the main cloud configuration"

# What salt-cloud's core itself adds to what it passes to `create`.
INTERNAL = frozenset((
    "level", "master_pem", "master_pub", "name", "os", "preseed_minion_keys",
    "priv_key", "profile", "profiles", "pub_key", "salt_host", "ssh_host",
))  # fmt: skip

# Options that salt-cloud reads in its main file, and for which Salt's configuration has no default.
_MAIN_ONLY = frozenset((
    "diff_cache_events", "enable_hard_maps", "filter_events", "parallel", "pool_size",
    "query.selection", "update_cachedir",
))  # fmt: skip
# Words that are not an option of the cloud, but mean something else to Salt's main file.
_OTHER_IN_MAIN = frozenset(("driver", "extends", "grains", "master", "provider", "reactor"))

_SECRET = frozenset(("id", "key", "token"))

# Options that name things of the account, in which `owned_by` fills words.
FILLED = (
    "keyname", "iam_profile", "subnetname", "securitygroup", "securitygroupname", "associate_eip",
)  # fmt: skip

# The options that this process and its parents have warned of.
_warned: set[str] = set()


@dataclass(frozen=True)
class Fault:
    """Something wrong in the configuration.

    Attributes:
        source: where it stands: "profile web".
        option: the name of the option.
        text: what is wrong, with the name of the option.
    """

    source: str
    option: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


def refuse(found: Iterable[Fault]) -> None:
    """Raise an error that names all faults, if there are any.

    Raises:
        ConfigurationError: there are.
    """
    if sentences := dict.fromkeys(map(str, found)):
        raise ConfigurationError("; ".join(sentences))


def check(given: Mapping[str, Any], source: str) -> None:
    """Refuse what `faults` finds.

    Raises:
        ConfigurationError: an option is unknown, refused, misplaced, or of another type. The
            message names the option and what to use instead.
    """
    refuse(faults(given, source))


def faults(given: Mapping[str, Any], source: str) -> list[Fault]:
    """Return what is wrong with options, and warn of options without effect.

    Args:
        given: what one provider, profile or map says, not merged with anything.
        source: where the options stand, for the message: "profile web".
    """
    found = []
    for name in sorted(set(given) - INTERNAL):
        option = TABLE.get(name)
        text = _unknown(name) if option is None else _status(option, given[name], source)
        if text:
            found.append(Fault(source, name, text))
    return found


def _status(option: Option, given: Any, source: str) -> str:
    """Return what is wrong with a known option; empty: nothing."""
    if option.status == "refused":
        return f"{option.name} is not supported. {option.text}"
    if option.status in ("ignored", "obsolete"):
        _warn(source, option.name, option.text)
        return ""
    text = _wrong_type(option, given)
    obsolete = OBSOLETE_KEYS.get(option.name)
    if obsolete and not text:
        for key in sorted({key for entry in given or [] for key in entry if key in obsolete}):
            _warn(f"{source}: {option.name}", key, obsolete[key])
    return text


def _warn(source: str, name: str, text: str) -> None:
    """Warn once in a run that an option has no effect."""
    if name not in _warned:
        _warned.add(name)
        log.warning("%s: %s has no effect. %s", source, name, text)


def _wrong_type(option: Option, given: Any) -> str:
    if given is None and option.name != "ssh_username":
        return ""
    try:
        option.type.read(given)
    except WrongType as error:
        but = "" if option.name in _SECRET else f", not {error.value!r}"
        return f"{option.name}{error.place} must be {error.words}{but}"
    return ""


def _unknown(name: str) -> str:
    """Return that an option is unknown, and a hint where it belongs or what was meant."""
    minion = name in salt.config.DEFAULT_MINION_OPTS or name == "append_domain"
    if name in _MAIN_ONLY or name in salt.config.DEFAULT_CLOUD_OPTS:
        hint = f"{name} belongs in {MAIN} file"
    elif name in salt.config.DEFAULT_MASTER_OPTS:
        hint = f"{name} belongs in {MAIN} file" + (", or under minion" if minion else "")
    elif minion:
        hint = f"{name} belongs under minion"
    else:
        similar = difflib.get_close_matches(name, TABLE, n=1, cutoff=0.8)
        hint = f"did you mean {similar[0]}?" if similar else f"{DOCUMENT} lists all options"
    return f"unknown option {name}; {hint}"


def main_faults(opts: Mapping[str, Any]) -> list[Fault]:
    """Return what is wrong with the driver's options in the main cloud configuration file.

    The file belongs to all clouds: options that this driver refuses are for others.

    Args:
        opts: Salt's configuration.
    """
    found = []
    for option in OPTIONS:
        if option.name not in opts or option.name in _OTHER_IN_MAIN:
            continue
        if option.status == "ignored" and option.main_file:
            _warn(MAIN, option.name, option.text)
            continue
        used = option.status == "core" or (option.main_file and option.status != "refused")
        if used and (text := _wrong_type(option, opts[option.name])):
            found.append(Fault(MAIN, option.name, text))
    return found


def misplaced(
    machine: Mapping[str, Any], provider: Mapping[str, Any], source: str, opts: Mapping[str, Any]
) -> list[Fault]:
    """Return what the driver could launch but not find again.

    Only `create` sees the options of profile and map. Queries, actions and `destroy` see those of
    the provider, so that another region or account in a profile would hide the machine from them.

    Args:
        machine: what salt-cloud's core merged from provider, profile and map.
        provider: the options of the machine's provider.
        source: where the options of the machine stand, for the message.
        opts: Salt's configuration.
    """
    found = []
    for option in OPTIONS:
        default = opts.get(option.name) if option.main_file else None
        own = provider.get(option.name, default)
        if not option.provider_only or machine.get(option.name, own) == own:
            continue
        if option.name == "rename_on_destroy":
            _warn(source, option.name, "The driver reads it in the provider only.")
            continue
        # The message does not show the value, which may be a secret.
        text = (
            f"{option.name} differs from its provider's, but queries, actions and --destroy use"
            f" the provider's: make a provider with this {option.name}, and name it in the profile"
        )
        found.append(Fault(source, option.name, text))
    return found


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
    resolved = {
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
    return resolved | _filled(resolved, source)


def _filled(resolved: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the options that name things, with the values of `owned_by` in place of `{key}`.

    Raises:
        ConfigurationError: a name has another word in braces.
    """
    words = resolved["owned_by"]
    if not words:
        return {}

    def fill(option: str, given: Any) -> Any:
        if isinstance(given, list):
            return [fill(option, one) for one in given]
        if not isinstance(given, str):
            return given
        try:
            return given.format_map(words)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ConfigurationError(
                f"{source}: {option} is {given!r}, but owned_by has the words {', '.join(words)}"
            ) from error

    return {option: fill(option, resolved[option]) for option in FILLED}


def value(name: str, given: Any, source: str) -> Any:
    """Return the value of an option in the type of that option.

    Args:
        name: the option.
        given: the value as the user wrote it. None stands for the default; a boolean stays None.
        source: where the value stands, for the message: "web-1".

    Raises:
        ConfigurationError: the value has another type.
    """
    option = TABLE[name]
    if given is None:
        if option.type is BOOLEAN or option.default is None:
            return None
        given = copy.deepcopy(option.default)
    if text := _wrong_type(option, given):
        raise ConfigurationError(f"{source}: {text}")
    return option.type.read(given)
