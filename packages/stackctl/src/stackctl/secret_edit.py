"""Gives a secret values that a person brings. Those that are made belong to `secrets rotate`."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from stackctl import recipients
from stackctl.catalogue import CLOUD_SSH, DEPLOYMENT_CA
from stackctl.deployment import Deployment
from stackctl.errors import Interrupted, SecretsError
from stackctl.files import write_private
from stackctl.initialise import LASTING
from stackctl.roles import EDGE_TLS
from stackctl.run import attach
from stackctl.secret_check import value_faults
from stackctl.secret_store import SecretStore

IN_MEMORY = ("tmpfs", "ramfs")  # file systems
UNCHANGED = "Nothing was changed."
Ask = Callable[[str], str]
"""Shows a text to the operator, and returns what became of it."""


def set_field(deployment: Deployment, secret: str, field: str, value: str) -> bool:
    """Give a field of a secret a value; return whether it had another one.

    Args:
        deployment: whose secret.
        secret: its name.
        field: of the secret.
        value: the new one; ends of lines at its end do not count.

    Raises:
        SecretsError: no such field exists, `secrets rotate` or `edit` makes it, the readers would
            not take the value, or the secret cannot be decrypted.
    """
    fields = _read(deployment, secret)
    if field not in fields:
        raise SecretsError(
            f"{secret} has no field '{field}'.", f"There are: {', '.join(sorted(fields))}."
        )
    if "certificate" in fields:
        edit = deployment.command(f"secrets edit {secret}")
        raise SecretsError("A certificate and its key change together.", f"Run: {edit}")
    return _write(deployment, secret, fields, {field: value.rstrip("\r\n")})


def edit(deployment: Deployment, secret: str, ask: Ask) -> bool:
    """Have the operator change the fields of a secret; return whether one has changed.

    Raises:
        SecretsError: as of `set_field`, or the text is not divided into the fields any more.
    """
    fields = _read(deployment, secret)
    text = _text(secret, fields)
    before, after = _parse(text, fields), _parse(ask(text), fields)
    changed = {field: value for field, value in after.items() if value != before[field]}
    return _write(deployment, secret, fields, changed)


def in_editor(text: str) -> str:
    """Return what an editor makes of a text, in a private folder that is in memory.

    The folder is removed also when this process is told to end.

    Raises:
        SecretsError: no editor is named, it fails, or no folder is in memory.
    """
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not command:
        raise SecretsError("No editor is named.", "Set the variable VISUAL or EDITOR.")
    folder = memory_folder([os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"])  # noqa: S108
    with (
        _removed_when_ended(),
        tempfile.TemporaryDirectory(prefix="stackctl-edit-", dir=folder) as private,
    ):
        path = Path(private) / "secret.txt"
        write_private(path, text)
        if code := attach([*command, str(path)], what="the editor"):
            raise SecretsError(f"The editor ended with exit code {code}. {UNCHANGED}")
        return path.read_text(errors="replace")


def memory_folder(candidates: Collection[str]) -> Path:
    """Return the first folder that is in memory and in which this user may write.

    Raises:
        SecretsError: there is none.
    """
    for folder in map(Path, filter(None, candidates)):
        if os.access(folder, os.W_OK | os.X_OK) and _file_system(folder) in IN_MEMORY:
            return folder
    raise SecretsError(
        "No folder of this machine is in memory, and a disk would keep what an editor writes.",
        "Mount one at /dev/shm, or use: stackctl secrets set.",
    )


def _file_system(folder: Path) -> str:
    """Return the kind of file system that a folder is on; empty: the kernel does not tell."""
    mounts = Path("/proc/self/mounts")
    found = {}
    for line in mounts.read_text().splitlines() if mounts.exists() else []:
        _, point, kind, *_ = line.split()
        found[Path(point)] = kind  # the last one lies above the others
    real = folder.resolve()
    return next((found[each] for each in (real, *real.parents) if each in found), "")


@contextmanager
def _removed_when_ended() -> Iterator[None]:
    """Make a signal to end an exception, so that folders are removed. Ctrl-C is the editor's."""

    def end(*_: Any) -> NoReturn:
        raise Interrupted(UNCHANGED, "What was edited is removed.")

    wanted = dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT), end)
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(deployment: Deployment, secret: str) -> dict[str, str]:
    """Return the fields of a secret whose values a person may bring."""
    if secret in LASTING:
        raise SecretsError(*LASTING[secret])
    fields = SecretStore(deployment).read(secret)
    made = secret in {CLOUD_SSH, DEPLOYMENT_CA} or "certificate" in fields
    if made and secret != EDGE_TLS:
        rotate = deployment.command(f"secrets rotate {secret}")
        raise SecretsError(f"The secret {secret} is made, and not given.", f"Run: {rotate}")
    return fields


def _write(
    deployment: Deployment, secret: str, fields: dict[str, str], changed: dict[str, str]
) -> bool:
    """Encrypt a secret with other values, unless they are the same or do not fit."""
    values = fields | changed
    if values == fields:
        return False
    if found := [f"{field} {fault}" for field, fault in value_faults(deployment, secret, values)]:
        raise SecretsError(f"{secret}: {'; '.join(found)}.", UNCHANGED)
    store = SecretStore(deployment)
    recipients.usable(store)  # names the key to which nothing can be encrypted
    store.write(secret, values)
    return True


def _text(secret: str, fields: Mapping[str, str]) -> str:
    head = [
        f"# The secret {secret}. Below each [field] is its value; no line needs an indentation.",
        "# Save and leave the editor: the values are checked, and encrypted if one has changed.",
    ]
    body = [line for field, value in fields.items() for line in ("", f"[{field}]", value.strip())]
    return "\n".join([*head, *body, ""])


def _parse(text: str, fields: Collection[str]) -> dict[str, str]:
    """Return the values in a text that `_text` has made; errors name no content.

    Raises:
        SecretsError: a field is not there, or is there twice, or text belongs to no field.
    """
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()[1:-1] if line.strip().startswith("[") else ""
        if f"[{name}]" == line.strip() and name in fields:
            if name in found:
                raise SecretsError(f"Line {number}: [{name}] is there twice.", UNCHANGED)
            current = found[name] = []
        elif current is not None:
            current.append(line)
        elif line.strip() and not line.startswith("#"):
            raise SecretsError(f"Line {number} is below no [field].", UNCHANGED)
    if lost := [field for field in fields if field not in found]:
        raise SecretsError(f"There is no [{lost[0]}] any more.", UNCHANGED)
    values = {field: "\n".join(lines).strip() for field, lines in found.items()}
    # A key or a certificate ends with an end of line.
    return {field: f"{value}\n" if "\n" in value else value for field, value in values.items()}
