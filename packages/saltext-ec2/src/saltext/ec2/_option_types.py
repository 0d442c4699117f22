"""What the value of an option must be, and the form in which the driver uses it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class WrongType(Exception):
    """A value is not of its option's type.

    Attributes:
        place: where in the option the value stands, such as `[0].size`; empty: it is the option's.
        words: what the value must be.
        value: the value.
    """

    def __init__(self, words: str, value: Any, place: str = "") -> None:
        super().__init__(words)
        self.words, self.value, self.place = words, value, place

    def inside(self, place: str) -> WrongType:
        """Return the same error for the list or mapping that contains the value."""
        return WrongType(self.words, self.value, place + self.place)


class _Wrong(Exception):
    """A reader's plain answer, to which `Type.read` adds the words and the value."""


@dataclass(frozen=True)
class Type:
    """What the value of an option must be.

    Attributes:
        words: the type as an error message and the documentation name it.
        reader: returns a value in the form that the driver uses; raises _Wrong or WrongType for a
            value of another type. What it returned, it returns unchanged.
    """

    words: str
    reader: Callable[[Any], Any]

    def read(self, value: Any) -> Any:
        """Return a value in the form that the driver uses.

        Raises:
            WrongType: the value is of another type.
        """
        try:
            return self.reader(value)
        except _Wrong:
            raise WrongType(self.words, value) from None


def choice(*words: str) -> Type:
    """Return the type of an option that must be one of these words."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise _Wrong
        return value

    return Type(" or ".join(words), read)


def _text(value: Any) -> str:
    # YAML reads an account number or a key named 2024 as a number.
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _Wrong
    return str(value)


def _url(value: Any) -> str:
    if "://" not in _text(value):
        raise _Wrong
    return _text(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool) and (not isinstance(value, int) or value not in (0, 1)):
        raise _Wrong
    return bool(value)


def _whole(value: Any) -> int:
    if not re.fullmatch(r"[1-9]\d*", str(value)):
        raise _Wrong
    return int(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)):
        raise _Wrong
    return int(value)


def _seconds(value: Any) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", str(value)):
        raise _Wrong
    return float(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise _Wrong
    return list(value)


def _commands(value: Any) -> list[str]:
    return [_text(command) for command in _list(value)]


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _Wrong
    return dict(value)


def _names(value: Any) -> list[str]:
    if value == "":
        return []
    return [_text(name) for name in (value if isinstance(value, (list, tuple)) else [value])]


def _some_names(value: Any) -> list[str]:
    names = _names(value)
    given = value if isinstance(value, (list, tuple)) else [value]
    if not names or not all(isinstance(name, str) and name for name in given):
        raise _Wrong
    return names


def _text_or_list(value: Any) -> str | list[str]:
    return _names(value) if isinstance(value, (list, tuple)) else _text(value)


def _text_or_mapping(value: Any) -> str | dict[str, Any]:
    return _mapping(value) if isinstance(value, Mapping) else _text(value)


def _text_or_false(value: Any) -> str | bool:
    return False if value is False else _text(value)


def _price(value: Any) -> str:
    if isinstance(value, bool) or not re.fullmatch(r"\d+(\.\d+)?", str(value)):
        raise _Wrong
    return str(value)


def mapping_of(kinds: Mapping[str, Type], words: str = "a mapping") -> Type:
    """Return the type of a mapping whose values have types by their keys.

    Other keys are left as they are. So is a value of None, which counts as absent.
    """

    def read(value: Any) -> dict[str, Any]:
        return {
            key: _read_inside(kinds[key], given, f".{key}")
            if key in kinds and given is not None
            else given
            for key, given in _mapping(value).items()
        }

    return Type(words, read)


def list_of(kind: Type, words: str) -> Type:
    """Return the type of a list whose entries have one type."""

    def read(value: Any) -> list[Any]:
        return [
            _read_inside(kind, given, f"[{number}]") for number, given in enumerate(_list(value))
        ]

    return Type(words, read)


def _read_inside(kind: Type, value: Any, place: str) -> Any:
    try:
        return kind.read(value)
    except WrongType as error:
        raise error.inside(place) from None


def either(*kinds: Type) -> Type:
    """Return the type of a value that has one of these types; the first that fits is taken."""

    def read(value: Any) -> Any:
        for kind in kinds:
            with contextlib.suppress(WrongType):
                return kind.read(value)
        raise _Wrong

    return Type(" or ".join(kind.words for kind in kinds), read)


TEXT = Type("text", _text)
URL = Type("a URL", _url)
BOOLEAN = Type("true or false", _boolean)
WHOLE = Type("a whole number from 1", _whole)
COUNT = Type("a whole number", _count)
PRICE = Type("a number", _price)
SECONDS = Type("a number of seconds", _seconds)
LIST = Type("a list", _list)
COMMANDS = Type("a list of commands", _commands)
MAPPING = Type("a mapping", _mapping)
NAMES = Type("a name or a list of names", _names)
USERS = Type("a user or a list of users", _some_names)
TEXT_OR_LIST = Type("text or a list", _text_or_list)
TEXT_OR_MAPPING = Type("text or a mapping", _text_or_mapping)
TEXT_OR_FALSE = Type("text or false", _text_or_false)
ANYTHING = Type("anything", lambda value: value)
