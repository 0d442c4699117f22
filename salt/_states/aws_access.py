"""AWS accepts the credentials, and no later state takes a failed look-up for an absent thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]


def accepted(name: str, region: str) -> dict[str, Any]:
    """Check the credentials, and guard the look-ups of the states that follow in this run.

    Args:
        name: of the state.
        region: where to ask.
    """
    __salt__["aws_access.guard"]()
    try:
        comment, result = f"They are those of {__salt__['aws_access.identity'](region)}", True
    except CommandExecutionError as error:
        comment, result = str(error), False
    return {"name": name, "result": result, "changes": {}, "comment": comment}
