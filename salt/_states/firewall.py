"""A firewall whose rules the kernel holds as the file declares them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def loaded(name: str) -> dict[str, Any]:
    """The kernel holds the rules of a file, and no table besides.

    Rules that were flushed or added by hand change no file, so no watch sees them.

    Args:
        name: the path of the file for nft(8).
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        differences = __salt__["firewall.differences"](name)
        if not differences:
            return result | {"comment": "the kernel holds the rules of the file"}
        result |= {"changes": {"firewall": differences}, "comment": "; ".join(differences)}
        if __opts__["test"]:
            return result | {"result": None}
        __salt__["firewall.load"](name)
        left = __salt__["firewall.differences"](name)
    except CommandExecutionError as error:
        return result | {"result": False, "comment": str(error)}
    return result | {"result": False, "comment": "; ".join(left)} if left else result


def let_in(name: str, port: int, source: str) -> dict[str, Any]:
    """The rules that the kernel holds let in a port, where any are loaded.

    For a port that is needed before the state `loaded` can run, which has all rules.

    Args:
        name: of the endpoint.
        port: its port.
        source: the network that may connect.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        if __salt__["firewall.lets_in"](port):
            return result | {"comment": f"nothing keeps the VPC from port {port}"}
        result |= {"changes": {"firewall": [f"let in port {port} from {source}"]}}
        if __opts__["test"]:
            return result | {"result": None}
        __salt__["firewall.let_in"](name, port, source)
    except CommandExecutionError as error:
        return result | {"result": False, "comment": str(error)}
    return result
