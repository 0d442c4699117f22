"""The bucket and the endpoint of S3: what the account has, and whose things are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from moto.backends import get_backend

from accounts import Client, dump
from localcloud import catalog, faults
from localcloud.faults import Fault
from memorycloud import Running, emptied
from plainpillar import DEPLOYMENT

States = dict[str, dict[str, Any]]
Apply = Callable[..., States]
NAME = "airflow-stack-test-123456789012-eu-west-1"
OWNER = [{"Key": key, "Value": value} for key, value in DEPLOYMENT.owner().items()]


@pytest.fixture
def empty(cloud: Running) -> None:
    """An empty account."""
    emptied(cloud)


def failures(states: States) -> dict[str, str]:
    return {one["__id__"]: one["comment"] for one in states.values() if one["result"] is False}


def changes(states: States) -> dict[str, list[str]]:
    return {one["__id__"]: one["changes"]["new"] for one in states.values() if one["changes"]}


@pytest.mark.usefixtures("founded")
def test_bucket_is_private_versioned_and_keeps_nothing_for_ever(
    client: Client, pillar: dict[str, Any]
) -> None:
    s3, named = client("s3"), {"Bucket": NAME}
    assert {one["Key"]: one["Value"] for one in s3.get_bucket_tagging(**named)["TagSet"]} == {
        "Name": NAME,
        **DEPLOYMENT.owner(),
    }
    assert s3.get_bucket_location(**named)["LocationConstraint"] == pillar["aws"]["region"]
    assert s3.get_bucket_versioning(**named)["Status"] == "Enabled"
    block = s3.get_public_access_block(**named)["PublicAccessBlockConfiguration"]
    assert list(block.values()) == [True] * 4
    (rule,) = s3.get_bucket_lifecycle_configuration(**named)["Rules"]
    wanted = pillar["aws"]["bucket"]
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] == wanted["noncurrent_days"]
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == wanted["upload_days"]
    assert set(rule["Expiration"]) == {"ExpiredObjectDeleteMarker"}, "what is current stays"


@pytest.mark.usefixtures("empty")
def test_bucket_of_another_account_stops_the_run_in_one_sentence(
    apply: Apply, client: Client, cloud: Running
) -> None:
    with cloud.cloud.lock:
        get_backend("s3")["999999999999"]["aws"].create_bucket(NAME, "eu-west-1")
    states = apply()
    comment = failures(states)["aws-names"]
    assert comment.startswith(f"the bucket {NAME} belongs to another account")
    assert "s3:GetBucketTagging" in comment
    assert "\n" not in comment
    assert set(failures(states)) == {one["__id__"] for one in states.values()}


@pytest.mark.usefixtures("empty")
def test_bucket_that_was_made_by_hand_is_taken_with_its_objects_once_it_is_tagged(
    apply: Apply, client: Client
) -> None:
    s3 = client("s3")
    s3.create_bucket(Bucket=NAME, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket=NAME, Key="postgres/dump", Body=b"data")
    comment = failures(apply())["aws-names"]
    command = comment.partition("tag it: ")[2]
    assert command.startswith(f"aws s3api put-bucket-tagging --bucket {NAME} --tagging 'TagSet=[")
    s3.put_bucket_tagging(Bucket=NAME, Tagging={"TagSet": OWNER})
    states = apply()
    assert failures(states) == {}
    assert len(changes(states)["aws-bucket"]) == 6
    assert s3.get_object(Bucket=NAME, Key="postgres/dump")["Body"].read() == b"data"
    assert changes(apply()) == {}


@pytest.mark.usefixtures("founded")
def test_unknown_answer_of_s3_is_not_taken_for_absence(
    apply: Apply, client: Client, cloud: Running
) -> None:
    before = dump(client)
    for action in ("GetBucketTagging", "GetBucketPolicy"):
        with cloud.faults.inject(Fault("error", action, code="AccessDenied", status=403)):
            states = apply()
        assert "AccessDenied" in str(failures(states)) or "another account" in str(failures(states))
        assert changes(states) == {}
    assert dump(client) == before


@pytest.mark.usefixtures("empty")
def test_tags_of_a_new_bucket_may_be_seen_late(
    apply: Apply, client: Client, cloud: Running
) -> None:
    late = Fault("error", "GetBucketTagging", code="NoSuchTagSet", status=404, skip=2, times=1)
    throttled = Fault("error", "PutBucketVersioning", code="SlowDown", status=503, times=1)
    with cloud.faults.inject(late, throttled, faults.lost("PutBucketPolicy")) as injected:
        states = apply()
        assert all(injected.seen().met)
    assert failures(states) == {}
    assert changes(apply()) == {}


# -- the endpoint ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("founded")
def test_every_route_table_of_the_deployment_leads_to_s3(apply: Apply, client: Client) -> None:
    ec2 = client("ec2")
    (endpoint,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    tags = [{"ResourceType": "route-table", "Tags": OWNER}]
    table = ec2.create_route_table(VpcId=endpoint["VpcId"], TagSpecifications=tags)["RouteTable"]
    theirs = ec2.create_route_table(VpcId=endpoint["VpcId"])["RouteTable"]
    states = apply()
    assert changes(states) == {
        "aws-s3-endpoint": [f"lead {table['RouteTableId']} to airflow-stack-test-s3"]
    }
    (endpoint,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    own = ec2.describe_route_tables(Filters=[{"Name": "tag:deployment", "Values": ["test"]}])
    assert set(endpoint["RouteTableIds"]) == {one["RouteTableId"] for one in own["RouteTables"]}
    assert theirs["RouteTableId"] not in endpoint["RouteTableIds"]
    assert changes(apply()) == {}


@pytest.mark.usefixtures("founded")
@pytest.mark.parametrize("number", [1, 2])
def test_endpoint_of_others_in_our_vpc_stops_the_run(
    apply: Apply, client: Client, number: int
) -> None:
    ec2 = client("ec2")
    (endpoint,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    if number == 1:
        ec2.delete_vpc_endpoints(VpcEndpointIds=[endpoint["VpcEndpointId"]])
    table = ec2.create_route_table(VpcId=endpoint["VpcId"])["RouteTable"]["RouteTableId"]
    made = ec2.create_vpc_endpoint(
        VpcId=endpoint["VpcId"], ServiceName=endpoint["ServiceName"], RouteTableIds=[table],
        VpcEndpointType="Gateway",
    )["VpcEndpoint"]["VpcEndpointId"]  # fmt: skip
    comment = failures(apply())["aws-s3-endpoint"]
    assert made in comment
    assert "its tags" in comment if number == 1 else "2 endpoints" in comment


# -- machines of an earlier version ----------------------------------------------------------------


@pytest.mark.usefixtures("founded")
def test_machine_without_its_role_gets_it_while_it_runs(
    apply: Apply, client: Client, cloud: Running
) -> None:
    launch = {
        "ImageId": catalog.IMAGE_ID, "InstanceType": "t2.micro", "MinCount": 1, "MaxCount": 1,
    }  # fmt: skip
    (subnet,) = client("ec2").describe_subnets(
        Filters=[{"Name": "tag:Name", "Values": ["airflow-stack-test-a"]}]
    )["Subnets"]
    ids = {}
    for name in ("lb-1", "lb-evil", "web-1", "postgres-1"):
        tags = [*OWNER, {"Key": "Name", "Value": name}]
        specification = [{"ResourceType": "instance", "Tags": tags}]
        machine = cloud.ec2.run_instances(
            SubnetId=subnet["SubnetId"], TagSpecifications=specification, **launch
        )["Instances"][0]
        ids[name] = machine["InstanceId"]
    cloud.settle()
    client("iam").create_instance_profile(InstanceProfileName="mine")
    client("ec2").associate_iam_instance_profile(
        IamInstanceProfile={"Name": "mine"}, InstanceId=ids["postgres-1"]
    )
    predicted = apply(test=True)
    wanted = {"aws-lb-machines": [f"give lb-1 ({ids['lb-1']}) the role airflow-stack-test-lb"]}
    assert changes(predicted).items() >= wanted.items()
    too_new = Fault(
        "error", "AssociateIamInstanceProfile", code="InvalidParameterValue", status=400, times=1,
        message="Value (x) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance"
        " Profile name",
    )  # fmt: skip
    with cloud.faults.inject(too_new):
        states = apply()
        assert changes(states).items() >= wanted.items()
        assert not {"aws-postgres-machines", "aws-salt-role"} & changes(states).keys()
    found = {
        name: cloud.ec2.describe_instances(InstanceIds=[machine])["Reservations"][0]["Instances"][0]
        .get("IamInstanceProfile", {})
        .get("Arn", "")
        .rpartition("/")[2]
        for name, machine in ids.items()
    }
    assert found == {
        "lb-1": "airflow-stack-test-lb", "lb-evil": "", "web-1": "", "postgres-1": "mine",
    }  # fmt: skip
    assert (
        cloud.client("sts", **cloud.session_of(ids["lb-1"]))
        .get_caller_identity()["Arn"]
        .startswith("arn:aws:sts::123456789012:assumed-role/airflow-stack-test-lb/")
    )
    assert changes(apply()) == {}
