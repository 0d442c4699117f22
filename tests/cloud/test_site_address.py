"""Two load balancers with the site's elastic address: it is at one that serves, within seconds.

HAProxy's configuration, the program, its unit and the role's policy are the tree's. Each load
balancer has a web machine of its own at 127.0.0.1, which says its name, so an answer at the
published port tells which of them has the address. `pytest -s` prints the seconds.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from localcloud.faults import Fault, FaultClient
from plainpillar import BASE_URL, DEPLOYMENT, PlainPillar
from realcloud import EDGE, ROOT, SUBNET, Machine, RealCloud, owned
from rendering import Compiler
from waiting import until

FILES = ROOT / "salt/haproxy/files"
PROGRAM = "/opt/salt/bin/python /usr/local/lib/site_address.py"
STATUS = "/run/site-address/status.json"
HOST = BASE_URL.partition("://")[2]
WEB = """
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"metadatabase":{"status":"healthy"},"name":"NAME"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("/root/web.pem")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
WEB_UNIT = """
[Unit]
Before=haproxy.service
[Service]
ExecStart=/usr/bin/python3 /root/web.py
[Install]
WantedBy=multi-user.target
"""
INSTALL = """set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >/dev/null
apt-get -q install --yes --no-install-recommends haproxy openssl ca-certificates >/dev/null
"""
BEGIN = """set -e
cd /etc/haproxy
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=site \
    -keyout key -out crt 2>/dev/null
cat crt key >tls.pem
systemctl enable --now web 2>/dev/null
systemctl restart haproxy
systemctl enable site-address 2>/dev/null
"""


@dataclass
class Site:
    """The site as clients of this host see it.

    Attributes:
        edges: the load balancers, by name.
    """

    cloud: RealCloud
    edges: dict[str, Machine] = field(default_factory=dict)

    def ask(self, seconds: float = 1) -> str:
        """Return the name of the load balancer that answers at the published port; empty: none."""
        ((host, port),) = self.cloud.config.publish[EDGE].values()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
        try:
            connection.request("GET", "/ui", headers={"Host": HOST})
            answer = connection.getresponse()
            body = answer.read()
            return str(json.loads(body)["name"]) if answer.status == 200 else ""
        except (OSError, http.client.HTTPException, ValueError):
            return ""
        finally:
            connection.close()

    def answers(self, name: str) -> bool:
        """Return whether this load balancer answers at the published port."""
        return self.ask() == name

    def holder(self) -> str:
        """Return the name of the load balancer with the address in EC2's words; empty: none."""
        found = self.address().get("InstanceId", "")
        return next((name for name, one in self.edges.items() if one.instance_id == found), "")

    def address(self) -> Any:
        """Return EC2's description of the address."""
        named = [{"Name": "tag:Name", "Values": [EDGE]}]
        return self.cloud.client("ec2").describe_addresses(Filters=named)["Addresses"][0]

    def give(self, name: str) -> None:
        """Have a load balancer have the address, as its operator does by hand.

        One that has just lost it has no way to EC2 for a moment.
        """
        take = f"sudo {PROGRAM} take"
        until(
            lambda: not self.edges[name].ssh(take, check=False).returncode, f"{name} takes it", 20
        )
        until(lambda: self.ask() == name, f"{name} answers")

    def moved(self, name: str, what: str, seconds: float = 10) -> None:
        """Wait until a load balancer answers at the published port, and print after how long."""
        began = time.monotonic()
        until(lambda: self.ask() == name, f"{name} answers after: {what}", seconds)
        print(f"\n{what}: {time.monotonic() - began:.1f} s")
        assert self.holder() == name

    def knows(self, name: str) -> None:
        """Wait until a program says that it does not have the address, and could take it."""

        def told() -> bool:
            text = self.edges[name].run(f"cat {STATUS} 2>/dev/null || true")
            known = json.loads(text or "{}")
            return known.get("holds") is False and bool(known["address"]) and not known["problem"]

        until(told, f"{name} knows that it does not have the address")

    @contextmanager
    def visitors(self) -> Iterator[list[str]]:
        """Ask all the time; the list has who answered, or an empty text for a failed request."""
        answers: list[str] = []
        done = threading.Event()

        def visit() -> None:
            while not done.is_set():
                answers.append(self.ask(3))

        with ThreadPoolExecutor(2) as pool:
            for _ in range(2):
                pool.submit(visit)
            try:
                yield answers
            finally:
                done.set()


def own_address(machine: Machine) -> str:
    """Return the public address of a machine; empty: it has none."""
    return str(machine.describe().get("PublicIpAddress", ""))


def policy(compiler: Compiler) -> dict[str, Any]:
    """Return the policy of a load balancer's role."""
    compiled = compiler.states("aws.identity")
    assert compiled.errors == []
    chunks = {chunk["__id__"]: chunk for chunk in compiled.chunks}
    return dict(chunks["aws-lb-role"]["policies"]["address"])


