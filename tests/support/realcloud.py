"""A local cloud with real machines that shares no name, port, state or VPC with the stack's."""

from __future__ import annotations

import fcntl
import random
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from evidence import Evidence
from localcloud import packages, service
from localcloud.config import REGION, CloudConfig, Endpoint
from localcloud.delays import Delays
from plainpillar import DEPLOYMENT
from waiting import until

ROOT = Path(__file__).parents[2]
SHARED = "edge-1"
"""The machine that the tests of test_machines.py share."""
PROMPT = Delays(
    console_posts=tuple(number / 2 for number in range(240)), shutting_down=0, public_address=1
)
"""Times of a cloud that copies the consoles twice a second, for two minutes."""
IMAGE = "/aws/service/debian/release/13/latest/amd64"
_AWS = DEPLOYMENT.base_pillar("aws")
VPC = DEPLOYMENT.in_account(_AWS["vpc"]["name"])
SUBNET = DEPLOYMENT.in_account(_AWS["subnet"]["name"])
KEY_PAIR = DEPLOYMENT.in_account(_AWS["key_pair"])
EDGE = DEPLOYMENT.in_account(_AWS["edge_address"]["name"])
"""The site's elastic address; HTTPS of who has it is published on the host."""
_PORTS = iter(random.sample(range(20000, 32768), 1000))
_HOST_KEYS = re.compile(
    r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL
)


