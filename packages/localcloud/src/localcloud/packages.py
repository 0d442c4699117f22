"""Installs the Debian packages that the local cloud needs on the host."""

from __future__ import annotations

import os
import shutil
import subprocess

from localcloud.config import Report
from localcloud.errors import EngineUnavailable, PackagesFailed


def privileged(*command: str) -> list[str]:
    """Return the command with sudo in front, unless this user is root.

    Raises:
        EngineUnavailable: this user is not root and has no sudo.
    """
    if os.geteuid() == 0:
        return list(command)
    if shutil.which("sudo"):
        return ["sudo", *command]
    raise EngineUnavailable(
        f"`{' '.join(command)}` needs root, and there is no sudo. Run this as root."
    )


def install(packages: list[str], report: Report) -> None:
    """Install Debian packages without the packages that they recommend.

    Raises:
        PackagesFailed: there is no apt, or it failed; the text has the end of its output.
        EngineUnavailable: this user is not root and has no sudo.
    """
    if shutil.which("apt-get") is None:
        raise PackagesFailed(
            f"There is no apt-get here. Install {' and '.join(packages)} yourself, "
            "then run this again."
        )
    report(f"installing by apt: {' '.join(packages)}")
    for command in (
        ["apt-get", "update", "-qq"],
        [
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            *packages,
        ],
    ):
        done = subprocess.run(
            privileged(*command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PackagesFailed(
                f"`{' '.join(command)}` failed. The end of its output:\n{tail(done.stdout)}"
            )


def tail(text: str, lines: int = 15) -> str:
    """Return the last lines of a log, indented, for use in a message."""
    return "\n".join("  " + line for line in text.strip().splitlines()[-lines:])
