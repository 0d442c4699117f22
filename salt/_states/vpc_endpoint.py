"""Gateway endpoints of the deployment's VPC, by which its machines reach a service of AWS.

Such an endpoint costs nothing, and what goes by it needs no other way out:
https://docs.aws.amazon.com/vpc/latest/privatelink/gateway-endpoints.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]

Todo = dict[str, Callable[[], Any]]


def gateway(name: str, service: str, policy: Mapping[str, Any], region: str) -> dict[str, Any]:
    """All route tables of the deployment lead to a service by an endpoint with this policy.

    Args:
        name: the endpoint's Name tag.
        service: such as `s3`.
        policy: what it lets pass, with `{account}` for the account's number.
        region: where it is.

    Returns:
        The state's result. An endpoint that is not the deployment's, and in its way, fails it.
    """
    service_name = f"com.amazonaws.{region}.{service}"

    def differences() -> Todo:
        document = __salt__["aws.in_account"](policy, region)
        vpc_id = __salt__["aws.vpc_id"](region)
        tables = [one["RouteTableId"] for one in __salt__["aws.own"]("route-table", region)]
        found = _find(vpc_id, service_name, region)
        if found is None:
            return {
                f"create the endpoint {name}": lambda: __salt__["aws.call"](
                    "create_vpc_endpoint",
                    region,
                    VpcId=vpc_id,
                    ServiceName=service_name,
                    VpcEndpointType="Gateway",
                    RouteTableIds=tables,
                    PolicyDocument=json.dumps(document),
                    TagSpecifications=__salt__["aws.specification"]("vpc-endpoint", name),
                )
            }
        endpoint_id = found["VpcEndpointId"]
        todo: Todo = {}
        if __salt__["aws.tags_of"](found).get("Name") != name:
            todo[f"name {endpoint_id} {name}"] = lambda: __salt__["aws.mark"](
                [endpoint_id], name, region
            )
        if added := sorted(set(tables) - set(found["RouteTableIds"])):
            todo[f"lead {', '.join(added)} to {name}"] = lambda: __salt__["aws.call"](
                "modify_vpc_endpoint", region, VpcEndpointId=endpoint_id, AddRouteTableIds=added
            )
        if json.loads(found["PolicyDocument"]) != document:
            todo[f"write the policy of {name}"] = lambda: __salt__["aws.call"](
                "modify_vpc_endpoint",
                region,
                VpcEndpointId=endpoint_id,
                PolicyDocument=json.dumps(document),
            )
        return todo

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result


def _find(vpc_id: str, service_name: str, region: str) -> dict[str, Any] | None:
    """Return the VPC's gateway endpoint of a service, or None without one.

    Raises:
        CommandExecutionError: there are several, or it does not have the deployment's tags.
        AwsError: EC2 does not answer.
    """
    found: list[dict[str, Any]] = [
        one
        for one in __salt__["aws.things"]("vpc-endpoint", region, {})
        if (one["VpcId"], one["ServiceName"], one["VpcEndpointType"])
        == (vpc_id, service_name, "Gateway")
    ]
    ids = ", ".join(sorted(one["VpcEndpointId"] for one in found))
    if len(found) > 1:
        raise CommandExecutionError(
            f"{ids}: {len(found)} endpoints lead from {vpc_id} to {service_name}, and this"
            " deployment has one. Remove the others"
        )
    if found and not __salt__["aws.is_own"](found[0]):
        raise CommandExecutionError(
            f"{ids} leads from the deployment's VPC {vpc_id} to {service_name} and does not have"
            " its tags: remove it, or give it the tags of the VPC"
        )
    return found[0] if found else None
