"""Kernel settings, where the machine has a kernel of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Set by Salt's loader.
__grains__: dict[str, Any]
__opts__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]
__states__: dict[str, Callable[..., Any]]

# One file for all components: systemd-sysctl reads it at every boot.
CONFIG = "/etc/sysctl.d/60-stack.conf"
ZRAM_CONFIG = "/etc/systemd/zram-generator.conf.d/60-stack.conf"


def setting(name: str, value: str | int) -> dict[str, Any]:
    """The running kernel has a value, and has it again after a reboot.

    A container shares its host's kernel and cannot change it. There, this state does nothing and
    its comment says so. A wrong grain `virtual` deceives only the machine that sets it.

    Args:
        name: the setting, as sysctl(8) names it.
        value: what /proc/sys then shows.
    """
    if _in_container():
        return _left_alone(name)
    result: dict[str, Any] = __states__["sysctl.present"](name, value, config=CONFIG)
    return result


def parameter(name: str, value: str) -> dict[str, Any]:
    """A file below /sys has a value, and has it again after a reboot; as `setting` in containers.

    Args:
        name: the path below /sys.
        value: what is written there. Of a file that lists its choices, the one in brackets counts.
    """
    if _in_container():
        return _left_alone(name)
    path = Path(name)
    config = f"/etc/tmpfiles.d/60-{path.parent.name}-{path.name}.conf"
    result: dict[str, Any] = __states__["file.managed"](
        config, contents=f"# Managed by salt/base.\nw {name} - - - - {value}\n", mode="0644"
    )
    result |= {"name": name}
    text = path.read_text().strip()
    chosen = re.search(r"\[(.+)\]", text)
    current = chosen[1] if chosen else text
    if result["result"] is False or current == value:
        return result
    changes = {**result["changes"], name: {"old": current, "new": value}}
    result |= {"changes": changes, "comment": f"{name} changes from {current} to {value}"}
    if __opts__["test"]:
        return result | {"result": None}
    path.write_text(value)
    return result


def compressed_swap(name: str, mebibytes: int, root: str = "/") -> dict[str, Any]:
    """Swap in compressed memory is on, and is on again after a reboot; as `setting` in containers.

    systemd's zram generator makes the device (zram-generator.conf(5)).

    Args:
        name: the device, such as `zram0`.
        mebibytes: the size of the pages that it takes in; compressed, they need a part of that.
        root: the machine's root folder.
    """
    if _in_container():
        return _left_alone(f"swap on {name}")
    result: dict[str, Any] = __states__["file.managed"](
        ZRAM_CONFIG,
        contents=f"# Managed by salt/base.\n[{name}]\nzram-size = {mebibytes}\n",
        makedirs=True,
        mode="0644",
    )
    result |= {"name": name}
    current = _swap_size(Path(root), name)
    if result["result"] is False or current == mebibytes:
        return result
    changes = {**result["changes"], name: {"old": f"{current} MiB", "new": f"{mebibytes} MiB"}}
    result |= {"changes": changes, "comment": f"swap on {name} changes to {mebibytes} MiB"}
    if __opts__["test"]:
        return result | {"result": None}
    __salt__["service.systemctl_reload"]()
    if current:
        for unit in (f"dev-{name}.swap", f"systemd-zram-setup@{name}.service"):
            __salt__["service.stop"](unit)
    __salt__["service.start"](f"dev-{name}.swap")
    if _swap_size(Path(root), name) != mebibytes:
        comment = f"no swap on {name}; see: journalctl -u systemd-zram-setup@{name}"
        return result | {"result": False, "changes": {}, "comment": comment}
    return result


def audited(name: str, rules: str = "/etc/audit/rules.d") -> dict[str, Any]:
    """The kernel records by the rules of a folder, and a service writes the records down.

    A container sees nothing of its host's records; as `setting` there.

    Args:
        name: the service.
        rules: the folder, whose files augenrules(8) joins.
    """
    if _in_container():
        return _left_alone(f"the audit by {rules}")
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": "it records"}
    texts = (path.read_text() for path in sorted(Path(rules).glob("*.rules")))
    wanted = _audit_rules("\n".join(texts))
    changes: dict[str, Any] = {}
    if not __salt__["service.enabled"](name) or not __salt__["service.status"](name):
        changes[name] = {"old": "does not run", "new": "runs"}
    if (loaded := _loaded_audit_rules()) != wanted:
        changes["rules"] = {"old": loaded, "new": wanted}
    if not changes:
        return result
    result |= {"changes": changes, "comment": f"the kernel records by {rules}"}
    if __opts__["test"]:
        return result | {"result": None}
    __salt__["service.enable"](name)
    __salt__["service.start"](name)
    told = __salt__["cmd.run_all"](["augenrules", "--load"], python_shell=False)
    if not __salt__["service.status"](name) or _loaded_audit_rules() != wanted:
        comment = f"the kernel does not record by {rules}: {told['stderr']}; journalctl -u {name}"
        return result | {"result": False, "changes": {}, "comment": comment}
    return result


def _loaded_audit_rules() -> list[str]:
    listed = __salt__["cmd.run_stdout"](["auditctl", "-l"], python_shell=False)
    return _audit_rules(str(listed))


def _audit_rules(text: str) -> list[str]:
    """Return the rules of a file, or of what auditctl(8) lists, in the same words.

    It lists the system calls that an access means, in an order of its own, and numbers.
    """
    found = []
    for line in text.splitlines():
        if line.startswith("-a "):
            fields = re.findall(r"-F (\S+)", line.replace("!=unset", "!=-1"))
            calls = re.findall(r"-S (\S+)", line)
            if any(field.startswith("perm=") for field in fields):
                calls = []
            named = sorted(",".join(calls).split(",")) if calls else []
            found.append(" ".join([line.split()[1], *fields, *named]))
    return found


def _swap_size(root: Path, name: str) -> int:
    """Return the size of a device in MiB, 0 when it is no swap."""
    if not re.search(rf"^/dev/{name}\s", (root / "proc/swaps").read_text(), re.MULTILINE):
        return 0
    return int((root / "sys/block" / name / "disksize").read_text()) >> 20


def _in_container() -> bool:
    return bool(__grains__.get("virtual") == "container")


def _left_alone(name: str) -> dict[str, Any]:
    comment = f"{name} is not set: a container has its host's kernel, which it cannot change"
    return {"name": name, "result": True, "changes": {}, "comment": comment}
