"""The roles of machines: a database machine has its prefix of the bucket, an edge its address.

Each machine's calls are made with the credentials that the metadata service gives to it, in a local
cloud that weighs policies. No part of a policy can be left out without a call that is refused then,
or one that is allowed which must not be.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.utils import InstanceMetadataFetcher

from localcloud.config import METADATA
from localcloud.policies import Access, decide
from memorycloud import Running
from policymutants import mutants
from reference import findings

BUCKET = "airflow-stack-test-123456789012-eu-west-1"
Requests = dict[str, dict[str, Any]]
Client = Callable[[str], Any]


@dataclass
class Machine:
    """A machine with a role.

    Attributes:
        cloud: in which it is.
        instance: its id.
        asked: what its calls have asked of IAM so far.
    """

    cloud: Running
    instance: str
    asked: list[Access] = field(default_factory=list)

    def client(self, service: str) -> Any:
        return self.cloud.client(service, **self.cloud.session_of(self.instance))

    def may(self, call: Callable[..., Any], **arguments: Any) -> bool:
        """Make a call as this machine; return whether it was allowed."""
        self.cloud.api.api.judge.watch = lambda access, _: self.asked.append(access)
        try:
            call(**arguments)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("AccessDenied", "UnauthorizedOperation"):
                raise
            return False
        finally:
            self.cloud.api.api.judge.watch = lambda *_: None
        return True


@pytest.fixture(scope="module")
def machines(applied: Any, cloud: Running, requests: Requests) -> dict[str, Machine]:
    """A machine of each role, with what its profile says."""
    made = {
        role: cloud.ec2.run_instances(**requests[role])["Instances"][0]["InstanceId"]
        for role in ("lb", "web", "postgres", "redis", "monitor")
    }
    cloud.settle()
    return {role: Machine(cloud, instance) for role, instance in made.items()}


def statements(client: Client, role: str) -> list[dict[str, Any]]:
    """Return all statements of a role's policies."""
    iam, name = client("iam"), f"airflow-stack-test-{role}"
    return [
        statement
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
        for statement in iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"][
            "Statement"
        ]
    ]


def superfluous(
    policy: list[dict[str, Any]], wanted: list[Access], forbidden: list[Access]
) -> list[str]:
    """Return what a policy may lack without a difference for these accesses."""

    def allowed(given: list[dict[str, Any]], access: Access) -> bool:
        return decide([{"Version": "2012-10-17", "Statement": given}], access).allowed

    assert [access for access in wanted if not allowed(policy, access)] == []
    assert [access for access in forbidden if allowed(policy, access)] == []
    return [
        name
        for name, fewer in mutants(policy)
        if all(allowed(fewer, access) for access in wanted)
        and not any(allowed(fewer, access) for access in forbidden)
    ]


@pytest.mark.parametrize("role", ["web", "redis", "monitor"])
def test_other_machines_have_no_credentials(machines: dict[str, Machine], role: str) -> None:
    machine = machines[role]
    cloud = machine.cloud
    found = cloud.ec2.describe_instances(InstanceIds=[machine.instance])["Reservations"][0]
    cloud.api.address = found["Instances"][0]["PrivateIpAddress"]
    try:
        fetcher = InstanceMetadataFetcher(base_url=f"{cloud.url}{METADATA}/", env={})
        assert fetcher.retrieve_iam_role_credentials() == {}
    finally:
        cloud.api.address = ""


