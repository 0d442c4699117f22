"""What an account holds of a deployment, by the tags `project` and `deployment` of each thing.

A thing counts as the deployment's only if it has both tags. EC2's DescribeTags names the things of
every kind, also of kinds that stackctl does not know, and the Resource Groups Tagging API those of
other services. IAM has no search by tags, so roles are found by their names.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeTags.html
https://docs.aws.amazon.com/resourcegroupstagging/latest/APIReference/API_GetResources.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stackctl.deployment import Deployment

# Each call may be repeated: what is gone already is no error. So botocore may retry throttled calls
# and lost answers.
PATIENCE = Config(retries={"mode": "standard", "total_max_attempts": 8})
GONE = re.compile(r"Invalid\w+\.NotFound|InvalidKeyPair\.NotFound|NatGatewayNotFound|NoSuch\w+")
ENDED = ("shutting-down", "terminated", "deleting", "deleted")
NO_OWNER = ("nat_gateway", "vpc_endpoint", "gateway_load_balancer_endpoint")
"""Interfaces that EC2 makes for a thing which is looked at itself."""

# EC2's name of a kind -> what describes it, the key of the answer and of the id.
KINDS: Mapping[str, tuple[str, str, str]] = {
    "instance": ("describe_instances", "Reservations", "InstanceId"),
    "natgateway": ("describe_nat_gateways", "NatGateways", "NatGatewayId"),
    "vpc-endpoint": ("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
    "elastic-ip": ("describe_addresses", "Addresses", "AllocationId"),
    "network-interface": (
        "describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId",
    ),
    "subnet": ("describe_subnets", "Subnets", "SubnetId"),
    "route-table": ("describe_route_tables", "RouteTables", "RouteTableId"),
    "security-group": ("describe_security_groups", "SecurityGroups", "GroupId"),
    "internet-gateway": ("describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    "vpc": ("describe_vpcs", "Vpcs", "VpcId"),
    "key-pair": ("describe_key_pairs", "KeyPairs", "KeyPairId"),
    "volume": ("describe_volumes", "Volumes", "VolumeId"),
    "snapshot": ("describe_snapshots", "Snapshots", "SnapshotId"),
}  # fmt: skip
PREFIXES = (
    "i", "nat", "vpce", "eipalloc", "eni", "subnet", "rtb", "sg", "igw", "vpc", "key", "vol",
    "snap",
    # These have tags of their own, and go with their subnet and their group.
    "scr", "sgr",
)  # fmt: skip
"""How the ids begin of what `KINDS` finds, in that order."""
DATA = ("volume", "snapshot", "bucket")
"""The kinds that hold what nobody can make again."""
IN_VPC = (
    "instance", "natgateway", "vpc-endpoint", "network-interface", "subnet", "route-table",
    "security-group",
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """Something in an account.

    Attributes:
        kind: EC2's name of its kind; `role`, `instance-profile`, `bucket`, or a service.
        id: by which AWS finds it.
        name: its Name tag, or its own name.
        facts: as AWS describes it.
    """

    kind: str
    id: str
    name: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        named = f" {self.name}" if self.name and self.name != self.id else ""
        size = f" of {self.facts['Size']} GB" if self.kind == "volume" and self.facts else ""
        return f"{self.kind} {self.id}{named}{size}"


@dataclass(frozen=True)
class Clients:
    """The services that hold a deployment's things."""

    ec2: Any
    iam: Any
    s3: Any
    tagging: Any

    @classmethod
    def of(cls, deployment: Deployment) -> Clients:
        """Return clients in the deployment's region; boto3 finds credentials and endpoint."""
        make: Any = boto3.client
        names = ("ec2", "iam", "s3", "resourcegroupstaggingapi")
        region = deployment.region()
        return cls(*(make(name, region_name=region, config=PATIENCE) for name in names))


