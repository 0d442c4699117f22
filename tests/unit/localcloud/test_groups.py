"""Security groups: the policy that they make, and the kernel's rules for a policy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from localcloud import firewall, packages, ruleset
from localcloud.errors import FirewallFailed
from localcloud.firewall import Firewall
from localcloud.reachability import ANY, Group, Interface, Policy, Rule
from localcloud.ruleset import Places, Services
from memorycloud import Running

Launch = Callable[..., Any]
API = Services(("172.17.0.1", 4566), 4567, ("192.0.2.53",))
TWO = {
    "eni-a": Interface("i-a", ("10.0.1.4",), ("sg-1",)),
    "eni-b": Interface("i-b", ("10.0.2.4",), ("sg-1", "sg-2")),
}
PLACES = Places({"subnet-1": "br-1", "subnet-2": "br-2"}, {"i-a": "veth-a", "i-b": "veth-b"})


def chains(text: str) -> dict[str, list[str]]:
    """Return the rules of each chain in nft's text."""
    found = re.findall(r"  chain (\S+) \{\n(.*?)^  \}", text, re.DOTALL | re.MULTILINE)
    return {name: [line.strip() for line in body.splitlines()] for name, body in found}


def rendered(**groups: Group) -> dict[str, list[str]]:
    """Return the chains of two machines with groups of these rules; `sg_1` is `sg-1`."""
    named = {name.replace("_", "-"): group for name, group in groups.items()}
    return chains(ruleset.render("demo", Policy(TWO, named), PLACES, API))


# -- the policy


def test_policy_has_groups_of_living_machines(local: Running, launch: Launch) -> None:
    gone = launch()["InstanceId"]
    local.settle()
    local.ec2.terminate_instances(InstanceIds=[gone])
    kept = launch()
    local.settle()
    policy = local.host.policy
    (interface,) = policy.interfaces.values()
    assert (interface.instance_id, interface.addresses) == (
        kept["InstanceId"],
        (kept["PrivateIpAddress"],),
    )
    (default,) = interface.groups
    assert policy.groups[default] == Group(
        ingress=(Rule(ANY, group=default),), egress=(Rule(ANY, networks=("0.0.0.0/0",)),)
    )
    assert policy.vpcs[kept["SubnetId"]] == kept["VpcId"]


def test_interface_without_a_machine_has_its_groups_too(local: Running, subnet: str) -> None:
    made = local.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
    interface = local.host.policy.interfaces[made["NetworkInterfaceId"]]
    assert interface.addresses == (made["PrivateIpAddress"],)
    assert (interface.instance_id, len(interface.groups)) == ("", 1)


def test_every_change_of_rules_reaches_the_machines_before_it_is_answered(
    local: Running, launch: Launch
) -> None:
    vpc = launch()["VpcId"]
    group = local.ec2.create_security_group(VpcId=vpc, GroupName="web", Description="web")[
        "GroupId"
    ]
    peers = {"UserIdGroupPairs": [{"GroupId": group}], "IpRanges": [{"CidrIp": "10.9.0.0/16"}]}
    allowed = [
        {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 90, **peers},
        {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]},
    ]
    local.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=allowed)
    assert set(local.host.policy.groups[group].ingress) == {
        Rule("tcp", 80, 90, ("10.9.0.0/16",)),
        Rule("tcp", 80, 90, group=group),
        Rule("icmp", 8, None, ("0.0.0.0/0",)),
    }
    local.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=allowed)
    assert local.host.policy.groups[group].ingress == ()


def test_groups_of_instance_and_of_its_first_interface_are_the_same(
    local: Running, launch: Launch
) -> None:
    made = launch()
    ids = [
        local.ec2.create_security_group(VpcId=made["VpcId"], GroupName=name, Description=name)[
            "GroupId"
        ]
        for name in "ab"
    ]
    eni = made["NetworkInterfaces"][0]["NetworkInterfaceId"]

    def seen() -> list[list[str]]:
        found = local.ec2.describe_instances(InstanceIds=[made["InstanceId"]])
        instance = found["Reservations"][0]["Instances"][0]
        of_eni = local.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])
        return [
            [group["GroupId"] for group in instance["SecurityGroups"]],
            [group["GroupId"] for group in of_eni["NetworkInterfaces"][0]["Groups"]],
            list(local.host.policy.interfaces[eni].groups),
        ]

    local.ec2.modify_instance_attribute(InstanceId=made["InstanceId"], Groups=[ids[0]])
    assert seen() == [[ids[0]]] * 3
    local.ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, Groups=[ids[1]])
    assert seen() == [[ids[1]]] * 3


# -- the rules


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule("tcp", 22, 22, ("10.9.0.0/16",)), "ip saddr { 10.9.0.0/16 } tcp dport 22-22 accept"),
        (Rule("udp", 53, 54, ("0.0.0.0/0",)), "udp dport 53-54 accept"),
        (Rule("tcp", 0, 65535, ("0.0.0.0/0",)), "meta l4proto tcp accept"),
        (Rule("icmp", None, None, ("0.0.0.0/0",)), "ip protocol icmp accept"),
        (Rule("icmp", 3, 4, ("0.0.0.0/0",)), "icmp type 3 icmp code 4 accept"),
        (Rule("50", None, None, ("0.0.0.0/0",)), "meta l4proto 50 accept"),
        (Rule(ANY, networks=("0.0.0.0/0",)), "accept"),
        (Rule(ANY, group="sg-1"), "ip saddr { 10.0.1.4, 10.0.2.4 } accept"),
        (Rule(ANY, group="sg-2"), "ip saddr { 10.0.2.4 } accept"),
    ],
)
def test_rule_lets_in_what_it_names(rule: Rule, expected: str) -> None:
    assert rendered(sg_1=Group(ingress=(rule,)))["sg-1-in"] == [expected]


