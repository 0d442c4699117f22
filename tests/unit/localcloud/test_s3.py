"""S3: what a request is called and asks for, whose bucket it is, and how an endpoint narrows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from moto.backends import get_backend

from localcloud import s3
from localcloud.accesses import Call, accesses
from localcloud.policies import Unjudged
from memorycloud import Running
from reference import keys_by_kind

EVERYWHERE = {"aws:RequestedRegion"}


@pytest.fixture
def bucket(local: Running) -> str:
    client = local.client("s3")
    client.create_bucket(Bucket="own", CreateBucketConfiguration=location())
    return "own"


def location() -> dict[str, str]:
    return {"LocationConstraint": "eu-west-1"}


def refusal(call: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value)


def requests() -> dict[str, tuple[str, str]]:
    """Return operation of S3 -> its method and its path with query."""
    model = Loader().load_service_model("s3", "service-2")["operations"]
    return {name: (one["http"]["method"], one["http"]["requestUri"]) for name, one in model.items()}


KNOWN = (
    *s3._OPERATIONS.values(), "ListBuckets",
    *(f"{verb}{end}" for verb in ("Get", "Put", "Delete") for end in s3._OF_BUCKET.values()),
)  # fmt: skip
NOT_IN_S3 = {
    "DeleteBucketLocation", "DeleteBucketVersioning", "PutBucketLocation",
    "DeleteBucketLifecycleConfiguration",
}  # fmt: skip
"""What the table could name, and S3 does not have, or calls otherwise."""


@pytest.mark.parametrize("name", sorted({*KNOWN} - NOT_IN_S3))
def test_operations_have_the_names_of_the_model(name: str) -> None:
    method, uri = requests()[name]
    path, _, query = uri.partition("?")
    path = path.replace("{Bucket}", "b").replace("{Key+}", "a/b")
    given = dict.fromkeys((part.partition("=")[0] for part in query.split("&") if part), "1")
    given.pop("x-id", None)
    if name in ("ListParts", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"):
        given["uploadId"] = "1"
    assert s3.operation(method, path, given, {}) == name


@pytest.mark.parametrize("query", ["acl", "torrent", "cors"])
def test_unknown_request_is_not_judged(query: str) -> None:
    action = s3.operation("GET", "/b/a", {query: ""}, {})
    with pytest.raises(Unjudged):
        accesses(Call("s3", action, "eu-west-1", {query: ""}, path="/b/a"))
    assert s3.operation("PUT", "/b/a", {}, {s3.COPY_HEADER: "/c/d"}) == "CopyObject"
    with pytest.raises(Unjudged):
        accesses(Call("s3", "CopyObject", "eu-west-1", path="/b/a"))


@pytest.mark.parametrize(
    ("action", "query", "asked"),
    [
        ("GetObject", {}, "s3:GetObject"),
        ("GetObject", {"versionId": "1"}, "s3:GetObjectVersion"),
        ("HeadObject", {}, "s3:GetObject"),
        ("UploadPart", {"uploadId": "1"}, "s3:PutObject"),
        ("DeleteObject", {"versionId": "1"}, "s3:DeleteObjectVersion"),
        ("AbortMultipartUpload", {}, "s3:AbortMultipartUpload"),
        ("ListParts", {}, "s3:ListMultipartUploadParts"),
    ],
)
def test_object_is_the_resource(action: str, query: dict[str, str], asked: str) -> None:
    (access,) = accesses(Call("s3", action, "eu-west-1", query, path="/b/a/c"))
    assert (access.action, access.resource) == (asked, "arn:aws:s3:::b/a/c")
    assert set(access.keys) <= keys_by_kind(asked)["object"] | EVERYWHERE


@pytest.mark.parametrize(
    ("action", "asked"),
    [
        ("ListObjects", "s3:ListBucket"),
        ("ListObjectsV2", "s3:ListBucket"),
        ("ListObjectVersions", "s3:ListBucketVersions"),
        ("ListMultipartUploads", "s3:ListBucketMultipartUploads"),
        ("PutBucketEncryption", "s3:PutEncryptionConfiguration"),
        ("GetPublicAccessBlock", "s3:GetBucketPublicAccessBlock"),
    ],
)
def test_bucket_is_the_resource(action: str, asked: str) -> None:
    query = {"prefix": "a/", "delimiter": "/", "max-keys": "2"}
    (access,) = accesses(Call("s3", action, "eu-west-1", query, path="/b"))
    assert (access.action, access.resource) == (asked, "arn:aws:s3:::b")
    assert set(access.keys) <= keys_by_kind(asked)["bucket"] | EVERYWHERE
    listed = asked in ("s3:ListBucket", "s3:ListBucketVersions")
    assert access.keys.get("s3:prefix") == ("a/" if listed else None)


def test_each_of_several_deletions_is_judged() -> None:
    body = b"<Delete><Object><Key>a</Key></Object><Object><Key>b</Key><VersionId>1</VersionId>"
    call = Call("s3", "DeleteObjects", "eu-west-1", {}, body + b"</Object></Delete>", path="/b")
    assert [(one.action, one.resource) for one in accesses(call)] == [
        ("s3:DeleteObject", "arn:aws:s3:::b/a"),
        ("s3:DeleteObjectVersion", "arn:aws:s3:::b/b"),
    ]


def test_tags_of_a_new_bucket_are_there_at_once(local: Running) -> None:
    client = local.client("s3")
    tags = [{"Key": "project", "Value": "own"}]
    client.create_bucket(Bucket="tagged", CreateBucketConfiguration={**location(), "Tags": tags})
    assert client.get_bucket_tagging(Bucket="tagged")["TagSet"] == tags


def test_tags_of_a_new_bucket_need_a_permission_of_their_own() -> None:
    def asked(body: bytes) -> list[tuple[str, str]]:
        call = Call("s3", "CreateBucket", "eu-west-1", body=body, path="/b")
        return [(one.action, one.resource) for one in accesses(call)]

    tags = b"<Tags><Tag><Key>project</Key><Value>own</Value></Tag></Tags>"
    made = ("s3:CreateBucket", "arn:aws:s3:::b")
    assert asked(b"<CreateBucketConfiguration></CreateBucketConfiguration>") == [made]
    assert asked(b"<CreateBucketConfiguration>" + tags + b"</CreateBucketConfiguration>") == [
        made,
        ("s3:TagResource", "arn:aws:s3:::b"),
    ]


def test_bucket_of_another_account_is_refused(local: Running, bucket: str) -> None:
    with local.cloud.lock:
        get_backend("s3")["999999999999"]["aws"].create_bucket("theirs", "eu-west-1")
    client = local.client("s3")
    assert "AccessDenied" in refusal(client.get_bucket_tagging, Bucket="theirs")
    assert "AccessDenied" in refusal(client.put_object, Bucket="theirs", Key="a", Body=b"")
    create = {"Bucket": "theirs", "CreateBucketConfiguration": location()}
    assert "BucketAlreadyExists" in refusal(client.create_bucket, **create)
    for owner, denied in (("123456789012", False), ("999999999999", True)):
        arguments = {"Bucket": bucket, "ExpectedBucketOwner": owner}
        if denied:
            assert "AccessDenied" in refusal(client.list_objects_v2, **arguments)
        else:
            client.list_objects_v2(**arguments)


def test_policy_of_a_bucket_denies_also_the_owner(local: Running, bucket: str) -> None:
    client = local.client("s3")

    def deny(**more: Any) -> None:
        statement = {
            "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
            "Resource": f"arn:aws:s3:::{bucket}/*", **more,
        }  # fmt: skip
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        client.put_bucket_policy(Bucket=bucket, Policy=document)

    deny(Condition={"Bool": {"aws:SecureTransport": "false"}})
    client.put_object(Bucket=bucket, Key="a", Body=b"")
    deny()
    text = refusal(client.put_object, Bucket=bucket, Key="a", Body=b"")
    assert "explicit deny in a resource-based policy" in text
    deny(Principal={"AWS": "arn:aws:iam::123456789012:role/x"})
    assert "the principal" in refusal(client.put_object, Bucket=bucket, Key="a", Body=b"")


def test_route_table_has_one_endpoint_of_a_service(local: Running) -> None:
    ec2 = local.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    tables = [ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"] for _ in range(2)]
    service = "com.amazonaws.eu-west-1.s3"

    def make(*ids: str) -> str:
        made = ec2.create_vpc_endpoint(
            VpcId=vpc, ServiceName=service, RouteTableIds=[*ids], VpcEndpointType="Gateway"
        )
        return str(made["VpcEndpoint"]["VpcEndpointId"])

    first = make(tables[0])
    with pytest.raises(ClientError, match="RouteAlreadyExists"):
        make(tables[0])
    second = make(tables[1])
    with pytest.raises(ClientError, match="RouteAlreadyExists"):
        ec2.modify_vpc_endpoint(VpcEndpointId=first, AddRouteTableIds=[tables[1]])
    ec2.delete_vpc_endpoints(VpcEndpointIds=[second])
    ec2.modify_vpc_endpoint(VpcEndpointId=first, AddRouteTableIds=[tables[1]])
    ec2.modify_vpc_endpoint(VpcEndpointId=first, RemoveRouteTableIds=[tables[0]])
    (found,) = [
        one for one in ec2.describe_vpc_endpoints()["VpcEndpoints"] if one["VpcEndpointId"] == first
    ]
    assert found["RouteTableIds"] == [tables[1]]
    ec2.delete_vpc_endpoints(VpcEndpointIds=[first])
    for table in tables:
        ec2.delete_route_table(RouteTableId=table)


def test_folder_whose_objects_are_deleted_is_not_listed(local: Running, bucket: str) -> None:
    s3 = local.client("s3")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for key in ("a/one", "b/one", "b/two"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    for key in ("a/one", "b/one"):
        s3.delete_object(Bucket=bucket, Key=key)
    found = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [each["Prefix"] for each in found["CommonPrefixes"]] == ["b/"]


@pytest.mark.parametrize("versions", ["Suspended", "Enabled"])
def test_object_is_written_and_deleted_only_as_the_caller_knows_it(
    local: Running, bucket: str, versions: str
) -> None:
    client = local.client("s3")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": versions})
    one = {"Bucket": bucket, "Key": "a"}
    assert "NoSuchKey" in refusal(client.delete_object, **one, IfMatch='"x"')
    first = client.put_object(**one, Body=b"1", IfNoneMatch="*")["ETag"]
    assert "PreconditionFailed" in refusal(client.put_object, **one, Body=b"2", IfNoneMatch="*")
    second = client.put_object(**one, Body=b"2", IfMatch=first)["ETag"]
    assert "PreconditionFailed" in refusal(client.put_object, **one, Body=b"3", IfMatch=first)
    assert "PreconditionFailed" in refusal(client.delete_object, **one, IfMatch=first)
    assert client.get_object(**one)["Body"].read() == b"2"
    client.delete_object(**one, IfMatch=second)
    assert "NoSuchKey" in refusal(client.delete_object, **one, IfMatch=second)
    client.put_object(**one, Body=b"4", IfNoneMatch="*")


@pytest.mark.parametrize(
    ("action", "own"), [("PutObject", "s3:PutObject"), ("DeleteObject", "s3:DeleteObject")]
)
def test_who_names_what_is_there_has_to_be_allowed_to_read_it(action: str, own: str) -> None:
    def asked(**headers: str) -> list[str]:
        given = s3.headers_of((name.replace("_", "-"), value) for name, value in headers.items())
        call = Call("s3", action, "eu-west-1", path="/b/a", headers=given)
        return [one.action for one in accesses(call)]

    assert asked(Accept="*/*") == [own]
    assert asked(If_Match='"x"') == [own, "s3:GetObject"]
