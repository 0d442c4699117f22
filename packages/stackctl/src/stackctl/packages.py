"""Debian packages of the programs that stackctl runs on this host."""

from __future__ import annotations

from collections.abc import Sequence

from stackctl.run import Log, run


def install(names: Sequence[str], log: Log) -> None:
    """Install Debian packages, as root, without what they merely recommend.

    Raises:
        CommandError: apt failed.
    """
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    what = f"installing {' '.join(names)}"
    run(["apt-get", "update", "-qq"], log=log, what=what)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names]
    run(command, log=log, what=what, environment=quiet)
