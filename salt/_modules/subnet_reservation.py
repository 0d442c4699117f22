"""Private addresses that EC2 gives to nobody unless a launch asks for them: reserved ones.

https://docs.aws.amazon.com/vpc/latest/userguide/subnet-cidr-reservation.html
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]


def subnet(name: str, region: str) -> str | None:
    """Return the id of the subnet with this Name tag, or None without one.

    Raises CommandExecutionError when several have the name, or EC2 does not answer.
    """
    filters = [{"Name": "tag:Name", "Values": [name]}]
    found = __salt__["ec2.call"]("describe_subnets", region, Filters=filters)["Subnets"]
    if len(found) > 1:
        raise CommandExecutionError(f"{len(found)} subnets are called {name}")
    return str(found[0]["SubnetId"]) if found else None


def holds(address: str, subnet_id: str, region: str) -> bool:
    """Return whether an address is in a reservation of a subnet.

    Raises CommandExecutionError when EC2 does not answer, or keeps the address for prefixes, of
    which it gives addresses to machines by itself.
    """
    answer = __salt__["ec2.call"]("get_subnet_cidr_reservations", region, SubnetId=subnet_id)
    wanted = ipaddress.ip_address(address)
    for found in answer["SubnetIpv4CidrReservations"]:
        if wanted in ipaddress.ip_network(found["Cidr"]):
            if found["ReservationType"] != "explicit":
                raise CommandExecutionError(
                    f"{address} is in {found['Cidr']}, which is reserved in {subnet_id} for"
                    " prefixes: delete that reservation"
                )
            return True
    return False


def reserve(address: str, subnet_id: str, tags: Mapping[str, str], region: str) -> None:
    """Reserve an address of a subnet; a machine that has it keeps it.

    Raises CommandExecutionError when EC2 refuses.
    """
    __salt__["ec2.call"](
        "create_subnet_cidr_reservation",
        region,
        SubnetId=subnet_id,
        Cidr=f"{address}/32",
        ReservationType="explicit",
        TagSpecifications=[
            {
                "ResourceType": "subnet-cidr-reservation",
                "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            }
        ],
    )
