"""The maps of cloud.maps.d, read as salt-cloud reads them: rendered by Jinja, then YAML.

https://docs.saltproject.io/en/latest/topics/cloud/map.html
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from stackctl.errors import MapError

Machines = Mapping[str, tuple[str, Mapping[str, Any]]]
"""Name of each machine -> its profile, and the options that the map gives to it alone."""

Source = tuple[str, Mapping[str, int]]  # the text of a map, and the counts that it is given
EXAMPLE = "A profile has a list of machines: `web: [web-1, web-2]`"
KNOWN = (
    "A map knows what it sets itself, and opts: salt-cloud's configuration, in which machine_counts"
    " has the numbers of settings:machines"
)
SENTENCES = {
    r"mapping values are not allowed .*": "a colon that YAML does not expect",
    r"Illegal tab .*|found character .*cannot start any token": (
        "a character that YAML does not expect, such as a tab to indent with"
    ),
    r"found conflicting ID (.*)": r"the profile \1 is there twice",
}


def read(path: Path, counts: Mapping[str, int]) -> Machines:
    """Return the machines of a map when the roles have so many.

    Args:
        path: the map.
        counts: role -> number. On the master they are in salt-cloud's configuration
            (salt/master/init.sls), which the map sees as `opts`.

    Raises:
        MapError: salt-cloud could not read it either, or would not say what is wrong.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not in UTF-8"
        raise MapError(f"{path.name} cannot be read: {why}.", f"The file is {path}.") from None
    return dict(_read(path, text, tuple(sorted(counts.items()))))


@lru_cache(maxsize=256)
def _read(path: Path, text: str, counts: tuple[tuple[str, int], ...]) -> Machines:
    content = _rendered(path, text, dict(counts))
    if not isinstance(content, Mapping):
        raise _error(path, 0, "it is no mapping of profiles to machines", EXAMPLE)
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for profile, entries in content.items():
        line = _line_of(text, str(profile))
        for name, options in _machines(path, line, profile, entries):
            if name in found:
                raise _error(path, line, f"it names {name} twice", "Remove one of the two")
            found[name] = (str(profile), options)
    if not found:
        raise _error(path, 0, "it names no machine", EXAMPLE)
    return found


def _renderers(counts: Mapping[str, int]) -> Any:
    # Half a second, which the verbs that need no map do not have to wait.
    import salt.config  # noqa: PLC0415
    import salt.loader  # noqa: PLC0415

    opts = {**salt.config.DEFAULT_MASTER_OPTS, **salt.config.DEFAULT_CLOUD_OPTS}
    opts |= {"file_client": "local", "machine_counts": dict(counts)}
    return salt.loader.render(opts, {})


def _rendered(path: Path, text: str, counts: Mapping[str, int]) -> Any:
    import salt.config  # noqa: PLC0415
    from salt.exceptions import SaltRenderError  # noqa: PLC0415
    from salt.template import compile_template  # noqa: PLC0415

    if not text.strip():
        raise _error(path, 0, "it is empty", EXAMPLE)
    try:
        content = compile_template(str(path), _renderers(counts), "jinja|yaml", [], [])
    except SaltRenderError as error:
        raise _explained(path, (text, counts), error) from None
    except Exception as error:  # a map may call anything
        raise _error(path, 0, _first_line(str(error)), "Mend the template") from error
    if isinstance(content, Mapping) and "include" in content:
        content = salt.config.include_config(content, str(path), verbose=False)
    return content


def _explained(path: Path, source: Source, error: Any) -> MapError:
    """Return Salt's error about a map, with the line of the file where it can be told."""
    cause, known = error.error, getattr(error.__context__, "lineno", None)
    if isinstance(cause, Exception):  # of the YAML parser, without Salt's words for it
        mark = getattr(cause, "problem_mark", None)
        problem = str(getattr(cause, "problem", cause))
        return _of_yaml(path, source, problem, mark.line + 1 if mark else 0)
    message = _first_line(str(cause))
    if message.startswith("Jinja"):
        line = int(known or error.line_num or 0)
        return _error(path, line, message, KNOWN if "undefined" in message else "Mend the template")
    return _of_yaml(path, source, message, error.line_num or 0)


def _of_yaml(path: Path, source: Source, problem: str, number: int) -> MapError:
    """Return an error of YAML, which knows a line of what Jinja has made of the file only."""
    made = _renderers(source[1])["jinja"](io.StringIO(source[0]), tmplpath=str(path)).read()
    shown = made.splitlines()[number - 1 : number] if number else []
    same = [
        line for line, found in enumerate(source[0].splitlines(), 1) if shown and found == shown[0]
    ]
    if len(same) == 1:
        return _error(path, same[0], _in_words(problem), EXAMPLE)
    where = f" in '{shown[0].strip()}', which Jinja has made" if shown else ""
    return _error(path, 0, f"{_in_words(problem)}{where}", EXAMPLE)


def _machines(
    path: Path, line: int, profile: Any, entries: Any
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and options of each machine below a profile, as Salt's Map.read takes them."""
    if isinstance(entries, str):
        entries = [entries]
    if isinstance(entries, Mapping):
        entries = [dict([entry]) for entry in entries.items()]
    if not isinstance(entries, list):
        raise _error(path, line, f"the profile '{profile}' has no list of machines", EXAMPLE)
    for entry in entries:
        named = {entry: None} if isinstance(entry, str) else entry
        if not isinstance(named, Mapping):
            raise _error(path, line, f"'{entry}' below '{profile}' is no machine", EXAMPLE)
        for name, options in named.items():
            given = {} if options is None or isinstance(options, bool) else options
            if not isinstance(name, str) or not isinstance(given, Mapping):
                hint = "A machine's options are a mapping: `- web-1: {size: t3.micro}`"
                raise _error(path, line, f"'{name}' has the options {options!r}", hint)
            yield name, given


def _error(path: Path, line: int, cause: str, hint: str) -> MapError:
    where = f"{path.parent.name}/{path.name}{f', line {line}' if line else ''}"
    return MapError(f"{where}: {cause.rstrip('.')}.", f"{hint.rstrip('.')}.")


def _line_of(text: str, profile: str) -> int:
    """Return the line on which a profile begins; 0: a loop has made it."""
    start = re.compile(rf"[\"']?{re.escape(profile)}[\"']?\s*:")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if start.match(line)]
    return lines[0] if lines else 0


def _in_words(problem: str) -> str:
    for pattern, sentence in SENTENCES.items():
        if match := re.fullmatch(pattern, problem):
            return match.expand(sentence)
    return f"YAML: {_first_line(problem)}"


def _first_line(message: str) -> str:
    """Return the first sentence of a message of Salt's, whose other lines show the file."""
    return message.splitlines()[0].partition("; line ")[0] if message.strip() else "no reason given"
