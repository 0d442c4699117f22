"""Which machine has a way out, and at which address the Internet reaches it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError

from localcloud import ruleset
from localcloud.delays import Delays
from localcloud.reachability import PUBLIC, Group, Interface, Policy, Rule
from localcloud.ruleset import Places, Services
from memorycloud import MemoryHost, Running, running

Launch = Callable[..., Any]


class Net:
    """A VPC with an internet gateway that no subnet has a route to."""

    def __init__(self, local: Running, subnet: str) -> None:
        self.local, self.ec2, self.subnet = local, local.ec2, subnet
        self.vpc = self.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
        self.gateway = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.vpc)

    def table(self, subnet: str = "", **target: str) -> str:
        """Make a route table, of a subnet or else the VPC's main one, with a way out."""
        if subnet:
            table = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
            self.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        else:
            of_vpc = [{"Name": "vpc-id", "Values": [self.vpc]}]
            found = self.ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
            table = found[0]["RouteTableId"]
        self.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **target)
        return str(table)

    def interface(self, instance: Any) -> Interface:
        (found,) = (
            interface
            for interface in self.local.host.policy.interfaces.values()
            if interface.instance_id == instance["InstanceId"]
        )
        return found

    def public(self, instance: Any) -> str:
        found = self.ec2.describe_instances(InstanceIds=[instance["InstanceId"]])
        return str(found["Reservations"][0]["Instances"][0].get("PublicIpAddress", ""))


@pytest.fixture
def net(local: Running, subnet: str) -> Net:
    return Net(local, subnet)


@pytest.fixture
def start(net: Net) -> Launch:
    """Return a function that launches a machine with or without a public address."""

    def run(*, public: bool, subnet: str = "") -> Any:
        nic = {
            "DeviceIndex": 0,
            "SubnetId": subnet or net.subnet,
            "AssociatePublicIpAddress": public,
        }
        made = net.ec2.run_instances(
            ImageId=_image(net), InstanceType="t2.micro", MinCount=1, MaxCount=1,
            NetworkInterfaces=[nic],
        )["Instances"][0]  # fmt: skip
        net.local.settle()
        return made

    return run


def _image(net: Net) -> str:
    return str(net.ec2.describe_images()["Images"][0]["ImageId"])


def test_internet_gateway_takes_what_has_a_public_address(net: Net, start: Launch) -> None:
    public, private = start(public=True), start(public=False)
    assert [net.interface(one).way_out for one in (public, private)] == [False, False]
    assert net.interface(public).public == "", "nobody finds the way in either"
    table = net.table(GatewayId=net.gateway)
    assert [net.interface(one).way_out for one in (public, private)] == [True, False]
    assert net.interface(public).public == net.public(public) != ""
    assert ipaddress.ip_address(net.public(public)) in PUBLIC
    net.ec2.detach_internet_gateway(InternetGatewayId=net.gateway, VpcId=net.vpc)
    assert not net.interface(public).way_out
    net.ec2.attach_internet_gateway(InternetGatewayId=net.gateway, VpcId=net.vpc)
    assert net.interface(public).way_out
    net.ec2.delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")
    assert not net.interface(public).way_out
    assert net.interface(public).vpc == ("10.40.0.0/16",)


def test_subnets_own_table_counts_before_the_main_one(net: Net, start: Launch) -> None:
    net.table(GatewayId=net.gateway)
    machine = start(public=True)
    own = net.ec2.create_route_table(VpcId=net.vpc)["RouteTable"]["RouteTableId"]
    made = net.ec2.associate_route_table(RouteTableId=own, SubnetId=net.subnet)
    assert not net.interface(machine).way_out
    net.ec2.disassociate_route_table(AssociationId=made["AssociationId"])
    assert net.interface(machine).way_out


def test_nat_gateway_takes_everything_if_it_has_a_way_out(net: Net, start: Launch) -> None:
    private = net.ec2.create_subnet(VpcId=net.vpc, CidrBlock="10.40.2.0/28")["Subnet"]["SubnetId"]
    address = net.ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = net.ec2.create_nat_gateway(SubnetId=net.subnet, AllocationId=address)
    net.table(private, NatGatewayId=nat["NatGateway"]["NatGatewayId"])
    machine = start(public=False, subnet=private)
    assert not net.interface(machine).way_out
    net.table(GatewayId=net.gateway)
    assert net.interface(machine).way_out
    assert net.interface(machine).public == ""


def ways(net: Net, machine: Any) -> tuple[bool, bool, bool]:
    """Return whether a machine can leave the VPC, reaches all APIs, and reaches S3."""
    found = net.interface(machine)
    return (found.way_out, found.api, found.s3)


