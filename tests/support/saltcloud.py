"""Runs salt-cloud in a process that is forked from one with Salt loaded, to save the import."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["salt.scripts", "salt.cloud.cli", "salt.minion", "saltext.ec2.clouds.ec2"]
)


def salt_cloud(
    args: Sequence[str], environment: Mapping[str, str], seconds: float = 500
) -> subprocess.CompletedProcess[str]:
    """Run salt-cloud, and return its output and its exit code.

    Raises:
        subprocess.TimeoutExpired: salt-cloud has not ended before the deadline.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = _CONTEXT.Process(target=_main, args=(list(args), dict(environment), folder))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(args), seconds)
        output = [(Path(folder) / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(args, process.exitcode or 0, *output)


def _main(args: list[str], environment: dict[str, str], folder: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["salt-cloud", *args]
    multiprocessing.set_start_method("fork", force=True)  # the default where salt-cloud runs
    from salt.scripts import salt_cloud as program

    program()
