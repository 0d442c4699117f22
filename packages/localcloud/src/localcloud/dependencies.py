"""What EC2 refuses to delete while something else needs it, and moto deletes."""

from __future__ import annotations

from typing import Any

from moto.ec2.exceptions import DependencyViolationError


def require_unused_group(backend: Any, group_id: str) -> None:
    """Raise DependencyViolationError for a group that a machine has or another group's rule names.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteSecurityGroup.html
    """
    used = any(
        group.id == group_id
        for instance in backend.all_instances()
        if instance.state != "terminated"
        for nic in instance.nics.values()
        for group in nic.group_set
    )
    named = any(
        rule.source_group.get("GroupId") == group_id
        for groups in backend.groups.values()
        for group in groups.values()
        if group.id != group_id
        for rule in (*group.ingress_rules, *group.egress_rules)
    )
    if used or named:
        raise DependencyViolationError(f"resource {group_id} has a dependent object")
