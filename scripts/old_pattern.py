"""A salt-cloud driver that makes the same calls as the one of Salt 3007, for the benchmark only.

It contains no code of the old driver, and none of its pauses, so that it is faster. It deploys
with Salt's core, as the old driver did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import salt.config

if TYPE_CHECKING:
    # Salt's loader puts these into the module.
    __opts__: dict[str, Any]
    __utils__: dict[str, Any]

__virtualname__ = "old_pattern"


def __virtual__() -> str:  # noqa: N807
    return __virtualname__


def get_configured_provider() -> Any:
    """Return the provider's options."""
    return salt.config.is_provider_configured(
        __opts__, __virtualname__, ("driver",), log_message=False
    )


def list_nodes(call: str | None = None) -> dict[str, dict[str, Any]]:  # noqa: ARG001
    """Return the machines that run."""
    groups = boto3.client("ec2", region_name="eu-west-1").describe_instances()["Reservations"]
    nodes = [instance for group in groups for instance in group["Instances"]]
    return {
        next(
            (tag["Value"] for tag in node.get("Tags", []) if tag["Key"] == "Name"),
            node["InstanceId"],
        ): {
            "id": node["InstanceId"],
            "state": node["State"]["Name"],
        }
        for node in nodes
        if node["State"]["Name"] != "terminated"
    }


def create(vm_: dict[str, Any]) -> dict[str, Any]:
    """Launch a machine with ten calls."""
    ec2: Any = boto3.client("ec2", region_name="eu-west-1")
    ec2.describe_availability_zones()
    subnet = ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": [vm_["subnetname"]]}])[
        "Subnets"
    ][0]
    groups = ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": [vm_["securitygroup"]]}]
    )
    ec2.describe_images(ImageIds=[vm_["image"]])
    launched = ec2.run_instances(
        ImageId=vm_["image"],
        InstanceType=vm_["size"],
        SubnetId=subnet["SubnetId"],
        SecurityGroupIds=[groups["SecurityGroups"][0]["GroupId"]],
        **({"KeyName": vm_["keyname"]} if "keyname" in vm_ else {}),
        MinCount=1,
        MaxCount=1,
    )["Instances"][0]["InstanceId"]
    ec2.describe_instances(InstanceIds=[launched])  # is it there?
    ec2.create_tags(Resources=[launched], Tags=[{"Key": "Name", "Value": vm_["name"]}])
    ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [launched]}])  # are they set?
    found = ec2.describe_instances(InstanceIds=[launched])  # has it an address?
    if salt.config.get_cloud_config_value("deploy", vm_, __opts__):
        vm_["ssh_host"] = vm_["salt_host"] = found["Reservations"][0]["Instances"][0][
            "PrivateIpAddress"
        ]
        vm_["key_filename"] = salt.config.get_cloud_config_value("private_key", vm_, __opts__)
        __utils__["cloud.bootstrap"](vm_, __opts__)
    ec2.describe_instances(InstanceIds=[launched])  # the result
    return {"id": launched, "state": "pending"}
