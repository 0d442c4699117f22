"""The release of an Airflow machine, and its database: schema, permissions, first user, DAGs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

SERVICE = "airflow"
SLOWEST = 10  # times as long as with all of a core: a t2.micro without CPU credits


def installed(name: str, lockfile: str, archives: str) -> dict[str, Any]:
    """The release of ``lockfile`` is installed below ``name``. The current release stays.

    The static files of all installed releases are shared: a page of the new release finds its files
    on a machine that still runs the old one.

    Args:
        name: the folder of Airflow.
        lockfile: the packages of the release.
        archives: where the Salt master serves the archives of releases.
    """
    ret = _unchanged(name)
    try:
        if __opts__["test"] and not __salt__["file.file_exists"](lockfile):
            return _planned(ret, f"the release of {lockfile} would be installed")
        wanted = __salt__["airflow.release_name"](lockfile)
        present = __salt__["airflow.installed"](wanted, name)
        unshared = __salt__["airflow_artefact.unshared"](name)
        if present and not unshared:
            ret["comment"] = f"{wanted} is installed"
            return ret
        if __opts__["test"]:
            what = f"{len(unshared)} assets would be shared"
            return _planned(ret, what if present else f"{wanted} would be installed")
        if not present:
            __salt__["airflow_artefact.fetch"](wanted, archives, name)
            ret["changes"]["installed"] = wanted
        if unshared := __salt__["airflow_artefact.unshared"](name):
            __salt__["airflow_artefact.share"](name)
            ret["changes"]["shared"] = f"{len(unshared)} assets"
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["comment"] = f"{wanted} is installed"
    return ret


def current(name: str, lockfile: str) -> dict[str, Any]:
    """The installed release of ``lockfile`` is current, and the previous release is kept.

    The service that runs it has to restart.
    """
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
        __salt__["airflow_artefact.share"](name)
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {"release": {"old": before, "new": wanted}}
    if removed:
        ret["changes"]["removed"] = removed
    ret["comment"] = f"{wanted} is current"
    return ret


def database_current(name: str) -> dict[str, Any]:
    """The database has the revision that the current release needs; this changes nothing."""
    ret = _unchanged(name)
    try:
        if __opts__["test"] and __salt__["airflow.current"]() is None:
            return _planned(ret, "the database would be checked")
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
    """The database has the revision that the current release needs; else it is migrated."""
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
        _with_service_stopped(__salt__["airflow.migrate"])
        after = __salt__["airflow.database"]()["revisions"]
        behind = _behind()
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {"revisions": {"old": before, "new": after}}
    ret["result"] = not behind
    ret["comment"] = behind or "the database was migrated"
    return ret


def permissions_synced(name: str) -> dict[str, Any]:
    """The database holds FAB's roles and permissions of the current release.

    The service does not do this when it starts: ``update_fab_perms`` is off. A mark in the database
    says which release did it, so a sync that failed is done by the next run.
    """
    ret = _unchanged(name)
    try:
        current = __salt__["airflow.current"]()
        if __opts__["test"] and (current is None or _behind()):
            return _planned(ret, "the permissions would be synced")
        before = __salt__["airflow.database"]()["marks"]["permissions"]
        if before == current:
            ret["comment"] = f"the permissions are those of {current}"
            return ret
        if __opts__["test"]:
            return _planned(ret, "the permissions would be synced")
        _with_service_stopped(__salt__["airflow.sync_permissions"])
        __salt__["airflow.mark"]("permissions", current)
        after = __salt__["airflow.database"]()["marks"]["permissions"]
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {"permissions": {"old": before, "new": after}}
    ret["result"] = after == current
    ret["comment"] = f"the permissions are those of {after}"
    return ret


def user_present(
    name: str, password: str, firstname: str, lastname: str, email: str, role: str = "Admin"
) -> dict[str, Any]:
    """The user can log in with this password; other attributes of an existing user stay."""
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
            profile = {"firstname": firstname, "lastname": lastname, "email": email, "role": role}
            _with_service_stopped(__salt__["airflow.create_user"], name, password, profile)
        else:
            _with_service_stopped(__salt__["airflow.reset_password"], name, password)
        after = __salt__["airflow.database"](name, password)["user"]
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {name: {"old": found, "new": after}}
    ret["result"] = after == "present"
    ret["comment"] = f"user {name} is {after}"
    return ret


def dags_serialized(name: str, examples: bool) -> dict[str, Any]:
    """The database holds the serialized DAGs of this release, with or without the examples.

    Where a DAG processor runs, it does the same; this stack has none.
    """
    ret = _unchanged(name)
    try:
        current = __salt__["airflow.current"]()
        mark = f"{current} {'with' if examples else 'without'} examples"
        if __opts__["test"] and (current is None or _behind()):
            return _planned(ret, "the DAGs would be serialized")
        before = __salt__["airflow.database"]()
        if before["marks"]["dags"] == mark and (before["dags"] or not examples):
            ret["comment"] = f"{before['dags']} DAGs are serialized"
            return ret
        if __opts__["test"]:
            return _planned(ret, "the DAGs would be serialized")
        _with_service_stopped(__salt__["airflow.serialize_dags"])
        __salt__["airflow.mark"]("dags", mark)
        after = __salt__["airflow.database"]()
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {
        "dags": {"old": before["dags"], "new": after["dags"]},
        "serialized_by": {"old": before["marks"]["dags"], "new": after["marks"]["dags"]},
    }
    ret["result"] = after["marks"]["dags"] == mark and (bool(after["dags"]) or not examples)
    ret["comment"] = f"{after['dags']} DAGs are serialized"
    return ret


def encrypted_anew(name: str) -> dict[str, Any]:
    """Every value in the database is encrypted with the first Fernet key.

    What no key opens was lost before, and stays as it is.
    """
    ret = _unchanged(name)
    try:
        if __opts__["test"] and __salt__["airflow.current"]() is None:
            return _planned(ret, "values would be encrypted anew")
        found = __salt__["airflow.encrypted"]()
        lost = f"; no key opens {found['none']} others" if found["none"] else ""
        if not found["other"]:
            ret["comment"] = f"the first key opens {found['first']} values{lost}"
            return ret
        if __opts__["test"]:
            return _planned(ret, f"{found['other']} values would be encrypted anew{lost}")
        done = __salt__["airflow.encrypted"](anew=True)["other"]
        left = __salt__["airflow.encrypted"]()["other"]
    except CommandExecutionError as error:
        return _failed(ret, error)
    ret["changes"] = {"encrypted": {"old": f"{done} values with another key", "new": left}}
    ret["result"] = not left
    ret["comment"] = f"{done} values were encrypted anew{lost}" if not left else f"{left} are left"
    return ret


def healthy(
    name: str, timeout: int = 60, via: str | None = None, ca: str | None = None
) -> dict[str, Any]:
    """The health page ``name`` reports a healthy database; this changes nothing.

    Args:
        name: the URL of the page.
        timeout: seconds within which the page has to do so; ``SLOWEST`` times as many on a machine
            that is out of CPU credits.
        via: as in the execution module.
        ca: as in the execution module.
    """
    ret = _unchanged(name)
    begun, before, slow = time.monotonic(), __salt__["cpu_credits.sample"](), ""
    while not (is_healthy := __salt__["airflow.healthy"](name, via, ca)):
        waited = time.monotonic() - begun
        if waited > timeout:
            slow = __salt__["cpu_credits.since"](before)
        if __opts__["test"] or waited > timeout * (SLOWEST if slow else 1):
            break
        time.sleep(0.5)
    if is_healthy:
        ret["comment"] = "Airflow answers and its database is healthy"
    elif __opts__["test"]:
        return _planned(ret, "Airflow does not answer yet")
    else:
        ret["result"] = False
        ret["comment"] = (
            f"{name} is not healthy within {waited:.0f} s; see: journalctl -u {SERVICE}"
        )
        ret["comment"] += f". This machine is {slow}" if slow else ""
    return ret


def _behind() -> str:
    """Return how the database differs from the current release; "" when it does not."""
    found = __salt__["airflow.database"]()["revisions"]
    wanted = __salt__["airflow.heads"]()
    if not found:
        return "the database is empty"
    if found != wanted:
        return f"the database is at {_listed(found)}, the release needs {_listed(wanted)}"
    return ""


def _listed(revisions: dict[str, str]) -> str:
    return ", ".join(f"{table} {revision}" for table, revision in sorted(revisions.items()))


def _with_service_stopped(work: Callable[..., None], *args: Any) -> None:
    """Work while the web service is stopped: 1 GiB is too small for it and Airflow's CLI."""
    running = __salt__["service.status"](SERVICE)
    if running:
        __salt__["service.stop"](SERVICE)
    try:
        work(*args)
    finally:
        if running:
            __salt__["service.start"](SERVICE)


def _unchanged(name: str) -> dict[str, Any]:
    return {"name": name, "result": True, "changes": {}, "comment": ""}


def _planned(ret: dict[str, Any], comment: str) -> dict[str, Any]:
    return {**ret, "result": None, "comment": comment}


def _failed(ret: dict[str, Any], error: Exception) -> dict[str, Any]:
    return {**ret, "result": False, "comment": str(error)}
