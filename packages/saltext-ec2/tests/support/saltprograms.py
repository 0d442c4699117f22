"""Runs Salt's programs in processes that are forked from one with Salt loaded, to save the import.

For the program nothing else differs: it is the main process, with a session, arguments and an
environment of its own.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.process
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["saltloaded"])


def _start_server() -> None:
    """Start the process with Salt loaded, unless it runs.

    Older versions of Python do not hand `sys.path` to it.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def run(
    program: str, arguments: Sequence[str], environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a program of Salt, and return its output and its exit code.

    Args:
        program: its name, such as `salt-cloud`.
        arguments: its arguments.
        environment: all of its environment.
        seconds: after which it is stopped, with all processes of its session.

    Raises:
        subprocess.TimeoutExpired: the program has not ended before.
    """
    command = [program, *arguments]
    _start_server()
    with tempfile.TemporaryDirectory() as folder:
        process = _CONTEXT.Process(target=_main, args=(command, dict(environment), folder))
        process.start()
        process.join(seconds)
        if process.is_alive():
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            raise subprocess.TimeoutExpired(command, seconds)
        output = [(Path(folder) / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(command, process.exitcode or 0, *output)


def _main(command: list[str], environment: dict[str, str], folder: str) -> None:
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    multiprocessing.set_start_method("fork", force=True)  # the default where salt-cloud runs
    # Programs see no parent that is a process of Python's.
    vars(multiprocessing.process)["_parent_process"] = None
    multiprocessing.current_process().name = "MainProcess"
    scripts = importlib.import_module("salt.scripts")
    getattr(scripts, command[0].replace("-", "_"))()
