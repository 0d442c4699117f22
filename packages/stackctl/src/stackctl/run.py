"""The one way in which stackctl runs external programs, and the log that keeps their output."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stackctl.errors import CommandError, MissingProgram

_NOISE = re.compile(
    # The indented lines are source code.
    r"^\s|\w*Warning: |^warnings\.warn\(|\bunclosed\b|^Exception ignored in|^Enable tracemalloc"
    r"|Task was destroyed but it is pending|exception was never retrieved|Event loop is closed"
    r"|^\[(WARNING|INFO|DEBUG) *\]|^task: <Task|^future: <",
    re.IGNORECASE,
)


class Log:
    """The file that keeps the commands of one run of stackctl, with their output."""

    def __init__(self, folder: Path, verb: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{verb}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.log"
        self.path.touch(mode=0o600)
        latest = folder / f"{verb}.log"
        latest.unlink(missing_ok=True)
        latest.symlink_to(self.path.name)

    def remove(self) -> None:
        """Remove the log and those of earlier runs of the verb."""
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def write(self, text: str) -> None:
        """Append a line, or several."""
        with self.path.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {text.rstrip()}\n")


def run(
    command: Sequence[str],
    *,
    log: Log | None,
    what: str,
    stdin: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    accept: Sequence[int] = (0,),
    timeout: float = 900,
    quiet: bool = False,
) -> str:
    """Run a command and return its standard output.

    Args:
        command: program and arguments; none of them may be secret, since they are logged.
        log: where the command and its output are kept; None: nowhere.
        what: what the command does, for the error ("installing Salt on salt-1").
        stdin: what the command reads; not logged.
        environment: added to this process's environment.
        accept: the exit codes that mean success.
        timeout: seconds until it is killed.
        quiet: keep the output out of the log and of errors, because it is secret or large.

    Raises:
        MissingProgram: there is no such program.
        CommandError: another exit code, or too slow.
    """
    return _text(
        run_bytes(
            command,
            log=log,
            what=what,
            stdin=stdin,
            environment=environment,
            accept=accept,
            timeout=timeout,
            quiet=quiet,
        )
    )


def run_bytes(
    command: Sequence[str],
    *,
    log: Log | None,
    what: str,
    stdin: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    accept: Sequence[int] = (0,),
    timeout: float = 900,
    quiet: bool = True,
) -> bytes:
    """Run a command whose standard output is no text, such as an archive; see `run`."""
    write = log.write if log else _ignore
    path = log.path if log else None
    write(f"$ {shlex.join(command)}")
    data = stdin.encode() if isinstance(stdin, str) else stdin
    # A command without input of its own must not read the operator's.
    source: dict[str, Any] = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(
            list(command),
            **source,
            capture_output=True,
            check=False,
            timeout=timeout,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError:
        raise _missing(command, what, path) from None
    except subprocess.TimeoutExpired as expired:
        write(("" if quiet else _text(expired.stdout)) + _text(expired.stderr))
        raise CommandError(
            f"{what} took longer than {timeout:.0f} s.", "Run the same command again.", path
        ) from None
    stdout: bytes = done.stdout
    output, errors = "" if quiet else _text(stdout), _text(done.stderr)
    for text in (output, errors):
        if text:
            write(text)
    write(f"exit code {done.returncode}")
    if done.returncode not in accept:
        reason = last_reason(errors) or last_reason(output) or "no output"
        message = f"{what} failed: {reason}"
        raise CommandError(message, log=path, code=done.returncode, errors=errors)
    return stdout


def last_reason(text: str) -> str:
    """Return the last line that may be the reason of a failure; empty: there is none.

    Salt's programs end with warnings of Python about what they have not closed, whatever happened.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    reasons = [line for line in lines if not _NOISE.search(line)]
    return (reasons or lines or [""])[-1].strip()


def attach(command: Sequence[str], *, what: str) -> int:
    """Run a command with this terminal's input and output, and return its exit code.

    Nothing is logged: what an operator types may be secret.

    Raises:
        MissingProgram: there is no such program.
    """
    try:
        return subprocess.call(list(command))
    except FileNotFoundError:
        raise _missing(command, what) from None


def _missing(command: Sequence[str], what: str, log: Path | None = None) -> MissingProgram:
    return MissingProgram(f"{what}: there is no program '{command[0]}' here.", "Install it.", log)


def _ignore(_: str) -> None:
    pass


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
