"""Routes and public addresses as moto keeps them: which machine has a way out of its VPC.

https://docs.aws.amazon.com/vpc/latest/userguide/VPC_Internet_Gateway.html
https://docs.aws.amazon.com/vpc/latest/userguide/vpc-nat-gateway.html
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, elastic_ip_addresses, elastic_network_interfaces
from moto.ec2.models.elastic_ip_addresses import ElasticAddress, ElasticAddressBackend
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.route_tables import Route, RouteTable

from localcloud.reachability import EVERYWHERE, PUBLIC


def networks(backend: EC2Backend, vpc_id: str) -> tuple[str, ...]:
    """Return the networks of a VPC: what is elsewhere, a machine reaches by a way out alone."""
    vpc = backend.vpcs.get(vpc_id)
    found = vpc.cidr_block_association_set if vpc else []
    return tuple(sorted(str(one["cidr_block"]) for one in found))


def public_address(backend: EC2Backend, interface: NetworkInterface) -> str:
    """Return the address at which the Internet reaches an interface; empty: it does not.

    An interface's public address is of no use in a subnet without a route to an internet gateway.
    """
    route = _way_out(backend, interface)
    return str(interface.public_ip or "") if route and _by_internet_gateway(route) else ""


def elastic(backend: EC2Backend) -> dict[str, str]:
    """Return the Name tag of each elastic address that an interface has -> its private address."""
    found = {}
    for address in backend.addresses:
        tags = {tag["key"]: str(tag["value"]) for tag in address.get_tags()}
        if address.eni and tags.get("Name"):
            found[tags["Name"]] = str(address.eni.private_ip_address)
    return found


def has_way_out(backend: EC2Backend, interface: NetworkInterface) -> bool:
    """Return whether what an interface sends can leave the VPC.

    An internet gateway takes what comes from an interface with a public address; a NAT gateway
    takes everything, if it has a way out itself.
    """
    route = _way_out(backend, interface)
    if route is None:
        return False
    if _by_internet_gateway(route):
        return bool(interface.public_ip)
    gateway = route.nat_gateway
    return bool(
        gateway
        and gateway.state == "available"
        and gateway._eni.subnet.id != interface.subnet.id
        and has_way_out(backend, gateway._eni)
    )


def _way_out(backend: EC2Backend, interface: NetworkInterface) -> Route | None:
    table = table_of(backend, str(interface.subnet.id), str(interface.subnet.vpc_id))
    found = table.routes if table else []
    return next((route for route in found if route.destination_cidr_block == EVERYWHERE), None)


def table_of(backend: EC2Backend, subnet_id: str, vpc_id: str) -> RouteTable | None:
    """Return the route table of a subnet: its own, or else the main table of its VPC."""
    tables = [table for table in backend.route_tables.values() if table.vpc_id == vpc_id]
    own = [table for table in tables if subnet_id in table._associations.values()]
    main = [table for table in tables if table.main_association_id]
    return next(iter([*own, *main]), None)


def _by_internet_gateway(route: Route) -> bool:
    gateway: Any = route.gateway
    attached = getattr(gateway, "vpc", None)
    return bool(attached and attached.id == route.route_table.vpc_id)


def hook(
    replace: Callable[[Any, str, Any], Any], later: Callable[[Callable[[], None]], None]
) -> None:
    """Have moto give out addresses that can be routed here, and move them as EC2 does.

    Args:
        replace: sets an attribute of a class or a module, and returns what it was.
        later: does something after the time that EC2 takes to give out a public address.
    """

    def associate(backend: Any, *given: Any, **options: Any) -> ElasticAddress:
        """An elastic address leaves the interface that had it."""
        before = {address.id: address.eni for address in backend.addresses}
        made: ElasticAddress = original_associate(backend, *given, **options)
        left = before.get(made.id)
        if left and left is not made.eni:
            leave(left)
        return made

    def disassociate(backend: Any, *given: Any, **options: Any) -> None:
        """The interface has its elastic address no more."""
        before = {address.id: address.eni for address in backend.addresses if address.eni}
        original_disassociate(backend, *given, **options)
        for address in backend.addresses:
            if address.id in before and not address.eni:
                leave(before[address.id])

    def leave(interface: NetworkInterface) -> None:
        interface.public_ip = None
        later(lambda: renew(interface))

    def release(backend: Any, *given: Any, **options: Any) -> None:
        """An address that an interface has cannot be released.

        https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ReleaseAddress.html
        """
        by_id = options.get("allocation_id")
        for address in backend.addresses:
            if address.eni and by_id and address.allocation_id == by_id:
                raise EC2ClientError("InvalidIPAddress.InUse", f"The address '{by_id}' is in use.")
        original_release(backend, *given, **options)

    original_associate = replace(ElasticAddressBackend, "associate_address", associate)
    original_disassociate = replace(ElasticAddressBackend, "disassociate_address", disassociate)
    original_release = replace(ElasticAddressBackend, "release_address", release)
    replace(elastic_network_interfaces, "random_public_ip", _random_address)
    replace(elastic_ip_addresses, "random_ip", _random_address)


def renew(interface: NetworkInterface) -> None:
    """Give an interface without a public address one, if it was launched with one and is the only.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-instance-addressing.html
    """
    instance = interface.instance
    lives = instance and instance.state in ("pending", "running") and len(instance.nics) == 1
    if lives and not interface.public_ip:
        interface.check_auto_public_ip()


def _random_address() -> str:
    return str(PUBLIC[random.randrange(1, PUBLIC.num_addresses - 1)])  # noqa: S311
