"""After a failure, says which instances run: AWS bills each of them, ready or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from stackctl import refusals
from stackctl.deployment import Deployment
from stackctl.errors import AwsError, BusyError, LaunchError, StackError
from stackctl.machines import find_machines

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

BILLED = ("pending", "running")


@contextmanager
def told(deployment: Deployment, client: EC2Client) -> Iterator[None]:
    """Add to an error of the block which instances run, if a launch failed or is not complete.

    Raises:
        StackError: the block's own, or an error of boto3 as `AwsError`.
    """
    try:
        yield
    except BusyError:
        raise  # this run has launched nothing
    except (StackError, BotoCoreError, ClientError) as error:
        known = refusals.as_error(error, client.meta.region_name)
        failed = isinstance(known, (AwsError, LaunchError))
        known.hint = " ".join(
            part for part in (known.hint, _sentence(deployment, client, failed=failed)) if part
        )
        if known is error:
            raise
        raise known from error


def _sentence(deployment: Deployment, client: EC2Client, *, failed: bool) -> str:
    """Return which instances run; empty: all do, and no launch failed."""
    try:
        machines = find_machines(client, deployment)
    except (BotoCoreError, ClientError) as error:
        return f"EC2 does not say which instances run and are billed: {str(error).rstrip('.')}."
    names = [machine.name for machine in machines if machine.state in BILLED]
    if not failed and set(names) >= set(deployment.machines()):
        return ""
    if not names:
        return "No instance runs."
    one = len(names) == 1
    subject = "1 instance runs" if one else f"{len(names)} instances run"
    billed = "" if deployment.is_local else f" and {'is' if one else 'are'} billed"
    return (
        f"{subject}{billed}: {', '.join(names)}; {deployment.command('down')} removes"
        f" {'it' if one else 'them'}, {deployment.command('up')} goes on."
    )