@dataclass(frozen=True)
class Inventory:
    """What there is of a deployment, and what stands in its VPC and is not.

    Attributes:
        things: the deployment's own, by both tags.
        foreign: things in its VPC without its tags.
    """

    things: Sequence[Thing]
    foreign: Sequence[Thing] = ()

    def of(self, *kinds: str) -> list[Thing]:
        """Return the things of these kinds."""
        return [thing for thing in self.things if thing.kind in kinds]

    @property
    def data(self) -> list[Thing]:
        """What holds data, and does not go with its machine."""
        lasting = _volumes_that_go(self.of("instance"))
        return [thing for thing in self.of(*DATA) if thing.id not in lasting]

    @property
    def orphans(self) -> list[Thing]:
        """The volumes and addresses that no machine has; AWS bills them."""
        volumes = [one for one in self.of("volume") if one.facts.get("State") == "available"]
        addresses = [
            one
            for one in self.of("elastic-ip")
            if not (one.facts.get("AssociationId") or one.facts.get("InstanceId"))
        ]
        return [*volumes, *addresses]


def collect(deployment: Deployment, clients: Clients) -> Inventory:
    """Return everything of a deployment; raise ClientError or BotoCoreError."""
    owner = deployment.owner()
    things = [thing for kind in KINDS for thing in own(clients.ec2, owner, kind)]
    things += _of_other_kinds(clients, owner)
    things += _of_iam(clients, deployment)
    things += _of_other_services(clients, owner)
    return Inventory(things, [*_foreign(clients, owner, things)])


def orphans(deployment: Deployment, ec2: Any) -> list[Thing]:
    """Return the volumes and addresses of a deployment that no machine has."""
    owner = deployment.owner()
    found = [thing for kind in ("volume", "elastic-ip") for thing in own(ec2, owner, kind)]
    return Inventory(found).orphans


def left_buckets(deployment: Deployment) -> list[Thing]:
    """Return the buckets of a deployment that has no machines; whoever may not ask sees none."""
    try:
        found = [*_of_other_services(Clients.of(deployment), deployment.owner())]
    except (BotoCoreError, ClientError):
        return []
    return Inventory(found).of("bucket")


def own(ec2: Any, owner: Mapping[str, str], kind: str) -> list[Thing]:
    """Return the things of a kind of EC2 that have all tags of an owner, and are not ending."""
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in owner.items()]
    found = described(ec2, kind, filters)
    return [thing for thing in found if owner.items() <= tags_of(thing.facts).items()]


def tags_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of what AWS describes; interfaces have them below another key."""
    return {tag["Key"]: tag["Value"] for tag in facts.get("Tags") or facts.get("TagSet") or ()}


def described(
    ec2: Any, kind: str, filters: Sequence[Mapping[str, Any]], *, ended: Collection[str] = ENDED
) -> list[Thing]:
    """Return the things of a kind of EC2 that meet filters, but for those in states of `ended`."""
    operation, key, id_key = KINDS[kind]
    name = "Filter" if kind == "natgateway" else "Filters"
    arguments: dict[str, Any] = {name: list(filters)}
    if kind == "snapshot":
        arguments["OwnerIds"] = ["self"]
    if ec2.can_paginate(operation):
        pages = ec2.get_paginator(operation).paginate(**arguments)
    else:
        pages = [getattr(ec2, operation)(**arguments)]
    found = [one for page in pages for one in page[key]]
    if kind == "instance":
        found = [instance for group in found for instance in group["Instances"]]
    things = [Thing(kind, str(one[id_key]), _name(one), one) for one in found if id_key in one]
    return [thing for thing in things if _state(thing.facts) not in ended]


def _name(facts: Mapping[str, Any]) -> str:
    own_name = facts.get("GroupName") or facts.get("KeyName") or facts.get("PublicIp") or ""
    return tags_of(facts).get("Name") or str(own_name)


def _state(facts: Mapping[str, Any]) -> str:
    state = facts.get("State", "")
    return str(state.get("Name", "") if isinstance(state, Mapping) else state).lower()


def _of_other_kinds(clients: Clients, owner: Mapping[str, str]) -> list[Thing]:
    """Return the things of EC2 that no kind of `KINDS` finds, by their tags."""
    return [
        Thing(kind, thing_id)
        for kind, thing_id in tagged(clients.ec2, owner)
        if thing_id.partition("-")[0] not in PREFIXES
    ]


def tagged(ec2: Any, owner: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return kind and id of everything in EC2 that has all tags of an owner, also what has ended.

    EC2 tells of a terminated machine and its tags for about an hour.
    """
    sets = []
    for key, value in owner.items():
        pages = ec2.get_paginator("describe_tags").paginate(
            Filters=[{"Name": "key", "Values": [key]}, {"Name": "value", "Values": [value]}]
        )
        tags = (tag for page in pages for tag in page["Tags"])
        sets.append({(str(tag["ResourceType"]), str(tag["ResourceId"])) for tag in tags})
    return sorted(set.intersection(*sets))


