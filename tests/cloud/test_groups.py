"""Security groups and routes: what the local cloud lets through; the machines have no firewall."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from localcloud import ruleset, service
from probing import HOST, Pair, reached
from realcloud import VPC, Machine, RealCloud
from waiting import until

PORTS = (22, 5432, 8080, 9999)


_NAME = """
import os, socket
server = socket.create_server(("", 8080))
while True:
    client = server.accept()[0]
    client.sendall(os.uname().nodename.encode())
    client.close()
"""


# A network behind the machine's, as a container's.
_POD = """set -e
unshare --net sleep 600 >/dev/null 2>&1 & echo $! >/run/pod
until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/1/ns/net)" ]; do sleep .1; done
ip link add pod type veth peer name eth0 netns $!
ip address add 10.200.0.1/24 dev pod
ip link set pod up
inside="nsenter --net --target $!"
$inside ip address add 10.200.0.2/24 dev eth0
$inside ip link set eth0 up
$inside ip route add default via 10.200.0.1
nft add table ip pod
nft "add chain ip pod out { type nat hook postrouting priority 100; }"
nft add rule ip pod out ip saddr 10.200.0.0/24 masquerade
"""


class Net:
    """Three machines, each in a group of its own and in one that lets the host's SSH in.

    `far` is in another subnet than `near` and `other`.
    """

    def __init__(self, cloud: RealCloud) -> None:
        self.cloud = cloud
        self.ec2 = cloud.client("ec2")
        vpcs = self.ec2.describe_vpcs(Filters=[{"Name": "tag:Name", "Values": [VPC]}])["Vpcs"]
        self.vpc = vpcs[0]["VpcId"]
        self.groups: dict[str, str] = {}
        self.machines: dict[str, Machine] = {}

    def launch(self) -> None:
        login = self.group("login")
        # Only the host has its address, the first of each subnet.
        for subnet in (self.cloud.place.subnet, self.far_cidr):
            self.let(login, (22, subnet.replace(".0/24", ".1/32")))
        far = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=self.far_cidr)["Subnet"]
        subnets = {"near": self.cloud.subnet, "other": self.cloud.subnet, "far": far["SubnetId"]}

        def start(name: str) -> Machine:
            ids = [login, self.groups[name]]
            return self.cloud.launch(f"group-{name}", SubnetId=subnets[name], SecurityGroupIds=ids)

        for name in subnets:
            self.group(name)
        with ThreadPoolExecutor(3) as pool:
            self.machines = dict(zip(subnets, pool.map(start, subnets), strict=True))

    @property
    def far_cidr(self) -> str:
        return self.cloud.place.subnet.replace(".1.0/24", ".200.0/24")

    def group(self, name: str) -> str:
        made = self.ec2.create_security_group(VpcId=self.vpc, GroupName=name, Description=name)
        self.groups[name] = made["GroupId"]
        return str(made["GroupId"])

    def let(self, group: str, *rules: tuple[int, str], egress: bool = False) -> None:
        """Add rules, each a port and a group's name or a network, to a group."""
        add = (
            self.ec2.authorize_security_group_egress
            if egress
            else self.ec2.authorize_security_group_ingress
        )
        add(GroupId=group, IpPermissions=[self.rule(*rule) for rule in rules])

    def rule(self, port: int, source: str) -> dict[str, Any]:
        where: dict[str, Any] = {"IpRanges": [{"CidrIp": source}]}
        if source in self.groups:
            where = {"UserIdGroupPairs": [{"GroupId": self.groups[source]}]}
        return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **where}

    def take(self, group: str, *rules: tuple[int, str]) -> None:
        permissions = [self.rule(*rule) for rule in rules]
        self.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=permissions)

    def open(self) -> set[Pair]:
        """Return which machine, or the host, reaches which machine at which port."""
        return reached(
            {name: machine.address for name, machine in self.machines.items()},
            {name: machine.container for name, machine in self.machines.items()},
            PORTS,
        )


LOGIN = {("host", name, 22) for name in ("near", "other", "far")}


@pytest.fixture(scope="module")
def net(cloud: RealCloud) -> Iterator[Net]:
    made = Net(cloud)
    made.launch()
    yield made
    for machine in made.machines.values():
        machine.terminate()


def test_nothing_is_let_in_without_a_rule(net: Net) -> None:
    assert net.open() == LOGIN


