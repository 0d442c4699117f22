"""What a call asks of IAM: the actions, on which resources, with which condition keys.

A call may ask for several. RunInstances needs permission for each resource that it uses or creates,
for the tags that it sets, and for the role that it passes. A call that is not in this module raises
`Unjudged`: only the owner of the cloud may make it.

Which action has which resources and keys:
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssystemsmanager.html
What RunInstances needs:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ExamplePolicies_EC2.html#iam-example-runinstances
Tags at a launch:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/supported-iam-actions-tagging.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.instances import Instance

from localcloud.policies import Access, Unjudged, Value

Keys = dict[str, Value]

# Action of EC2 -> parameter with ids -> the kind of resource that they name.
BY_ID: dict[str, dict[str, str]] = {
    "AssociateAddress": {
        "AllocationId": "elastic-ip",
        "InstanceId": "instance",
        "NetworkInterfaceId": "network-interface",
    },
    "AttachVolume": {"InstanceId": "instance", "VolumeId": "volume"},
    "CancelSpotInstanceRequests": {"SpotInstanceRequestId": "spot-instances-request"},
    "DescribeInstanceAttribute": {"InstanceId": "instance"},
    "DetachVolume": {"InstanceId": "instance", "VolumeId": "volume"},
    "GetConsoleOutput": {"InstanceId": "instance"},
    "ModifyInstanceAttribute": {"InstanceId": "instance", "GroupId": "security-group"},
    "RebootInstances": {"InstanceId": "instance"},
    "ReleaseAddress": {"AllocationId": "elastic-ip"},
    "StartInstances": {"InstanceId": "instance"},
    "StopInstances": {"InstanceId": "instance"},
    "TerminateInstances": {"InstanceId": "instance"},
}
# Describe* actions with resource-level permissions; all others have none.
DESCRIBE_BY_ID = frozenset((
    "DescribeCapacityBlockExtensionHistory", "DescribeCapacityBlockExtensionOfferings",
    "DescribeClientVpnAuthorizationRules", "DescribeClientVpnConnections",
    "DescribeClientVpnEndpoints", "DescribeClientVpnRoutes", "DescribeClientVpnTargetNetworks",
    "DescribeFleetHistory", "DescribeFleetInstances", "DescribeFpgaImageAttribute",
    "DescribeImageAttribute", "DescribeInstanceAttribute", "DescribeSecurityGroupReferences",
    "DescribeSnapshotAttribute", "DescribeSpotFleetInstances", "DescribeSpotFleetRequestHistory",
    "DescribeVolumeAttribute", "DescribeVpcAttribute", "DescribeVpcEndpointAssociations",
    "DescribeVpcEndpointServicePermissions",
))  # fmt: skip
# The beginning of an id -> the kind of resource.
KINDS = {
    "ami": "image",
    "eipalloc": "elastic-ip",
    "eni": "network-interface",
    "i": "instance",
    "key": "key-pair",
    "sg": "security-group",
    "sir": "spot-instances-request",
    "snap": "snapshot",
    "subnet": "subnet",
    "vol": "volume",
    "vpc": "vpc",
}
# The parameters of RunInstances of which it is known here that they name no other resource.
LAUNCH = frozenset((
    "Action", "BlockDeviceMapping", "ClientToken", "CpuOptions", "CreditSpecification",
    "DisableApiStop", "DisableApiTermination", "DryRun", "EbsOptimized", "HibernationOptions",
    "IamInstanceProfile", "ImageId", "InstanceInitiatedShutdownBehavior",
    "InstanceMarketOptions", "InstanceType", "KeyName", "MaxCount", "MetadataOptions", "MinCount",
    "Monitoring", "NetworkInterface", "Placement.AvailabilityZone", "Placement.Tenancy",
    "PrivateIpAddress", "SecurityGroupId", "SubnetId", "TagSpecification", "UserData", "Version",
))  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of an API.

    Args:
        service: such as `ec2`.
        action: the API's name of it, such as `RunInstances`.
        region: of the request.
        form: its parameters, where the protocol has a form: `InstanceId.1`.
        body: its parameters, where the protocol has JSON.
    """

    service: str
    action: str
    region: str
    form: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def name(self) -> str:
        """The name as a policy has it: `ec2:RunInstances`."""
        return f"{self.service}:{self.action}"

    def under(self, name: str) -> dict[str, str]:
        """Return the parameters below a name: `Ebs.Encrypted` of `Ebs` is `Encrypted`."""
        return _under(self.form, name)

    def listed(self, name: str) -> list[dict[str, str]]:
        """Return the elements of a list of structures, in order."""
        return _listed(self.form, name)

    def values(self, name: str) -> list[str]:
        """Return the values of a parameter that may be a list."""
        return _values(self.form, name)


def accesses(call: Call) -> list[Access]:
    """Return what a call asks for, in the order in which it is judged.

    Raises:
        Unjudged: this module does not know the call, or not all of it.
    """
    if call.name == "sts:GetCallerIdentity":
        return []  # needs no permission, and cannot be denied
    if call.service == "ec2":
        made = _of_ec2(call)
    elif call.name in ("ssm:GetParameter", "ssm:GetParameters"):
        made = _parameters(call)
    else:
        raise Unjudged(f"call: {call.name}, for anybody but the owner")
    found = [
        replace(access, keys={**_everywhere(call, access), **access.keys})
        for access in dict.fromkeys_unhashable(made)
    ]
    if not found:
        raise Unjudged(f"call: {call.name} without a resource")
    return found
