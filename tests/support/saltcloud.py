"""salt-cloud in a process of its own that need not load Salt first: it is forked from one that has."""

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
    arguments: Sequence[str], environment: Mapping[str, str], seconds: float = 500
) -> subprocess.CompletedProcess[str]:
    """Run salt-cloud, and return what it said and its exit code.

    Raises:
        subprocess.TimeoutExpired: it did not end in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = _CONTEXT.Process(target=_main, args=(list(arguments), dict(environment), folder))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), seconds)
        said = [(Path(folder) / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(arguments, process.exitcode or 0, *said)


def _main(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["salt-cloud", *arguments]
    multiprocessing.set_start_method(
        "fork", force=True
    )  # as in a salt-cloud that no server of forks has made
    from salt.scripts import salt_cloud as program

    program()