def test_rules_count_at_once_and_in_their_direction_only(net: Net) -> None:
    near, far = net.groups["near"], net.groups["far"]
    host = net.cloud.place.subnet.replace(".0/24", ".1/32")
    other = f"{net.machines['other'].address}/32"
    net.let(near, (8080, "far"), (5432, other), (9999, host))
    net.let(far, (5432, "near"), (5432, "other"))
    more = {
        ("far", "near", 8080),
        ("other", "near", 5432),
        ("host", "near", 9999),
        ("near", "far", 5432),
        ("other", "far", 5432),
    }
    assert net.open() == LOGIN | more
    net.take(near, (8080, "far"), (5432, other), (9999, host))
    net.take(far, (5432, "near"), (5432, "other"))
    assert net.open() == LOGIN


def test_connection_outlives_its_rule_and_its_answers_need_none(net: Net) -> None:
    near = net.groups["near"]
    net.let(near, (22, "other"))
    talk = (
        "python3 -c 'import socket,sys,time\n"
        f's=socket.create_connection(("{net.machines["near"].address}", 22), 5)\n'
        's.recv(99); open("/root/connected", "w").close()\n'
        "import os\n"
        'while not os.path.exists("/root/go"): time.sleep(.05)\n'
        's.sendall(b"SSH-2.0-x\\r\\n"); print(len(s.recv(99)) > 0)\''
    )
    other = net.machines["other"]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(other.run, talk)
        until(lambda: other.run("ls /root/connected || true"), "the connection is there")
        net.take(near, (22, "other"))
        other.run("touch /root/go")
        assert answer.result() == "True"
    assert ("other", "near", 22) not in net.open()


def test_egress_rules_hold(net: Net) -> None:
    near, other, login = (net.groups[name] for name in ("near", "other", "login"))
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    net.let(other, (8080, "near"), (5432, "near"))
    assert net.open() == LOGIN | {("near", "other", 8080), ("near", "other", 5432)}
    for group in (near, login):
        net.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everything)
    net.let(near, (8080, "other"), egress=True)
    assert net.open() == LOGIN | {("near", "other", 8080)}
    net.ec2.authorize_security_group_egress(GroupId=login, IpPermissions=everything)
    net.take(other, (8080, "near"), (5432, "near"))


def test_groups_of_a_machine_can_be_changed(net: Net) -> None:
    net.let(net.groups["far"], (9999, "near"))
    other = net.machines["other"]
    before = [net.groups["login"], net.groups["other"]]
    assert ("other", "far", 9999) not in net.open()
    net.ec2.modify_instance_attribute(
        InstanceId=other.instance_id, Groups=[*before, net.groups["near"]]
    )
    assert ("other", "far", 9999) in net.open()
    net.ec2.modify_instance_attribute(InstanceId=other.instance_id, Groups=before)
    assert ("other", "far", 9999) not in net.open()
    net.take(net.groups["far"], (9999, "near"))


def test_machine_cannot_send_from_another_machines_address(net: Net) -> None:
    net.let(net.groups["near"], (8080, "far"))
    other, near = net.machines["other"], net.machines["near"]
    fake = f"{other.address.rpartition('.')[0]}.99"
    for address in (net.machines["far"].address, fake):
        other.run(f"ip address add {address}/32 dev eth0")
        sent = other.run(
            "python3 -c 'import socket\n"
            f's=socket.socket(); s.settimeout(2); s.bind(("{address}", 0))\n'
            f'print(s.connect_ex(("{near.address}", 8080)))\''
        )
        other.run(f"ip address del {address}/32 dev eth0")
        assert int(sent) not in (0, errno.ECONNREFUSED)
    net.take(net.groups["near"], (8080, "far"))


def test_rules_hold_without_the_api_and_after_a_restart_of_machine_or_api(net: Net) -> None:
    net.let(net.groups["far"], (8080, "near"))
    expected = LOGIN | {("near", "far", 8080)}
    assert net.open() == expected
    state_dir = net.cloud.config.state_dir
    service.stop(state_dir)
    try:
        assert ("other", "far", 8080) not in net.open()
        subprocess.run(
            ["nft", "delete", "table", "inet", ruleset.table(net.cloud.place.name)], check=True
        )
        assert ("other", "far", 8080) in net.open(), "the rules do more than they should"
    finally:
        net.cloud.restart()
    assert net.open() == expected
    far = net.machines["far"]
    before = far.started()
    far.ssh("sudo systemctl reboot", check=False)
    until(lambda: far.started() != before, "the machine has booted again")
    far.ready()
    assert net.open() == expected
    net.take(net.groups["far"], (8080, "near"))


