"""What an account holds, and what others than this deployment have put there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

Client = Callable[[str], Any]
Dump = dict[str, list[str]]

LISTS = {
    "describe_addresses": "Addresses",
    "describe_instances": "Reservations",
    "describe_internet_gateways": "InternetGateways",
    "describe_key_pairs": "KeyPairs",
    "describe_network_acls": "NetworkAcls",
    "describe_network_interfaces": "NetworkInterfaces",
    "describe_route_tables": "RouteTables",
    "describe_security_group_rules": "SecurityGroupRules",
    "describe_security_groups": "SecurityGroups",
    "describe_subnets": "Subnets",
    "describe_tags": "Tags",
    "describe_vpc_endpoints": "VpcEndpoints",
    "describe_volumes": "Volumes",
    "describe_vpcs": "Vpcs",
}
READS = (
    "DescribeAddresses", "DescribeInstances", "DescribeInternetGateways", "DescribeKeyPairs",
    "DescribeManagedPrefixLists", "DescribeRouteTables", "DescribeSecurityGroupRules",
    "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcAttribute", "DescribeVpcEndpoints",
    "DescribeVpcs", "GetBucketEncryption", "GetBucketLifecycleConfiguration",
    "GetBucketOwnershipControls", "GetBucketPolicy", "GetBucketTagging", "GetBucketVersioning",
    "GetCallerIdentity", "GetInstanceProfile", "GetPublicAccessBlock", "GetRole", "GetRolePolicy",
    "GetSubnetCidrReservations", "ListAttachedRolePolicies", "ListRolePolicies",
)  # fmt: skip
"""The calls with which the foundation's states look at an account."""
TRUST = {"Version": "2012-10-17", "Statement": []}
THEIR_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINd0Jc4hVCdCRRmqoOgqZ0Kp3wyyl4HVUMpcKUaU4R6t"
DOCUMENT = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"}],
    }
)
"""A policy that has nothing to do with the stack."""


def dump(client: Client) -> Dump:
    """Return everything in the account: the call -> what it lists, sorted."""
    ec2, iam, s3 = client("ec2"), client("iam"), client("s3")
    found = {
        call: [json.dumps(one, sort_keys=True, default=str) for one in getattr(ec2, call)()[key]]
        for call, key in LISTS.items()
    }
    roles = iam.list_roles()["Roles"]
    found["roles"] = [
        json.dumps(
            [
                iam.get_role(RoleName=role["RoleName"])["Role"],
                [
                    iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)
                    for name in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
                ],
                iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"],
            ],
            sort_keys=True,
            default=str,
        )
        for role in roles
    ]
    found["profiles"] = [
        json.dumps(one, sort_keys=True, default=str)
        for one in iam.list_instance_profiles()["InstanceProfiles"]
    ]
    buckets = [one["Name"] for one in s3.list_buckets()["Buckets"]]
    found["buckets"] = [
        json.dumps([name, {what: _setting(s3, name, what) for what in SETTINGS}], default=str)
        for name in buckets
    ]
    return {call: sorted(_without_request(one) for one in listed) for call, listed in found.items()}


SETTINGS = (
    "public_access_block", "bucket_ownership_controls", "bucket_policy", "bucket_encryption",
    "bucket_versioning", "bucket_lifecycle_configuration", "bucket_tagging",
)  # fmt: skip
"""Of a bucket, as boto3 calls them without `get_`."""


def _setting(s3: Any, bucket: str, what: str) -> Any:
    try:
        found = getattr(s3, f"get_{what}")(Bucket=bucket)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return {key: value for key, value in found.items() if key != "ResponseMetadata"}


def _without_request(text: str) -> str:
    """Return a description without what belongs to the request alone."""
    return text if "ResponseMetadata" not in text else json.dumps(_cleaned(json.loads(text)))


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(one) for key, one in value.items() if key != "ResponseMetadata"}
    return [_cleaned(one) for one in value] if isinstance(value, list) else value


def missing(before: Dump, after: Dump) -> list[str]:
    """Return what was in an account and is not there any more, or not as it was."""
    return [one for call, listed in before.items() for one in listed if one not in after[call]]


