"""The machines as the EC2 API shows them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3

from saltext.ec2.host_keys import from_console
from saltext.ec2.tags import DEPLOY_TAG
from stackctl.deployment import Deployment
from stackctl.errors import LaunchError, NotUpError

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

PROJECT = "airflow-stack"  # pillar/base/aws.sls has it too, and a test compares them


@dataclass(frozen=True)
class Machine:
    """One instance.

    Attributes:
        name: its Name tag.
        instance_id: its id.
        state: as the API calls it.
        private_address: empty when it has none.
        public_address: empty when it has none.
        deploy: the driver's tag: `pending` until its minion is installed, then `done`.
    """

    name: str
    instance_id: str
    state: str
    private_address: str
    public_address: str
    deploy: str = ""

    @property
    def deployed(self) -> bool:
        """Whether its minion was installed to the end."""
        return self.deploy == "done"


def ec2_client(deployment: Deployment) -> EC2Client:
    """Return a client for the deployment's region; boto3 finds credentials and endpoint itself."""
    return boto3.client("ec2", region_name=deployment.region())


def find_machines(client: EC2Client) -> list[Machine]:
    """Return the project's machines that are not terminated, sorted by name.

    Several may have the same name.
    """
    pages = client.get_paginator("describe_instances").paginate(
        Filters=[
            {"Name": "tag:project", "Values": [PROJECT]},
            {
                "Name": "instance-state-name",
                "Values": ["pending", "running", "stopping", "stopped"],
            },
        ]
    )
    found: list[Machine] = []
    for page in pages:
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
                found.append(
                    Machine(
                        tags.get("Name", instance["InstanceId"]),
                        instance["InstanceId"],
                        instance["State"]["Name"],
                        instance.get("PrivateIpAddress", ""),
                        instance.get("PublicIpAddress", ""),
                        tags.get(DEPLOY_TAG, ""),
                    )
                )
    return sorted(found, key=lambda machine: (machine.name, machine.instance_id))


def list_machines(client: EC2Client) -> dict[str, Machine]:
    """Return the project's machines that are not terminated, by name.

    Raises:
        LaunchError: two have the same name.
    """
    found: dict[str, Machine] = {}
    for machine in find_machines(client):
        if machine.name in found:
            raise LaunchError(
                f"Two machines are called {machine.name}: {found[machine.name].instance_id}"
                f" and {machine.instance_id}.",
                "Terminate the one that is not wanted.",
            )
        found[machine.name] = machine
    return found


def host_keys(client: EC2Client, machine: Machine, deadline: float) -> list[str]:
    """Return the machine's SSH host keys as its console printed them at first boot.

    Args:
        client: the EC2 API.
        machine: whose keys.
        deadline: `time.monotonic()` at which to give up. EC2 shows the console minutes after boot.

    Raises:
        LaunchError: the console never showed them.
    """
    while True:
        output = client.get_console_output(InstanceId=machine.instance_id).get("Output", "")
        if keys := from_console(output):
            return keys
        if time.monotonic() > deadline:
            raise LaunchError(
                f"The console of {machine.name} does not show its SSH host keys.",
                "Its identity cannot be verified: read its console in EC2, then run this again.",
            )
        time.sleep(1)


def require_master(deployment: Deployment, machines: Mapping[str, Machine]) -> Machine:
    """Return the running Salt master.

    Raises:
        NotUpError: there is none.
    """
    machine = machines.get(deployment.master())
    if machine is None or machine.state != "running":
        state = machine.state if machine else "not there"
        raise NotUpError(f"{deployment.master()} is {state}.", "Bring the stack up first: make up")
    return machine
