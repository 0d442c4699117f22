"""The account in which a deployment's machines are: Amazon's, or the local cloud on this host.

The deployment `local` has `stackctl.local_cloud.LocalCloud`; only that module imports `localcloud`,
and only `open_local` imports that module. Every other deployment has `AwsAccount`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stackctl import operators, preflight
from stackctl.deployment import Deployment
from stackctl.errors import LocalCloudFailed
from stackctl.progress import Progress

if TYPE_CHECKING:
    from stackctl.local_cloud import LocalCloud


class Account(Protocol):
    """What `up` and the other verbs need of an account."""

    def check(self) -> None:
        """Raise PreflightError for anything that would stop `up` later; changes nothing."""

    def runs(self) -> bool:
        """Return whether its API can be asked."""

    def pending(self) -> list[str]:
        """Return the steps that `start` would take, as sentences; changes nothing."""

    def start(self, progress: Progress) -> Mapping[str, str]:
        """Start what is missing, and return the environment that leads boto3 to the account."""

    def environment(self) -> Mapping[str, str]:
        """Return that environment of an account that runs; raise StackError."""

    def settings(self) -> Mapping[str, object]:
        """Return what the deployment's settings have to say about an account that runs."""

    def master_files(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """Return the files below ~/.aws that lead the master to the account: name -> text."""


# boto3 asks the instance metadata service for its role once, for one second, and then has no
# credentials. A machine without CPU credits, or a service that answers late, needs longer.
METADATA_CONFIG = {"metadata_service_timeout": 10, "metadata_service_num_attempts": 3}


def aws_config(settings: Mapping[str, object]) -> str:
    """Return the file ~/.aws/config of the Salt master, with these settings."""
    lines = [f"{key} = {value}\n" for key, value in {**settings, **METADATA_CONFIG}.items()]
    return "".join(["[default]\n", *lines])


@dataclass(frozen=True)
class AwsAccount:
    """An account at Amazon: boto3 finds its credentials, and the master has an instance role."""

    deployment: Deployment

    def check(self) -> None:
        """See `Account`."""
        operators.check(self.deployment)
        preflight.check_account(self.deployment)

    def runs(self) -> bool:
        """See `Account`."""
        return True

    def pending(self) -> list[str]:
        """See `Account`."""
        return []

    def start(self, progress: Progress) -> Mapping[str, str]:  # noqa: ARG002 - there is no step
        """See `Account`; `check` has compared the credentials with the settings."""
        return {}

    def environment(self) -> Mapping[str, str]:
        """Return nothing, unless the credentials are another account's: then raise."""
        preflight.check_account(self.deployment)
        return {}

    def settings(self) -> Mapping[str, object]:
        """See `Account`; everything is where Amazon has it."""
        return {}

    def master_files(self, environment: Mapping[str, str]) -> Mapping[str, str]:  # noqa: ARG002
        """See `Account`."""
        return {"config": aws_config({"region": self.deployment.region()})}


def open_account(deployment: Deployment) -> Account:
    """Return the deployment's account."""
    return open_local(deployment) if deployment.is_local else AwsAccount(deployment)


def open_local(deployment: Deployment) -> LocalCloud:
    """Return the local cloud of the deployment `local`.

    Raises:
        LocalCloudFailed: it is not installed.
    """
    try:
        from stackctl.local_cloud import LocalCloud  # noqa: PLC0415 - real accounts need none of it
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "localcloud":
            raise
        raise LocalCloudFailed(
            "The deployment 'local' needs the Python package localcloud, which is not installed.",
            "Install it with stackctl: pip install 'stackctl[local]'",
        ) from None
    return LocalCloud(deployment)


@contextmanager
def enter(deployment: Deployment) -> Iterator[None]:
    """Have boto3 use the deployment's account, and no other.

    Raises:
        NotUpError: the local cloud does not run.
        PreflightError: the credentials are another account's.
    """
    with aws_environment(open_account(deployment).environment()):
        yield


# What would lead calls elsewhere, or go with other credentials, beside the variables of an account.
LEFT_OVER = (
    "AWS_CREDENTIAL_EXPIRATION", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_PROFILE",
    "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN",
)  # fmt: skip
SERVICE_ENDPOINT = "AWS_ENDPOINT_URL_"


@contextlib.contextmanager
def aws_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for boto3 and for every command that runs meanwhile.

    Where there are any, those that would take precedence or do not fit to them are unset.
    """
    endpoints = [name for name in os.environ if name.startswith(SERVICE_ENDPOINT)]
    others = [*LEFT_OVER, *endpoints] if variables else []
    before = {name: os.environ.get(name) for name in (*variables, *others)}
    for name in others:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
