#!/opt/salt/bin/python
"""Start the machines of this stack that ended by themselves.

A machine that was stopped by a request to EC2 stays stopped. Only machines are started whose
minion's key this master has accepted.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ACCEPTED = "/etc/salt/pki/master/minions"


def ended_by_itself(code: str) -> bool:
    """Return whether a state reason's code names a shutdown from inside, or a fault of EC2's."""
    return code == "Client.InstanceInitiatedShutdown" or code.startswith("Server.")


def start_ended(client: Any, owner: Mapping[str, str], names: Collection[str]) -> bool:
    """Start the machines that ended by themselves, print each, and return whether all started.

    Args:
        client: the EC2 API.
        owner: the tags of this deployment's machines.
        names: which machines may be started.
    """
    done = True
    filters = [
        *({"Name": f"tag:{key}", "Values": [value]} for key, value in owner.items()),
        {"Name": "instance-state-name", "Values": ["stopped"]},
    ]
    for page in client.get_paginator("describe_instances").paginate(Filters=filters):
        for instance in (found for group in page["Reservations"] for found in group["Instances"]):
            tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
            reason = instance.get("StateReason", {})
            name = tags.get("Name", "")
            if name not in names or not ended_by_itself(reason.get("Code", "")):
                continue
            what = f"{name} ({instance['InstanceId']}), which ended: {reason.get('Message', '')}"
            try:
                client.start_instances(InstanceIds=[instance["InstanceId"]])
                print(f"started {what}")
            except (BotoCoreError, ClientError) as error:
                print(f"cannot start {what}: {error}", file=sys.stderr)
                done = False
    return done


def main(region: str, project: str, deployment: str, accepted: str = ACCEPTED) -> int:
    """Return the exit code."""
    names = {path.name for path in Path(accepted).iterdir()}
    owner = {"project": project, "deployment": deployment}
    try:
        return 0 if start_ended(boto3.client("ec2", region_name=region), owner, names) else 1
    except (BotoCoreError, ClientError) as error:
        print(f"EC2 cannot be asked: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
