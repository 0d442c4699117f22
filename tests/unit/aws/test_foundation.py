"""The account's foundation converges, stays put, and lets in what pillar `endpoints` says and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

States = dict[str, dict[str, Any]]
Client = Callable[[str], Any]
Opening = tuple[str, int, str]  # group, port, and the group or network that may connect


def openings(client: Client) -> set[Opening]:
    """Return what the security groups of the foundation really let in."""
    groups = [
        one
        for one in client("ec2").describe_security_groups()["SecurityGroups"]
        if one["GroupName"] != "default"
    ]
    names = {group["GroupId"]: group["GroupName"] for group in groups}
    found: set[Opening] = set()
    for group in groups:
        for rule in group["IpPermissions"]:
            assert rule["IpProtocol"] == "tcp"
            assert rule["FromPort"] == rule["ToPort"]
            peers = [names[pair["GroupId"]] for pair in rule["UserIdGroupPairs"]]
            peers += [network["CidrIp"] for network in rule["IpRanges"]]
            peers += [network["CidrIpv6"] for network in rule["Ipv6Ranges"]]
            peers += [one["PrefixListId"] for one in rule["PrefixListIds"]]
            found |= {(group["GroupName"], rule["FromPort"], peer) for peer in peers}
    return found


def group_id(client: Client, name: str) -> str:
    """Return the id of a security group."""
    answer = client("ec2").describe_security_groups(
        Filters=[{"Name": "group-name", "Values": [name]}]
    )
    return str(answer["SecurityGroups"][0]["GroupId"])


def assert_clean(states: States) -> None:
    """Fail unless every state succeeded, changed nothing and predicts nothing."""
    assert {
        name: state["comment"] for name, state in states.items() if state["result"] is not True
    } == {}
    assert {name: state["changes"] for name, state in states.items() if state["changes"]} == {}


def test_prediction_on_empty_account_changes_nothing(
    apply: Callable[..., States], client: Client
) -> None:
    predicted = apply("test=True")
    assert {state["result"] for state in predicted.values()} == {None}
    assert openings(client) == set()
    assert client("iam").list_roles()["Roles"] == []


def test_first_run_creates_everything(
    applied: States, client: Client, pillar: dict[str, Any]
) -> None:
    assert {name: state["comment"] for name, state in applied.items() if not state["result"]} == {}
    aws, ec2 = pillar["aws"], client("ec2")
    vpc = next(one for one in ec2.describe_vpcs()["Vpcs"] if one["CidrBlock"] == aws["vpc"]["cidr"])
    hostnames = ec2.describe_vpc_attribute(VpcId=vpc["VpcId"], Attribute="enableDnsHostnames")
    assert hostnames["EnableDnsHostnames"]["Value"]
    subnet = next(one for one in ec2.describe_subnets()["Subnets"] if one["VpcId"] == vpc["VpcId"])
    assert (subnet["CidrBlock"], subnet["AvailabilityZone"]) == (
        aws["subnet"]["cidr"],
        aws["subnet"]["zone"],
    )
    table = next(
        one
        for one in ec2.describe_route_tables()["RouteTables"]
        if subnet["SubnetId"]
        in {association.get("SubnetId") for association in one["Associations"]}
    )
    assert {"0.0.0.0/0"} == {
        route["DestinationCidrBlock"]
        for route in table["Routes"]
        if route.get("GatewayId", "").startswith("igw-")
    }
    assert [key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]] == [aws["key_pair"]]


def test_second_run_changes_nothing(applied: States, apply: Callable[..., States]) -> None:
    assert_clean(apply())
    assert_clean(apply("test=True"))


def test_key_pair_with_other_key_is_replaced(
    applied: States, apply: Callable[..., States], client: Client, pillar: dict[str, Any]
) -> None:
    name, ec2 = pillar["aws"]["key_pair"], client("ec2")
    expected = ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"][0]["PublicKey"]
    ec2.delete_key_pair(KeyName=name)
    foreign = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINd0Jc4hVCdCRRmqoOgqZ0Kp3wyyl4HVUMpcKUaU4R6t"
    ec2.import_key_pair(KeyName=name, PublicKeyMaterial=foreign.encode())
    changed = {state["__id__"]: state["changes"] for state in apply().values() if state["changes"]}
    assert changed == {"aws-key-pair": {"old": foreign, "new": expected}}
    assert ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"][0]["PublicKey"] == expected


def test_groups_match_endpoints(
    applied: States, client: Client, pillar: dict[str, Any], operator: str
) -> None:
    groups = pillar["aws"]["security_groups"]
    found = openings(client)
    assert {one for one in found if one[2] == "0.0.0.0/0"} == {
        (groups["lb"], 80, "0.0.0.0/0"),
        (groups["lb"], 443, "0.0.0.0/0"),
    }
    assert {one for one in found if one[2] == operator} == {(groups["salt"], 22, operator)}
    assert {one for one in found if one[1] == 5432} == {(groups["postgres"], 5432, groups["web"])}
    assert {one[2] for one in found if one[:2] == (groups["salt"], 4505)} == set(groups.values())
    assert {one[0] for one in found if one[1:] == (22, groups["salt"])} == set(groups.values())
    assert {port for _, port, _ in found} == {
        endpoint["port"] for endpoint in pillar["endpoints"].values()
    }


def test_removed_rule_is_restored_and_unmanaged_rule_is_removed(
    applied: States, apply: Callable[..., States], client: Client, pillar: dict[str, Any]
) -> None:
    groups = pillar["aws"]["security_groups"]
    before, ec2 = openings(client), client("ec2")
    postgres = group_id(client, groups["postgres"])
    rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432}
    ec2.revoke_security_group_ingress(
        GroupId=postgres,
        IpPermissions=[rule | {"UserIdGroupPairs": [{"GroupId": group_id(client, groups["web"])}]}],
    )
    ec2.authorize_security_group_ingress(
        GroupId=postgres, IpPermissions=[rule | {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    )
    assert openings(client) != before
    predicted = apply("test=True")
    assert [state["__id__"] for state in predicted.values() if state["result"] is None] == [
        "aws-rules-postgres"
    ]
    assert all(state["result"] for state in apply().values())
    assert openings(client) == before


def test_unmanaged_ipv6_and_prefix_list_rules_are_removed(
    applied: States, apply: Callable[..., States], client: Client, pillar: dict[str, Any]
) -> None:
    groups = pillar["aws"]["security_groups"]
    before, ec2 = openings(client), client("ec2")
    prefixes = ec2.create_managed_prefix_list(
        PrefixListName="office", MaxEntries=1, AddressFamily="IPv4"
    )
    prefix_list = prefixes["PrefixList"]["PrefixListId"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    foreign = rule | {
        "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
        "PrefixListIds": [{"PrefixListId": prefix_list}],
    }
    for role in ("redis", "salt"):
        ec2.authorize_security_group_ingress(
            GroupId=group_id(client, groups[role]), IpPermissions=[foreign]
        )
    added = {
        (groups[role], 22, peer) for role in ("redis", "salt") for peer in ("::/0", prefix_list)
    }
    assert openings(client) == before | added
    predicted = {state["__id__"]: state for state in apply("test=True").values()}
    assert predicted["aws-unmanaged-rules-redis"]["result"] is None
    assert openings(client) == before | added
    states = apply()
    assert {name: state["comment"] for name, state in states.items() if not state["result"]} == {}
    changed = {state["__id__"]: state["changes"] for state in states.values() if state["changes"]}
    taken_out = {"old": ["tcp 22-22 from ::/0", f"tcp 22-22 from {prefix_list}"], "new": []}
    assert changed == {
        "aws-unmanaged-rules-redis": taken_out,
        "aws-unmanaged-rules-salt": taken_out,
    }
    assert openings(client) == before
    assert_clean(apply())
