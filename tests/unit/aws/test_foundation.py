"""The account's states converge, change nothing again, and open what `endpoints` names only.

In both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accounts import tagged
from localcloud import catalog
from plainpillar import DEPLOYMENT

States = dict[str, dict[str, Any]]
Client = Callable[[str], Any]
OWNER = [{"Key": key, "Value": value} for key, value in DEPLOYMENT.owner().items()]
Opening = tuple[str, int, str]  # group, port, and the group or network that may connect


def openings(client: Client, key: str = "IpPermissions") -> set[Opening]:
    """Return what the security groups let in, or by another key of EC2's, out."""
    groups = [
        group
        for group in client("ec2").describe_security_groups()["SecurityGroups"]
        if group["GroupName"] != "default"
    ]
    names = {group["GroupId"]: group["GroupName"] for group in groups}
    found: set[Opening] = set()
    for group in groups:
        for rule in group[key]:
            assert rule["IpProtocol"] == "tcp"
            assert rule["FromPort"] == rule["ToPort"]
            peers = [names[pair["GroupId"]] for pair in rule["UserIdGroupPairs"]]
            peers += [network["CidrIp"] for network in rule["IpRanges"]]
            peers += [network["CidrIpv6"] for network in rule["Ipv6Ranges"]]
            peers += [prefix_list["PrefixListId"] for prefix_list in rule["PrefixListIds"]]
            found |= {(group["GroupName"], rule["FromPort"], peer) for peer in peers}
    return found


def assert_tagged(ec2: Any, pillar: dict[str, Any]) -> None:
    """Fail unless everything that the states have made says whose it is."""
    aws = pillar["aws"]
    names = {
        "vpc": aws["vpc"]["name"], "key-pair": aws["key_pair"],
        "internet-gateway": aws["internet_gateway"], "route-table": aws["route_table"],
        "elastic-ip": aws["edge_address"]["name"], "vpc-endpoint": aws["s3_endpoint"],
    }  # fmt: skip
    private = ("route-table", aws["private_route_table"])
    found = sorted((kind, *sorted(tags.items())) for kind, _, tags in tagged(ec2))
    owner = [("deployment", "test"), ("project", "airflow-stack")]
    groups = [("security-group", name) for name in aws["security_groups"].values()]
    groups += [("subnet", subnet["name"]) for subnet in subnets_of(aws)]
    assert found == sorted(
        (kind, ("Name", name), *owner) for kind, name in [*names.items(), private, *groups]
    )


def subnets_of(aws: dict[str, Any]) -> list[dict[str, str]]:
    """Return the subnets of pillar `aws`."""
    return [aws["subnet"], *aws["other_subnets"].values()]


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
    predicted = apply(test=True)
    settled = {name for name, state in predicted.items() if state["result"] is True}
    assert {state["result"] for state in predicted.values()} == {None, True}
    assert {name.split("_|-")[1] for name in settled} == {
        "aws-names", "aws-machines",
        "aws-earlier-key-pair", "aws-earlier-salt-role", "aws-lb-machines",
        "aws-postgres-machines",
    }  # fmt: skip
    assert openings(client) == set()
    assert client("iam").list_roles()["Roles"] == []
    assert client("ec2").describe_addresses()["Addresses"] == []
    assert client("s3").list_buckets()["Buckets"] == []


