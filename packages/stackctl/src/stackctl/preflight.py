"""Checks that run before the first step, so that nothing has been changed when one fails."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from stackctl import credentials, refusals
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError

GIB = 1024**3
MACHINE_GIB = 1  # of memory
NEEDED_DISK_GIB = 6
MIRRORS = ("deb.debian.org", "pypi.org")
PROGRAMS = {"git": "git", "ssh": "openssh-client", "gpg": "gnupg", "tar": "tar"}


def available_memory() -> int:
    """Return the bytes of memory that programs can still take: MemAvailable of /proc/meminfo."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise PreflightError("/proc/meminfo has no MemAvailable.", "This needs Linux 3.14 or later.")


def check_memory(available: int, machines: int) -> None:
    """Raise PreflightError when fewer bytes are available than so many machines may use."""
    needed = machines * MACHINE_GIB
    if available < needed * GIB:
        raise PreflightError(
            f"{available / GIB:.1f} GiB of memory are free; {machines} machines need {needed} GiB.",
            "Close something large, use a larger host, or a smaller map (cloud.maps.d).",
        )


def check_disk(folder: Path) -> None:
    """Raise PreflightError when the file system of `folder` is nearly full."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < NEEDED_DISK_GIB * GIB:
        raise PreflightError(
            f"{free / GIB:.1f} GiB are free on the disk of {folder};"
            f" {NEEDED_DISK_GIB} GiB are needed.",
            "Make room there.",
        )


def check_port(host: str, port: int, variable: str) -> None:
    """Raise PreflightError when another program listens on the port.

    Args:
        host: the address.
        port: the port.
        variable: the environment variable with which the operator chooses another port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PreflightError(
                    f"Port {port} of {host} is taken by another program.",
                    f"See which with `ss -ltnp 'sport = :{port}'`,"
                    f" or choose another: {variable}={port + 1} make up",
                ) from None
            raise PreflightError(
                f"Port {port} of {host} cannot be used: {error.strerror}."
            ) from None


def check_docker(reachable: Callable[[], bool]) -> None:
    """Raise PreflightError when there is no Docker engine and this user may not install one."""
    if not reachable() and os.geteuid() != 0:
        raise PreflightError(
            "There is no Docker engine that this user may use, and installing one needs root.",
            "Run as root (sudo make up), or install docker.io and join the group docker.",
        )


def missing_packages() -> list[str]:
    """Return the Debian packages of the programs that are needed and not here."""
    return sorted(package for program, package in PROGRAMS.items() if not shutil.which(program))


def check_programs() -> None:
    """Raise PreflightError when a program is missing that cannot be installed here."""
    missing = missing_packages()
    if missing and (os.geteuid() != 0 or not shutil.which("apt-get")):
        raise PreflightError(
            f"These packages are missing: {', '.join(missing)}.",
            f"Install them: {' '.join(missing)}",
        )


def check_account(deployment: Deployment) -> None:
    """Raise PreflightError unless the credentials belong to the AWS account of the settings.

    All deployments have the same names and tags: without this check, another account's machines
    would count as this deployment's.
    """
    wanted = deployment.settings().get("aws_account")
    path = deployment.settings_path.relative_to(deployment.root)
    if not isinstance(wanted, str):
        belongs = _account_of_credentials(deployment)
        raise PreflightError(
            f"{path} names no aws_account in quotes; the credentials in use belong to {belongs}.",
            f"If {deployment.name} belongs there, add below settings: aws_account: '{belongs}'",
        )
    check_credentials(deployment, wanted, str(path))


def check_credentials(deployment: Deployment, account: str, source: str) -> None:
    """Raise PreflightError unless the credentials belong to an AWS account.

    Args:
        deployment: that lives there.
        account: its number.
        source: who says so.
    """
    belongs = _account_of_credentials(deployment)
    if account != belongs:
        raise PreflightError(
            f"The credentials in use belong to the AWS account {belongs},"
            f" and {deployment.name} lives in {account} ({source}).",
            "Use that account's credentials; aws sts get-caller-identity shows whose they are.",
        )


def _account_of_credentials(deployment: Deployment) -> str:
    credentials.check_endpoints(deployment)
    region = deployment.region()
    try:
        identity = boto3.client("sts", region_name=region).get_caller_identity()
    except NoCredentialsError:
        raise PreflightError(
            "There are no AWS credentials.",
            "aws sts get-caller-identity must answer first: set AWS_PROFILE, or AWS_ACCESS_KEY_ID"
            " and AWS_SECRET_ACCESS_KEY.",
        ) from None
    except (BotoCoreError, ClientError) as error:
        known = refusals.as_error(error, region)
        raise PreflightError(known.what, known.hint) from error
    return identity["Account"]


def check_network(hosts: tuple[str, ...] = MIRRORS) -> None:
    """Raise PreflightError when a package mirror, or the proxy if there is one, is unreachable."""
    proxy = urlsplit(os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY") or "")
    targets = (
        [(proxy.hostname, proxy.port or 3128)]
        if proxy.hostname
        else [(host, 443) for host in hosts]
    )
    for host, port in targets:
        try:
            with socket.create_connection((host, port), timeout=10):
                pass
        except OSError as error:
            raise PreflightError(
                f"{host} cannot be reached: {error}.",
                "Packages come from there: check the network, DNS and proxy.",
            ) from None
