"""Half-made and changed parts of the foundation are repaired, and only those."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from accounts import DOCUMENT, Client, dump

States = dict[str, dict[str, Any]]
Apply = Callable[..., States]
Damage = Callable[[Client, dict[str, Any]], None]


def one(client: Client, call: str, key: str, name: str = "*") -> Any:
    """Return the deployment's only thing of a kind and a name."""
    filters = [
        {"Name": "tag:deployment", "Values": ["test"]}, {"Name": "tag:Name", "Values": [name]},
    ]  # fmt: skip
    (found,) = getattr(client("ec2"), call)(Filters=filters)[key]
    return found


def gateway(client: Client) -> Any:
    return one(client, "describe_internet_gateways", "InternetGateways")


def table(client: Client, name: str = "airflow-stack-test") -> Any:
    return one(client, "describe_route_tables", "RouteTables", name)


def private_table(client: Client) -> Any:
    return table(client, "airflow-stack-test-private")


def lead_out(client: Client, _: dict[str, Any]) -> None:
    client("ec2").create_route(
        RouteTableId=private_table(client)["RouteTableId"], DestinationCidrBlock="0.0.0.0/0",
        GatewayId=gateway(client)["InternetGatewayId"],
    )  # fmt: skip


def delete_private_table(client: Client, _: dict[str, Any]) -> None:
    """As before there were two: every subnet has the table with the way out."""
    ours, old = table(client)["RouteTableId"], private_table(client)
    for association in old["Associations"]:
        client("ec2").replace_route_table_association(
            AssociationId=association["RouteTableAssociationId"], RouteTableId=ours
        )
    client("ec2").delete_route_table(RouteTableId=old["RouteTableId"])


def group(client: Client, name: str) -> str:
    named = [{"Name": "group-name", "Values": [name]}]
    (found,) = client("ec2").describe_security_groups(Filters=named)["SecurityGroups"]
    return str(found["GroupId"])


def let_everything_out(client: Client, _: dict[str, Any]) -> None:
    """As EC2 does it for a new group."""
    client("ec2").authorize_security_group_egress(
        GroupId=group(client, "airflow-web"),
        IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
    )


def close_egress(client: Client, _: dict[str, Any]) -> None:
    """Take every rule of a group away that lets something out."""
    found = client("ec2").describe_security_group_rules(
        Filters=[{"Name": "group-id", "Values": [group(client, "airflow-postgres")]}]
    )
    ids = [one["SecurityGroupRuleId"] for one in found["SecurityGroupRules"] if one["IsEgress"]]
    client("ec2").revoke_security_group_egress(
        GroupId=group(client, "airflow-postgres"), SecurityGroupRuleIds=ids
    )


def vpc(client: Client) -> Any:
    return one(client, "describe_vpcs", "Vpcs")


def detach_gateway(client: Client, _: dict[str, Any]) -> None:
    client("ec2").detach_internet_gateway(
        InternetGatewayId=gateway(client)["InternetGatewayId"], VpcId=vpc(client)["VpcId"]
    )


def delete_gateway(client: Client, aws: dict[str, Any]) -> None:
    detach_gateway(client, aws)
    client("ec2").delete_internet_gateway(InternetGatewayId=gateway(client)["InternetGatewayId"])


def delete_route(client: Client, _: dict[str, Any]) -> None:
    client("ec2").delete_route(
        RouteTableId=table(client)["RouteTableId"], DestinationCidrBlock="0.0.0.0/0"
    )


def subnet(client: Client, name: str = "airflow-stack-test-a") -> Any:
    found = client("ec2").describe_subnets(Filters=[{"Name": "tag:Name", "Values": [name]}])
    (one_found,) = found["Subnets"]
    return one_found


def association_of(client: Client, name: str) -> Any:
    """Return how a subnet has its route table."""
    wanted = subnet(client, name)["SubnetId"]
    own = private_table(client) if "private" in name else table(client)
    return next(one for one in own["Associations"] if one["SubnetId"] == wanted)


def disassociate(client: Client, _: dict[str, Any]) -> None:
    association = association_of(client, "airflow-stack-test-a")
    client("ec2").disassociate_route_table(AssociationId=association["RouteTableAssociationId"])


def associate_with_another(client: Client, aws: dict[str, Any]) -> None:
    association = association_of(client, "airflow-stack-test-private-b")
    other = client("ec2").create_route_table(VpcId=vpc(client)["VpcId"])["RouteTable"]
    client("ec2").replace_route_table_association(
        AssociationId=association["RouteTableAssociationId"],
        RouteTableId=other["RouteTableId"],
    )