TAGGED = {
    "elastic-ip": ("describe_addresses", "Addresses", "AllocationId"),
    "internet-gateway": ("describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    "key-pair": ("describe_key_pairs", "KeyPairs", "KeyPairId"),
    "network-interface": (
        "describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId",
    ),
    "route-table": ("describe_route_tables", "RouteTables", "RouteTableId"),
    "security-group": ("describe_security_groups", "SecurityGroups", "GroupId"),
    "subnet": ("describe_subnets", "Subnets", "SubnetId"),
    "volume": ("describe_volumes", "Volumes", "VolumeId"),
    "vpc": ("describe_vpcs", "Vpcs", "VpcId"),
    "vpc-endpoint": ("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
}  # fmt: skip


def tagged(ec2: Any) -> list[tuple[str, str, dict[str, str]]]:
    """Return kind, id and tags of everything in EC2 that has tags."""
    found = [
        (kind, one[id_key], one.get("Tags") or one.get("TagSet"))
        for kind, (call, key, id_key) in TAGGED.items()
        for one in getattr(ec2, call)()[key]
    ]
    found += [
        ("instance", instance["InstanceId"], instance.get("Tags"))
        for group in ec2.describe_instances()["Reservations"]
        for instance in group["Instances"]
    ]
    return [
        (kind, thing, {tag["Key"]: tag["Value"] for tag in tags})
        for kind, thing, tags in found
        if tags
    ]


def specification(kind: str, **tags: str) -> list[dict[str, Any]]:
    given = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": kind, "Tags": given}]


class Foreign:
    """Somebody else's things, with the names that a deployment or an earlier version uses.

    Args:
        client: returns a client of a service.
        aws: pillar `aws`, with the names in it.
        tags: the tags of all things, beside Name.
    """

    def __init__(self, client: Client, aws: dict[str, Any], **tags: str) -> None:
        self.ec2, self.iam, self.aws, self.tags = client("ec2"), client("iam"), aws, tags
        self.s3 = client("s3")

    def _named(self, kind: str, name: str) -> list[dict[str, Any]]:
        return specification(kind, Name=name, **self.tags)

    def vpc(self) -> str:
        name, cidr = self.aws["vpc"]["name"], self.aws["vpc"]["cidr"]
        made = self.ec2.create_vpc(CidrBlock=cidr, TagSpecifications=self._named("vpc", name))
        return str(made["Vpc"]["VpcId"])

    def subnet(self, vpc: str | None = None) -> str:
        aws, vpc = self.aws["subnet"], vpc or self.plain_vpc()
        made = self.ec2.create_subnet(
            VpcId=vpc, CidrBlock=aws["cidr"], AvailabilityZone=aws["zone"],
            TagSpecifications=self._named("subnet", aws["name"]),
        )  # fmt: skip
        return str(made["Subnet"]["SubnetId"])

    def plain_vpc(self) -> str:
        return str(self.ec2.create_vpc(CidrBlock=self.aws["vpc"]["cidr"])["Vpc"]["VpcId"])

    def internet_gateway(self, vpc: str | None = None) -> str:
        made = self.ec2.create_internet_gateway(
            TagSpecifications=self._named("internet-gateway", self.aws["internet_gateway"])
        )
        gateway = str(made["InternetGateway"]["InternetGatewayId"])
        if vpc:
            self.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        return gateway

    def route_table(self, vpc: str | None = None) -> str:
        made = self.ec2.create_route_table(
            VpcId=vpc or self.plain_vpc(),
            TagSpecifications=self._named("route-table", self.aws["route_table"]),
        )
        return str(made["RouteTable"]["RouteTableId"])

    def key_pair(self, key: str = THEIR_KEY) -> str:
        made = self.ec2.import_key_pair(
            KeyName=self.aws["key_pair"], PublicKeyMaterial=key.encode(),
            TagSpecifications=specification("key-pair", **self.tags) if self.tags else [],
        )  # fmt: skip
        return str(made["KeyPairId"])

    def elastic_ip(self) -> str:
        name = self.aws["edge_address"]["name"]
        made = self.ec2.allocate_address(
            Domain="vpc", TagSpecifications=self._named("elastic-ip", name)
        )
        return str(made["AllocationId"])

    def role(self) -> str:
        name = str(self.aws["salt_role"])
        self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
        self.iam.put_role_policy(RoleName=name, PolicyName="theirs", PolicyDocument=DOCUMENT)
        return name

    def instance_profile(self) -> str:
        name = str(self.aws["salt_role"])
        self.iam.create_instance_profile(InstanceProfileName=name)
        return name

    def bucket(self) -> str:
        name = str(self.aws["bucket"]["name"].replace("{account}", "123456789012"))
        s3 = self.s3
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        if self.tags:
            tags = [{"Key": key, "Value": value} for key, value in self.tags.items()]
            s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": tags})
        return name

    def machine(self, name: str, subnet: str, image: str) -> str:
        made = self.ec2.run_instances(
            ImageId=image, InstanceType="t2.micro", MinCount=1, MaxCount=1, SubnetId=subnet,
            TagSpecifications=self._named("instance", name),
        )  # fmt: skip
        return str(made["Instances"][0]["InstanceId"])
