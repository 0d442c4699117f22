"""EC2 key pairs that hold a given public key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

Todo = dict[str, Callable[[], Any]]


def present(name: str, public_key: str, region: str) -> dict[str, Any]:
    """The deployment's key pair of this name holds this public key.

    Args:
        name: of the key pair.
        public_key: its public half, in OpenSSH's format.
        region: where it belongs.

    Returns:
        The state's result. The deployment's pair of that name with another key is replaced; running
        machines keep their key. A pair that is not the deployment's fails the state.
    """
    material = __salt__["aws.key_material"](public_key)

    def differences() -> Todo:
        found = __salt__["aws.find"]("key-pair", name, region)
        if found is None:
            return {
                f"upload the key {material} as {name}": lambda: __salt__["aws.call"](
                    "import_key_pair",
                    region,
                    KeyName=name,
                    PublicKeyMaterial=public_key.encode(),
                    TagSpecifications=__salt__["aws.specification"]("key-pair", name),
                )
            }
        old = __salt__["aws.key_material"](found.get("PublicKey", ""))
        if old != material:
            return {
                f"delete the other key of {name}, {old}": lambda: __salt__["aws.call"](
                    "delete_key_pair", region, KeyName=name
                )
            }
        return {}

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result


def earlier(name: str, region: str) -> dict[str, Any]:
    """A key pair that an earlier version made for this deployment has the deployment's tags.

    New machines no longer use it. Nothing is done about a pair that is not the deployment's.

    Args:
        name: of the key pair.
        region: where it belongs.
    """

    def differences() -> Todo:
        if not __salt__["aws.has_earlier_key"](region):
            return {}
        (pair,) = __salt__["aws.things"]("key-pair", region, {"key-name": name})
        if __salt__["aws.is_own"](pair):
            return {}
        key_id = pair["KeyPairId"]
        return {
            f"take over {key_id} of an earlier version": lambda: __salt__["aws.mark"](
                [key_id], name, region
            )
        }

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result
