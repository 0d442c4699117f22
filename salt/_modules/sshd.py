"""Whether sshd's whole configuration means what one of its fragments says."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Set by Salt's loader.
__salt__: dict[str, Any]

# sshd reads the fragments from the real path; in a mount namespace of its own, that is a copy.
_EFFECTIVE = 'mount --bind "$0" "$1" && exec /usr/sbin/sshd -T -C "user=$2,host=,addr="'


def fragment(options: Mapping[str, str]) -> str:
    """Return the text of a fragment with these options."""
    lines = [f"{name} {value}\n" for name, value in options.items()]
    return "# Managed by salt/base. The first value of an option wins.\n" + "".join(lines)


def problems(path: str, text: str | None = None) -> list[str]:
    """Return why sshd's effective configuration differs from what a fragment says.

    Args:
        path: the fragment, in the folder from which sshd reads all its fragments.
        text: what the fragment shall say; by default what it says now.

    Returns:
        sshd's error when it refuses the whole, or each option with another effective value, for the
        users root and those of `AllowUsers`.
    """
    text = Path(path).read_text() if text is None else text
    options = {
        name.lower(): value
        for name, value in (
            line.split(None, 1) for line in text.splitlines() if line and line[0] != "#"
        )
    }
    folder = Path(path).parent
    found: dict[str, None] = {}
    with tempfile.TemporaryDirectory(prefix="sshd-") as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        Path(copy, Path(path).name).write_text(text)
        for user in ("root", *options.get("allowusers", "").split()):
            effective = __salt__["cmd.run_all"](
                ["unshare", "--mount", "sh", "-c", _EFFECTIVE, copy, str(folder), user],
                python_shell=False,
                ignore_retcode=True,
            )
            if effective["retcode"] != 0:
                said = (effective["stderr"] or effective["stdout"]).replace(copy, str(folder))
                return [f"sshd refuses its configuration: {said}"]
            found |= dict.fromkeys(_differences(options, effective["stdout"]))
    return list(found)


def _differences(options: Mapping[str, str], effective: str) -> list[str]:
    values: dict[str, list[str]] = {}
    for line in effective.splitlines():
        name, _, value = line.partition(" ")
        values.setdefault(name, []).append(value)
    return [
        f"sshd has {name} {' '.join(values.get(name, ['unset']))} in place of {wanted}"
        for name, wanted in options.items()
        if " ".join(values.get(name, [])) != " ".join(wanted.split())
    ]
