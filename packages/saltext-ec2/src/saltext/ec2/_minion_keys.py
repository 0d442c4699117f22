"""The minion keys of machines on this master."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import salt.config
import salt.utils.cloud


def minion_id(vm_: Mapping[str, Any], opts: Mapping[str, Any]) -> str:
    """Return the id under which Salt's core accepts the key of a machine that it creates.

    `salt.cloud.Cloud.create` computes it in the same way.
    """
    minion = salt.config.get_cloud_config_value("minion", vm_, opts, default={})
    if vm_.get("use_fqdn") and vm_.get("domain"):
        minion["append_domain"] = vm_["domain"]
    found = str(minion.get("id", vm_["name"]))
    return f"{found}.{minion['append_domain']}" if "append_domain" in minion else found


def remove_pending(vm_: Mapping[str, Any], opts: Mapping[str, Any]) -> None:
    """Remove the key with which a minion of this id has asked to be accepted.

    The core has accepted a new key for the id, but the master prefers a pending key to it.
    """
    Path(opts["pki_dir"], "minions_pre", minion_id(vm_, opts)).unlink(missing_ok=True)


def remove_accepted(vm_: Mapping[str, Any], opts: Mapping[str, Any]) -> None:
    """Remove the key that the core has just accepted for a machine."""
    salt.utils.cloud.remove_key(opts["pki_dir"], minion_id(vm_, opts))


def accepted(opts: Mapping[str, Any], name: str) -> bool:
    """Return whether the master accepts a key of this id, perhaps with a domain appended.

    `salt.cloud.Cloud.destroy` looks for the key in the same way.
    """
    folder = Path(opts["pki_dir"], "minions")
    return (folder / name).is_file() or any(
        path.name.startswith(f"{name}.") for path in folder.glob("*")
    )


def rename(opts: Mapping[str, Any], old: str, new: str) -> None:
    """Move the accepted key of one minion id to another."""
    salt.utils.cloud.rename_key(opts["pki_dir"], old, new)
