"""The deployment's network in EC2: a VPC, its subnets, its internet gateway and route tables.

`boto3_vpc` finds things by their Name tag whoever they belong to, deletes routes that it does not
know, takes a gateway for present that is not attached, and every refused look for "absent".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]
__opts__: dict[str, Any]

ANYWHERE = "0.0.0.0/0"
ATTACHED = ("attached", "available", "attaching")  # what EC2 calls a gateway in its VPC

# What a route may lead to, as EC2 describes it.
TARGETS = ("GatewayId", "NatGatewayId", "InstanceId", "NetworkInterfaceId", "TransitGatewayId")

Todo = dict[str, Callable[[], Any]]


# -- the VPC ---------------------------------------------------------------------------------------


def vpc(name: str, cidr: str, region: str) -> dict[str, Any]:
    """The deployment has a VPC, in which machines resolve names and have some.

    Args:
        name: its Name tag.
        cidr: its network.
        region: where it is.

    Returns:
        The state's result. The VPC of an earlier version is taken over with all that is in it.
    """

    def differences() -> Todo:
        found = _own_vpc(name, region)
        if found is None:
            if earlier := __salt__["aws.earlier_vpc"](region):
                return _named(earlier, "VpcId", name, region)
            return {
                f"create the VPC {name}": lambda: _call(
                    "create_vpc", region, CidrBlock=cidr, TagSpecifications=_tagged("vpc", name)
                )
            }
        _require("VPC", found["VpcId"], {"network": (found["CidrBlock"], cidr)})
        vpc_id = found["VpcId"]
        todo: Todo = {}
        if __salt__["aws.tags_of"](found).get("Name") != name:
            todo = _named(found, "VpcId", name, region)
        for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):
            asked = f"{attribute[0].lower()}{attribute[1:]}"
            answer = _call("describe_vpc_attribute", region, VpcId=vpc_id, Attribute=asked)
            if not answer[attribute]["Value"]:
                todo[f"set {attribute} of {name}"] = _setter(region, vpc_id, attribute)
        return todo

    return _converge(name, differences)


def _setter(region: str, vpc_id: str, attribute: str) -> Callable[[], Any]:
    return lambda: _call(
        "modify_vpc_attribute", region, VpcId=vpc_id, **{attribute: {"Value": True}}
    )


def _own_vpc(name: str, region: str) -> dict[str, Any] | None:
    """Return the deployment's VPC, by its tags: its Name may have been changed.

    Raises:
        CommandExecutionError: there are two, or another VPC has the name.
    """
    found = __salt__["aws.own"]("vpc", region)
    if len(found) > 1:
        ids = ", ".join(sorted(one["VpcId"] for one in found))
        raise CommandExecutionError(
            f"{ids}: {len(found)} VPCs have the tags of this deployment, which has one. Remove the"
            " one that is empty"
        )
    # Something else of this name stops the run even beside ours.
    __salt__["aws.find"]("vpc", name, region)
    return found[0] if found else None


# -- subnets ---------------------------------------------------------------------------------------


def subnet(name: str, cidr: str, zone: str, region: str) -> dict[str, Any]:
    """The deployment's VPC has a subnet.

    Args:
        name: its Name tag.
        cidr: its network.
        zone: its availability zone.
        region: where it is.

    Returns:
        The state's result.
    """

    def differences() -> Todo:
        vpc_id = __salt__["aws.vpc_id"](region)
        found = __salt__["aws.find"]("subnet", name, region)
        if found is None:
            within = {"vpc-id": vpc_id, "cidr-block": cidr}
            if unnamed := _unnamed("subnet", "subnet", within, region):
                return _named(unnamed, "SubnetId", name, region)
            return {
                f"create the subnet {name}": lambda: _call(
                    "create_subnet",
                    region,
                    VpcId=vpc_id,
                    CidrBlock=cidr,
                    AvailabilityZone=zone,
                    TagSpecifications=_tagged("subnet", name),
                )
            }
        wished = {
            "VPC": (found["VpcId"], vpc_id),
            "network": (found["CidrBlock"], cidr),
            "zone": (found["AvailabilityZone"], zone),
        }
        _require("subnet", found["SubnetId"], wished)
        return {}

    return _converge(name, differences)


def reserved_address(name: str, subnet_name: str, region: str) -> dict[str, Any]:
    """A subnet keeps an address for a machine that asks for it.

    EC2 gives a reserved address to nobody by itself:
    https://docs.aws.amazon.com/vpc/latest/userguide/subnet-cidr-reservation.html

    Args:
        name: the address.
        subnet_name: the Name tag of its subnet.
        region: where the subnet is.

    Returns:
        The state's result. No reservation is ever deleted.
    """

    def differences() -> Todo:
        subnet_id = _subnet_id(subnet_name, region)
        if subnet_id and _is_reserved(name, subnet_id, region):
            return {}
        return {
            f"reserve {name} in {subnet_name}": lambda: _call(
                "create_subnet_cidr_reservation",
                region,
                SubnetId=subnet_id,
                Cidr=f"{name}/32",
                ReservationType="explicit",
                TagSpecifications=_tagged("subnet-cidr-reservation", name),
            )
        }

    return _converge(name, differences)


def _subnet_id(name: str, region: str) -> str:
    """Return the id of a subnet; in a test it may be absent, or have another name, so far."""
    found = __salt__["aws.find"]("subnet", name, region)
    if found is None and not __opts__["test"]:
        raise CommandExecutionError(f"the deployment has no subnet {name}")
    if found is None:
        cidr = next(one["cidr"] for one in __salt__["aws.subnets"]() if one["name"] == name)
        within = {"vpc-id": __salt__["aws.vpc_id"](region), "cidr-block": cidr}
        found = _unnamed("subnet", "subnet", within, region)
    return str(found["SubnetId"]) if found else ""


def _is_reserved(address: str, subnet_id: str, region: str) -> bool:
    """Return whether an address is in a reservation of a subnet.

    Raises CommandExecutionError when it is kept for prefixes, of which EC2 gives addresses to
    machines by itself.
    """
    answer = _call("get_subnet_cidr_reservations", region, SubnetId=subnet_id)
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


# -- the internet gateway --------------------------------------------------------------------------


def internet_gateway(name: str, region: str) -> dict[str, Any]:
    """The deployment's VPC has an internet gateway, and it is attached.

    Args:
        name: its Name tag.
        region: where it is.

    Returns:
        The state's result.
    """

    def differences() -> Todo:
        vpc_id = __salt__["aws.vpc_id"](region)
        found = __salt__["aws.find"]("internet-gateway", name, region)
        if found is None:
            within = {"attachment.vpc-id": vpc_id}
            if unnamed := _unnamed("internet-gateway", "internet_gateway", within, region):
                return _named(unnamed, "InternetGatewayId", name, region)
            _require_free(vpc_id, "", region)
            return {
                f"create the internet gateway {name}": lambda: _call(
                    "create_internet_gateway",
                    region,
                    TagSpecifications=_tagged("internet-gateway", name),
                )
            }
        gateway = found["InternetGatewayId"]
        places = [one["VpcId"] for one in found["Attachments"] if one["State"] in ATTACHED]
        if places:
            _require("internet gateway", gateway, {"VPC": (places[0], vpc_id)})
            return {}
        _require_free(vpc_id, gateway, region)
        return {
            f"attach the internet gateway {name}": lambda: _call(
                "attach_internet_gateway", region, InternetGatewayId=gateway, VpcId=vpc_id
            )
        }

    return _converge(name, differences)


def _require_free(vpc_id: str, gateway: str, region: str) -> None:
    """Raise CommandExecutionError when another gateway is attached to the VPC, which has one."""
    if not vpc_id:
        return
    others = __salt__["aws.things"]("internet-gateway", region, {"attachment.vpc-id": vpc_id})
    ids = sorted(one["InternetGatewayId"] for one in others if one["InternetGatewayId"] != gateway)
    if ids:
        raise CommandExecutionError(
            f"{ids[0]}, which is not this deployment's, is attached to its VPC {vpc_id}."
            " Detach it; a VPC has one internet gateway"
        )


# -- the route tables ------------------------------------------------------------------------------


def route_table(
    name: str, subnets: Sequence[str], region: str, gateway: str = ""
) -> dict[str, Any]:
    """The subnets have a route table of the deployment; its way out is an internet gateway or none.

    Routes to other networks are left alone, and so are other subnets with this table. EC2 replaces
    the table of a subnet in one step: what goes to other machines of the VPC is not interrupted.

    Args:
        name: the table's Name tag.
        subnets: the subnets' Name tags.
        region: where they are.
        gateway: the internet gateway's Name tag; empty: the table has no default route.

    Returns:
        The state's result.
    """

    def differences() -> Todo:
        vpc_id = __salt__["aws.vpc_id"](region)
        found = __salt__["aws.find"]("route-table", name, region)
        if found is None:
            within = {"vpc-id": vpc_id}
            key = "route_table" if gateway else ""
            if unnamed := _unnamed("route-table", key, within, region):
                return _named(unnamed, "RouteTableId", name, region)
            return {
                f"create the route table {name}": lambda: _call(
                    "create_route_table",
                    region,
                    VpcId=vpc_id,
                    TagSpecifications=_tagged("route-table", name),
                )
            }
        _require("route table", found["RouteTableId"], {"VPC": (found["VpcId"], vpc_id)})
        gateway_id = _gateway_id(gateway, region) if gateway else ""
        todo = _way_out(found, gateway_id, region)
        for subnet_name in subnets:
            todo |= _association(found, subnet_name, region)
        return todo

    return _converge(name, differences)


def _way_out(table: Mapping[str, Any], gateway: str, region: str) -> Todo:
    routes = [route for route in table["Routes"] if route.get("DestinationCidrBlock") == ANYWHERE]
    which = {"RouteTableId": table["RouteTableId"], "DestinationCidrBlock": ANYWHERE}
    if not gateway:
        if not routes:
            return {}
        target = next((routes[0][key] for key in TARGETS if routes[0].get(key)), "a target")
        return {
            f"remove the route {ANYWHERE} to {target} from a private table": lambda: _call(
                "delete_route", region, **which
            )
        }
    arguments = which | {"GatewayId": gateway}
    if not routes:
        return {
            f"route {ANYWHERE} to {gateway}": lambda: _call("create_route", region, **arguments)
        }
    if routes[0].get("GatewayId") != gateway:
        return {
            f"route {ANYWHERE} to {gateway} again": lambda: _call(
                "replace_route", region, **arguments
            )
        }
    return {}


def _association(table: Mapping[str, Any], subnet_name: str, region: str) -> Todo:
    table_id = table["RouteTableId"]
    subnet_id = _subnet_id(subnet_name, region) or subnet_name  # absent in a test
    found = __salt__["aws.things"]("route-table", region, {"vpc-id": table["VpcId"]})
    given = [
        (one["RouteTableId"], association["RouteTableAssociationId"])
        for one in found
        for association in one["Associations"]
        if association.get("SubnetId") == subnet_id
    ]
    if not given:
        return {
            f"give {subnet_name} its route table": lambda: _call(
                "associate_route_table", region, RouteTableId=table_id, SubnetId=subnet_id
            )
        }
    other, association_id = given[0]
    if other == table_id:
        return {}
    return {
        f"give {subnet_name} its route table instead of {other}": lambda: _call(
            "replace_route_table_association",
            region,
            AssociationId=association_id,
            RouteTableId=table_id,
        )
    }


# -- all of it -------------------------------------------------------------------------------------


def checked(name: str, region: str) -> dict[str, Any]:
    """The network works, as EC2 shows it once all of it is there.

    Args:
        name: the VPC's Name tag.
        region: where it is.

    Returns:
        The state's result; it names what does not work, and changes nothing.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    __salt__["aws.forget"]("ec2")
    try:
        if __opts__["test"] and _own_vpc(name, region) is None:
            return result | {"result": None, "comment": "there is no network yet"}
        problems = (
            _problems(region)
            if __opts__["test"]
            else __salt__["aws.until"](lambda: _problems(region))
        )
    except CommandExecutionError as error:
        return result | {"result": False, "comment": str(error)}
    if problems:
        uncertain = None if __opts__["test"] else False
        return result | {"result": uncertain, "comment": "; ".join(problems)}
    return result | {"comment": f"{name}: machines in its public subnets reach the internet"}