def test_rule_for_a_group_that_nobody_has_lets_nobody_in() -> None:
    assert rendered(sg_1=Group(ingress=(Rule(ANY, group="sg-9"),)))["sg-1-in"] == []


def test_egress_rules_name_the_destination() -> None:
    rule = Rule("tcp", 443, 443, ("10.9.0.0/16",))
    found = rendered(sg_1=Group(egress=(rule,)))
    assert found["sg-1-out"] == ["ct original ip daddr { 10.9.0.0/16 } tcp dport 443-443 accept"]


def test_machine_passes_the_rules_of_all_its_groups_or_nothing() -> None:
    found = rendered(sg_1=Group(), sg_2=Group())
    assert found["eni-b-in"] == ["jump sg-1-in", "jump sg-2-in", "drop"]
    assert found["eni-a-out"][2:] == ["jump sg-1-out", "drop"]
    assert found["enter"][-2:] == [
        "ip daddr vmap { 10.0.1.4 : goto eni-a-in, 10.0.2.4 : goto eni-b-in }",
        "drop",
    ]
    assert found["leave"][-1] == "drop"


def test_machine_sends_from_its_own_address_only() -> None:
    found = rendered()
    assert found["from-port"][1] == 'iifname vmap { "veth-a" : goto eni-a, "veth-b" : goto eni-b }'
    assert found["eni-a"] == [
        "ip saddr { 10.0.1.4 } accept",
        "arp saddr ip { 10.0.1.4 } accept",
        "drop",
    ]


@pytest.mark.parametrize("asked", ["169.254.169.254 tcp dport 80", "169.254.169.123 udp dport 123"])
def test_machines_find_metadata_and_time_at_their_addresses_on_ec2(asked: str) -> None:
    bridges = 'iifname { "br-1", "br-2" }'
    assert f"{bridges} ip daddr {asked} dnat ip to 172.17.0.1:4566" in rendered()["link-local"]


def test_cloud_without_networks_has_no_tables() -> None:
    text = ruleset.render("demo", Policy(), Places(), API)
    assert text == ruleset.removal("demo")


# -- the kernel


class Kernel:
    """The programs that change the kernel's rules."""

    def __init__(self, listed: str = "") -> None:
        self.calls: list[tuple[str, ...]] = []
        self.listed = listed

    def __call__(self, *command: str, given: str = "", check: bool = True) -> str:
        self.calls.append(command)
        assert given or command[0] == "iptables"
        assert check or "-S" in command
        return self.listed


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(firewall, "_run", made)
    monkeypatch.setattr(firewall, "_filter_inside", lambda bridge: made.calls.append((bridge,)))
    return made


def test_rules_are_loaded_when_they_differ(kernel: Kernel) -> None:
    wall = Firewall("demo", API)
    assert wall.load(Policy(TWO), PLACES)
    assert not wall.load(Policy(TWO), PLACES)
    assert kernel.calls.count(("nft", "--file", "-")) == 1
    assert kernel.calls[:2] == [("br-1",), ("br-2",)]


def test_docker_lets_packets_pass_between_subnets_of_one_vpc(kernel: Kernel) -> None:
    own = ("-m", "comment", "--comment", "localcloud-demo", "-j", "ACCEPT")
    kernel.listed = (
        "-N DOCKER-USER\n"
        "-A DOCKER-USER -i br-2 -o br-1 -m comment --comment localcloud-demo -j ACCEPT\n"
        "-A DOCKER-USER -i br-9 -o br-1 -m comment --comment localcloud-demo -j ACCEPT\n"
        "-A DOCKER-USER -i br-8 -o br-1 -m comment --comment localcloud-demo-2 -j ACCEPT\n"
        "-A DOCKER-USER -j RETURN\n"
    )
    places = Places({"subnet-1": "br-1", "subnet-2": "br-2", "subnet-3": "br-3"})
    vpcs = {"subnet-1": "vpc-1", "subnet-2": "vpc-1", "subnet-3": "vpc-2"}
    Firewall("demo", API).load(Policy(TWO, vpcs=vpcs), places)
    changes = [call[2:] for call in kernel.calls if call[0] == "iptables" and "-S" not in call]
    assert changes == [
        ("-D", "DOCKER-USER", "-i", "br-9", "-o", "br-1", *own),
        ("-I", "DOCKER-USER", "-i", "br-1", "-o", "br-2", *own),
    ]


def test_nftables_is_installed_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[list[str]] = []
    monkeypatch.setattr(packages, "install", lambda names, _report: done.append(names))
    monkeypatch.setattr(firewall, "_program", lambda _name: None)
    firewall.ensure(print)
    firewall.remove("demo")  # there is nothing to remove, and nothing to remove it with
    monkeypatch.setattr(firewall, "_program", lambda name: f"/usr/sbin/{name}")
    firewall.ensure(print)
    assert done == [["nftables"]]


def test_refusal_of_the_kernel_says_what_is_not_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "privileged", lambda *command: list(command))
    monkeypatch.setattr(firewall, "_program", lambda _name: "/bin/false")
    with pytest.raises(FirewallFailed, match="not kept to their security groups"):
        firewall.remove("demo")