@dataclass(frozen=True)
class Place:
    """The name and the addresses of a cloud; no two test runs on a host share them."""

    name: str
    vpc: str
    subnet: str

    @classmethod
    @contextmanager
    def take(cls) -> Iterator[Place]:
        """Reserve the first free place of eight while the block runs.

        A killed run frees its place, but can leave containers there.
        """
        for number in range(8):
            with Path(tempfile.gettempdir(), f"cloudtest-{number}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                net = 40 + number
                yield cls(f"cloudtest-{number}", f"10.{net}.0.0/16", f"10.{net}.1.0/24")
                return
        raise AssertionError("eight other test runs on this host use all places")


def free_port(address: str = "127.0.0.1") -> int:
    """Return a free port, another one at each call.

    It is outside the range that Linux uses for outgoing connections.
    """
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind((address, port))
            return port
    raise AssertionError(f"no port of {address} is free")


@dataclass
class RealCloud(Evidence):
    """A running cloud with a network and a key pair for machines.

    Attributes:
        key: private half of the key pair `KEY_PAIR`.
    """

    place: Place
    config: CloudConfig
    endpoint: Endpoint
    key: Path
    subnet: str = ""

    def client(self, name: str, **credentials: str) -> Any:
        """Return a boto3 client of the cloud, with the owner's credentials by default."""
        keys = {
            "aws_access_key_id": self.endpoint.access_key,
            "aws_secret_access_key": self.endpoint.secret_key,
        }
        return _client(name, self.endpoint.url, **keys | credentials)

    def logs(self) -> list[tuple[str, str]]:
        """Return the end of the log of the API."""
        log = service.status(self.config.state_dir).log
        end = packages.tail(log.read_text(errors="replace"), 60)
        return [(f"the local cloud's log, {log}", end)]

    def make_network(self) -> None:
        """Make the network, groups, address, key pair and role that cloud.profiles.d names."""
        ec2, iam = self.client("ec2"), self.client("iam")
        vpc = ec2.create_vpc(CidrBlock=self.place.vpc, TagSpecifications=owned("vpc", VPC))["Vpc"][
            "VpcId"
        ]
        made = ec2.create_subnet(
            VpcId=vpc,
            CidrBlock=self.place.subnet,
            AvailabilityZone=f"{REGION}a",
            TagSpecifications=owned("subnet", SUBNET),
        )
        self.subnet = made["Subnet"]["SubnetId"]
        for subnet in _AWS["other_subnets"].values():
            ec2.create_subnet(
                VpcId=vpc,
                CidrBlock=self.place.vpc.split(".0.")[0] + "." + subnet["cidr"].split(".", 2)[2],
                AvailabilityZone=subnet["zone"],
                TagSpecifications=owned("subnet", DEPLOYMENT.in_account(subnet["name"])),
            )
        self._lead_out(vpc)
        for role in _AWS["security_groups"]:
            name = f"airflow-{role}"
            ec2.create_security_group(
                VpcId=vpc,
                GroupName=name,
                Description=role,
                TagSpecifications=owned("security-group", name),
            )
        self._let_in(vpc)
        ec2.allocate_address(Domain="vpc", TagSpecifications=owned("elastic-ip", EDGE))
        pair = ec2.create_key_pair(KeyName=KEY_PAIR, KeyType="ed25519")
        self.key.touch(mode=0o600)
        self.key.write_text(pair["KeyMaterial"])
        for name in (_AWS["salt_role"], *_AWS["machine_roles"].values()):
            role_name = DEPLOYMENT.in_account(name)
            iam.create_role(
                RoleName=role_name,
                AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}',
            )
            iam.create_instance_profile(InstanceProfileName=role_name)
            iam.add_role_to_instance_profile(InstanceProfileName=role_name, RoleName=role_name)

    def _lead_out(self, vpc: str) -> None:
        """Give all subnets a way out, and their machines public addresses."""
        ec2 = self.client("ec2")
        for subnet in ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])[
            "Subnets"
        ]:
            ec2.modify_subnet_attribute(
                SubnetId=subnet["SubnetId"], MapPublicIpOnLaunch={"Value": True}
            )
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
        ec2.create_route(
            RouteTableId=tables["RouteTables"][0]["RouteTableId"],
            DestinationCidrBlock="0.0.0.0/0",
            GatewayId=gateway,
        )

    def _let_in(self, vpc: str) -> None:
        """Let this host and all machines in at every group: these tests are of other things.

        The host's packets come from the first address of a machine's subnet.
        """
        ec2 = self.client("ec2")
        groups = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
        rule = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": self.place.vpc}]}
        for group in groups["SecurityGroups"]:
            ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule])

    def machines(self) -> list[Machine]:
        """Return the machines that are not terminated."""
        running = [
            {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
        ]
        return [
            Machine(self, instance["InstanceId"], instance["PrivateIpAddress"])
            for reservation in self.client("ec2").describe_instances(Filters=running)[
                "Reservations"
            ]
            for instance in reservation["Instances"]
        ]

    def launch(self, name: str, patience: float = 60, **more: Any) -> Machine:
        """Launch a machine and wait until a login works."""
        image = self.client("ssm").get_parameter(Name=IMAGE)["Parameter"]["Value"]
        arguments: dict[str, Any] = {
            "ImageId": image,
            "InstanceType": "t2.micro",
            "MinCount": 1,
            "MaxCount": 1,
            "KeyName": KEY_PAIR,
            "SubnetId": self.subnet,
            "TagSpecifications": _named("instance", name),
        }
        instance = self.client("ec2").run_instances(**arguments | more)["Instances"][0]
        machine = Machine(self, instance["InstanceId"], instance["PrivateIpAddress"])
        machine.ready(patience)
        return machine

    def restart(self) -> None:
        """Start the API process unless it runs."""
        service.start(self.config, print)


@dataclass
class Machine:
    """An instance, as a client of the API and of its SSH server sees it."""

    cloud: RealCloud
    instance_id: str
    address: str

    @property
    def container(self) -> str:
        """The name of the machine's container."""
        return f"{self.cloud.place.name}-{self.instance_id}"

    def describe(self) -> Any:
        """Return the description of the instance."""
        found = self.cloud.client("ec2").describe_instances(InstanceIds=[self.instance_id])
        return found["Reservations"][0]["Instances"][0]

    def is_in(self, state: str) -> None:
        """Wait for a state."""

        def reached() -> bool:
            found = self.describe()
            name = found["State"]["Name"]
            assert name in (state, "pending") or state != "running", (
                f"{name}: {found.get('StateReason')}"
            )
            return bool(name == state)

        until(reached, f"{self.instance_id} is {state}")

    def name(self) -> str:
        """Return the Name tag."""
        return next(str(tag["Value"]) for tag in self.describe()["Tags"] if tag["Key"] == "Name")

    def ready(self, patience: float = 60) -> None:
        """Wait until a login works that trusts only the host keys on the console."""
        self.is_in("running")
        until(lambda: self.ssh("true", check=False).returncode == 0, "a login works", patience)

    def started(self) -> str:
        """Return when the machine's container has started."""
        command = ["docker", "inspect", "--format", "{{.State.StartedAt}}", self.container]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def console(self) -> str:
        """Return the console output."""
        return str(
            self.cloud.client("ec2")
            .get_console_output(InstanceId=self.instance_id)
            .get("Output", "")
        )

    def host_keys(self) -> list[str]:
        """Return the host keys on the console."""
        blocks = _HOST_KEYS.findall(self.console())
        return [line.strip() for line in blocks[-1].strip().splitlines()] if blocks else []

    def ssh(
        self, command: str, *, check: bool = True, address: str = "", port: int = 22
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as admin."""
        known = self.cloud.key.with_name(f"known-{self.instance_id}")
        if keys := self.host_keys():  # only the first boot prints them
            known.write_text("".join(f"machine {key}\n" for key in keys))
        options = {
            "IdentityFile": str(self.cloud.key),
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "UserKnownHostsFile": str(known),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "HostKeyAlias": "machine",
            "ConnectTimeout": "30",
            "LogLevel": "ERROR",
        }
        given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        target = ["-p", str(port), f"admin@{address or self.address}"]
        done = subprocess.run(
            ["ssh", "-F", "none", *given, *target, command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def run(self, command: str) -> str:
        """Run a command as root and return its output."""
        return self.ssh(f"sudo sh -c {_quote(command)}").stdout.strip()

    def terminate(self) -> None:
        """Terminate the instance and wait until it is terminated."""
        self.cloud.client("ec2").terminate_instances(InstanceIds=[self.instance_id])
        self.is_in("terminated")


@cache
def _client(name: str, url: str, **credentials: str) -> Any:
    """Return a boto3 client, which threads may share; making one costs more than a call."""
    session: Any = boto3.Session()
    return session.client(
        name,
        endpoint_url=url,
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
        **credentials,
    )


def _named(kind: str, name: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}]}]


def owned(kind: str, name: str) -> list[dict[str, Any]]:
    """Return the argument `TagSpecifications` of a thing of the deployment."""
    tags = {"Name": name, **DEPLOYMENT.owner()}
    return [
        {
            "ResourceType": kind,
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }
    ]


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
