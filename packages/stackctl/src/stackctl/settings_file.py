"""Writes single values into a deployment's settings, a file that belongs to the operator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from stackctl.files import write_atomically


def write(path: Path, key: str, value: Any) -> bool:
    """Write one of the settings, and return whether that changed anything.

    All other lines, and comments, stay as they are.
    """
    before = path.read_text()
    data = yaml.safe_load(before)
    if data["settings"].get(key) == value:
        return False
    data["settings"][key] = value
    # The lines of a value are deeper than its key, or empty.
    old = re.compile(
        rf"^(?P<indent> +){re.escape(key)}:.*\n(?:(?: *\n)*(?P=indent) +.*\n)*", re.MULTILINE
    )
    line = _line(key, value, "  ")
    after = old.sub(
        lambda match: f"{match['indent']}{_line(key, value, match['indent'])}\n", before, 1
    )
    if after == before:
        end = "" if before.endswith("\n") else "\n"
        after = f"{before}{end}  {line}\n"
    if not _holds(after, data):  # written in a way of its own
        after = yaml.safe_dump(data, sort_keys=False)
    write_atomically(path, after)
    return True


def _line(key: str, value: Any, indent: str) -> str:
    """Return a key and its value; a text of several lines, such as a certificate, as a block."""
    if isinstance(value, str) and "\n" in value:
        lines = [f"{indent}  {line}" for line in value.splitlines()]
        return "\n".join([f"{key}: |", *lines])
    return yaml.safe_dump({key: value}, default_flow_style=True, sort_keys=False).strip()[1:-1]


def _holds(text: str, data: Any) -> bool:
    try:
        return bool(yaml.safe_load(text) == data)
    except yaml.YAMLError:
        return False
