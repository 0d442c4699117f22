"""Refuses what the account's limits do not allow, with the codes and the words of EC2.

Error codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
Quotas: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html
Plans: https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/free-tier-plans.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES, InstanceType
from moto.ec2.models.instances import Instance
from moto.ec2.utils import generic_filter
from werkzeug.wrappers import Response

from localcloud.limits import Limits

QUOTA_CODE = "L-1216C47A"
QUOTA_NAME = "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"
STANDARD = re.compile(r"(?:a|c|d|h|i|im|is|m|r|t|z)\d")
"""The beginning of the types that count towards the quota; `inf1`, `dl1`, `trn1` have their own."""
LEGACY_FREE_TYPES = frozenset({"t2.micro"})
"""What DescribeInstanceTypes calls eligible in accounts from before the plans (July 2025)."""
STATUS = {"DryRunOperation": 412, "InsufficientInstanceCapacity": 500}
"""HTTP status of errors that have another than 400. botocore tries those above 499 again."""


@dataclass(frozen=True)
class Wanted:
    """Instances that are to run.

    Args:
        kind: their type.
        zone: where.
        count: how many.
        spot: they are Spot instances, which have a quota of their own.
    """

    kind: str
    zone: str
    count: int = 1
    spot: bool = False


class Account:
    """Refuses what the account's limits do not allow; the caller holds the lock of moto's state."""

    def __init__(self) -> None:
        self.limits = Limits()

    def check_offer(self, backend: EC2Backend, wanted: Wanted) -> None:
        """Raise EC2ClientError for a zone that does not have the type; DryRun says this too.

        https://github.com/awslabs/engineering-development-hub/issues/77
        """
        if wanted.kind not in self.limits.not_offered.get(wanted.zone, ()):
            return
        others = self._zones_with(backend, wanted, self.limits.not_offered)
        raise EC2ClientError(
            "Unsupported",
            f"Your requested instance type ({wanted.kind}) is not supported in your requested"
            f" Availability Zone ({wanted.zone}). Please retry your request by not specifying an"
            f" Availability Zone or choosing {', '.join(others)}.",
        )

    def check_launch(self, backend: EC2Backend, wanted: Wanted) -> None:
        """Raise EC2ClientError for a launch that the account's limits do not allow.

        DryRun says nothing of verification, quota and capacity, and nobody has seen it speak of the
        plan: https://github.com/aws/aws-parallelcluster/pull/1779
        """
        if self.limits.pending_verification:
            raise EC2ClientError(
                "PendingVerification",
                "Your request for accessing resources in this region is being validated, and you"
                " will not be able to launch additional resources in this region until the"
                " validation is complete. We will notify you by email once your request has been"
                " validated. While normally resolved within minutes, please allow up to 4 hours for"
                " this process to complete. If the issue still persists, please let us know by"
                " writing to aws-verification@amazon.com for further assistance.",
            )
        if self.limits.plan == "FREE" and not INSTANCE_TYPES[wanted.kind]["FreeTierEligible"]:
            raise EC2ClientError(
                "InvalidParameterCombination",
                "The specified instance type is not eligible for Free Tier. For a list of Free Tier"
                " instance types, run 'describe-instance-types' with the filter"
                " 'free-tier-eligible=true'.",
            )
        self.check_offer(backend, wanted)
        self.check_start(backend, [wanted])

    def check_start(self, backend: EC2Backend, wanted: Iterable[Wanted]) -> None:
        """Raise EC2ClientError for instances that the quota or the zones have no room for."""
        wanted = list(wanted)
        asked = sum(_vcpus(one.kind) * one.count for one in wanted if not one.spot)
        if asked and _used(backend) + asked > self.limits.vcpus:
            raise EC2ClientError(
                "VcpuLimitExceeded",
                "You have requested more vCPU capacity than your current vCPU limit of"
                f" {self.limits.vcpus} allows for the instance bucket that the specified instance"
                " type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to"
                " request an adjustment to this limit.",
            )
        for one in wanted:
            if one.kind in self.limits.exhausted.get(one.zone, ()):
                others = self._zones_with(backend, one, self.limits.exhausted)
                raise EC2ClientError(
                    "InsufficientInstanceCapacity",
                    f"We currently do not have sufficient {one.kind} capacity in the Availability"
                    f" Zone you requested ({one.zone}). Our system will be working on provisioning"
                    f" additional capacity. You can currently get {one.kind} capacity by not"
                    " specifying an Availability Zone in your request or choosing"
                    f" {', '.join(others)}.",
                )

    def _zones_with(
        self, backend: EC2Backend, wanted: Wanted, without: Mapping[str, tuple[str, ...]]
    ) -> list[str]:
        offers = INSTANCE_TYPE_OFFERINGS["availability-zone"][backend.region_name]
        zones = {offer["Location"] for offer in offers if offer["InstanceType"] == wanted.kind}
        return sorted(zone for zone in zones if wanted.kind not in without.get(zone, ()))

    # -- what can be asked

    def instance_types(self, found: Iterable[InstanceType], filters: Any) -> list[InstanceType]:
        """Return types with the mark `FreeTierEligible` that this account's plan gives them."""
        made = [InstanceType(kind["InstanceType"]) for kind in found]
        if not self.limits.plan:
            for kind in made:
                kind["FreeTierEligible"] = kind["InstanceType"] in LEGACY_FREE_TYPES
        return list(generic_filter(filters, made)) if filters else made

    def offers(self, offer: Mapping[str, Any]) -> bool:
        """Return whether an offering is one of this account's."""
        return offer["InstanceType"] not in self.limits.not_offered.get(offer["Location"], ())

    def quota(self, region: str) -> dict[str, Any]:
        """Return what GetServiceQuota says of the vCPUs."""
        return {
            "ServiceCode": "ec2",
            "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
            "QuotaArn": f"arn:aws:servicequotas:{region}::ec2/{QUOTA_CODE}",
            "QuotaCode": QUOTA_CODE,
            "QuotaName": QUOTA_NAME,
            "Value": float(self.limits.vcpus),
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }

    def plan_state(self, account_id: str) -> Response:
        """Answer GetAccountPlanState.

        https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_freetier_GetAccountPlanState.html
        """
        status, answer = 200, {"accountId": account_id, "accountPlanStatus": "ACTIVE"}
        if self.limits.plan:
            answer |= {"accountPlanType": self.limits.plan}
        else:
            text = "The account has no plan."
            status, answer = 400, {"__type": "ResourceNotFoundException", "message": text}
        return Response(
            json.dumps(answer), status=status, content_type="application/x-amz-json-1.0"
        )


def of_instance(instance: Instance) -> Wanted:
    """Return what it takes to run an instance."""
    return Wanted(
        str(instance.instance_type),
        str(instance.availability_zone),
        spot=instance.lifecycle == "spot",
    )


def _vcpus(kind: str) -> int:
    """Return what an instance of a type takes of the quota."""
    return int(INSTANCE_TYPES[kind]["VCpuInfo"]["DefaultVCpus"]) if STANDARD.match(kind) else 0


def _used(backend: EC2Backend) -> int:
    """Return the vCPUs of the On-Demand instances that are pending or running."""
    return sum(
        _vcpus(instance.instance_type)
        for reservation in backend.reservations.values()
        for instance in reservation.instances
        if instance.state in ("pending", "running") and instance.lifecycle != "spot"
    )
