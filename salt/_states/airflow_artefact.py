"""The archive of a release of Airflow, from which web machines unpack it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def built(name: str, lockfile: str, wait: bool = True) -> dict[str, Any]:
    """The folder ``name`` holds the archive of the release of ``lockfile``.

    Args:
        name: the folder.
        lockfile: the packages of the release.
        wait: until the archive is complete; otherwise its build is started.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        if __opts__["test"] and not __salt__["file.file_exists"](lockfile):
            return ret | {"result": None, "comment": f"the release of {lockfile} would be built"}
        release = __salt__["airflow.release_name"](lockfile)
        if __salt__["airflow_artefact.built"](release, name):
            return ret | {"comment": f"{release} is built"}
        if __opts__["test"]:
            return ret | {"result": None, "comment": f"{release} would be built"}
        __salt__["airflow_artefact.build"](release, wait=wait)
        is_built = __salt__["airflow_artefact.built"](release, name)
    except CommandExecutionError as error:
        return ret | {"result": False, "comment": str(error)}
    if is_built:
        return ret | {"changes": {"built": release}, "comment": f"{release} is built"}
    comment = f"the build of {release} left no archive" if wait else f"{release} is being built"
    return ret | {"result": not wait, "comment": comment}
