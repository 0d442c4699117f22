"""The regions of an account, and the availability zones and instance types of a region."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from saltext.ec2._client import Connection
from saltext.ec2.errors import api_errors


def usable(connection: Connection, allowed: Collection[str] | None) -> dict[str, dict[str, Any]]:
    """Return the regions that an account may use.

    Args:
        connection: the account.
        allowed: only these; None: all.

    Raises:
        ApiError: EC2 did not answer.
    """
    with api_errors("listing the regions"):
        regions = connection.ec2.describe_regions()["Regions"]
    return {
        region["RegionName"]: {"name": region["RegionName"], "endpoint": region.get("Endpoint")}
        for region in regions
        if allowed is None or region["RegionName"] in allowed
    }


def zones(connection: Connection) -> dict[str, str]:
    """Return the availability zones of the region, and their states.

    Raises:
        ApiError: EC2 did not answer.
    """
    with api_errors("listing the availability zones"):
        answer = connection.ec2.describe_availability_zones()
    return {zone["ZoneName"]: zone["State"] for zone in answer["AvailabilityZones"]}


def instance_types(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return the instance types that the region offers, in order of their names.

    Raises:
        ApiError: EC2 did not answer.
    """
    with api_errors("listing the instance types"):
        pages = connection.ec2.get_paginator("describe_instance_types").paginate()
        types = [each for page in pages for each in page["InstanceTypes"]]
    return {
        each["InstanceType"]: {
            "id": each["InstanceType"],
            "cores": each.get("VCpuInfo", {}).get("DefaultVCpus"),
            "ram_mib": each.get("MemoryInfo", {}).get("SizeInMiB"),
            "architectures": each.get("ProcessorInfo", {}).get("SupportedArchitectures", []),
            "network": each.get("NetworkInfo", {}).get("NetworkPerformance"),
            "burstable": each.get("BurstablePerformanceSupported", False),
        }
        for each in sorted(types, key=lambda each: each["InstanceType"])
    }
