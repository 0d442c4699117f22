"""Kernel settings, where the machine has a kernel of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Filled in by Salt's loader.
__grains__: dict[str, Any] = {}
__states__: dict[str, Callable[..., Any]]

# One file for all components: systemd-sysctl reads it at every boot.
CONFIG = "/etc/sysctl.d/60-stack.conf"


def setting(name: str, value: str | int) -> dict[str, Any]:
    """The running kernel has a value, and has it again after a reboot.

    A container shares its host's kernel and cannot change it. There, this state does nothing and
    its comment says so. A wrong grain `virtual` deceives only the machine that sets it.

    Args:
        name: the setting, as sysctl(8) names it.
        value: what /proc/sys then shows.
    """
    if __grains__.get("virtual") == "container":
        comment = f"{name} is not set: a container has its host's kernel, with /proc/sys read-only"
        return {"name": name, "result": True, "changes": {}, "comment": comment}
    result: dict[str, Any] = __states__["sysctl.present"](name, value, config=CONFIG)
    return result
