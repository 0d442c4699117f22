"""What concerns the account as a whole: names that others have taken, machines without an owner."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from salt.exceptions import CommandExecutionError

__salt__: dict[str, Callable[..., Any]]


def unclaimed(name: str, region: str) -> dict[str, Any]:
    """Nothing in the account has a name of this deployment's without being this deployment's.

    Everything that is in the way is named at once, before anything is made.

    Args:
        name: in words.
        region: of the deployment.

    Returns:
        The state's result; nothing is changed.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    problems: list[str] = []
    for look in _looks(region):
        try:
            look()
        except CommandExecutionError as error:
            problems.append(str(error))
    if problems:
        return result | {"result": False, "comment": "\n".join(dict.fromkeys(problems))}
    return result | {"comment": "nobody else has a name of this deployment's"}


def _looks(region: str) -> list[Callable[[], Any]]:
    aws, find = __salt__["aws.settings"](), __salt__["aws.find"]
    subnets = __salt__["aws.subnets"]()
    names = {
        "vpc": aws["vpc"]["name"],
        "internet-gateway": aws["internet_gateway"],
        "route-table": aws["route_table"],
        "key-pair": aws["key_pair"],
        "elastic-ip": aws["edge_address"]["name"],
    }
    roles = [aws["salt_role"], *aws["machine_roles"].values()]
    groups = aws["security_groups"].values()
    return [
        *(partial(find, kind, name, region) for kind, name in names.items()),
        partial(find, "route-table", aws["private_route_table"], region),
        *(partial(find, "subnet", subnet["name"], region) for subnet in subnets),
        *(
            partial(find, kind, name, region)
            for kind in ("role", "instance-profile")
            for name in roles
        ),
        partial(_bucket, aws["bucket"]["name"], region),
        lambda: __salt__["security_group.groups"](groups, region),
        partial(_earlier_vpc, region),
    ]


def _bucket(name: str, region: str) -> None:
    """Raise CommandExecutionError for a bucket of this name that is somebody else's."""
    owner = __salt__["aws.account"](region)
    __salt__["s3_bucket.find"](name.replace("{account}", owner), region, owner)


def _earlier_vpc(region: str) -> None:
    """Raise CommandExecutionError for an earlier VPC of which nobody knows whose it is."""
    if not __salt__["aws.own"]("vpc", region):
        __salt__["aws.earlier_vpc"](region)


def machines_taken_over(name: str, region: str) -> dict[str, Any]:
    """The machines in the deployment's VPC that an earlier version launched have its tags.

    So do their volumes and network interfaces.

    Args:
        name: in words.
        region: where they are.

    Returns:
        The state's result.
    """

    def differences() -> dict[str, Callable[[], Any]]:
        vpcs = __salt__["aws.own"]("vpc", region)
        if not vpcs:
            return {}
        within = {"vpc-id": vpcs[0]["VpcId"], "tag:project": __salt__["aws.tags"]()["project"]}
        todo: dict[str, Callable[[], Any]] = {}
        for instance in __salt__["aws.things"]("instance", region, within):
            if not __salt__["aws.is_earlier"](instance):
                continue
            ids = [instance["InstanceId"]]
            ids += [one["Ebs"]["VolumeId"] for one in instance["BlockDeviceMappings"]]
            ids += [one["NetworkInterfaceId"] for one in instance["NetworkInterfaces"]]
            called = __salt__["aws.tags_of"](instance).get("Name", "a machine")
            what = f"take over {called} ({ids[0]}) of an earlier version"
            todo[what] = partial(__salt__["aws.mark"], ids, "", region)
        return todo

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result
