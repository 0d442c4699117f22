"""What the account would refuse, asked before anything is created or launched.

Quota: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html
Plans: https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/free-tier-plans.html

AWS does not tell beforehand whether it still verifies the account and whether a zone has room:
`refusals` explains those when a launch fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stackctl import profiles, refusals
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError
from stackctl.machines import find_machines

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

ALIVE = ("pending", "running")
STANDARD = re.compile(r"(?:a|c|d|h|i|im|is|m|r|t|z)\d")  # types that count towards the quota
# These services only help; a network that lets no one reach them must not stop the run for long.
PATIENCE = Config(connect_timeout=10, read_timeout=10, retries={"total_max_attempts": 2})


@dataclass(frozen=True)
class Demand:
    """What the account has to allow.

    Attributes:
        client: the EC2 API.
        kinds: machine -> instance type, for the machines that do not run yet.
        facts: instance type -> what EC2 says of it.
        zones: the zones of the map.
    """

    client: EC2Client
    kinds: Mapping[str, str]
    facts: Mapping[str, Mapping[str, Any]]
    zones: tuple[str, ...]

    @property
    def region(self) -> str:
        """Where the machines are to run."""
        return self.client.meta.region_name

    @property
    def names(self) -> str:
        """The machines, for a sentence."""
        return ", ".join(self.kinds)

    def vcpus(self) -> int:
        """Return what the machines take of the quota."""
        return sum(_vcpus(self.facts[kind]) for kind in self.kinds.values())


def check(deployment: Deployment, client: EC2Client) -> list[str]:
    """Ask the account whether it allows the machines of the map that do not run.

    Args:
        deployment: with the numbers of machines that it has now.
        client: the EC2 API.

    Returns:
        Sentences about what could not be asked.

    Raises:
        PreflightError: a zone does not have an instance type, the account's plan does not allow it,
            or the quota is too small.
    """
    machines = find_machines(client, deployment)
    running = {machine.name for machine in machines if machine.state in ALIVE}
    names = [name for name in deployment.machines() if name not in running]
    if not names:
        return []
    kinds = profiles.instance_types(deployment, names)
    facts = _describe(client, sorted(set(kinds.values())))
    demand = Demand(client, kinds, facts, deployment.zones())
    found = (_check_zones(demand, deployment.master()), _check_plan(demand), _check_quota(demand))
    return [warning for warning in found if warning]


def _describe(client: EC2Client, kinds: list[str]) -> dict[str, Mapping[str, Any]]:
    """Return instance type -> what EC2 says of it; raise PreflightError for an unknown one."""
    region = client.meta.region_name
    asked: Any = kinds
    try:
        found = client.describe_instance_types(InstanceTypes=asked)["InstanceTypes"]
    except ClientError as error:
        if error.response["Error"].get("Code") != "InvalidInstanceType":
            raise
        raise PreflightError(
            f"EC2 has no instances of these types in {region}: {', '.join(kinds)}.",
            "Set another size in cloud.profiles.d/machines.conf.",
        ) from None
    return {str(fact["InstanceType"]): fact for fact in found}


def _check_zones(demand: Demand, master: str) -> str:
    """Raise PreflightError for a type that the machines' zones do not have; return a warning.

    The driver launches a machine in the next zone when one does not have its type. The Salt
    master's address is in the first zone.
    """
    pages = demand.client.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": sorted(demand.facts)}],
    )
    offers = {
        (str(offer["InstanceType"]), str(offer["Location"]))
        for page in pages
        for offer in page["InstanceTypeOfferings"]
    }
    warnings = []
    for kind in demand.facts:
        without = [zone for zone in demand.zones if (kind, zone) not in offers]
        everywhere = len(without) == len(demand.zones)
        homeless = [
            name
            for name, own in demand.kinds.items()
            if own == kind and (everywhere or (name == master and demand.zones[0] in without))
        ]
        if homeless:
            having = sorted(place for other, place in offers if other == kind)
            named = without if everywhere else without[:1]
            zones = f"zone {named[0]} has" if len(named) == 1 else f"zones {', '.join(named)} have"
            raise PreflightError(
                f"The {zones} no instances of type {kind} for this account"
                f" ({', '.join(homeless)} would be there).",
                f"These have them: {', '.join(having) or 'none'}. Set them as zones of the subnets"
                " in pillar/base/aws.sls, or another size in cloud.profiles.d/machines.conf.",
            )
        if without:
            warnings.append(
                f"no {kind} for this account in {', '.join(without)}: machines go to other zones"
            )
    return "; ".join(warnings)


def _check_plan(demand: Demand) -> str:
    """Raise PreflightError for a type that the account's plan does not have; return a warning."""
    refused = [kind for kind, fact in demand.facts.items() if not fact.get("FreeTierEligible")]
    if not refused:
        return ""
    plan, problem = _plan(demand.region)
    if problem:
        return (
            f"it is unknown whether the account is on AWS's Free plan, which has no"
            f" {', '.join(refused)} ({problem})"
        )
    if plan != "FREE":
        return ""
    raise PreflightError(
        f"The account is on AWS's Free plan, which has no instances of type {', '.join(refused)}"
        f" ({demand.names}).",
        f"Upgrade the plan: {refusals.UPGRADE}. Or set a type that it has ({refusals.ELIGIBLE}) as"
        " size in cloud.profiles.d/machines.conf and in aws:instance_types of"
        " pillar/base/aws.sls.",
    )


