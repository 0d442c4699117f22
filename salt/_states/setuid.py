"""Programs that run with the rights of whoever calls them, and no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Set by Salt's loader.
__opts__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

_SETUID_OR_SETGID = 0o6000
_MODE = "0755"


def absent(name: str, paths: Sequence[str]) -> dict[str, Any]:
    """The programs of packages have neither setuid nor setgid, also after an update of the package.

    Args:
        name: the id of the state.
        paths: the programs. One that is not installed is as it should be.
    """
    present = [path for path in paths if _is_special(path)]
    result = {"name": name, "result": True, "changes": {}, "comment": "none has setuid or setgid"}
    if not present:
        return result
    result |= {
        "changes": {path: {"old": "setuid or setgid", "new": _MODE} for path in present},
        "comment": "rights are taken away",
    }
    if __opts__["test"]:
        return result | {"result": None}
    for path in present:
        # dpkg sets this mode again whenever it unpacks the program.
        command = ["dpkg-statoverride", "--force-statoverride-add", "--update", "--add"]
        done = __salt__["cmd.run_all"]([*command, "root", "root", _MODE, path], python_shell=False)
        if done["retcode"] != 0 or _is_special(path):
            comment = f"{path} keeps its rights: {done['stderr'] or done['stdout']}"
            return result | {"result": False, "changes": {}, "comment": comment}
    return result


def _is_special(path: str) -> bool:
    file = Path(path)
    return file.is_file() and bool(file.stat().st_mode & _SETUID_OR_SETGID)
