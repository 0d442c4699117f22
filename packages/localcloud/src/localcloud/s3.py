"""What a request to S3 is called, and what it asks of IAM; and what S3 says of a missing object.

Operations: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
Actions, resources and condition keys:
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
Which permissions an operation needs:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket, FakeDeleteMarker, S3Backend

from localcloud.policies import Access, Unjudged, Value

if TYPE_CHECKING:
    from localcloud.accesses import Call

OWNER_HEADER = "x-amz-expected-bucket-owner"
COPY_HEADER = "x-amz-copy-source"
MATCH = "if-match"
MISSING = ("GetObject", "HeadObject")
"""The operations that say of a missing object that it is missing only to those who may list it."""

# Parameter of a request for a bucket -> the end of the operation's name, after Get, Put or Delete.
_OF_BUCKET = {
    "encryption": "BucketEncryption",
    "lifecycle": "BucketLifecycleConfiguration",
    "location": "BucketLocation",
    "ownershipControls": "BucketOwnershipControls",
    "policy": "BucketPolicy",
    "publicAccessBlock": "PublicAccessBlock",
    "tagging": "BucketTagging",
    "versioning": "BucketVersioning",
}
# Method, whether there is a key, parameter that tells it (empty: none) -> the operation.
_OPERATIONS = {
    ("GET", False, "list-type"): "ListObjectsV2",
    ("GET", False, "uploads"): "ListMultipartUploads",
    ("GET", False, "versions"): "ListObjectVersions",
    ("GET", False, ""): "ListObjects",
    ("PUT", False, ""): "CreateBucket",
    ("HEAD", False, ""): "HeadBucket",
    ("DELETE", False, ""): "DeleteBucket",
    ("POST", False, "delete"): "DeleteObjects",
    ("GET", True, "uploadId"): "ListParts",
    ("GET", True, "tagging"): "GetObjectTagging",
    ("GET", True, ""): "GetObject",
    ("HEAD", True, ""): "HeadObject",
    ("PUT", True, "uploadId"): "UploadPart",
    ("PUT", True, "tagging"): "PutObjectTagging",
    ("PUT", True, ""): "PutObject",
    ("POST", True, "uploads"): "CreateMultipartUpload",
    ("POST", True, "uploadId"): "CompleteMultipartUpload",
    ("DELETE", True, "uploadId"): "AbortMultipartUpload",
    ("DELETE", True, ""): "DeleteObject",
}
# Parameters that choose another operation, and are not above: what has one is not known here.
_OTHERS = frozenset((
    "abac", "accelerate", "acl", "analytics", "attributes", "cors", "intelligent-tiering",
    "inventory", "legal-hold", "logging", "metadataConfiguration", "metadataTable", "metrics",
    "notification", "object-lock", "policyStatus", "renameObject", "replication",
    "requestPayment", "restore", "retention", "select", "torrent", "website",
))  # fmt: skip

# Operation -> the action, where its name is another.
_ACTIONS = {
    "CompleteMultipartUpload": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "DeleteBucketEncryption": "PutEncryptionConfiguration",
    "DeleteBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "DeleteBucketOwnershipControls": "PutBucketOwnershipControls",
    "DeleteBucketTagging": "PutBucketTagging",
    "DeletePublicAccessBlock": "PutBucketPublicAccessBlock",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListBuckets": "ListAllMyBuckets",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListObjectVersions": "ListBucketVersions",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListParts": "ListMultipartUploadParts",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "UploadPart": "PutObject",
}
_VERSIONED = {"DeleteObject", "GetObject", "GetObjectTagging", "PutObjectTagging"}
# Parameter of a list -> the condition key.
_LIST_KEYS = {"delimiter": "s3:delimiter", "max-keys": "s3:max-keys", "prefix": "s3:prefix"}
_LISTS = {"ListBucket", "ListBucketVersions"}


def operation(method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """Return the name of an operation; of one that is not known here, its method and parameter."""
    bucket, key = place(path)
    if not bucket:
        return "ListBuckets" if method == "GET" else f"{method.capitalize()}Unknown"
    if other := sorted(_OTHERS & query.keys()):
        return f"{method.capitalize()}Unknown:{other[0]}"
    if not key:
        for parameter, end in _OF_BUCKET.items():
            if parameter in query:
                return f"{method.capitalize()}{end}"
    for (verb, has_key, parameter), name in _OPERATIONS.items():
        if (verb, has_key) == (method, bool(key)) and (not parameter or parameter in query):
            copies = name == "PutObject" and COPY_HEADER in headers
            return "CopyObject" if copies else name
    return f"{method.capitalize()}Unknown"


def place(path: str) -> tuple[str, str]:
    """Return bucket and key of a request whose path has both."""
    bucket, _, key = path.removeprefix("/").partition("/")
    return bucket, key


def arn(bucket: str, key: str = "") -> str:
    """Return the ARN of a bucket or of an object; both have neither region nor account."""
    return f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"


def accesses(call: Call) -> Iterator[Access]:
    """Yield what a call asks for. Raises Unjudged for a call that is not known here."""
    if "Unknown" in call.action or call.action in ("CopyObject", "ListBuckets"):
        # A list of all buckets is nothing that a machine needs.
        raise Unjudged(f"call: {call.name}, for anybody but the owner")
    bucket, key = place(call.path)
    action = _ACTIONS.get(call.action, call.action)
    if call.action == "DeleteObjects":
        yield from _deletes(bucket, call.body)
        return
    if "versionId" in call.form and action in _VERSIONED:
        action += "Version"
    keys: dict[str, Value] = {}
    if action in _LISTS:
        keys = {_LIST_KEYS[name]: call.form[name] for name in _LIST_KEYS if name in call.form}
    yield Access(f"s3:{action}", arn(bucket, key), keys)
    if action == "CreateBucket" and _new_tags(call.body):
        yield Access("s3:TagResource", arn(bucket))
    if MATCH in call.headers and call.action in ("DeleteObject", "PutObject"):
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-deletes.html
        yield Access("s3:GetObject", arn(bucket, key))
    if action == "PutObject" and "x-amz-tagging" in call.headers:
        yield Access("s3:PutObjectTagging", arn(bucket, key))


def _deletes(bucket: str, body: bytes) -> Iterator[Access]:
    """Yield what a deletion of several objects asks for."""
    for one in ET.fromstring(body).iter():  # noqa: S314 - the signature covers it
        if _tag(one) == "Object":
            named = {_tag(child): child.text or "" for child in one}
            action = "s3:DeleteObjectVersion" if "VersionId" in named else "s3:DeleteObject"
            yield Access(action, arn(bucket, named["Key"]))


def listing(call: Call) -> Access:
    """Return what has to be allowed so that S3 tells that an object is missing, and not denied.

    A request for an object has no prefix, so a policy that allows to list one prefix only does not
    allow it: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
    """
    return Access("s3:ListBucket", arn(place(call.path)[0]))


def bucket_of(call: Call) -> FakeBucket | None:
    """Return the bucket of a call, whoever has it; None: there is none."""
    name, _ = place(call.path)
    for account in get_backend("s3"):
        found: FakeBucket | None = get_backend("s3")[account]["aws"].buckets.get(name)
        if found:
            return found
    return None


def is_of_others(call: Call) -> bool:
    """Return whether a call is about a bucket of another account, or expects one to have it.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """
    expected = call.headers.get(OWNER_HEADER, DEFAULT_ACCOUNT_ID)
    found = bucket_of(call)
    return call.action != "CreateBucket" and bool(
        found and (found.account_id != DEFAULT_ACCOUNT_ID or expected != found.account_id)
    )


def policy(call: Call) -> Mapping[str, Any] | None:
    """Return the policy of a call's bucket, or None without one."""
    found = bucket_of(call)
    return json.loads(found.policy) if found and found.policy else None


