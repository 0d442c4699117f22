"""The YAML files of the tree that stackctl reads, and whether they hold what it reads in them.

Salt reads them too, later and on the master. What cannot be is told here, before anything changes.
`tree.schema.yaml` says what a file has to hold. A map has a reader of its own (`stackctl.maps`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from stackctl.errors import PreflightError


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML, and refuses a key that is there twice: the second would win silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key, (at, _) in zip(keys, node.value, strict=True):
                if keys.count(key) > 1:
                    raise yaml.MarkedYAMLError(None, None, f"{key} is there twice", at.start_mark)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read(root: Path, path: Path, *, secret: bool = False) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Args:
        root: the checkout; an error names the file below it.
        path: the file.
        secret: whether errors may show nothing that it holds.

    Raises:
        PreflightError: it cannot be read, is no YAML, or holds no mapping.
    """
    name, content = path.relative_to(root), text(root, path)
    try:
        data = yaml.load(content, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = "" if secret else f": {str(error.problem).rstrip('.')}"
        raise PreflightError(f"{name} is no YAML, line {line}{problem}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "" if secret else f": {' '.join(str(error).split()).rstrip('.')}"
        raise PreflightError(f"{name} is no YAML{reason}.") from None
    if not isinstance(data, dict):
        found = "is empty" if data is None else "holds a value" if secret else _held(data)
        raise PreflightError(f"{name} {found}: it has to hold keys, and values below them.")
    return data


def section(
    root: Path, path: Path, key: str, *, alone: bool = False, secret: bool = False
) -> dict[str, Any]:
    """Return the mapping below a key of a YAML file; see `read`.

    Args:
        root: the checkout.
        path: the file.
        key: the key.
        alone: whether the file may hold no other key.
        secret: whether errors may show nothing that it holds.
    """
    data = read(root, path, secret=secret)
    if not isinstance(data.get(key), dict) or (alone and len(data) > 1):
        held = "one key" if alone else "the key"
        raise PreflightError(
            f"{path.relative_to(root)} has to hold {held}, {key}, and a mapping below it."
        )
    return dict(data[key])


def text(root: Path, path: Path) -> str:
    """Return what a text file holds; see `read`."""
    name = path.relative_to(root)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PreflightError(f"{name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise PreflightError(f"{name} cannot be read: it is not in UTF-8.") from None


def check(root: Path) -> None:
    """Raise PreflightError for files of a checkout that lack what stackctl reads in them."""
    found = [line for name, schema in _schemas().items() for line in _problems(root, name, schema)]
    if found:
        raise PreflightError(" ".join(f"{line.rstrip('.')}." for line in found))


def _faults(schema: Mapping[str, Any], data: Any) -> Iterator[str]:
    """Yield what of the data a schema does not allow, a sentence without its end for each."""
    import jsonschema  # noqa: PLC0415 - it takes a sixth of a second

    formats = jsonschema.FormatChecker(formats=("ipv4",))
    validator = jsonschema.Draft202012Validator(schema, format_checker=formats)
    for error in sorted(validator.iter_errors(data), key=lambda one: one.json_path):
        at = ":".join(map(str, error.absolute_path)) or "it"
        if error.validator == "required":
            lacking = [key for key in error.validator_value if key not in error.instance]
            yield f"{at} lacks {', '.join(lacking)}"
        else:
            yield f"{at} is {error.instance!r}: allowed is {_allowed(error)}"


def _allowed(error: Any) -> str:
    described = error.schema.get("description")
    return str(described or _KINDS.get(str(error.schema.get("type")), error.message))


_KINDS = {
    "object": "keys, and values below them",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "boolean": "true or false",
}


def _held(data: Any) -> str:
    return "holds a list" if isinstance(data, list) else f"holds only {str(data)[:40]!r}"


def _problems(root: Path, name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a file, or with the files that fit to a pattern."""
    for path in sorted(root.glob(name)) if "*" in name else [root / name]:
        for fault in _faults(schema, read(root, path)):
            yield f"{path.relative_to(root)}: {fault}"


@lru_cache(maxsize=1)
def _schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each file, by its name or pattern below the checkout."""
    text = files("stackctl").joinpath("tree.schema.yaml").read_text()
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["files"]
    return found