def test_endpoint_of_s3_leads_to_s3_and_nowhere_else(net: Net, start: Launch) -> None:
    machine = start(public=True)
    table = net.table(GatewayId=net.gateway)
    assert ways(net, machine) == (True, True, True)
    net.ec2.delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")
    assert ways(net, machine) == (False, False, False)
    made = net.ec2.create_vpc_endpoint(
        VpcId=net.vpc,
        ServiceName="com.amazonaws.eu-west-1.s3",
        VpcEndpointType="Gateway",
        RouteTableIds=[table],
    )["VpcEndpoint"]["VpcEndpointId"]
    assert ways(net, machine) == (False, False, True)
    s3 = net.local.client("s3", patience=5)
    ec2 = net.local.client("ec2", patience=5)
    net.local.api.address = machine["PrivateIpAddress"]
    assert s3.list_buckets()["Buckets"] == []
    with pytest.raises(HTTPClientError):
        ec2.describe_vpcs()
    net.local.api.address = ""
    assert ec2.describe_vpcs()["Vpcs"], "and this host always"
    net.ec2.delete_vpc_endpoints(VpcEndpointIds=[made])
    assert ways(net, machine) == (False, False, False)
    net.local.api.address = machine["PrivateIpAddress"]
    with pytest.raises(HTTPClientError):
        s3.list_buckets()


def test_apis_need_a_rule_for_https_to_every_address(net: Net, start: Launch) -> None:
    """Their addresses change; those of S3 are in a prefix list."""
    net.table(GatewayId=net.gateway)
    machine = start(public=True)
    group = net.interface(machine).groups[0]
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    net.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everything)
    named = [{"Name": "prefix-list-name", "Values": ["com.amazonaws.eu-west-1.s3"]}]
    (s3,) = net.ec2.describe_managed_prefix_lists(Filters=named)["PrefixLists"]
    anybody = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    for ports, protocol, peer, expected in (
        ((80, 80), "tcp", anybody, (True, False, False)),
        ((443, 443), "udp", anybody, (True, False, False)),
        ((443, 443), "tcp", {"IpRanges": [{"CidrIp": "10.0.0.0/8"}]}, (True, False, False)),
        ((443, 443), "tcp", {"UserIdGroupPairs": [{"GroupId": group}]}, (True, False, False)),
        ((443, 443), "tcp", {"PrefixListIds": [{"PrefixListId": s3["PrefixListId"]}]},
         (True, False, True)),
        ((1, 1024), "tcp", anybody, (True, True, True)),
    ):  # fmt: skip
        rule = {"IpProtocol": protocol, "FromPort": ports[0], "ToPort": ports[1], **peer}
        net.ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[rule])
        assert ways(net, machine) == expected, rule
        net.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=[rule])
    assert ways(net, machine) == (True, False, False)


def test_moved_address_leaves_its_machine(net: Net, start: Launch) -> None:
    net.table(GatewayId=net.gateway)
    first, second = start(public=True), start(public=False)
    tags = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "Name", "Value": "site"}]}]
    made = net.ec2.allocate_address(Domain="vpc", TagSpecifications=tags)
    assert net.local.host.policy.elastic == {}

    def give(instance: Any) -> None:
        net.ec2.associate_address(
            AllocationId=made["AllocationId"],
            InstanceId=instance["InstanceId"],
            AllowReassociation=True,
        )

    give(first)
    assert net.interface(first).public == net.public(first) == made["PublicIp"]
    assert net.local.host.policy.elastic == {"site": first["PrivateIpAddress"]}
    give(second)
    assert net.local.host.policy.elastic == {"site": second["PrivateIpAddress"]}
    assert net.interface(second).public == net.public(second) == made["PublicIp"]
    assert net.public(first) not in ("", made["PublicIp"]), "it has another one, as before"
    with pytest.raises(ClientError, match=r"InvalidIPAddress\.InUse"):
        net.ec2.release_address(AllocationId=made["AllocationId"])
    assert net.interface(first).way_out, "so it can take the address back"
    give(first)
    assert net.public(first) == made["PublicIp"]
    assert net.public(second) == "", "it was launched without one, and has no way out"
    assert not net.interface(second).way_out
    (found,) = net.ec2.describe_addresses()["Addresses"]
    net.ec2.disassociate_address(AssociationId=found["AssociationId"])
    assert net.public(first) not in ("", made["PublicIp"])
    assert net.local.host.policy.elastic == {}