def _plan(region: str) -> tuple[str, str]:
    """Return the account's plan, and why it cannot be asked.

    An account from before the plans has none.
    """
    client: Any = boto3.client(
        "freetier",  # botocore finds its only region by itself
        region_name=region,
        config=PATIENCE,
    )
    try:
        return str(client.get_account_plan_state().get("accountPlanType", "")), ""
    except ClientError as error:
        code = str(error.response["Error"].get("Code"))
        if code == "ResourceNotFoundException":
            return "", ""
        if code in refusals.ENDED:
            raise
        return "", _problem("freetier:GetAccountPlanState", code)
    except BotoCoreError as error:
        return "", str(error).rstrip(".")


def _check_quota(demand: Demand) -> str:
    """Raise PreflightError for a quota that is too small; return a warning."""
    needed = demand.vcpus()
    if not needed:
        return ""
    client: Any = boto3.client("service-quotas", region_name=demand.region, config=PATIENCE)
    try:
        quota = client.get_service_quota(ServiceCode="ec2", QuotaCode=refusals.QUOTA_CODE)
    except ClientError as error:
        code = str(error.response["Error"].get("Code"))
        if code in refusals.ENDED:
            raise
        return f"the quota of vCPUs is unknown ({_problem('servicequotas:GetServiceQuota', code)})"
    except BotoCoreError as error:
        return f"the quota of vCPUs is unknown ({str(error).rstrip('.')})"
    allowed = int(quota["Quota"]["Value"])
    used = _used(demand.client)
    if used + needed <= allowed:
        return ""
    raise PreflightError(
        f"The account may run {allowed} vCPUs of On-Demand Standard instances in {demand.region},"
        f" {used} run, and {demand.names} need {needed}.",
        f"Ask for at least {used + needed} at {refusals.quota_page(demand.region)}."
        f"{' Or end other instances.' if used else ''}",
    )


def _used(client: EC2Client) -> int:
    """Return the vCPUs of all instances in the region that count towards the quota."""
    kinds = list(_running_kinds(client))
    facts = _describe(client, sorted(set(kinds))) if kinds else {}
    return sum(_vcpus(facts[kind]) for kind in kinds)


def _running_kinds(client: EC2Client) -> Iterator[str]:
    """Yield the type of each On-Demand instance that runs; Spot and hosts have other quotas."""
    pages = client.get_paginator("describe_instances").paginate(
        Filters=[{"Name": "instance-state-name", "Values": list(ALIVE)}]
    )
    for page in pages:
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                host = instance.get("Placement", {}).get("Tenancy") == "host"
                if not instance.get("InstanceLifecycle") and not host:
                    yield str(instance["InstanceType"])


def _vcpus(fact: Mapping[str, Any]) -> int:
    counts = STANDARD.match(str(fact["InstanceType"]))
    return int(fact["VCpuInfo"]["DefaultVCpus"]) if counts else 0


def _problem(action: str, code: str) -> str:
    return f"{action} is denied" if code in refusals.DENIED else f"{action}: {code}"