def turn_off_names(client: Client, _: dict[str, Any]) -> None:
    client("ec2").modify_vpc_attribute(
        VpcId=vpc(client)["VpcId"], EnableDnsHostnames={"Value": False}
    )


def turn_off_resolution(client: Client, _: dict[str, Any]) -> None:
    client("ec2").modify_vpc_attribute(
        VpcId=vpc(client)["VpcId"], EnableDnsSupport={"Value": False}
    )


def rename_vpc(client: Client, _: dict[str, Any]) -> None:
    rename(client, vpc(client)["VpcId"])


def rename(client: Client, thing: str) -> None:
    tags = [{"Key": "Name", "Value": "mine"}]
    client("ec2").create_tags(Resources=[thing], Tags=tags)


def rename_subnet(client: Client, _: dict[str, Any]) -> None:
    for name in ("airflow-stack-test-a", "airflow-stack-test-private-c"):
        rename(client, subnet(client, name)["SubnetId"])


def rename_gateway(client: Client, _: dict[str, Any]) -> None:
    rename(client, gateway(client)["InternetGatewayId"])


def rename_table(client: Client, _: dict[str, Any]) -> None:
    rename(client, table(client)["RouteTableId"])


def rename_private_table(client: Client, _: dict[str, Any]) -> None:
    rename(client, private_table(client)["RouteTableId"])


def delete_policy(client: Client, aws: dict[str, Any]) -> None:
    client("iam").delete_role_policy(RoleName=aws["salt_role"], PolicyName="salt-cloud")


def change_policy(client: Client, aws: dict[str, Any]) -> None:
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    client("iam").put_role_policy(
        RoleName=aws["salt_role"], PolicyName="salt-cloud", PolicyDocument=document
    )


def add_policy(client: Client, aws: dict[str, Any]) -> None:
    client("iam").put_role_policy(
        RoleName=aws["salt_role"], PolicyName="more", PolicyDocument=DOCUMENT
    )


def attach_policy(client: Client, aws: dict[str, Any]) -> None:
    policy = client("iam").create_policy(PolicyName="more", PolicyDocument=DOCUMENT)["Policy"]
    client("iam").attach_role_policy(RoleName=aws["salt_role"], PolicyArn=policy["Arn"])


def change_trust(client: Client, aws: dict[str, Any]) -> None:
    everybody = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [everybody]})
    client("iam").update_assume_role_policy(RoleName=aws["salt_role"], PolicyDocument=document)


def empty_profile(client: Client, aws: dict[str, Any]) -> None:
    client("iam").remove_role_from_instance_profile(
        InstanceProfileName=aws["salt_role"], RoleName=aws["salt_role"]
    )


def delete_profile(client: Client, aws: dict[str, Any]) -> None:
    empty_profile(client, aws)
    client("iam").delete_instance_profile(InstanceProfileName=aws["salt_role"])


def put_another_role_into_profile(client: Client, aws: dict[str, Any]) -> None:
    empty_profile(client, aws)
    client("iam").create_role(RoleName="other", AssumeRolePolicyDocument="{}")
    client("iam").add_role_to_instance_profile(
        InstanceProfileName=aws["salt_role"], RoleName="other"
    )


def delete_key(client: Client, aws: dict[str, Any]) -> None:
    client("ec2").delete_key_pair(KeyName=aws["key_pair"])


BUCKET = {"Bucket": "airflow-stack-test-123456789012-eu-west-1"}


def open_to_the_public(client: Client, _: dict[str, Any]) -> None:
    client("s3").put_public_access_block(
        PublicAccessBlockConfiguration={"BlockPublicAcls": True, "BlockPublicPolicy": False},
        **BUCKET,
    )


def delete_public_access_block(client: Client, _: dict[str, Any]) -> None:
    client("s3").delete_public_access_block(**BUCKET)