def test_first_run_creates_everything(
    applied: States, client: Client, pillar: dict[str, Any]
) -> None:
    assert {name: state["comment"] for name, state in applied.items() if not state["result"]} == {}
    aws, ec2 = pillar["aws"], client("ec2")
    vpcs = {vpc["CidrBlock"]: vpc for vpc in ec2.describe_vpcs()["Vpcs"]}
    vpc = vpcs[aws["vpc"]["cidr"]]
    hostnames = ec2.describe_vpc_attribute(VpcId=vpc["VpcId"], Attribute="enableDnsHostnames")
    assert hostnames["EnableDnsHostnames"]["Value"]
    inside = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
    subnets = ec2.describe_subnets(Filters=inside)["Subnets"]
    assert {(one["CidrBlock"], one["AvailabilityZone"]) for one in subnets} == {
        (one["cidr"], one["zone"]) for one in subnets_of(aws)
    }
    kept = {one["cidr"] for one in subnets_of(aws) if one.get("private")}
    assert len(kept) == 3
    ways_out = {}
    for private in (False, True):
        ids = {one["SubnetId"] for one in subnets if (one["CidrBlock"] in kept) == private}
        table = next(
            table
            for table in ec2.describe_route_tables()["RouteTables"]
            if ids == {association.get("SubnetId") for association in table["Associations"]}
        )
        ways_out[private] = {
            (route.get("DestinationCidrBlock", "S3"), route.get("GatewayId", "")[:4])
            for route in table["Routes"]
        }
    inner = {(aws["vpc"]["cidr"], "loca"), ("S3", "vpce")}
    assert ways_out == {False: {*inner, ("0.0.0.0/0", "igw-")}, True: inner}
    assert [key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]] == [aws["key_pair"]]
    assert len(ec2.describe_addresses()["Addresses"]) == 1
    assert_tagged(ec2, pillar)
    assert client("iam").get_role(RoleName=aws["salt_role"])["Role"]["Tags"]


def test_second_run_changes_nothing(applied: States, apply: Callable[..., States]) -> None:
    assert_clean(apply())
    assert_clean(apply(test=True))


def test_networks_with_host_bits_are_not_written_again(
    applied: States,
    apply: Callable[..., States],
    operator_of: Callable[..., Callable[..., States]],
    client: Client,
    pillar: dict[str, Any],
) -> None:
    """EC2 clears the host bits; two entries of one network are one rule."""
    cidrs = ["203.0.113.9/24", "203.0.113.77/24", "198.51.100.7/32"]
    changed = operator_of("test", operator_cidrs=cidrs)
    salt = pillar["aws"]["security_groups"]["salt"]
    states = changed()
    assert {name: state["comment"] for name, state in states.items() if not state["result"]} == {}
    assert {peer for group, port, peer in openings(client) if group == salt and "/" in peer} == {
        "203.0.113.0/24",
        "198.51.100.7/32",
    }
    assert_clean(changed())
    assert_clean(changed(test=True))
    assert all(state["result"] for state in apply().values())


def test_address_of_the_master_is_reserved_once(
    applied: States, client: Client, pillar: dict[str, Any]
) -> None:
    aws, ec2 = pillar["aws"], client("ec2")
    named = [{"Name": "tag:Name", "Values": [aws["subnet"]["name"]]}]
    (subnet,) = ec2.describe_subnets(Filters=named)["Subnets"]
    found = ec2.get_subnet_cidr_reservations(SubnetId=subnet["SubnetId"])
    (reservation,) = found["SubnetIpv4CidrReservations"]
    assert reservation["Cidr"] == f"{aws['salt_address']}/32"
    assert reservation["ReservationType"] == "explicit"


def test_key_pair_with_other_key_is_replaced(
    applied: States, apply: Callable[..., States], client: Client, pillar: dict[str, Any]
) -> None:
    name, ec2 = pillar["aws"]["key_pair"], client("ec2")
    expected = ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"][0]["PublicKey"]
    ec2.delete_key_pair(KeyName=name)
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINd0Jc4hVCdCRRmqoOgqZ0Kp3wyyl4HVUMpcKUaU4R6t"
    ec2.import_key_pair(
        KeyName=name,
        PublicKeyMaterial=other.encode(),
        TagSpecifications=[{"ResourceType": "key-pair", "Tags": OWNER}],
    )
    changed = {state["__id__"]: state["changes"] for state in apply().values() if state["changes"]}
    assert changed == {
        "aws-key-pair": {
            "new": [
                f"delete the other key of {name}, {other}",
                f"upload the key {expected} as {name}",
            ]
        }
    }
    assert ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"][0]["PublicKey"] == expected