def _problems(region: str) -> list[str]:
    aws, wished = __salt__["aws.settings"](), __salt__["aws.subnets"]()
    wanted = [
        ("vpc", aws["vpc"]["name"]),
        ("internet-gateway", aws["internet_gateway"]),
        ("route-table", aws["route_table"]),
        ("route-table", aws["private_route_table"]),
        *(("subnet", subnet["name"]) for subnet in wished),
    ]
    found = [__salt__["aws.find"](kind, name, region) for kind, name in wanted]
    absent = [both for both, thing in zip(wanted, found, strict=True) if thing is None]
    if absent:
        return [
            f"EC2 does not show the {kind} {name} of {aws['vpc']['name']}" for kind, name in absent
        ]
    vpc, gateway, table, private_table, *subnets = found
    vpc_id, gateway_id = vpc["VpcId"], gateway["InternetGatewayId"]
    attachments = [(one["VpcId"], one["State"]) for one in gateway["Attachments"]]
    routes = [
        route.get("State", "active")
        for route in table["Routes"]
        if (route.get("DestinationCidrBlock"), route.get("GatewayId")) == (ANYWHERE, gateway_id)
    ]
    facts = {
        f"{vpc_id} is {vpc['State']}": vpc["State"] == "available",
        f"{gateway_id} is not attached to {vpc_id}": any(
            place == vpc_id and state in ATTACHED for place, state in attachments
        ),
        f"the route of {table['RouteTableId']} to {gateway_id} is not active": "active" in routes,
        f"{private_table['RouteTableId']} of the private subnets has a way out": all(
            route.get("DestinationCidrBlock") != ANYWHERE for route in private_table["Routes"]
        ),
    }
    for settings, subnet in zip(wished, subnets, strict=True):
        subnet_id = subnet["SubnetId"]
        facts[f"{subnet_id} is {subnet['State']}"] = subnet["State"] == "available"
        own = private_table if settings.get("private") else table
        associated = [one.get("SubnetId") for one in own["Associations"]]
        facts[f"{subnet_id} does not have the route table {own['RouteTableId']}"] = (
            subnet_id in associated
        )
    return [text for text, good in facts.items() if not good]


