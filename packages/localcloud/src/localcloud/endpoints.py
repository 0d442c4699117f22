"""Gateway endpoints of a VPC, as moto keeps them: whose calls go by one, and what it lets pass.

https://docs.aws.amazon.com/vpc/latest/privatelink/gateway-endpoints.html
https://docs.aws.amazon.com/vpc/latest/privatelink/vpc-endpoints-access.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.vpcs import VPCBackend, VPCEndPoint

from localcloud.routes import table_of


def leads_to(backend: EC2Backend, interface: NetworkInterface, service: str) -> bool:
    """Return whether an interface's route table leads to a service by an endpoint."""
    return any(_of(backend, interface, service))


def policies(address: str, service: str) -> Iterator[Mapping[str, Any]]:
    """Yield the policies of the endpoints by which a machine's calls of a service go.

    The route of an endpoint is the narrowest, so it also takes what has another way out.

    Args:
        address: from which a call comes; of no machine, it goes by no endpoint.
        service: such as `s3`.
    """
    for backend in ec2_backends[DEFAULT_ACCOUNT_ID].values():
        for interface in list(backend.enis.values()):
            if not address or interface.private_ip_address != address:
                continue
            for endpoint in _of(backend, interface, service):
                document = json.loads(str(endpoint.policy_document))
                if document != VPCEndPoint.DEFAULT_POLICY:  # which allows everything
                    yield document


def _of(backend: EC2Backend, interface: NetworkInterface, service: str) -> Iterator[VPCEndPoint]:
    table = table_of(backend, str(interface.subnet.id), str(interface.subnet.vpc_id))
    return _with_table(backend, service, table.id if table else "")


def _with_table(backend: EC2Backend, service: str, table: str) -> Iterator[VPCEndPoint]:
    for endpoint in backend.vpc_end_points.values():
        if (
            str(endpoint.service_name).endswith(f".{service}")
            and str(endpoint.state).lower() != "deleted"
            and table in endpoint.route_table_ids
        ):
            yield endpoint


def hook(replace: Callable[[Any, str, Any], Any]) -> None:
    """Have moto keep one endpoint of a service for each route table, and its route there.

    Args:
        replace: sets an attribute of a class or a module, and returns what it was.
    """

    def create(backend: Any, *given: Any, **options: Any) -> VPCEndPoint:
        _require_free(backend, options["service_name"], options["route_table_ids"])
        made: VPCEndPoint = original_create(backend, *given, **options)
        return made

    def modify(backend: Any, *given: Any, **options: Any) -> None:
        """Change the routes, too, for which an endpoint stands: moto does not."""
        endpoint = backend.describe_vpc_endpoints(vpc_end_point_ids=[options["vpc_id"]])[0]
        added = [
            table
            for table in options["add_route_tables"] or ()
            if table not in endpoint.route_table_ids
        ]
        _require_free(backend, endpoint.service_name, added)
        removed = options["remove_route_tables"] or ()
        prefix_list = endpoint.destination_prefix_list_id
        original_modify(backend, *given, **options)
        for table in added if prefix_list else ():
            backend.create_route(
                table, None, gateway_id=endpoint.id, destination_prefix_list_id=prefix_list
            )
        for table in removed if prefix_list else ():
            backend.delete_route(table, prefix_list)

    original_create = replace(VPCBackend, "create_vpc_endpoint", create)
    original_modify = replace(VPCBackend, "modify_vpc_endpoint", modify)


def _require_free(backend: EC2Backend, service_name: str, tables: Sequence[str]) -> None:
    service = str(service_name).rpartition(".")[2]
    for table in tables:
        for endpoint in _with_table(backend, service, table):
            raise EC2ClientError(
                "RouteAlreadyExists",
                f"route table {table} already has a route with destination-prefix-list-id"
                f" {endpoint.destination_prefix_list_id}",
            )
