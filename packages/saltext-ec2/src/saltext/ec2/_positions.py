"""YAML files with the line of each key, for messages about what stands there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import salt.loader
import salt.template
import salt.utils.yaml
import yaml

TEMPLATE = ("{{", "{%", "{#")

Lines = dict[tuple[str, ...], int]


class Unreadable(Exception):
    """A file that cannot be read.

    Attributes:
        line: where its fault is.
    """

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Document:
    """A YAML file.

    Attributes:
        path: the file.
        data: what it says.
        lines: the line of each key by the keys on the way to it; the entries of a list count as
            keys of what contains the list.
        rendered: whether the lines are those of the rendered template.
    """

    path: Path
    data: Mapping[str, Any] = field(default_factory=dict)
    lines: Lines = field(default_factory=dict)
    rendered: bool = False

    def place(self, *keys: str) -> str:
        """Return `FILE:LINE` of the last of these keys that the file has."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.lines:
                return f"{self.path}:{self.lines[keys[:end]]}"
        return f"{self.path}:1"


def read(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        Unreadable: it cannot be read, or its top level is no mapping.
    """
    try:
        return _parse(path, path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"the file cannot be read: {error}") from error


def read_map(path: Path, opts: Mapping[str, Any]) -> Document:
    """Read a map as salt-cloud does: through its renderers.

    Raises:
        Unreadable: it cannot be read or rendered, or its top level is no mapping.
    """
    renderer = opts.get("renderer") or "jinja|yaml"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"the map cannot be read: {error}") from error
    if text.startswith("#!") or renderer not in ("jinja|yaml", "yaml"):
        data = _rendered(path, opts, renderer)
        if not isinstance(data, Mapping):
            raise Unreadable("the map is no mapping of profiles to machines")
        return Document(path, data)
    is_template = renderer != "yaml" and any(mark in text for mark in TEMPLATE)
    if is_template:
        text = _rendered(path, opts, "jinja").read()
    return _parse(path, text, rendered=is_template)


@contextlib.contextmanager
def silent_templates() -> Iterator[None]:
    """Keep Salt from logging the traceback of a template that does not render."""
    log = logging.getLogger("salt.utils.templates")
    disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = disabled


def _rendered(path: Path, opts: Mapping[str, Any], renderer: str) -> Any:
    try:
        with silent_templates():
            return salt.template.compile_template(
                str(path),
                salt.loader.render(dict(opts), {}),
                renderer,
                opts.get("renderer_blacklist"),
                opts.get("renderer_whitelist"),
            )
    except Exception as error:
        reason = str(error).split("\n", 1)[0].rstrip(":; ")
        raise Unreadable(f"the map cannot be rendered: {reason}") from error


def _parse(path: Path, text: str, *, rendered: bool = False) -> Document:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = salt.utils.yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).split("\n", 1)[0]
        raise Unreadable(f"this is no YAML: {problem}", mark.line + 1 if mark else 1) from error
    if data is None:
        return Document(path)
    if not isinstance(data, Mapping):
        raise Unreadable("the file is no mapping")
    lines: Lines = {}
    _walk(node, (), lines)
    return Document(path, data, lines, rendered)


def _walk(node: Any, keys: tuple[str, ...], lines: Lines) -> None:
    """Add the lines of a node's keys."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*keys, str(key.value))
            lines.setdefault(inner, key.start_mark.line + 1)
            _walk(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            if isinstance(entry, yaml.ScalarNode):
                lines.setdefault((*keys, str(entry.value)), entry.start_mark.line + 1)
            else:
                _walk(entry, keys, lines)
