"""Options of sshd that are in force, whatever its other files say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Set by Salt's loader.
__salt__: dict[str, Callable[..., Any]]
__states__: dict[str, Callable[..., Any]]


def options(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """The fragment ``name`` holds ``options``, and sshd's whole configuration has their values.

    Where sshd refuses the whole, or another file decides an option first, this fails and names what
    it is. Then the fragment stays as it was, and sshd has nothing new to load.

    Args:
        name: the path of the fragment.
        options: option -> value, as ``sshd -T`` prints it.
    """
    text = __salt__["sshd.fragment"](options)
    problems = __salt__["sshd.problems"](name, text)
    if problems:
        return {"name": name, "result": False, "changes": {}, "comment": "; ".join(problems)}
    result: dict[str, Any] = __states__["file.managed"](name, contents=text, mode="0644")
    return result