def _of_iam(clients: Clients, deployment: Deployment) -> Iterator[Thing]:
    """Yield the deployment's instance profiles and roles.

    Their names begin with project and deployment, but for those that an earlier version has made.
    """
    owner = deployment.owner()
    begin = deployment.in_account("{project}-{deployment}")
    earlier = deployment.base_pillar("aws")["earlier"]["salt_role"]
    lists = (
        ("instance-profile", "list_instance_profiles", "InstanceProfiles", "InstanceProfileName"),
        ("role", "list_roles", "Roles", "RoleName"),
    )
    for kind, operation, key, id_key in lists:
        for page in clients.iam.get_paginator(operation).paginate():
            for one in page[key]:
                name = str(one[id_key])
                if not name.startswith(begin) and name != earlier:
                    continue
                reader = f"get_{kind.replace('-', '_')}"  # lists do not have the tags
                try:
                    facts = getattr(clients.iam, reader)(**{id_key: name})[id_key[:-4]]
                except ClientError as error:
                    if not GONE.fullmatch(code_of(error)):
                        raise
                    continue
                if owner.items() <= tags_of(facts).items():
                    yield Thing(kind, name, name, facts)


def _of_other_services(clients: Clients, owner: Mapping[str, str]) -> Iterator[Thing]:
    """Yield the things of other services than EC2 in the region, by their tags."""
    filters = [{"Key": key, "Values": [value]} for key, value in owner.items()]
    pages = clients.tagging.get_paginator("get_resources").paginate(TagFilters=filters)
    for page in pages:
        for one in page["ResourceTagMappingList"]:
            # arn:aws:<service>:<region>:<account>:<what>
            _, _, service, _, _, what = str(one["ResourceARN"]).split(":", 5)
            if service in ("ec2", "iam") or not owner.items() <= tags_of(one).items():
                continue
            if service != "s3":
                yield Thing(service, what)
            elif _bucket_exists(clients, what):
                yield Thing("bucket", what)


def _bucket_exists(clients: Clients, name: str) -> bool:
    """Return whether there is such a bucket: the tags of one that is gone are told for a while."""
    try:
        clients.s3.get_bucket_tagging(Bucket=name)
    except ClientError as error:
        return code_of(error) != "NoSuchBucket"
    return True


def code_of(error: ClientError) -> str:
    """Return AWS's code of an error."""
    return str(error.response["Error"].get("Code", ""))


def _foreign(
    clients: Clients, owner: Mapping[str, str], things: Sequence[Thing]
) -> Iterator[Thing]:
    """Yield what is in the deployment's VPCs and does not have its tags.

    What EC2 makes by itself does not count: the default group, the main route table, and the
    interfaces of machines, gateways and endpoints, which are looked at themselves.
    """
    vpcs = [thing.id for thing in things if thing.kind == "vpc"]
    if not vpcs:
        return
    own_machines = {thing.id for thing in things if thing.kind == "instance"}
    for kind in IN_VPC:
        for thing in described(clients.ec2, kind, [{"Name": "vpc-id", "Values": vpcs}]):
            facts = thing.facts
            if owner.items() <= tags_of(facts).items():
                continue
            by_itself = (
                (kind == "security-group" and facts["GroupName"] == "default")
                or (kind == "route-table" and _is_main(facts))
                or facts.get("InterfaceType") in NO_OWNER
                or facts.get("Attachment", {}).get("InstanceId") in own_machines
            )
            if not by_itself:
                yield thing


def _is_main(facts: Mapping[str, Any]) -> bool:
    return any(one.get("Main") for one in facts.get("Associations", ()))


def _volumes_that_go(machines: Sequence[Thing]) -> set[str]:
    """Return the volumes that EC2 deletes with their machine."""
    return {
        str(mapping["Ebs"]["VolumeId"])
        for machine in machines
        for mapping in machine.facts.get("BlockDeviceMappings", ())
        if mapping.get("Ebs", {}).get("DeleteOnTermination")
    }
