"""What an Airflow machine and its database should be: the release, the schema, the first user, the DAGs to show."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

SERVICE = "airflow"


def installed(name: str, lockfile: str) -> dict[str, Any]:
    """The release of the file ``lockfile`` is ready under ``name``, beside the current one, which goes on."""
    ret = _unchanged(name)
    try:
        if __opts__["test"] and not __salt__["file.file_exists"](lockfile):
            return _planned(ret, f"the release of {lockfile} would be installed")
        wanted = __salt__["airflow.release_name"](lockfile)
        if __salt__["airflow.installed"](wanted, name):
            ret["comment"] = f"{wanted} is installed"
            return ret
        if __opts__["test"]:
            return _planned(ret, f"{wanted} would be installed")
        __salt__["airflow.install"](lockfile, name)
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {"installed": wanted}
    ret["comment"] = f"{wanted} is installed"
    return ret


def current(name: str, lockfile: str) -> dict[str, Any]:
    """The installed release of the file ``lockfile`` is current, the one before is kept; what runs it has to restart."""
    ret = _unchanged(name)
    try:
        if __opts__["test"] and not __salt__["file.file_exists"](lockfile):
            return _planned(ret, f"the release of {lockfile} would be made current")
        wanted = __salt__["airflow.release_name"](lockfile)
        before = __salt__["airflow.current"](name)
        if before == wanted:
            ret["comment"] = f"{wanted} is current"
            return ret
        if __opts__["test"]:
            return _planned(ret, f"{wanted} would be made current")
        __salt__["airflow.activate"](wanted, name)
        removed = __salt__["airflow.prune"]([wanted, *([before] if before else [])], name)
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {"release": {"old": before, "new": wanted}}
    if removed:
        ret["changes"]["removed"] = removed
    ret["comment"] = f"{wanted} is current"
    return ret


def database_current(name: str) -> dict[str, Any]:
    """The database has the revision that the current release wants; never changes anything."""
    ret = _unchanged(name)
    try:
        if __opts__["test"] and __salt__["airflow.current"]() is None:
            return _planned(ret, "the database would be looked at")
        behind = _behind()
    except CommandExecutionError as error:
        return _failed(ret, error)
    if behind:
        ret["result"] = None if __opts__["test"] else False
        ret["comment"] = f"{behind}: apply the state airflow.migrate on one web machine first"
    else:
        ret["comment"] = "the database has the revision of this release"
    return ret


def migrated(name: str) -> dict[str, Any]:
    """The database has the revision that the current release wants; it is brought there when it has not."""
    ret = _unchanged(name)
    try:
        if __opts__["test"] and __salt__["airflow.current"]() is None:
            return _planned(ret, "the database would be migrated")
        behind = _behind()
        if not behind:
            ret["comment"] = "the database has the revision of this release"
            return ret
        if __opts__["test"]:
            return _planned(ret, f"{behind}: it would be migrated")
        before = __salt__["airflow.database"]()["revisions"]
        _alone(__salt__["airflow.migrate"])
        after = __salt__["airflow.database"]()["revisions"]
        behind = _behind()
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {"revisions": {"old": before, "new": after}}
    ret["result"] = not behind
    ret["comment"] = behind or "the database was migrated"
    return ret


def user_present(
    name: str, password: str, firstname: str, lastname: str, email: str, role: str = "Admin"
) -> dict[str, Any]:
    """The user can log in with this password; an existing user's other attributes are left alone."""
    ret = _unchanged(name)
    try:
        if __opts__["test"] and (__salt__["airflow.current"]() is None or _behind()):
            return _planned(ret, f"user {name} would be created")
        found = __salt__["airflow.database"](name, password)["user"]
        if found == "present":
            ret["comment"] = f"user {name} is there and has this password"
            return ret
        if __opts__["test"]:
            return _planned(
                ret,
                f"user {name} would be {'created' if found == 'absent' else 'given this password'}",
            )
        if found == "absent":
            _alone(
                __salt__["airflow.create_user"], name, password, firstname, lastname, email, role
            )
        else:
            _alone(__salt__["airflow.reset_password"], name, password)
        after = __salt__["airflow.database"](name, password)["user"]
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {name: {"old": found, "new": after}}
    ret["result"] = after == "present"
    ret["comment"] = f"user {name} is {after}"
    return ret


def dags_serialized(name: str, examples: bool) -> dict[str, Any]:
    """The web app can show the DAGs of this release, with or without Airflow's examples.

    Nobody else does it where no DAG processor runs.
    """
    ret = _unchanged(name)
    try:
        current = __salt__["airflow.current"]()
        mark = f"{current} {'with' if examples else 'without'} examples"
        if __opts__["test"] and (current is None or _behind()):
            return _planned(ret, "the DAGs would be serialized")
        before = __salt__["airflow.database"]()
        if before["serialized_by"] == mark and (before["dags"] or not examples):
            ret["comment"] = f"{before['dags']} DAGs are serialized"
            return ret
        if __opts__["test"]:
            return _planned(ret, "the DAGs would be serialized")
        _alone(__salt__["airflow.serialize_dags"])
        __salt__["airflow.mark_serialized"](mark)
        after = __salt__["airflow.database"]()
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {
        "dags": {"old": before["dags"], "new": after["dags"]},
        "serialized_by": {"old": before["serialized_by"], "new": mark},
    }
    ret["result"] = bool(after["dags"]) or not examples
    ret["comment"] = f"{after['dags']} DAGs are serialized"
    return ret


def healthy(
    name: str, timeout: int = 60, via: str | None = None, ca: str | None = None
) -> dict[str, Any]:
    """The health page ``name`` finds its database well, within ``timeout`` seconds; never changes anything.

    ``via`` and ``ca`` as in the execution module.
    """
    ret = _unchanged(name)
    deadline = time.monotonic() + timeout
    while not (well := __salt__["airflow.healthy"](name, via, ca)):
        if __opts__["test"] or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if well:
        ret["comment"] = "Airflow answers and its database is well"
    elif __opts__["test"]:
        return _planned(ret, "Airflow does not answer yet")
    else:
        ret["result"] = False
        ret["comment"] = f"{name} is not healthy within {timeout} s; see: journalctl -u {SERVICE}"
    return ret


def _behind() -> str:
    """Say in what the database differs from the current release; empty when in nothing."""
    found = __salt__["airflow.database"]()["revisions"]
    wanted = __salt__["airflow.heads"]()
    if not found:
        return "the database is empty"
    if found != wanted:
        return f"the database is at {_spoken(found)}, the release wants {_spoken(wanted)}"
    return ""


def _spoken(revisions: dict[str, str]) -> str:
    return ", ".join(f"{table} {revision}" for table, revision in sorted(revisions.items()))


def _alone(work: Callable[..., None], *arguments: Any) -> None:
    """Do work while the web service is stopped: 1 GiB does not hold it and Airflow's command line at once."""
    running = __salt__["service.status"](SERVICE)
    if running:
        __salt__["service.stop"](SERVICE)
    try:
        work(*arguments)
    finally:
        if running:
            __salt__["service.start"](SERVICE)


def _unchanged(name: str) -> dict[str, Any]:
    return {"name": name, "result": True, "changes": {}, "comment": ""}


def _planned(ret: dict[str, Any], comment: str) -> dict[str, Any]:
    return {**ret, "result": None, "comment": comment}


def _failed(ret: dict[str, Any], error: Exception) -> dict[str, Any]:
    return {**ret, "result": False, "comment": str(error)}
