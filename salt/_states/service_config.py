"""Running services that have loaded their configuration files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__states__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]
# Of this run: the chunk of this state, and the chunks of all states.
__low__: Mapping[str, Any]
__lowstate__: Sequence[Mapping[str, Any]]

Chunk = Mapping[str, Any]


def loaded(name: str, paths: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The service ``name`` has loaded its files as they are now, or does not run.

    The ``service.running`` state of the service watches this state and the states that write the
    files. The files are those that it watches, and its ``reload`` says whether a reload loads them.

    A watch on the files alone is lost when the run fails between the change and the restart: in
    the next run no file changes. So the unit itself records what it loads, by a drop-in that this
    state writes. A service that runs without a record is restarted or reloaded once.

    Args:
        name: the systemd unit.
        paths: id -> path, for each watched state that is no ``file``: what that state writes.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        service, files = _watched({**__low__, "name": name, "paths": paths})
        drop_in = __salt__["service_config.drop_in"](name, *_files_of_unit(name))
    except CommandExecutionError as error:
        return result | {"result": False, "comment": str(error)}
    recorder = _record(name, drop_in)
    if recorder["result"] is False:
        return result | {"result": False, "comment": recorder["comment"]}
    changed = __salt__["service_config.not_loaded"](
        name, files, reload=service.get("reload", False)
    )
    changes: dict[str, Any] = {}
    comment = f"{name} has loaded {', '.join(files)}"
    if recorder["changes"]:
        changes["recorder"] = recorder["changes"]
        comment = f"{name} records what it loads from now on"
    if changed:
        changes["not loaded"] = changed
        comment = f"{name} has not loaded {', '.join(changed)} yet"
    predicted = changes and __opts__["test"]
    return result | {
        "result": None if predicted else True,
        "changes": changes,
        "comment": comment,
    }


def _record(unit: str, drop_in: str) -> dict[str, Any]:
    """Have the unit record what it loads."""
    suffixed = unit if unit.endswith(".service") else f"{unit}.service"
    path = f"/etc/systemd/system/{suffixed}.d/loaded.conf"
    written: dict[str, Any] = __states__["file.managed"](
        path, contents=drop_in, mode="0644", makedirs=True
    )
    if written["changes"] and not __opts__["test"]:
        __salt__["service.systemctl_reload"]()
    return written


def _files_of_unit(unit: str) -> tuple[list[str], list[str]]:
    """Return what only a start of the unit loads, and what a reload loads too."""
    starts: list[str] = []
    reloads: list[str] = []
    for chunk in __lowstate__:
        if (chunk["state"], chunk["name"]) == ("service_config", unit):
            service, files = _watched(chunk)
            (reloads if service.get("reload") else starts).extend(files)
    return starts, reloads


def _watched(chunk: Chunk) -> tuple[Chunk, list[str]]:
    """Return the service that watches one state of this module, and the paths that it watches."""
    own_id, unit = chunk["__id__"], chunk["name"]
    found = [
        service
        for service in __lowstate__
        if service["state"] == "service"
        and {"service_config": own_id} in map(dict, service.get("watch", ()))
    ]
    if [service["name"] for service in found] != [unit]:
        raise CommandExecutionError(
            f"{own_id} needs one service.running state of {unit} that watches it;"
            f" these do: {', '.join(service['__id__'] for service in found) or 'none'}"
        )
    return found[0], _watched_files(found[0], chunk)


def _watched_files(service: Chunk, chunk: Chunk) -> list[str]:
    """Return the paths of what a service watches."""
    files: list[str] = []
    paths = chunk.get("paths") or {}
    unknown = dict(paths)
    for watched in service["watch"]:
        ((function, reference),) = watched.items()
        state = function.partition(".")[0]
        if state == "service_config":
            continue
        if state == "file":
            files += _names(reference)
        elif reference in paths:
            files.append(paths[reference])
            unknown.pop(reference, None)
        else:
            raise CommandExecutionError(
                f"{service['__id__']} watches {state}: {reference}, which is no file:"
                f" {chunk['__id__']} has to name in `paths` what that state writes"
            )
    if unknown:
        raise CommandExecutionError(
            f"{service['__id__']} does not watch {', '.join(unknown)}, which"
            f" {chunk['__id__']} names in `paths`"
        )
    return files


def _names(reference: str) -> list[str]:
    """Return the paths of the ``file`` states that a requisite refers to, by id or by path."""
    return [
        chunk["name"]
        for chunk in __lowstate__
        if chunk["state"] == "file" and reference in (chunk["__id__"], chunk["name"])
    ]
