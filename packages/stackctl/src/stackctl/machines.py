"""The machines as the EC2 API shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import ClientError, WaiterError

from saltext.ec2.host_keys import from_tag
from saltext.ec2.tags import DEPLOY_TAG
from stackctl.deployment import Deployment
from stackctl.errors import LaunchError, NotUpError

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import InstanceTypeDef, WaiterConfigTypeDef

START_SECONDS = 120  # that EC2 has to stop or to start an instance
ENDED = ("shutting-down", "terminated")


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
        reason: why it does not run, in EC2's words; empty when it runs.
        host_key: one of its SSH host keys, from the driver's tag; empty: there is no such tag.
    """

    name: str
    instance_id: str
    state: str
    private_address: str
    public_address: str
    deploy: str = ""
    reason: str = ""
    host_key: str = ""

    @property
    def deployed(self) -> bool:
        """Whether its minion was installed to the end."""
        return self.deploy == "done"


def ec2_client(deployment: Deployment) -> EC2Client:
    """Return a client for the deployment's region; boto3 finds credentials and endpoint itself."""
    return boto3.client("ec2", region_name=deployment.region())


def find_machines(client: EC2Client, deployment: Deployment) -> list[Machine]:
    """Return the deployment's machines that are not terminated, sorted by name.

    Several may have the same name.
    """
    found = _described(client, deployment)
    return [machine for machine in found if machine.state not in ENDED]


def find_ended(client: EC2Client, deployment: Deployment) -> dict[str, Machine]:
    """Return the newest terminated machine of each name; EC2 lists them for about an hour."""
    found = _described(client, deployment)
    return {machine.name: machine for machine in found if machine.state in ENDED}


def _described(client: EC2Client, deployment: Deployment) -> list[Machine]:
    """Return the deployment's machines by name; those of a name by the time of their launch.

    An earlier version launched machines without the tag `deployment`, which the next `up` gives
    them. Until then they are this deployment's if that version's key pair is.
    """
    owner = deployment.owner()
    pages = client.get_paginator("describe_instances").paginate(
        Filters=[{"Name": "tag:project", "Values": [owner["project"]]}]
    )
    by_owner: dict[str | None, list[InstanceTypeDef]] = {}
    for page in pages:
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                by_owner.setdefault(_tags(instance).get("deployment"), []).append(instance)
    instances = by_owner.get(deployment.name, [])
    if None in by_owner and _has_earlier_key(client, deployment):
        instances = instances + by_owner[None]
    instances.sort(key=lambda instance: (instance["LaunchTime"], instance["InstanceId"]))
    return sorted(map(_machine, instances), key=lambda machine: machine.name)


def _tags(instance: InstanceTypeDef) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}


def _has_earlier_key(client: EC2Client, deployment: Deployment) -> bool:
    """Return whether the key pair of an earlier version holds this deployment's SSH key.

    salt/_modules/aws.py decides in the same way what the foundation takes over.
    """
    name = deployment.base_pillar("aws")["earlier"]["key_pair"]
    own = deployment.settings().get("ssh_public_key", "") if deployment.has_settings else ""
    pairs = client.describe_key_pairs(
        Filters=[{"Name": "key-name", "Values": [name]}], IncludePublicKey=True
    )["KeyPairs"]
    return any(own and pair.get("PublicKey", "").split()[:2] == own.split()[:2] for pair in pairs)


def _machine(instance: InstanceTypeDef) -> Machine:
    tags = _tags(instance)
    state = instance["State"]["Name"]
    return Machine(
        tags.get("Name", instance["InstanceId"]),
        instance["InstanceId"],
        state,
        instance.get("PrivateIpAddress", ""),
        instance.get("PublicIpAddress", ""),
        tags.get(DEPLOY_TAG, ""),
        "" if state in ("pending", "running") else _reason(instance),
        next(iter(from_tag(instance)), ""),
    )


def _reason(instance: InstanceTypeDef) -> str:
    """Return EC2's reason for the state of an instance, with the time where EC2 gives one."""
    transition = instance.get("StateTransitionReason", "")
    message = instance.get("StateReason", {}).get("Message", "")
    time_of = re.search(r"\(([^()]+)\)$", transition)
    return f"{message} ({time_of[1]})" if message and time_of else message or transition


def list_machines(client: EC2Client, deployment: Deployment) -> dict[str, Machine]:
    """Return the deployment's machines that are not terminated, by name.

    Raises:
        LaunchError: two have the same name.
    """
    found: dict[str, Machine] = {}
    for machine in find_machines(client, deployment):
        if machine.name in found:
            raise LaunchError(
                f"Two machines are called {machine.name}: {found[machine.name].instance_id}"
                f" and {machine.instance_id}.",
                "Terminate the one that is not wanted.",
            )
        found[machine.name] = machine
    return found


def start_machines(client: EC2Client, machines: Iterable[Machine]) -> dict[str, str]:
    """Start machines that are stopped or stopping, and wait until they run.

    Returns:
        name -> why EC2 does not start it, for those that it does not.
    """
    patience: WaiterConfigTypeDef = {"Delay": 2, "MaxAttempts": START_SECONDS // 2}

    def start(machine: Machine) -> tuple[str, str]:
        ids = [machine.instance_id]
        try:
            if machine.state == "stopping":
                stopped = client.get_waiter("instance_stopped")
                stopped.wait(InstanceIds=ids, WaiterConfig=patience)
            client.start_instances(InstanceIds=ids)
            running = client.get_waiter("instance_running")
            running.wait(InstanceIds=ids, WaiterConfig=patience)
        except (ClientError, WaiterError) as error:
            return machine.name, str(error)
        return machine.name, ""

    with ThreadPoolExecutor(max_workers=8) as pool:
        return {name: error for name, error in pool.map(start, machines) if error}


def require_master(deployment: Deployment, machines: Mapping[str, Machine]) -> Machine:
    """Return the running Salt master.

    Raises:
        NotUpError: there is none.
    """
    name = deployment.master()
    machine = machines.get(name)
    if machine is not None and machine.state == "running":
        return machine
    command = deployment.command("up")
    if machine is None:
        raise NotUpError(f"There is no {name}.", f"This launches it: {command}")
    reason = f", says EC2: {machine.reason}" if machine.reason else ""
    raise NotUpError(
        f"{name}, the Salt master, is {machine.state}{reason}.", f"This starts it: {command}"
    )