def test_database_machine_keeps_backups_below_its_prefix(
    machines: dict[str, Machine], client: Client
) -> None:
    machine = machines["postgres"]
    s3, own, named = machine.client("s3"), "postgres/archive/1", {"Bucket": BUCKET}
    assert machine.may(s3.put_object, Key=own, Body=b"wal", **named)
    assert machine.may(s3.get_object, Key=own, **named)
    assert machine.may(s3.list_objects_v2, Prefix="postgres/archive/", **named)
    upload = s3.create_multipart_upload(Key=own, **named)["UploadId"]
    assert machine.may(s3.abort_multipart_upload, Key=own, UploadId=upload, **named)
    assert machine.may(s3.delete_object, Key=own, **named)
    wanted, machine.asked = machine.asked, []

    # What it deletes stays as a version, which it cannot delete.
    versions = client("s3").list_object_versions(Bucket=BUCKET, Prefix=own)["Versions"]
    version = versions[0]["VersionId"]
    assert not machine.may(s3.delete_object, Key=own, VersionId=version, **named)
    client("s3").put_object(Key="releases/a", Body=b"x", **named)
    for key in ("releases/a", "postgres-2/a", "a"):
        assert not machine.may(s3.get_object, Key=key, **named)
        assert not machine.may(s3.put_object, Key=key, Body=b"", **named)
        assert not machine.may(s3.delete_object, Key=key, **named)
    client("s3").create_bucket(
        Bucket="other", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    assert not machine.may(s3.put_object, Bucket="other", Key=own, Body=b"")
    upload = client("s3").create_multipart_upload(Key="releases/b", **named)["UploadId"]
    assert not machine.may(s3.abort_multipart_upload, Key="releases/b", UploadId=upload, **named)
    assert not machine.may(s3.list_objects_v2, Bucket="other", Prefix="postgres/")
    assert not machine.may(s3.get_bucket_policy, **named)
    client("s3").delete_bucket(Bucket="other")
    assert superfluous(statements(client, "postgres"), wanted, machine.asked) == []
    document = {"Version": "2012-10-17", "Statement": statements(client, "postgres")}
    assert findings(document) == set()


def test_database_machine_learns_that_an_object_is_missing(machines: dict[str, Machine]) -> None:
    """S3 tells that to those who may list the whole bucket, and pgBackRest has to know it."""
    s3 = machines["postgres"].client("s3")
    for call in (s3.get_object, s3.head_object):
        for key, status in (("postgres/none", 404), ("releases/none", 403)):
            with pytest.raises(ClientError) as caught:
                call(Bucket=BUCKET, Key=key)
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_edge_takes_the_sites_address_and_gives_it_to_nobody_else(
    machines: dict[str, Machine], client: Client
) -> None:
    machine, ec2 = machines["lb"], client("ec2")
    own = machine.client("ec2")
    (site,) = ec2.describe_addresses()["Addresses"]
    address = {"AllocationId": site["AllocationId"], "AllowReassociation": True}
    assert machine.may(own.associate_address, InstanceId=machine.instance, **address)
    interface = ec2.describe_instances(InstanceIds=[machine.instance])["Reservations"][0][
        "Instances"
    ][0]["NetworkInterfaces"][0]["NetworkInterfaceId"]
    assert machine.may(own.associate_address, NetworkInterfaceId=interface, **address)
    named = [{"Name": "tag:Name", "Values": ["airflow-stack-test-edge"]}]
    assert machine.may(own.describe_addresses, Filters=named)
    wanted, machine.asked = machine.asked, []

    assert not machine.may(own.associate_address, InstanceId=machines["web"].instance, **address)
    other = ec2.allocate_address(Domain="vpc")
    assert not machine.may(
        own.associate_address, InstanceId=machine.instance, AllocationId=other["AllocationId"]
    )
    ec2.release_address(AllocationId=other["AllocationId"])
    assert not machine.may(own.describe_instances)
    forbidden = [*machine.asked]
    forbidden = [one for one in forbidden if one not in wanted]
    for access in wanted:  # the same of somebody else's, and elsewhere
        if access.action == "ec2:DescribeAddresses":
            keys = {**access.keys, "aws:RequestedRegion": "us-east-1"}
            forbidden.append(Access(access.action, access.resource, keys))
            continue
        for tag in ("Name", "project", "deployment"):
            keys = {**access.keys, f"aws:ResourceTag/{tag}": "wiki"}
            forbidden.append(Access(access.action, access.resource, keys))
    assert superfluous(statements(client, "lb"), wanted, forbidden) == []
    document = {"Version": "2012-10-17", "Statement": statements(client, "lb")}
    assert {name for name, _ in findings(document)} <= {"RESOURCE_MISMATCH"}


def test_bucket_refuses_whoever_does_not_use_tls(
    machines: dict[str, Machine], client: Client
) -> None:
    judge = machines["postgres"].cloud.api.api.judge
    document = json.loads(client("s3").get_bucket_policy(Bucket=BUCKET)["Policy"])
    judge.secure = False
    try:
        for s3 in (machines["postgres"].client("s3"), client("s3")):
            for call, arguments in (
                (s3.put_object, {"Key": "postgres/a", "Body": b""}),
                (s3.list_objects_v2, {"Prefix": "postgres/"}),
            ):
                with pytest.raises(ClientError, match="explicit deny in a resource-based policy"):
                    call(Bucket=BUCKET, **arguments)
    finally:
        judge.secure = True
    client("s3").put_object(Bucket=BUCKET, Key="postgres/a", Body=b"")
    assert findings_of_resource(document) == set()


def findings_of_resource(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Return what the linter finds in a policy of a resource, which has principals."""
    made = [
        {key: value for key, value in statement.items() if key != "Principal"}
        for statement in document["Statement"]
    ]
    return findings({**document, "Statement": made})


def test_endpoint_lets_pass_what_concerns_the_bucket_only(
    machines: dict[str, Machine], client: Client
) -> None:
    """Also for a machine that brings credentials of its own, which may do everything."""
    cloud, s3 = machines["postgres"].cloud, client("s3")
    (endpoint,) = client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    assert endpoint["VpcEndpointType"] == "Gateway"
    assert endpoint["ServiceName"] == "com.amazonaws.eu-west-1.s3"
    location = {"LocationConstraint": "eu-west-1"}
    s3.create_bucket(Bucket="theirs", CreateBucketConfiguration=location)
    user = bringing(client)
    theirs = cloud.client("s3", **user)
    theirs.put_object(Bucket="theirs", Key="a", Body=b"")
    machine = machines["postgres"].instance
    found = cloud.ec2.describe_instances(InstanceIds=[machine])["Reservations"][0]
    cloud.api.address = found["Instances"][0]["PrivateIpAddress"]
    own, named = "releases/x", {"Bucket": BUCKET}
    try:
        theirs.put_object(Key=own, Body=b"", **named)
        theirs.get_object(Key=own, **named)
        theirs.list_objects_v2(Prefix="releases/", **named)
        theirs.delete_object(Key=own, **named)
        upload = theirs.create_multipart_upload(Key=own, **named)["UploadId"]
        theirs.abort_multipart_upload(Key=own, UploadId=upload, **named)
        for call, arguments in (
            (theirs.put_object, {"Bucket": "theirs", "Key": "a", "Body": b"secret"}),
            (theirs.get_object, {"Bucket": "theirs", "Key": "a"}),
            (theirs.list_objects_v2, {"Bucket": "theirs"}),
            (theirs.get_bucket_policy, named),
            (theirs.delete_object, {"Key": own, "VersionId": "null", **named}),
        ):
            with pytest.raises(ClientError, match="no VPC endpoint policy allows the s3:"):
                call(**arguments)
    finally:
        cloud.api.address = ""
    assert findings_of_resource(json.loads(endpoint["PolicyDocument"])) == set()


def bringing(client: Client) -> dict[str, Any]:
    """Return the key of a user who may do everything with S3."""
    iam = client("iam")
    iam.create_user(UserName="thief")
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="thief", PolicyName="all", PolicyDocument=document)
    key = iam.create_access_key(UserName="thief")["AccessKey"]
    return {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
