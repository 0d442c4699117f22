"""What salt-cloud keeps of its machines in Salt's cache directory, for salt-ssh and for scripts.

`index.p` names the profile and provider of each machine. With `update_cachedir`,
`active/ec2/PROVIDER/NAME.p` contains the latest description of a machine, and with
`diff_cache_events` an event reports each difference from it. A failure here is only logged.

Salt's own functions for these files read a description as text, call it corrupt, and report a
difference where there is none (`salt.utils.cloud.diff_node_cache`).
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import salt.utils.msgpack

from saltext.ec2._context import DRIVER, Context

log = logging.getLogger(__name__)

Node = dict[str, Any]


@contextlib.contextmanager
def _logged(doing: str) -> Iterator[None]:
    try:
        yield
    except (OSError, TypeError, ValueError) as error:
        log.warning("%s in Salt's cache failed: %s: %s", doing, type(error).__name__, error)


def index(context: Context, vm_: Mapping[str, Any]) -> None:
    """Add a machine, as the core hands it to `create`, to the index."""
    name = str(vm_["name"])
    entry = {
        "id": name,
        "profile": vm_.get("profile"),
        "driver": DRIVER,
        "provider": context.provider_alias,
    }
    with _logged(f"indexing {name}"):
        _change_index(context, lambda entries: entries.update({name: entry}))


def put(context: Context, node: Mapping[str, Any]) -> None:
    """Keep the description of a machine, see `_nodes.describe`."""
    if context.opts.get("update_cachedir"):
        name = node.get("name") or node["id"]
        with _logged(f"keeping {name}"):
            _write(_folder(context) / f"{name}.p", node)


def put_all(context: Context, nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the descriptions of all machines of the active provider, and of no others."""
    if not context.opts.get("update_cachedir"):
        return
    with _logged(f"keeping the machines of {context.provider_name}"):
        folder = _folder(context)
        for path in folder.glob("*.p"):
            if path.stem not in nodes:
                path.unlink(missing_ok=True)
                _report(context, path.stem, "missing", {"missing node": path.stem})
        for name, node in nodes.items():
            path = folder / f"{name}.p"
            old = _read(path) if path.exists() else None
            if old is None:
                _report(context, name, "new", {"new_data": _stripped(context, node)})
            elif old != node:
                both = {"new_data": _stripped(context, node), "cache_data": _stripped(context, old)}
                _report(context, name, "diff", both)
            if old != node:
                _write(path, node)


def remove(context: Context, name: str) -> None:
    """Remove a machine from the index, and its description."""
    entries: list[Mapping[str, Any]] = []

    def take(index: dict[str, Any]) -> None:
        entries.extend(entry for entry in (index.pop(name, None),) if entry)

    with _logged(f"removing {name}"):
        if Path(context.opts["cachedir"], "index.p").exists():
            _change_index(context, take)
        # Of several providers of one account, another may have launched the machine.
        aliases = {context.provider_alias, *(str(entry.get("provider")) for entry in entries)}
        if context.opts.get("update_cachedir"):
            for alias in aliases:
                (_folder(context).with_name(alias) / f"{name}.p").unlink(missing_ok=True)


def _folder(context: Context) -> Path:
    return Path(context.opts["cachedir"], "active", DRIVER, context.provider_alias)


def _read(path: Path) -> dict[str, Any]:
    return _unpack(path.read_bytes())


def _unpack(content: bytes) -> dict[str, Any]:
    """Return the packed dictionary; what is no such thing counts as empty."""
    try:
        found = salt.utils.msgpack.unpackb(content, raw=False)
    except ValueError as error:
        log.debug("a file in Salt's cache is not readable: %s", error)
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, node: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(salt.utils.msgpack.packb(dict(node), use_bin_type=True))


def _change_index(context: Context, change: Callable[[dict[str, Any]], None]) -> None:
    path = Path(context.opts["cachedir"], "index.p")
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the machines of a map share the file
        content = file.read()
        entries = _unpack(content) if content else {}
        change(entries)
        file.seek(0)
        file.truncate()
        file.write(salt.utils.msgpack.packb(entries, use_bin_type=True))


def _stripped(context: Context, node: Mapping[str, Any]) -> Node:
    secret = context.opts.get("cache_event_strip_fields") or []
    return {key: copy.deepcopy(value) for key, value in node.items() if key not in secret}


def _report(context: Context, name: str, kind: str, data: Mapping[str, Any]) -> None:
    messages = {
        "missing": "cached node missing from provider",
        "new": "new node found",
        "diff": "node data differs",
    }
    if context.opts.get("diff_cache_events"):
        context.event(name, f"cache_node_{kind}", messages[kind], data)
