"""What the account would refuse is named before anything is launched; otherwise not a word."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError

import awsenvironment
from localcloud import catalog, faults
from localcloud.limits import Limits
from memorycloud import Running
from plainpillar import ROOT
from policymutants import mutants
from stackctl import limits
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError
from stackctl.machines import ec2_client

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

ROLES = ["salt-1", "lb-1", "postgres-1", "redis-1", "web-1", "web-2"]


@pytest.fixture
def client(in_cloud: Running, deployment: Deployment) -> EC2Client:
    """A client of the account as `stackctl` makes it."""
    return ec2_client(deployment)


def launch(cloud: Running, name: str, project: str = "airflow-stack", **more: Any) -> str:
    """Launch a machine, and return its id."""
    given = {"Name": name, "project": project, "deployment": "local"}
    tags = [{"Key": key, "Value": value} for key, value in given.items()]
    vpcs = cloud.ec2.describe_vpcs(Filters=[{"Name": "cidr", "Values": ["10.42.0.0/16"]}])["Vpcs"]
    vpc = (vpcs or [cloud.ec2.create_vpc(CidrBlock="10.42.0.0/16")["Vpc"]])[0]["VpcId"]
    found = cloud.ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    subnet = found or [cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.42.1.0/24")["Subnet"]]
    options = {
        "ImageId": catalog.IMAGE_ID,
        "InstanceType": "t2.micro",
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": subnet[0]["SubnetId"],
        "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}],
    }
    return str(cloud.ec2.run_instances(**options | more)["Instances"][0]["InstanceId"])


# -- the quota -------------------------------------------------------------------------------------


@pytest.mark.parametrize("quota", [6, 1152])
def test_enough_quota_is_no_word(
    deployment: Deployment, client: EC2Client, in_cloud: Running, quota: int
) -> None:
    with in_cloud.faults.limit(Limits(vcpus=quota)):
        assert limits.check(deployment, client) == []


def test_quota_of_a_new_account_is_too_small(
    deployment: Deployment, client: EC2Client, in_cloud: Running
) -> None:
    with in_cloud.faults.limit(Limits(vcpus=5)), pytest.raises(PreflightError) as caught:
        limits.check(deployment, client)
    assert caught.value.what == (
        "The account may run 5 vCPUs of On-Demand Standard instances in eu-west-1, 0 run, and"
        f" {', '.join(ROLES)} need 6."
    )
    assert caught.value.hint == (
        "Ask for at least 6 at Service Quotas, quota L-1216C47A of the service ec2:"
        " https://eu-west-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/"
        "L-1216C47A."
    )


def test_what_runs_already_counts(
    deployment: Deployment, client: EC2Client, in_cloud: Running
) -> None:
    launch(in_cloud, "salt-1")
    launch(in_cloud, "foreign", "another", InstanceType="t3.micro")  # two vCPUs
    launch(in_cloud, "spot", "another", InstanceMarketOptions={"MarketType": "spot"})
    stopped = launch(in_cloud, "stopped", "another")
    in_cloud.settle()
    in_cloud.ec2.stop_instances(InstanceIds=[stopped])
    in_cloud.settle()
    with in_cloud.faults.limit(Limits(vcpus=8)):  # 5 wanted, 3 run
        assert limits.check(deployment, client) == []
    with in_cloud.faults.limit(Limits(vcpus=7)), pytest.raises(PreflightError) as caught:
        limits.check(deployment, client)
    assert "in eu-west-1, 3 run, and lb-1, postgres-1," in caught.value.what
    assert "Ask for at least 8 at" in caught.value.hint
    assert caught.value.hint.endswith("Or end other instances.")


def test_stopped_machine_needs_room_to_start(
    deployment: Deployment, client: EC2Client, in_cloud: Running
) -> None:
    ids = [launch(in_cloud, name) for name in ROLES]
    in_cloud.settle()
    in_cloud.ec2.stop_instances(InstanceIds=ids[:1])
    in_cloud.settle()
    with in_cloud.faults.limit(Limits(vcpus=5)), pytest.raises(PreflightError, match="salt-1 need"):
        limits.check(deployment, client)


def test_complete_stack_is_not_examined(
    deployment: Deployment, client: EC2Client, in_cloud: Running
) -> None:
    for name in ROLES:
        launch(in_cloud, name)
    with in_cloud.faults.limit(Limits(vcpus=1)), in_cloud.faults.inject() as seen:
        assert limits.check(deployment, client) == []
        assert set(seen.seen().calls) == {"DescribeInstances"}


def test_types_of_another_quota_do_not_count(
    deployment: Deployment, client: EC2Client, in_cloud: Running
) -> None:
    launch(in_cloud, "gpu", "another", InstanceType="g4dn.xlarge")
    with in_cloud.faults.limit(Limits(vcpus=6)):
        assert limits.check(deployment, client) == []


# -- the plan --------------------------------------------------------------------------------------


def test_free_plan_does_not_have_the_type(
    deployment: Deployment, client: EC2Client, in_cloud: Running
) -> None:
    with in_cloud.faults.limit(Limits(plan="FREE")), pytest.raises(PreflightError) as caught:
        limits.check(deployment, client)
    assert caught.value.what == (
        "The account is on AWS's Free plan, which has no instances of type t2.micro"
        f" ({', '.join(ROLES)})."
    )
    assert "aws freetier upgrade-account-plan --account-plan-type PAID" in caught.value.hint
    assert "cloud.profiles.d/machines.conf" in caught.value.hint


def test_free_plan_has_other_types(
    deployment: Deployment, client: EC2Client, in_cloud: Running
) -> None:
    set_size(deployment, "t3.micro")
    with in_cloud.faults.limit(Limits(plan="FREE")):
        assert limits.check(deployment, client) == []


def test_paid_plan_is_no_word(deployment: Deployment, client: EC2Client, in_cloud: Running) -> None:
    with in_cloud.faults.limit(Limits(plan="PAID")):
        assert limits.check(deployment, client) == []


def set_size(deployment: Deployment, size: str) -> None:
    path = deployment.root / "cloud.profiles.d" / "machines.conf"
    profiles = yaml.safe_load(path.read_text())
    profiles["debian-13"]["size"] = size
    path.write_text(yaml.safe_dump(profiles))


# -- zones and types -------------------------------------------------------------------------------


def test_zone_does_not_have_the_type(
    deployment: Deployment, client: EC2Client, in_cloud: Running
) -> None:
    given = Limits(not_offered={"eu-west-1a": ("t2.micro",)})
    with in_cloud.faults.limit(given), pytest.raises(PreflightError) as caught:
        limits.check(deployment, client)
    assert caught.value.what.startswith(
        "The zone eu-west-1a has no instances of type t2.micro for this account (salt-1 would"
    )
    assert caught.value.hint.startswith("These have them: eu-west-1b, eu-west-1c. Set them as")
    # The driver goes on to the next zone.
    elsewhere = Limits(not_offered={"eu-west-1b": ("t2.micro",)})
    with in_cloud.faults.limit(elsewhere):
        (warning,) = limits.check(deployment, client)
    assert warning == "no t2.micro for this account in eu-west-1b: machines go to other zones"
    zones = ("eu-west-1a", "eu-west-1b", "eu-west-1c")
    nowhere = Limits(not_offered=dict.fromkeys(zones, ("t2.micro",)))
    with in_cloud.faults.limit(nowhere), pytest.raises(PreflightError) as caught:
        limits.check(deployment, client)
    assert caught.value.what.startswith(
        "The zones eu-west-1a, eu-west-1b, eu-west-1c have no instances of type t2.micro for this"
        " account (salt-1, lb-1,"
    )


def test_type_does_not_exist(deployment: Deployment, client: EC2Client) -> None:
    set_size(deployment, "t9.micro")
    with pytest.raises(PreflightError, match=r"no instances of these types in eu-west-1: t9\.mic"):
        limits.check(deployment, client)


# -- credentials that may not ask ------------------------------------------------------------------


def operator(cloud: Running, statements: list[dict[str, Any]]) -> tuple[str, str]:
    """Make a user with these statements, and return its access key."""
    iam = cloud.client("iam")
    iam.create_user(UserName="operator")
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_user_policy(UserName="operator", PolicyName="one", PolicyDocument=document)
    key = iam.create_access_key(UserName="operator")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


POLICY = json.loads((ROOT / "docs" / "operator-checks.json").read_text())["Statement"]


def ask(deployment: Deployment) -> list[str]:
    """Ask as somebody who can do nothing else; return the warnings, or the denial."""
    client = ec2_client(deployment)
    region: Any = {"region_name": "us-east-1"}
    for service, call in (("ec2", "describe_instances"), ("service-quotas", "get_service_quota")):
        abroad: Any = boto3.client(service, **region)  # type: ignore[call-overload]
        given = {} if service == "ec2" else {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
        with pytest.raises(ClientError, match=r"Unauthorized|AccessDenied"):
            getattr(abroad, call)(**given)
    try:
        return limits.check(deployment, client)
    except ClientError as error:
        return [str(error)]


def test_documented_policy_is_enough_and_no_part_of_it_is_superfluous(
    deployment: Deployment, cloud: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = operator(cloud, POLICY)
    awsenvironment.use(monkeypatch, cloud, key, secret)
    iam = cloud.client("iam")
    unnoticed = []
    with cloud.faults.limit(Limits(plan="PAID")):
        assert ask(deployment) == []
        for name, fewer in mutants(POLICY):
            document = json.dumps({"Version": "2012-10-17", "Statement": fewer})
            iam.put_user_policy(UserName="operator", PolicyName="one", PolicyDocument=document)
            try:
                if not ask(deployment):
                    unnoticed.append(name)
            except pytest.fail.Exception:
                continue  # allowed abroad
    assert unnoticed == []


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (
            "SeeQuotas",
            "the quota of vCPUs is unknown (servicequotas:GetServiceQuota is denied)",
        ),
        (
            "SeeThePlan",
            (
                "it is unknown whether the account is on AWS's Free plan, which has no t2.micro"
                " (freetier:GetAccountPlanState is denied)"
            ),
        ),
    ],
)
def test_what_may_not_be_asked_is_a_warning(
    deployment: Deployment,
    cloud: Running,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    told: str,
) -> None:
    key, secret = operator(cloud, [one for one in POLICY if one["Sid"] != missing])
    awsenvironment.use(monkeypatch, cloud, key, secret)
    with cloud.faults.limit(Limits(plan="FREE" if missing == "SeeThePlan" else "PAID")):
        assert limits.check(deployment, ec2_client(deployment)) == [told]


@pytest.mark.parametrize("action", ["GetServiceQuota", "GetAccountPlanState", "DescribeInst*"])
def test_credentials_that_have_ended_are_no_warning(
    deployment: Deployment, client: EC2Client, in_cloud: Running, action: str
) -> None:
    with (
        in_cloud.faults.limit(Limits(plan="PAID")),
        in_cloud.faults.inject(faults.expired(action)),
        pytest.raises(ClientError, match="RequestExpired"),
    ):
        limits.check(deployment, client)
