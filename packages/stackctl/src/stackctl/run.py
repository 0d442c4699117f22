"""Run commands, keep their whole output in the log, and tell truthfully how they ended."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stackctl.errors import CommandError


class Log:
    """The file that holds everything a run of the operator command printed or caused to be printed."""

    def __init__(self, folder: Path, verb: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{verb}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.log"
        self.path.touch(mode=0o600)
        latest = folder / f"{verb}.log"
        latest.unlink(missing_ok=True)
        latest.symlink_to(self.path.name)

    def remove(self) -> None:
        """Leave nothing of it, nor of an earlier run of the verb."""
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def write(self, text: str) -> None:
        """Append a line, or several."""
        with self.path.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {text.rstrip()}\n")


def run(
    command: Sequence[str],
    *,
    log: Log,
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
        log: where the command and what it prints are kept.
        what: the step in words, for the error ("installing Salt on salt-1").
        stdin: what the command reads; not logged.
        environment: added to this process's environment.
        accept: the exit codes that mean success.
        timeout: seconds until it is killed.
        quiet: keep the output out of the log, because it is secret or large.

    Raises:
        CommandError: another exit code, no such program, or too slow.
    """
    log.write(f"$ {shlex.join(command)}")
    data = stdin.encode() if isinstance(stdin, str) else stdin
    # Without input of its own a command must not eat the operator's.
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
        raise CommandError(
            f"{what}: there is no program '{command[0]}' here.", "Install it.", log.path
        ) from None
    except subprocess.TimeoutExpired as expired:
        log.write(("" if quiet else _text(expired.stdout)) + _text(expired.stderr))
        raise CommandError(
            f"{what} took longer than {timeout:.0f} s.", "Run the same command again.", log.path
        ) from None
    output, errors = _text(done.stdout), _text(done.stderr)
    if not quiet and output:
        log.write(output)
    if errors:
        log.write(errors)
    log.write(f"exit code {done.returncode}")
    if done.returncode not in accept:
        told = errors or ("" if quiet else output)
        last = next((line for line in reversed(told.splitlines()) if line.strip()), "no output")
        raise CommandError(f"{what} failed: {last.strip()}", log=log.path, code=done.returncode)
    return output


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