# -- common ----------------------------------------------------------------------------------------


def _call(operation: str, region: str, **arguments: Any) -> Any:
    return __salt__["aws.call"](operation, region, **arguments)


def _converge(name: str, differences: Callable[[], Todo]) -> dict[str, Any]:
    found: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return found


def _tagged(kind: str, name: str) -> Any:
    return __salt__["aws.specification"](kind, name)


def _gateway_id(name: str, region: str) -> str:
    """Return the id of the internet gateway that another state made; in a test it may be absent."""
    found = __salt__["aws.find"]("internet-gateway", name, region)
    if found is None:
        if __opts__["test"]:
            return name
        raise CommandExecutionError(f"the deployment has no internet-gateway {name}")
    return str(found["InternetGatewayId"])


def _unnamed(kind: str, key: str, within: Mapping[str, str], region: str) -> dict[str, Any] | None:
    """Return what is the deployment's and has another name, or None.

    The VPC is the deployment's. So what an earlier version has made in it is too, and what has the
    tags has only been renamed.

    Args:
        kind: of thing.
        key: of its name in pillar `aws:earlier`; empty: no earlier version has made one.
        within: filters of EC2, the VPC's id among them; an empty id finds nothing.
        region: where it is.
    """
    if "" in within.values():
        return None
    aws = __salt__["aws.settings"]()
    tables = {aws["route_table"], aws["private_route_table"]}
    names = {aws["vpc"]["name"], aws["internet_gateway"], *tables}
    names |= {subnet["name"] for subnet in __salt__["aws.subnets"]()}
    for found in __salt__["aws.things"](kind, region, within):
        name = __salt__["aws.tags_of"](found).get("Name")
        earlier = __salt__["aws.is_earlier"](found, project=False)
        if (earlier and key and name == aws["earlier"][key]) or (
            __salt__["aws.is_own"](found) and name not in names
        ):
            return dict(found)
    return None


def _named(thing: Mapping[str, Any], id_key: str, name: str, region: str) -> Todo:
    thing_id, own = thing[id_key], __salt__["aws.is_own"](thing)
    what = f"name {thing_id} {name}" if own else f"take over {thing_id} of an earlier version"
    return {what: lambda: __salt__["aws.mark"]([thing_id], name, region)}


def _require(kind: str, thing_id: str, wished: Mapping[str, tuple[str, str]]) -> None:
    """Raise CommandExecutionError for what EC2 cannot change.

    Args:
        kind: what it is about, in words.
        thing_id: its id.
        wished: fact -> (as it is, as it should be); without a wish, as it is.
    """
    for fact, (found, wanted) in wished.items():
        if found != wanted and wanted:
            raise CommandExecutionError(
                f"the {fact} of the {kind} {thing_id} is {found}, and not {wanted}. EC2 cannot"
                f" change it: set pillar/base/aws.sls back, or remove the {kind} with all in it"
            )