def outside(net: Net) -> set[str]:
    """Return which machines reach a port of this host outside their VPC."""
    address = net.cloud.endpoint.url.split("/")[2].split(":")[0]
    return {
        name
        for name, machine in net.machines.items()
        if (name, HOST, 9) in reached({HOST: address}, {name: machine.container}, [9])
    }


def test_way_out_needs_a_route_and_a_public_address(net: Net) -> None:
    """The subnet of `far` gives its machines no public addresses."""
    assert outside(net) == {"near", "other"}
    tables = net.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [net.vpc]}])
    (table,) = tables["RouteTables"]
    (route,) = (one for one in table["Routes"] if one.get("GatewayId", "").startswith("igw-"))
    which = {"RouteTableId": table["RouteTableId"], "DestinationCidrBlock": "0.0.0.0/0"}
    net.ec2.delete_route(**which)
    try:
        assert outside(net) == set()
        api = f"{net.cloud.endpoint.url}/_localcloud/health"
        asked = f"curl -s -o /dev/null --max-time 2 {api}"
        assert net.machines["near"].ssh(asked, check=False).returncode != 0
        net.let(net.groups["far"], (8080, "near"))
        assert net.open() == LOGIN | {("near", "far", 8080)}, "inside, no route is needed"
        net.take(net.groups["far"], (8080, "near"))
    finally:
        net.ec2.create_route(**which, GatewayId=route["GatewayId"])
    assert outside(net) == {"near", "other"}


def test_elastic_address_moves_at_once(net: Net) -> None:
    names = ("near", "other")
    for name in names:
        net.let(net.groups[name], (8080, "0.0.0.0/0"))
        net.machines[name].run(f"systemd-run --quiet python3 -c '{_NAME}'")
    hosts = {net.machines[name].run("hostname"): name for name in names}
    made = net.ec2.allocate_address(Domain="vpc")

    def moved_to(name: str) -> str:
        net.ec2.associate_address(
            AllocationId=made["AllocationId"],
            InstanceId=net.machines[name].instance_id,
            AllowReassociation=True,
        )
        with socket.create_connection((made["PublicIp"], 8080), timeout=1) as answer:
            return hosts[answer.recv(99).decode()]

    assert [moved_to(name) for name in ("near", "other", "near")] == ["near", "other", "near"]
    own = until(
        lambda: net.machines["other"].describe().get("PublicIpAddress"),
        "the machine that has lost the address has one of its own again",
        every=0.5,
    )
    assert own != made["PublicIp"]
    addresses = net.ec2.describe_addresses(AllocationIds=[made["AllocationId"]])["Addresses"]
    net.ec2.disassociate_address(AssociationId=addresses[0]["AssociationId"])
    net.ec2.release_address(AllocationId=made["AllocationId"])
    for name in names:
        net.take(net.groups[name], (8080, "0.0.0.0/0"))


def test_machines_are_told_the_time_whatever_their_groups_say(net: Net) -> None:
    """At Amazon's address, and nowhere else."""
    ask = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(2);"
        " s.sendto(b'\\x23' + bytes(47), (sys.argv[1], int(sys.argv[2])));"
        " print(len(s.recv(99)))"
    )
    near = net.machines["near"]
    assert near.run(f'python3 -c "{ask}" 169.254.169.123 123') == "48"
    assert near.run(f'python3 -c "{ask}" 169.254.169.123 124 2>/dev/null || true') == ""


def test_metadata_service_answers_machines_and_no_container_on_them(net: Net) -> None:
    near = net.machines["near"]
    near.run(_POD)
    ask = (
        "curl -s --max-time 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60'"
        " http://169.254.169.254/latest/api/token"
    )
    inside = f"nsenter --net --target $(cat /run/pod) {ask} || true"
    name = "http://169.254.169.254/latest/meta-data/instance-id"
    told = near.run(f'curl -s -H "X-aws-ec2-metadata-token: $({ask})" {name}')
    assert told == near.instance_id
    assert near.run(inside) == ""
    for hops in (2, 1):
        net.ec2.modify_instance_metadata_options(
            InstanceId=near.instance_id, HttpPutResponseHopLimit=hops
        )
        assert bool(near.run(inside)) == (hops == 2)
