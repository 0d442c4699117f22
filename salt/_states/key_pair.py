"""EC2 key pairs that hold a given public key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def present(name: str, public_key: str, region: str) -> dict[str, Any]:
    """A key pair of this name holds this public key.

    Args:
        name: of the key pair.
        public_key: its public half, in OpenSSH's format.
        region: where it belongs.

    Returns:
        The state's result. A pair of that name with another key is replaced; running machines keep
        their key.
    """
    result: dict[str, Any] = {
        "name": name,
        "result": True,
        "changes": {},
        "comment": f"{name} holds the key",
    }
    old, new = (
        __salt__["key_pair.public_key"](name, region),
        __salt__["key_pair.material"](public_key),
    )
    if old == new:
        return result
    result["changes"] = {"old": old, "new": new}
    if __opts__["test"]:
        result |= {
            "result": None,
            "comment": f"{name} would be {'created' if old is None else 'replaced'}",
        }
        return result
    if old is not None:
        __salt__["key_pair.delete"](name, region)
    __salt__["key_pair.upload"](name, public_key, region)
    result["comment"] = f"{name} was {'created' if old is None else 'replaced'}"
    return result
