"""`stackctl plan`: what `up` would create, change and leave in an account, and what that costs.

EC2 weighs the permissions of a call with DryRun as those of the call itself. IAM has no such way.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

from stackctl import cost, credentials, inventory, limits, profiles, refusals, salt, up
from stackctl.account import enter
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError
from stackctl.machines import ec2_client
from stackctl.run import Log

ALLOWED = "DryRunOperation"
TRIED: Mapping[str, Mapping[str, Any]] = {
    "create_vpc": {"CidrBlock": "10.20.0.0/16"},
    "create_internet_gateway": {},
    "allocate_address": {"Domain": "vpc"},
}
"""The calls of a first `up` that name nothing which has to exist before."""


def plan(deployment: Deployment, log: Log) -> Iterator[str]:
    """Yield what `up` would do, a line each; changes nothing.

    Raises:
        PreflightError: `up` would be refused, and by what.
        ConvergeError: the foundation cannot be compared with the account.
    """
    if deployment.is_local:
        yield from up.plan(deployment)
        yield from _costs(deployment)
        return
    up.check_host(deployment)
    yield f"deployment {deployment.name} in the account {deployment.settings()['aws_account']}"
    with enter(deployment):
        client = ec2_client(deployment)
        machines = inventory.own(client, deployment.owner(), "instance")
        if not inventory.own(client, deployment.owner(), "vpc"):
            _try_permissions(client)
            yield "permissions: the calls that can be tried are allowed"
        foundation = salt.apply_locally(deployment, log, "aws", test=True)
        yield f"foundation: {', '.join(foundation.changed) or 'as it has to be'}"
        existing = [machine.name for machine in machines]
        now = deployment.with_existing(existing, {})
        for warning in limits.check(now, client):
            yield f"warning: {warning}"
    wanted = now.machines()
    kinds = profiles.instance_types(now, wanted)
    for name in wanted:
        if name not in existing:
            yield f"create {name} ({kinds[name]})"
    for machine in machines:
        kind = machine.facts["InstanceType"]
        if machine.name not in wanted:
            yield (
                f"leave {machine.name}: the map does not name it. Who removes such machines:"
                f" {deployment.command('up')} --map {deployment.map_name}"
            )
        elif kind != kinds[machine.name]:
            yield (
                f"leave {machine.name}: it is a {kind}, and its profile names {kinds[machine.name]}"
                " (docs/runbooks.md: Replace a machine)"
            )
    yield "destroy nothing"
    if ends := credentials.warning():
        yield f"warning: {ends}"
    yield from _costs(deployment)


def _costs(deployment: Deployment) -> Iterator[str]:
    least = cost.estimate(deployment, cost.machine_counts(deployment))
    budget = deployment.settings().get("budget") if deployment.has_settings else None
    within = f"; settings:budget is {budget}" if budget else ""
    yield f"cost: {least.total} USD a month in AWS at most, see stackctl cost{within}"


def _try_permissions(client: Any) -> None:
    """Raise PreflightError for a call of `TRIED` that the caller's policies do not allow."""
    for operation, arguments in TRIED.items():
        try:
            getattr(client, operation)(DryRun=True, **arguments)
        except ClientError as error:
            code = inventory.code_of(error)
            if code == ALLOWED:
                continue
            if code in refusals.DENIED:
                raise PreflightError(
                    f"Your credentials do not allow {operation}.",
                    "docs/security.md says what they need.",
                ) from None
            raise
