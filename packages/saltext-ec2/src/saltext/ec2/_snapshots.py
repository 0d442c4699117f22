"""Snapshots of volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saltext.ec2 import _lookup
from saltext.ec2._client import Connection
from saltext.ec2.errors import api_errors


def create(connection: Connection, volume_id: str, description: str) -> dict[str, Any]:
    """Make a snapshot of a volume.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"making a snapshot of {volume_id}"):
        answer = connection.ec2.create_snapshot(VolumeId=volume_id, Description=description)
    return {"snapshot_id": answer["SnapshotId"], "state": answer.get("State")}


def copy(
    connection: Connection, source_region: str, source_id: str, description: str
) -> dict[str, Any]:
    """Copy a snapshot into the connection's region, encrypted.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"copying {source_id}"):
        answer = connection.ec2.copy_snapshot(
            SourceRegion=source_region,
            SourceSnapshotId=source_id,
            Description=description,
            Encrypted=True,
        )
    return {"snapshot_id": answer["SnapshotId"]}


def described(connection: Connection, wanted: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return snapshots by id.

    Args:
        connection: the region.
        wanted: `OwnerIds` or `SnapshotIds`, with a list.

    Raises:
        ApiError: EC2 did not answer.
    """
    with api_errors("listing the snapshots"):
        pages = connection.ec2.get_paginator("describe_snapshots").paginate(**wanted)
        return {
            snapshot["SnapshotId"]: _lookup.plain(snapshot)
            for page in pages
            for snapshot in page["Snapshots"]
        }


def delete(connection: Connection, snapshot_id: str) -> dict[str, Any]:
    """Delete a snapshot.

    Raises:
        ApiError: EC2 refuses.
    """
    with api_errors(f"deleting {snapshot_id}"):
        connection.ec2.delete_snapshot(SnapshotId=snapshot_id)
    return {"snapshot_id": snapshot_id, "deleted": True}