def give_objects_to_writers(client: Client, _: dict[str, Any]) -> None:
    rules = {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
    client("s3").put_bucket_ownership_controls(OwnershipControls=rules, **BUCKET)


def allow_plain_http(client: Client, _: dict[str, Any]) -> None:
    client("s3").delete_bucket_policy(**BUCKET)


def let_another_account_read(client: Client, _: dict[str, Any]) -> None:
    them = {
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{BUCKET['Bucket']}/*",
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [them]})
    client("s3").put_bucket_policy(Policy=document, **BUCKET)


def delete_encryption(client: Client, _: dict[str, Any]) -> None:
    client("s3").delete_bucket_encryption(**BUCKET)


def suspend_versions(client: Client, _: dict[str, Any]) -> None:
    client("s3").put_bucket_versioning(VersioningConfiguration={"Status": "Suspended"}, **BUCKET)


def keep_everything(client: Client, _: dict[str, Any]) -> None:
    client("s3").delete_bucket_lifecycle(**BUCKET)


def expire_everything(client: Client, _: dict[str, Any]) -> None:
    found = client("s3").get_bucket_lifecycle_configuration(**BUCKET)["Rules"]
    rule = {
        "ID": "mine", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1},
    }  # fmt: skip
    client("s3").put_bucket_lifecycle_configuration(
        LifecycleConfiguration={"Rules": [*found, rule]}, **BUCKET
    )


def delete_bucket(client: Client, _: dict[str, Any]) -> None:
    client("s3").delete_bucket(**BUCKET)


def endpoint(client: Client) -> Any:
    return one(client, "describe_vpc_endpoints", "VpcEndpoints")


def delete_endpoint(client: Client, _: dict[str, Any]) -> None:
    client("ec2").delete_vpc_endpoints(VpcEndpointIds=[endpoint(client)["VpcEndpointId"]])


def take_table_from_endpoint(client: Client, _: dict[str, Any]) -> None:
    found = endpoint(client)
    client("ec2").modify_vpc_endpoint(
        VpcEndpointId=found["VpcEndpointId"], RemoveRouteTableIds=found["RouteTableIds"]
    )


def open_endpoint(client: Client, _: dict[str, Any]) -> None:
    everything = {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    client("ec2").modify_vpc_endpoint(
        VpcEndpointId=endpoint(client)["VpcEndpointId"], PolicyDocument=document
    )


def rename_endpoint(client: Client, _: dict[str, Any]) -> None:
    rename(client, endpoint(client)["VpcEndpointId"])


def change_policy_of_postgres(client: Client, aws: dict[str, Any]) -> None:
    client("iam").put_role_policy(
        RoleName=aws["machine_roles"]["postgres"], PolicyName="backups", PolicyDocument=DOCUMENT
    )


def add_policy_to_edge(client: Client, aws: dict[str, Any]) -> None:
    client("iam").put_role_policy(
        RoleName=aws["machine_roles"]["lb"], PolicyName="more", PolicyDocument=DOCUMENT
    )


NETWORK, ROLE, TABLE = "aws-vpc", "aws-salt-role", "aws-route-table"
PRIVATE, WEB, POSTGRES = "aws-private-route-table", "aws-egress-web", "aws-egress-postgres"
STORE, ENDPOINT = "aws-bucket", "aws-s3-endpoint"
# What is damaged together, and the states that repair it.
BATCHES: list[tuple[list[Damage], set[str]]] = [
    (
        [detach_gateway, turn_off_names, delete_policy, delete_key, open_to_the_public],
        {"aws-internet-gateway", NETWORK, ROLE, "aws-key-pair", STORE},
    ),
    (
        [
            delete_gateway, turn_off_resolution, change_policy, delete_public_access_block,
            delete_endpoint,
        ],
        {"aws-internet-gateway", TABLE, NETWORK, ROLE, STORE, ENDPOINT},
    ),
    (
        [delete_route, add_policy, lead_out, give_objects_to_writers, take_table_from_endpoint],
        {TABLE, ROLE, PRIVATE, STORE, ENDPOINT},
    ),
    (
        [
            disassociate, attach_policy, empty_profile, let_everything_out, allow_plain_http,
            open_endpoint,
        ],
        {TABLE, ROLE, WEB, STORE, ENDPOINT},
    ),
    (
        [associate_with_another, change_trust, delete_profile, delete_encryption],
        {PRIVATE, ROLE, STORE},
    ),
    ([delete_private_table, close_egress], {PRIVATE, POSTGRES}),
    (
        [
            put_another_role_into_profile, rename_vpc, rename_subnet, rename_gateway,
            rename_table, rename_endpoint,
        ],
        {
            ROLE, NETWORK, "aws-subnet", "aws-subnet-private-c", "aws-internet-gateway", TABLE,
            ENDPOINT,
        },
    ),
    ([suspend_versions, change_policy_of_postgres], {STORE, "aws-postgres-role"}),
    ([keep_everything, let_another_account_read, add_policy_to_edge], {STORE, "aws-lb-role"}),
    ([expire_everything, rename_private_table], {STORE, PRIVATE}),
    ([delete_bucket], {STORE}),
]  # fmt: skip
# What only the repair of the first brings about, so that no prediction knows of it.
FOLLOWS: dict[Damage, set[str]] = {delete_private_table: {ENDPOINT}}


@pytest.mark.usefixtures("founded")
@pytest.mark.parametrize(("damages", "repairs"), BATCHES)
def test_damage_is_predicted_and_repaired(
    apply: Apply, client: Client, pillar: dict[str, Any], damages: list[Damage], repairs: set[str]
) -> None:
    for damage in damages:
        damage(client, pillar["aws"])
    damaged = dump(client)
    predicted = apply(test=True).values()
    assert {one["__id__"] for one in predicted if one["changes"]} == repairs
    assert dump(client) == damaged
    states = apply().values()
    assert {one["comment"] for one in states if one["result"] is not True} == set()
    follow = set().union(*(FOLLOWS.get(damage, set()) for damage in damages))
    assert {one["__id__"] for one in states if one["changes"]} == repairs | follow
    assert {one["__id__"] for one in apply().values() if one["changes"]} == set()


@pytest.mark.usefixtures("founded")
def test_egress_is_added_before_everything_is_closed(apply: Apply, client: Client) -> None:
    """What runs is not cut off meanwhile."""
    let_everything_out(client, {})
    found = client("ec2").describe_security_group_rules(
        Filters=[{"Name": "group-id", "Values": [group(client, "airflow-web")]}]
    )["SecurityGroupRules"]
    (to_redis,) = (one for one in found if one["IsEgress"] and one["FromPort"] == 6379)
    client("ec2").revoke_security_group_egress(
        GroupId=group(client, "airflow-web"), SecurityGroupRuleIds=[to_redis["SecurityGroupRuleId"]]
    )
    (state,) = (one for one in apply().values() if one["__id__"] == WEB)
    redis = group(client, "airflow-redis")
    assert state["changes"]["new"] == [
        f"let out tcp 6379-6379 to {redis}", "stop letting out everything to 0.0.0.0/0",
    ]  # fmt: skip


# -- what is left alone ----------------------------------------------------------------------------


@pytest.mark.usefixtures("founded")
def test_unknown_route_and_subnet_are_left_alone(apply: Apply, client: Client) -> None:
    ec2 = client("ec2")
    peer = ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    peering = ec2.create_vpc_peering_connection(VpcId=vpc(client)["VpcId"], PeerVpcId=peer)
    ec2.create_route(
        RouteTableId=table(client)["RouteTableId"], DestinationCidrBlock="10.99.0.0/16",
        VpcPeeringConnectionId=peering["VpcPeeringConnection"]["VpcPeeringConnectionId"],
    )  # fmt: skip
    other = ec2.create_subnet(VpcId=vpc(client)["VpcId"], CidrBlock="10.20.9.0/24")["Subnet"]
    ec2.associate_route_table(
        RouteTableId=table(client)["RouteTableId"], SubnetId=other["SubnetId"]
    )
    before = dump(client)
    states = apply().values()
    assert {one["comment"] for one in states if one["result"] is not True} == set()
    assert dump(client) == before


# -- what cannot be repaired -----------------------------------------------------------------------


def failed(states: States) -> dict[str, str]:
    return {one["__id__"]: one["comment"] for one in states.values() if one["result"] is False}


@pytest.mark.usefixtures("founded")
def test_second_vpc_with_our_tags_is_named(apply: Apply, client: Client) -> None:
    first = vpc(client)
    tags = [{"ResourceType": "vpc", "Tags": first["Tags"]}]
    second = client("ec2").create_vpc(CidrBlock="10.20.0.0/16", TagSpecifications=tags)["Vpc"]
    comment = failed(apply())["aws-names"]
    assert first["VpcId"] in comment
    assert second["VpcId"] in comment


@pytest.mark.usefixtures("founded")
def test_gateway_of_somebody_else_in_our_vpc_is_named(apply: Apply, client: Client) -> None:
    detach_gateway(client, {})
    other = client("ec2").create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    client("ec2").attach_internet_gateway(InternetGatewayId=other, VpcId=vpc(client)["VpcId"])
    comment = failed(apply())["aws-internet-gateway"]
    assert f"{other}, which is not this deployment's, is attached to its VPC" in comment


@pytest.mark.usefixtures("founded")
def test_network_that_cannot_be_changed_is_named(
    apply: Apply, client: Client, pillar: dict[str, Any]
) -> None:
    ec2, aws = client("ec2"), pillar["aws"]
    before = subnet(client)
    disassociate(client, aws)
    ec2.delete_subnet(SubnetId=before["SubnetId"])
    tags = [{"ResourceType": "subnet", "Tags": before["Tags"]}]
    ec2.create_subnet(VpcId=vpc(client)["VpcId"], CidrBlock="10.20.7.0/24",
                      AvailabilityZone=aws["subnet"]["zone"], TagSpecifications=tags)  # fmt: skip
    comment = failed(apply())["aws-subnet"]
    assert "is 10.20.7.0/24, and not 10.20.1.0/24. EC2 cannot change it" in comment
