"""The arguments that a user gives to an action or a function on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from saltext.ec2.errors import ConfigurationError

EMPTY = (None, "")


def bind(function: Callable[..., Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the given arguments that a function takes: those of its keyword-only parameters.

    An argument without a value counts as not given. A function with `**` gets all others as they
    are; other functions do not get arguments that they do not know.

    Raises:
        ConfigurationError: an argument without a default is not given, or the function takes none.
    """
    arguments = dict(given or {})
    parameters = inspect.signature(function).parameters.values()
    named = {each.name: each for each in parameters if each.kind is each.KEYWORD_ONLY}
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if arguments and not named and not takes_all:
        raise ConfigurationError(
            f"{function.__name__} takes no arguments, but got {', '.join(sorted(arguments))}"
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