def tag_new(call: Call) -> None:
    """Give a bucket that was just made the tags of its request, which moto leaves out."""
    tags = _new_tags(call.body)
    if tags:
        backend = get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]
        backend.put_bucket_tagging(place(call.path)[0], tags)


def _new_tags(body: bytes) -> dict[str, str]:
    """Return the tags in a request that makes a bucket."""
    tags = {}
    for one in ET.fromstring(body).iter() if body else ():  # noqa: S314 - the signature covers it
        if _tag(one) == "Tag":
            named = {_tag(child): child.text or "" for child in one}
            tags[named["Key"]] = named.get("Value", "")
    return tags


def hook(replace: Callable[[Any, str, Any], Any]) -> None:
    """Correct moto where S3 does otherwise.

    It would judge by the policies of buckets and ignore their conditions, and it lists folders of
    which every object is deleted.

    Args:
        replace: sets an attribute of a class or a module, and returns what it was.
    """

    def list_objects(
        backend: Any, bucket: FakeBucket, *given: Any, **options: Any
    ) -> tuple[Any, ...]:
        keys, folders, *rest = original_list(backend, bucket, *given, **options)
        living = [
            name for name, key in bucket.keys.items() if not isinstance(key, FakeDeleteMarker)
        ]
        kept = [folder for folder in folders if any(name.startswith(folder) for name in living)]
        return keys, kept, *rest

    replace(FakeBucket, "get_permission", lambda *_: PermissionResult.NEUTRAL)
    original_list = replace(S3Backend, "list_objects", list_objects)


def headers_of(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers that matter here, with their names in small letters."""
    lower = ((name.lower(), value) for name, value in given)
    return {name: value for name, value in lower if name.startswith("x-amz-") or name == MATCH}


def query_of(text: str) -> dict[str, str]:
    """Return the parameters of a query, also those without a value."""
    return dict(parse_qsl(text, keep_blank_values=True))


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
