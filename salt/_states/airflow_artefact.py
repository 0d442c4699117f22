"""The archive of a release of Airflow, from which web machines unpack it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]


def built(name: str, lockfile: str, wait: bool = True) -> dict[str, Any]:
    """The folder ``name`` holds the archive of the release of ``lockfile``.

    It comes from the deployment's bucket, or is built there where the bucket cannot give it.

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
            return ret | {"result": None, "comment": _prediction(release)}
        return ret | _made(release, name, wait=wait)
    except CommandExecutionError as error:
        return ret | {"result": False, "comment": str(error)}


def _made(release: str, folder: str, *, wait: bool) -> dict[str, Any]:
    """Take or build an archive; return result, changes and comment of the state.

    Raises CommandExecutionError when the build fails.
    """
    why = _taken(release, folder)
    if not why:
        return {"changes": {"taken": release}, "comment": f"{release} was taken from the bucket"}
    __salt__["airflow_artefact.build"](release, wait=wait)
    if __salt__["airflow_artefact.built"](release, folder):
        return {"changes": {"built": release}, "comment": f"{release} is built; {why}"}
    comment = f"the build of {release} left no archive" if wait else f"{release} is being built"
    return {"result": not wait, "comment": f"{comment}; {why}"}


def kept(name: str, lockfile: str) -> dict[str, Any]:
    """The deployment's bucket holds the archive of the release of ``lockfile``.

    Args:
        name: the folder in which it is complete.
        lockfile: the packages of the release.

    Returns:
        The state's result. A bucket that cannot be used is no failure: the next master builds.
    """
    ret: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        if __opts__["test"] and not __salt__["file.file_exists"](lockfile):
            return ret | {"result": None, "comment": f"the release of {lockfile} would be kept"}
        release = __salt__["airflow.release_name"](lockfile)
    except CommandExecutionError as error:
        return ret | {"result": False, "comment": str(error)}
    try:
        if __salt__["release_bucket.same"](release, name):
            return ret | {"comment": f"the bucket has {release}"}
        if __opts__["test"]:
            return ret | {"result": None, "comment": f"{release} would be put into the bucket"}
        where = __salt__["release_bucket.put"](release, name)
    except CommandExecutionError as error:
        return ret | {"comment": f"warning: {release} is not kept in the bucket: {error}"}
    return ret | {"changes": {"kept": where}, "comment": f"the bucket has {release}"}


def _prediction(release: str) -> str:
    try:
        there = __salt__["release_bucket.has"](release)
    except CommandExecutionError as error:
        return f"{release} would be built; warning: the bucket cannot be asked: {error}"
    return f"{release} would be {'taken from the bucket' if there else 'built'}"


def _taken(release: str, folder: str) -> str:
    """Take the archive from the bucket; return why it was not, or nothing."""
    try:
        if not __salt__["release_bucket.has"](release):
            return "the bucket does not have it"
        __salt__["release_bucket.get"](release, folder)
    except CommandExecutionError as error:
        return f"warning: it was not taken from the bucket: {error}"
    return ""
