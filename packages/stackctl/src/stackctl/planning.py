"""`stackctl plan`: what `up` would create, change and leave in an account, and what that costs.

`permissions` says which of them AWS tells beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator

from stackctl import cost, credentials, inventory, limits, permissions, profiles, salt, up
from stackctl.account import enter
from stackctl.deployment import Deployment
from stackctl.machines import ec2_client
from stackctl.run import Log


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
            permissions.try_ec2(client)
            yield "permissions: the calls of EC2 that can be tried are allowed"
        yield f"permissions: {permissions.simulated(deployment)}"
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