def test_machine_that_lost_the_address_gets_another_one_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the process that was about to give it has ended."""
    waiting: list[Any] = []

    class Timer:
        def __init__(self, seconds: float, job: Callable[[], None]) -> None:
            assert seconds == 7
            waiting.append(job)

        def start(self) -> None:
            pass

    monkeypatch.setattr("localcloud.cloud.threading.Timer", Timer)
    delays = Delays(console_posts=(0,), shutting_down=0, public_address=7)
    with running(tmp_path, MemoryHost(), delays) as local:
        vpc = local.ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
        subnet = local.ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/28")["Subnet"]["SubnetId"]
        net = Net(local, subnet)
        net.table(GatewayId=net.gateway)
        nic = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": True}
        machine = net.ec2.run_instances(
            ImageId=_image(net), InstanceType="t2.micro", MinCount=1, MaxCount=1,
            NetworkInterfaces=[nic],
        )["Instances"][0]  # fmt: skip
        local.settle()
        made = net.ec2.allocate_address(Domain="vpc")["AllocationId"]

        def finish() -> None:
            waiting.pop()()

        for later in (finish, local.cloud.reconcile):
            given = net.ec2.associate_address(AllocationId=made, InstanceId=machine["InstanceId"])
            net.ec2.disassociate_address(AssociationId=given["AssociationId"])
            assert (net.public(machine), net.interface(machine).way_out) == ("", False)
            later()
            assert net.public(machine) != ""
            assert net.interface(machine).way_out


# -- the rules


def test_rules_lead_in_at_public_addresses_and_keep_the_others_inside() -> None:
    inside: dict[str, Any] = {"vpc": ("10.0.0.0/16",), "groups": ("sg-1",)}
    policy = Policy(
        {
            "eni-a": Interface("i-a", ("10.0.1.4",), public="198.18.0.7", **inside),
            "eni-b": Interface("i-b", ("10.0.1.5",), way_out=False, api=False, s3=False, **inside),
            "eni-c": Interface("i-c", ("10.0.1.6",), api=False, public="127.3.2.1", **inside),
        }
    )
    text = ruleset.render(
        "demo", policy, Places({"subnet-1": "br-1"}), Services(("172.17.0.1", 4566), 4567)
    )
    kept = "ct original ip daddr != { 10.0.0.0/16 } drop"
    assert text.count(kept) == 1

    def begins(eni: str, api: str, s3: str, then: str = "") -> bool:
        at = "    ip daddr 172.17.0.1 tcp dport"
        return f"chain {eni}-out {{\n{at} 4566 {api}\n{at} 4567 {s3}\n{then}" in text

    assert begins("eni-a", "accept", "accept")
    assert begins("eni-b", "drop", "drop", f"    {kept}\n")
    assert begins("eni-c", "accept", "accept"), "S3 is at the API's address, too"
    led = "dnat ip to ip daddr map { 198.18.0.7 : 10.0.1.4 }"
    assert text.count(led) == 2, "of this host and of machines; 127.0.0.0/8 stays here"
    assert "ip saddr { 10.0.1.4 } snat ip to ip saddr map { 10.0.1.4 : 198.18.0.7 }" in text


def test_published_port_leads_to_who_has_the_address() -> None:
    """Without a holder, nothing leads away from the port."""
    places = Places({"subnet-1": "br-1"})
    services = Services(
        ("172.17.0.1", 4566), 4567, publish={"site": {443: ("127.0.0.1", 8443)}, "other": {}}
    )
    for holder in ("10.0.1.4", "10.0.1.5"):
        text = ruleset.render("demo", Policy(elastic={"site": holder}), places, services)
        assert f"ip daddr 127.0.0.1 tcp dport 8443 dnat ip to {holder}:443" in text
        assert 'oifname { "br-1" } ip saddr 127.0.0.0/8 masquerade' in text
    assert "8443" not in ruleset.render("demo", Policy(elastic={"x": "10.0.1.4"}), places, services)


def test_only_rules_for_everybody_let_in_who_comes_by_the_gateway() -> None:
    rules = (
        Rule("tcp", 443, 443, ("0.0.0.0/0",)),
        Rule("tcp", 22, 22, ("10.0.0.0/16",)),
        Rule("tcp", 80, 80, group="sg-1"),
    )
    machine = Interface("i-a", ("10.0.1.4",), ("sg-1",), public="198.18.0.7")
    policy = Policy({"eni-a": machine}, {"sg-1": Group(ingress=rules)})
    places = Places({"subnet-1": "br-1"})
    text = ruleset.render("demo", policy, places, Services(("172.17.0.1", 4566), 4567))
    assert "chain sg-1-by-gateway {\n    tcp dport 443-443 accept\n  }" in text
    assert "chain eni-a-by-gateway {\n    jump sg-1-by-gateway\n    drop\n  }" in text
