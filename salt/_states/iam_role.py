"""IAM roles of machines, each with its trust, its policies and an instance profile of its name.

`boto3_iam_role` takes a role of a name for its own whoever made it, and removes its policies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

__salt__: dict[str, Callable[..., Any]]

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": "ec2.amazonaws.com"},
        }
    ],
}

Todo = dict[str, Callable[[], Any]]


def present(name: str, policies: Mapping[str, Any], region: str) -> dict[str, Any]:
    """The deployment's role has these policies and no others, and machines can have it.

    Args:
        name: of the role, and of its instance profile.
        policies: name -> document of each inline policy, with `{account}` for the account's
            number.
        region: where the calls are made; IAM itself has no region.

    Returns:
        The state's result. A role or a profile that is not the deployment's fails the state.
    """
    result: dict[str, Any] = __salt__["aws.converge"](
        name, lambda: _role(name, policies, region) or _profile(name, region)
    )
    return result


def attached(name: str, machines: str, region: str) -> dict[str, Any]:
    """The deployment's machines of a role have an instance profile.

    Args:
        name: of the profile.
        machines: their role: they are called `<role>-<number>`.
        region: where they are.

    Returns:
        The state's result. A machine that has another profile keeps it.
    """

    def differences() -> Todo:
        todo: Todo = {}
        for machine in __salt__["aws.own"]("instance", region):
            called = __salt__["aws.tags_of"](machine).get("Name", "")
            if (
                __salt__["role.of"](called) == machines
                and machine["State"]["Name"] in ("running", "stopped")
                and "IamInstanceProfile" not in machine
            ):
                todo[f"give {called} ({machine['InstanceId']}) the role {name}"] = _associate(
                    name, machine["InstanceId"], region
                )
        return todo

    result: dict[str, Any] = __salt__["aws.converge"](f"{name} of {machines}", differences)
    return result


def _associate(name: str, instance_id: str, region: str) -> Callable[[], Any]:
    return lambda: __salt__["aws.call"](
        "associate_iam_instance_profile",
        region,
        IamInstanceProfile={"Name": name},
        InstanceId=instance_id,
    )


def earlier(name: str, policies: Mapping[str, Any], region: str) -> dict[str, Any]:
    """The role that an earlier version made for this deployment has the same policies.

    The machine that was launched with it keeps it. Nothing is done about a role that is not the
    deployment's, or not there.

    Args:
        name: of that role.
        policies: name -> document of each inline policy.
        region: where the calls are made.
    """

    def differences() -> Todo:
        found = __salt__["aws.things"]("role", region, {"RoleName": name})
        if not found:
            return {}
        if __salt__["aws.is_own"](found[0]):
            return _role(name, policies, region)
        unowned = __salt__["aws.is_earlier"](found[0], project=False)
        if not unowned or not __salt__["aws.has_earlier_key"](region):
            return {}
        return {
            f"take over the role {name} of an earlier version": lambda: _iam(
                "tag_role", region, RoleName=name, Tags=_tags(name)
            )
        }

    result: dict[str, Any] = __salt__["aws.converge"](name, differences)
    return result


def _role(name: str, policies: Mapping[str, Any], region: str) -> Todo:
    role = __salt__["aws.find"]("role", name, region)
    if role is None:
        return {
            f"create the role {name}": lambda: _iam(
                "create_role",
                region,
                RoleName=name,
                AssumeRolePolicyDocument=json.dumps(TRUST),
                Tags=_tags(name),
            )
        }
    todo: Todo = {}
    if role["AssumeRolePolicyDocument"] != TRUST:
        todo[f"let machines have the role {name}"] = lambda: _iam(
            "update_assume_role_policy",
            region,
            RoleName=name,
            PolicyDocument=json.dumps(TRUST),
        )
    return todo | _policies(name, policies, region)


def _policies(name: str, policies: Mapping[str, Any], region: str) -> Todo:
    todo: Todo = {}
    found = _iam("list_role_policies", region, RoleName=name)["PolicyNames"]
    for policy, document in __salt__["aws.in_account"](policies, region).items():
        if policy in found:
            given = _iam("get_role_policy", region, RoleName=name, PolicyName=policy)
            if given["PolicyDocument"] == document:
                continue
        todo[f"write the policy {policy} of {name}"] = _put(name, policy, document, region)
    for policy in set(found) - set(policies):
        todo[f"remove the policy {policy} of {name}"] = _delete(name, policy, region)
    attached = _iam("list_attached_role_policies", region, RoleName=name)["AttachedPolicies"]
    for one in attached:
        todo[f"detach {one['PolicyArn']} from {name}"] = _detach(name, one["PolicyArn"], region)
    return todo


def _put(name: str, policy: str, document: Any, region: str) -> Callable[[], Any]:
    text = json.dumps(document)
    return lambda: _iam(
        "put_role_policy", region, RoleName=name, PolicyName=policy, PolicyDocument=text
    )


def _delete(name: str, policy: str, region: str) -> Callable[[], Any]:
    return lambda: _iam("delete_role_policy", region, RoleName=name, PolicyName=policy)


def _detach(name: str, arn: str, region: str) -> Callable[[], Any]:
    return lambda: _iam("detach_role_policy", region, RoleName=name, PolicyArn=arn)


def _profile(name: str, region: str) -> Todo:
    profile = __salt__["aws.find"]("instance-profile", name, region)
    if profile is None:
        return {
            f"create the instance profile {name}": lambda: _iam(
                "create_instance_profile", region, InstanceProfileName=name, Tags=_tags(name)
            )
        }
    roles = [role["RoleName"] for role in profile["Roles"]]
    if roles == [name]:
        return {}
    if roles:
        return {
            f"take the role {roles[0]} out of the instance profile {name}": lambda: _iam(
                "remove_role_from_instance_profile",
                region,
                InstanceProfileName=name,
                RoleName=roles[0],
            )
        }
    return {
        f"put the role into the instance profile {name}": lambda: _iam(
            "add_role_to_instance_profile", region, InstanceProfileName=name, RoleName=name
        )
    }


def _tags(name: str) -> Any:
    return __salt__["aws.tag_list"](__salt__["aws.tags"](name))


def _iam(operation: str, region: str, **arguments: Any) -> Any:
    return __salt__["aws.call"](operation, region, service="iam", **arguments)