def files_of(name: str, endpoint: str, compiler: Compiler, pillar: PlainPillar) -> dict[str, str]:
    """Return the files of a load balancer and of its web machine, by path."""
    web = pillar.secrets["web-tls"]
    chunks = {
        chunk["__id__"]: chunk for chunk in compiler.states("haproxy").chunks if "name" in chunk
    }
    chunks["haproxy-config"]["context"]["web"] = {"web-1": "127.0.0.1"}
    rendered = {
        chunk["name"]: compiler.render(chunk)
        for chunk in chunks.values()
        if chunk.get("template") and chunk["__sls__"] == "haproxy"
    }
    assert all(each["result"] for each in rendered.values()), rendered
    address = {**chunks["site-address-config"]["dataset"], "endpoint": endpoint}
    return {
        **{path: each["data"] for path, each in rendered.items()},
        chunks["haproxy-client"]["name"]: chunks["haproxy-client"]["contents"],
        chunks["haproxy-ca"]["name"]: pillar.ca_certificate,
        "/root/web.pem": web["certificate"] + web["private_key"],
        chunks["haproxy-pace"]["name"]: (FILES / "pace.lua").read_text(),
        "/etc/site-address.json": json.dumps(address | {"alone": False}),
        "/usr/local/lib/site_address.py": (FILES / "site_address.py").read_text(),
        "/etc/systemd/system/site-address.service": (FILES / "site-address.service").read_text(),
        "/etc/systemd/system/web.service": WEB_UNIT,
        "/root/web.py": WEB.replace("NAME", name),
        "/root/begin": BEGIN,
    }


def prepare(machine: Machine, files: Mapping[str, str]) -> None:
    """Have a machine be a load balancer."""
    machine.run(INSTALL)
    for path, text in files.items():
        command = ["docker", "exec", "-i", machine.container, "sh", "-c"]
        write = f"mkdir -p $(dirname {path}) && cat >{path}"
        subprocess.run([*command, write], input=text, text=True, check=True)
    machine.run("sh /root/begin")