def test_groups_match_endpoints(
    applied: States, client: Client, pillar: dict[str, Any], operator: str
) -> None:
    groups = pillar["aws"]["security_groups"]
    found = openings(client)
    assert {opening for opening in found if opening[2] == "0.0.0.0/0"} == {
        (groups["lb"], 80, "0.0.0.0/0"),
        (groups["lb"], 443, "0.0.0.0/0"),
    }
    assert {opening for opening in found if opening[2] == operator} == {
        (groups["salt"], 22, operator)
    }
    assert {opening for opening in found if opening[1] == 5432} == {
        (groups["postgres"], 5432, groups["web"]),
        (groups["postgres"], 5432, groups["monitor"]),
        (groups["postgres"], 5432, groups["postgres"]),
    }
    assert {peer for group, port, peer in found if (group, port) == (groups["salt"], 4505)} == set(
        groups.values()
    )
    assert {group for group, port, peer in found if (port, peer) == (22, groups["salt"])} == set(
        groups.values()
    )
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
    predicted = apply(test=True)
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
    unmanaged = rule | {
        "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
        "PrefixListIds": [{"PrefixListId": prefix_list}],
    }
    for role in ("redis", "salt"):
        ec2.authorize_security_group_ingress(
            GroupId=group_id(client, groups[role]), IpPermissions=[unmanaged]
        )
    added = {
        (groups[role], 22, peer) for role in ("redis", "salt") for peer in ("::/0", prefix_list)
    }
    assert openings(client) == before | added
    predicted = {state["__id__"]: state for state in apply(test=True).values()}
    assert predicted["aws-rules-redis"]["result"] is None
    assert openings(client) == before | added
    states = apply()
    assert {name: state["comment"] for name, state in states.items() if not state["result"]} == {}
    changed = {state["__id__"]: state["changes"] for state in states.values() if state["changes"]}
    removed = {"new": [f"stop letting in tcp 22-22 from ::/0, tcp 22-22 from {prefix_list}"]}
    assert changed == {"aws-rules-redis": removed, "aws-rules-salt": removed}
    assert openings(client) == before
    assert_clean(apply())


def test_edge_machine_of_an_older_stack_gets_its_role_and_no_address(
    applied: States, apply: Callable[..., States], client: Client, pillar: dict[str, Any]
) -> None:
    aws, ec2 = pillar["aws"], client("ec2")
    tags = [{"Key": "Name", "Value": "lb-1"}, *OWNER]
    instance = ec2.run_instances(
        ImageId=catalog.IMAGE_ID, InstanceType="t2.micro", MinCount=1, MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )["Instances"][0]  # fmt: skip
    changed = {state["__id__"]: state["changes"] for state in apply().values() if state["changes"]}
    (address,) = ec2.describe_addresses()["Addresses"]
    assert not address.get("NetworkInterfaceId"), "it takes the address itself, once it serves"
    role = f"give lb-1 ({instance['InstanceId']}) the role {aws['machine_roles']['lb']}"
    assert changed == {"aws-lb-machines": {"new": [role]}}
    assert_clean(apply())
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])


def test_groups_let_out_what_endpoints_name(
    applied: States, client: Client, pillar: dict[str, Any]
) -> None:
    groups = pillar["aws"]["security_groups"]
    found = openings(client, "IpPermissionsEgress")
    salt = groups["salt"]
    by_all = {(salt, port) for port in (3128, 4505, 4506)} | {(groups["monitor"], 19532)}
    to_redis = {(groups["redis"], 6379), (groups["redis"], 26379)}
    assert {
        (peer, port) for group, port, peer in found if group == groups["redis"]
    } == by_all | to_redis
    assert {(peer, port) for group, port, peer in found if group == groups["lb"]} == by_all | {
        (groups["web"], 8080),
        ("0.0.0.0/0", 443),
    }
    outside = {opening for opening in found if opening[2] not in groups.values()}
    (s3,) = client("ec2").describe_managed_prefix_lists(
        Filters=[{"Name": "prefix-list-name", "Values": ["com.amazonaws.eu-west-1.s3"]}]
    )["PrefixLists"]
    assert outside == {
        (salt, 80, "0.0.0.0/0"),
        (salt, 443, "0.0.0.0/0"),
        (groups["lb"], 443, "0.0.0.0/0"),
        (salt, 443, s3["PrefixListId"]),
        (groups["postgres"], 443, s3["PrefixListId"]),
    }
