"""What the value of an option must be, and the form in which the driver uses it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class WrongType(Exception):
    """A value is not of its option's type."""


@dataclass(frozen=True)
class Type:
    """What the value of an option must be.

    Attributes:
        words: the type as an error message and the documentation name it.
        read: returns a value in the form that the driver uses; raises WrongType for a value of
            another type. What `read` returned, it returns unchanged.
        refuses: whether a value of another type is an error. Otherwise the value is used as it is.
    """

    words: str
    read: Callable[[Any], Any]
    refuses: bool = False


def choice(*words: str) -> Type:
    """Return the type of an option that must be one of these words."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise WrongType
        return value

    return Type(" or ".join(words), read, refuses=True)


def _text(value: Any) -> str:
    # YAML reads an account number or a key named 2024 as a number.
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise WrongType
    return str(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool) and (not isinstance(value, int) or value not in (0, 1)):
        raise WrongType
    return bool(value)


def _whole(value: Any) -> int:
    if not re.fullmatch(r"[1-9]\d*", str(value)):
        raise WrongType
    return int(value)


def _seconds(value: Any) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", str(value)):
        raise WrongType
    return float(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise WrongType
    return list(value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise WrongType
    return dict(value)


def _names(value: Any) -> list[str]:
    if value == "":
        return []
    return [_text(name) for name in (value if isinstance(value, (list, tuple)) else [value])]


def _some_names(value: Any) -> list[str]:
    if not (names := _names(value)):
        raise WrongType
    return names


def _text_or_list(value: Any) -> str | list[str]:
    return _names(value) if isinstance(value, (list, tuple)) else _text(value)


def _text_or_mapping(value: Any) -> str | dict[str, Any]:
    return _mapping(value) if isinstance(value, Mapping) else _text(value)


def _text_or_false(value: Any) -> str | bool:
    return False if value is False else _text(value)


TEXT = Type("text", _text)
BOOLEAN = Type("true or false", _boolean)
WHOLE = Type("a whole number from 1", _whole, refuses=True)
SECONDS = Type("a number of seconds", _seconds, refuses=True)
LIST = Type("a list", _list)
MAPPING = Type("a mapping", _mapping)
NAMES = Type("a name or a list of names", _names)
USERS = Type("a user or a list of users", _some_names, refuses=True)
TEXT_OR_LIST = Type("text or a list", _text_or_list)
TEXT_OR_MAPPING = Type("text or a mapping", _text_or_mapping)
TEXT_OR_FALSE = Type("text or false", _text_or_false)
ANYTHING = Type("anything", lambda value: value)