@pytest.fixture(scope="module")
def site(cloud: RealCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two load balancers in two zones; the program runs on neither of them yet."""
    folder = tmp_path_factory.mktemp("tree")
    pillar = PlainPillar(tmp_path_factory.mktemp("pillar"), ssh_public_key="x", operator_cidrs=[])
    document = policy(Compiler("operator", folder / "operator", pillar))
    role = DEPLOYMENT.in_account(DEPLOYMENT.base_pillar("aws")["machine_roles"]["lb"])
    trust = {
        "Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"
    }  # fmt: skip
    iam, ec2 = cloud.client("iam"), cloud.client("ec2")
    iam.update_assume_role_policy(
        RoleName=role, PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    iam.put_role_policy(RoleName=role, PolicyName="address", PolicyDocument=json.dumps(document))
    named = [{"Name": "group-name", "Values": ["airflow-lb"]}]
    (group,) = ec2.describe_security_groups(Filters=named)["SecurityGroups"]
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
    ec2.authorize_security_group_ingress(
        GroupId=group["GroupId"], IpPermissions=[{**https, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    )
    other = [{"Name": "tag:Name", "Values": [SUBNET.removesuffix("-a") + "-b"]}]
    (far,) = ec2.describe_subnets(Filters=other)["Subnets"]
    made = Site(cloud)

    files = {
        name: files_of(name, cloud.endpoint.url, Compiler("lb-1", folder / name, pillar), pillar)
        for name in ("lb-1", "lb-2")
    }

    def start(name: str, subnet: str) -> None:
        made.edges[name] = machine = cloud.launch(
            name,
            SubnetId=subnet,
            SecurityGroupIds=[group["GroupId"]],
            IamInstanceProfile={"Name": role},
            TagSpecifications=owned("instance", name),
        )
        prepare(machine, files[name])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(start, files, (cloud.subnet, far["SubnetId"])))
    yield made
    for machine in made.edges.values():
        machine.terminate()


def test_first_one_that_serves_gets_the_address(site: Site) -> None:
    assert (site.holder(), site.ask()) == ("", ""), "nothing is published before"
    site.edges["lb-1"].run("systemctl start site-address")
    site.moved("lb-1", "nobody has the address")
    site.edges["lb-2"].run("systemctl start site-address")
    site.knows("lb-2")
    assert site.holder() == "lb-1"


def test_published_port_follows_within_a_second(site: Site) -> None:
    ec2, address = site.cloud.client("ec2"), site.address()["AllocationId"]
    for edge in site.edges.values():
        edge.run("systemctl stop site-address")
    for name in ("lb-2", "lb-1"):
        instance = site.edges[name].instance_id
        ec2.associate_address(AllocationId=address, InstanceId=instance, AllowReassociation=True)
        began = time.monotonic()
        until(partial(site.answers, name), f"{name} answers", 1)
        print(f"\nthe published port follows: {time.monotonic() - began:.2f} s")
    ec2.disassociate_address(AssociationId=site.address()["AssociationId"])
    assert site.ask() == ""
    for edge in site.edges.values():
        public = until(partial(own_address, edge), "it has an address of its own again", 5)
        assert public != site.address()["PublicIp"]
        edge.run("systemctl start site-address")
    until(site.ask, "somebody takes the address again", 10)


def test_one_that_stops_gives_up_the_address_and_does_not_take_it_back(site: Site) -> None:
    site.give("lb-1")
    edge = site.edges["lb-1"]
    edge.run("systemctl stop haproxy")
    site.moved("lb-2", "HAProxy stopped")
    edge.run("systemctl start haproxy")
    site.knows("lb-1")
    edge.run("systemctl stop site-address; systemctl start site-address")
    site.knows("lb-1")
    assert site.holder() == "lb-2"


def test_restarts_of_a_service_move_nothing(site: Site) -> None:
    site.give("lb-2")
    for _ in range(3):
        site.edges["lb-2"].run("systemctl restart haproxy site-address")
        until(lambda: site.ask() == "lb-2", "it answers again")
    assert site.holder() == "lb-2"


def test_frozen_one_loses_the_address_and_does_not_steal_it_back(site: Site) -> None:
    site.give("lb-2")
    container = site.edges["lb-2"].container
    subprocess.run(["docker", "pause", container], check=True, capture_output=True)
    try:
        site.moved("lb-1", "frozen")
    finally:
        subprocess.run(["docker", "unpause", container], check=True, capture_output=True)
    site.knows("lb-2")
    assert site.holder() == "lb-1"


def test_planned_move_loses_no_request(site: Site) -> None:
    site.give("lb-1")
    with site.visitors() as answers:
        until(lambda: "lb-1" in answers, "visitors come")
        began = time.monotonic()
        site.edges["lb-1"].run(f"{PROGRAM} leave")
        print(f"\nplanned move: {time.monotonic() - began:.1f} s")
        until(lambda: answers[-1] == "lb-2", "visitors are at the other one")
    assert set(answers) == {"lb-1", "lb-2"}, "nobody was refused"
    assert site.holder() == "lb-2"
    site.edges["lb-1"].run("systemctl reload haproxy")  # it stays


def test_reboot_loses_no_new_request(site: Site) -> None:
    site.give("lb-2")
    before = site.edges["lb-2"].started()
    with site.visitors() as answers:
        until(lambda: "lb-2" in answers, "visitors come")
        site.cloud.client("ec2").reboot_instances(InstanceIds=[site.edges["lb-2"].instance_id])
        until(lambda: site.edges["lb-2"].started() != before, "it boots")
    print(f"\nreboot: {answers.count('')} of {len(answers)} requests failed")
    said = site.edges["lb-1"].run("journalctl -u site-address --output cat --lines 4")
    assert "the machine with it: leaving" in said
    assert set(answers) == {"lb-1", "lb-2"}
    site.edges["lb-2"].ready()
    site.knows("lb-2")


def test_machine_without_cpu_credits_keeps_the_address(site: Site) -> None:
    site.give("lb-1")
    with FaultClient(site.cloud.endpoint).without_credits("lb-1"), site.visitors() as answers:
        until(lambda: len(answers) > 100, "a hundred visits")
    assert set(answers) == {"lb-1"}
    assert site.holder() == "lb-1"


def test_machine_without_cpu_credits_takes_the_address(site: Site) -> None:
    site.give("lb-1")
    with FaultClient(site.cloud.endpoint).without_credits("lb-2"):
        site.edges["lb-1"].run("systemctl stop haproxy")
        site.moved("lb-2", "HAProxy stopped, and the other one has no CPU credits")
    site.edges["lb-1"].run("systemctl start haproxy")


def test_lost_answer_is_no_failure(site: Site) -> None:
    site.give("lb-1")
    with FaultClient(site.cloud.endpoint).inject(Fault("lost", "AssociateAddress")):
        site.edges["lb-2"].run(f"{PROGRAM} take")
    assert site.holder() == "lb-2"


def test_role_that_may_not_is_refused_and_says_so(site: Site) -> None:
    site.give("lb-1")
    aws = DEPLOYMENT.base_pillar("aws")
    role = DEPLOYMENT.in_account(aws["machine_roles"]["lb"])
    iam = site.cloud.client("iam")
    named = {"RoleName": role, "PolicyName": "address"}
    document = iam.get_role_policy(**named)["PolicyDocument"]
    few = [one for one in document["Statement"] if one["Sid"] != "TakeSitesAddress"]
    iam.put_role_policy(**named, PolicyDocument=json.dumps({**document, "Statement": few}))
    site.edges["lb-1"].run("systemctl stop haproxy")
    until(
        lambda: "UnauthorizedOperation" in site.edges["lb-2"].run(f"cat {STATUS}"),
        "the other one is refused",
    )
    assert site.holder() == "lb-1"
    iam.put_role_policy(**named, PolicyDocument=json.dumps(document))
    site.moved("lb-2", "it may again")
    site.edges["lb-1"].run("systemctl start haproxy")


def test_killed_machine_loses_the_address(site: Site) -> None:
    site.give("lb-1")
    subprocess.run(
        ["docker", "kill", site.edges["lb-1"].container], check=True, capture_output=True
    )
    site.moved("lb-2", "machine killed")
