"""Running services that have loaded their configuration files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]
# Of this run: the chunk of this state, and the chunks of all states.
__low__: Mapping[str, Any]
__lowstate__: Sequence[Mapping[str, Any]]


def loaded(name: str, paths: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The service ``name`` has loaded its files since they last changed, or does not run.

    The ``service.running`` state of the service watches this state and the states that write the
    files. The files are those that it watches, and its ``reload`` says whether a reload loads them.

    A watch on the files alone is lost when the run fails between the change and the restart: in
    the next run no file changes. The files' times are not lost.

    Args:
        name: the systemd unit.
        paths: id -> path, for each watched state that is no ``file``: what that state writes.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        service = _watching_service(name)
        files = _watched_files(service, paths or {})
    except CommandExecutionError as error:
        return result | {"result": False, "comment": str(error)}
    changed = __salt__["service_config.changed_since_load"](
        name, files, reload=service.get("reload", False)
    )
    if not changed:
        return result | {"comment": f"{name} has loaded {', '.join(files)}"}
    return result | {
        "result": None if __opts__["test"] else True,
        "changes": {"not loaded": changed},
        "comment": f"{name} has not loaded {', '.join(changed)} yet",
    }


def _watching_service(unit: str) -> Mapping[str, Any]:
    """Return the chunk of the service that watches this state."""
    own_id = __low__["__id__"]
    found = [
        chunk
        for chunk in __lowstate__
        if chunk["state"] == "service"
        and {"service_config": own_id} in map(dict, chunk.get("watch", ()))
    ]
    if [chunk["name"] for chunk in found] != [unit]:
        raise CommandExecutionError(
            f"{own_id} needs one service.running state of {unit} that watches it;"
            f" these do: {', '.join(chunk['__id__'] for chunk in found) or 'none'}"
        )
    return found[0]


def _watched_files(service: Mapping[str, Any], paths: Mapping[str, str]) -> list[str]:
    """Return the paths of what a service watches."""
    files: list[str] = []
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
                f" {__low__['__id__']} has to name in `paths` what that state writes"
            )
    if unknown:
        raise CommandExecutionError(
            f"{service['__id__']} does not watch {', '.join(unknown)}, which"
            f" {__low__['__id__']} names in `paths`"
        )
    return files


def _names(reference: str) -> list[str]:
    """Return the paths of the ``file`` states that a requisite refers to, by id or by path."""
    return [
        chunk["name"]
        for chunk in __lowstate__
        if chunk["state"] == "file" and reference in (chunk["__id__"], chunk["name"])
    ]
