"""The arguments that a user gives to an action or a function on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from saltext.ec2._option_types import BOOLEAN, Type, WrongType
from saltext.ec2.errors import ConfigurationError

EMPTY = (None, "")


def bind(function: Callable[..., Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the given arguments that a function takes: those of its keyword-only parameters.

    An argument without a value counts as not given. A function with `**` gets all others as they
    are, but for the names that Salt's execution module `cloud` adds (`__pub_fun` …).

    Raises:
        ConfigurationError: an argument without a default is not given, or one is unknown.
    """
    arguments = {name: value for name, value in (given or {}).items() if not name.startswith("__")}
    parameters = inspect.signature(function).parameters.values()
    named = {each.name: each for each in parameters if each.kind is each.KEYWORD_ONLY}
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if arguments and not named and not takes_all:
        raise ConfigurationError(
            f"{function.__name__} takes no arguments, but got {', '.join(sorted(arguments))}"
        )
    if not takes_all and (unknown := sorted(set(arguments) - set(named))):
        raise ConfigurationError(
            f"{function.__name__} does not take {', '.join(unknown)}; it takes {', '.join(named)}"
        )
    known = {name: arguments.pop(name) for name in named if name in arguments}
    known = {name: value for name, value in known.items() if value not in EMPTY}
    absent = [
        name
        for name, parameter in named.items()
        if parameter.default is parameter.empty and name not in known
    ]
    if absent:
        raise ConfigurationError(
            f"{function.__name__} needs {', '.join(f'{name}=…' for name in absent)}"
        )
    return known | (arguments if takes_all else {})


def typed(function: str, given: Mapping[str, Any], kinds: Mapping[str, Type]) -> dict[str, Any]:
    """Return arguments in the types of their names; on a command line all of them are text.

    Raises:
        ConfigurationError: an argument has another type.
    """
    flags = {"true": True, "false": False}
    read = dict(given)
    for name, kind in kinds.items():
        if name in read:
            value = read[name]
            if kind is BOOLEAN:
                value = flags.get(str(value).lower(), value)
            try:
                read[name] = kind.read(value)
            except WrongType as error:
                raise ConfigurationError(
                    f"{function}: {name} must be {error.words}, not {value!r}"
                ) from None
    return read
