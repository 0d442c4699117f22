"""The IAM actions that the driver's functions need: in docstrings, and as calls use them."""

from __future__ import annotations

import functools
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.client import BaseClient

from saltext.ec2.clouds import ec2 as driver

FUNCTIONS = sorted(
    name
    for name, value in vars(driver).items()
    if inspect.isfunction(value) and not name.startswith("_")
)
LINE = re.compile(r"IAM(?P<optional>, depending on use)?: (?P<actions>none|\w+:\w+(,\s+\w+:\w+)*)")


@dataclass(frozen=True)
class Documented:
    """The actions in a docstring.

    Attributes:
        required: actions that every call needs.
        optional: actions that some options or arguments need.
    """

    required: frozenset[str]
    optional: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """All actions."""
        return self.required | self.optional


def documented(name: str) -> Documented:
    """Return the actions that the docstring of a function names.

    Raises:
        ValueError: the docstring has no IAM line.
    """
    lines = list(LINE.finditer(getattr(driver, name).__doc__ or ""))
    if not [line for line in lines if not line["optional"]]:
        raise ValueError(f"{name} has no line IAM: …")
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for line in lines:
        found[bool(line["optional"])] |= set(re.findall(r"\w+:\w+", line["actions"]))
    return Documented(frozenset(found[False]), frozenset(found[True]))


def undocumented(used: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the used actions that the functions' docstrings do not name."""
    missing = {name: actions - documented(name).all for name, actions in used.items()}
    return {name: actions for name, actions in missing.items() if actions}


def record(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Return a dictionary that gets the actions which each function uses from now on."""
    used: dict[str, set[str]] = defaultdict(set)
    running: list[str] = []

    def recorded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            running.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                running.pop()

        return call

    make_api_call = BaseClient._make_api_call  # type: ignore[attr-defined]

    def recorded_api_call(client: Any, operation: str, params: dict[str, Any]) -> Any:
        if running and client.meta.config.user_agent_extra == "saltext.ec2":
            service = client.meta.service_model.service_name
            used[running[0]] |= _actions(f"{service}:{operation}", params)
        return make_api_call(client, operation, params)

    for name in FUNCTIONS:
        monkeypatch.setattr(driver, name, recorded(name, getattr(driver, name)))
    monkeypatch.setattr(BaseClient, "_make_api_call", recorded_api_call)
    return used


def _actions(action: str, params: dict[str, Any]) -> set[str]:
    """Return the actions that IAM checks for one call."""
    actions = {action}
    if params.get("TagSpecifications"):
        actions.add("ec2:CreateTags")
    if params.get("IamInstanceProfile"):
        actions.add("iam:PassRole")
    return actions
