"""A new account refuses what EC2 refuses it, in EC2's words; an old one refuses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud import catalog, limits
from localcloud.account import QUOTA_CODE
from localcloud.limits import Limits
from memorycloud import Running

Launch = Callable[..., str]
QUOTA = (
    "You have requested more vCPU capacity than your current vCPU limit of {} allows for the"
    " instance bucket that the specified instance type belongs to. Please visit"
    " http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit."
)
FREE_TIER = (
    "The specified instance type is not eligible for Free Tier. For a list of Free Tier instance"
    " types, run 'describe-instance-types' with the filter 'free-tier-eligible=true'."
)
NO_T2 = Limits(not_offered={"eu-west-1a": ("t2.micro",)})
FULL = Limits(exhausted={"eu-west-1a": ("t2.micro",)})


@pytest.fixture
def subnets(local: Running) -> dict[str, str]:
    """Zone -> a subnet there."""
    vpc = local.ec2.create_vpc(CidrBlock="10.41.0.0/16")["Vpc"]["VpcId"]
    return {
        zone: local.ec2.create_subnet(
            VpcId=vpc, CidrBlock=f"10.41.{number}.0/24", AvailabilityZone=zone
        )["Subnet"]["SubnetId"]
        for number, zone in enumerate(("eu-west-1a", "eu-west-1b"))
    }


@pytest.fixture
def run(local: Running, subnets: dict[str, str]) -> Launch:
    """Return how to launch an instance in zone a, as the driver does; the answer is its id."""

    def launch(**more: Any) -> str:
        zone = more.pop("zone", "eu-west-1a")
        options: dict[str, Any] = {
            "ImageId": catalog.IMAGE_ID,
            "InstanceType": "t2.micro",
            "MinCount": 1,
            "MaxCount": 1,
            "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": subnets[zone]}],
        }
        return str(local.ec2.run_instances(**options | more)["Instances"][0]["InstanceId"])

    return launch


def refused(call: Callable[..., Any], **arguments: Any) -> tuple[str, str, int]:
    """Return code, text and HTTP status of the error in which a call ends."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer: Any = caught.value.response
    return (
        answer["Error"]["Code"],
        answer["Error"]["Message"],
        answer["ResponseMetadata"]["HTTPStatusCode"],
    )


def test_old_account_refuses_nothing(local: Running, run: Launch) -> None:
    for _ in range(8):
        run()
    assert (
        local.client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=QUOTA_CODE)[
            "Quota"
        ]["Value"]
        >= 1000
    )


# -- the quota of vCPUs ----------------------------------------------------------------------------


def test_quota_counts_vcpus_that_run(local: Running, run: Launch) -> None:
    with local.faults.limit(Limits(vcpus=3)):
        first, second = run(), run()
        assert refused(run, InstanceType="t3.micro") == (  # of two vCPUs
            "VcpuLimitExceeded", QUOTA.format(3), 400,
        )  # fmt: skip
        assert refused(run, MinCount=2, MaxCount=2)[0] == "VcpuLimitExceeded"
        run()
        assert refused(run)[0] == "VcpuLimitExceeded"
        local.settle()
        local.ec2.stop_instances(InstanceIds=[first])
        local.ec2.terminate_instances(InstanceIds=[second])
        local.settle()
        run(InstanceType="t3.micro")
        assert refused(local.ec2.start_instances, InstanceIds=[first])[0] == "VcpuLimitExceeded"
        assert local.state(first) == "stopped"
    local.ec2.start_instances(InstanceIds=[first])


def test_quota_of_spot_instances_is_another(local: Running, run: Launch) -> None:
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}
    with local.faults.limit(Limits(vcpus=1)):
        run(**spot)
        run()
        run(**spot)
        assert refused(run)[0] == "VcpuLimitExceeded"


def test_known_token_is_answered_at_the_quota(local: Running, run: Launch) -> None:
    with local.faults.limit(Limits(vcpus=1)):
        assert run(ClientToken="one") == run(ClientToken="one")
        assert refused(run, ClientToken="two")[0] == "VcpuLimitExceeded"


def test_quota_can_be_asked(local: Running) -> None:
    client = local.client("service-quotas")
    with local.faults.limit(Limits(vcpus=5)):
        quota = client.get_service_quota(ServiceCode="ec2", QuotaCode=QUOTA_CODE)["Quota"]
    assert (quota["Value"], quota["QuotaCode"]) == (5.0, "L-1216C47A")
    assert quota["QuotaName"].startswith("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z)")
    code, _, _ = refused(client.get_service_quota, ServiceCode="ec2", QuotaCode="L-00000000")
    assert code == "NoSuchResourceException"


# -- plan and verification -------------------------------------------------------------------------


def test_free_plan_has_eligible_types_only(local: Running, run: Launch) -> None:
    with local.faults.limit(Limits(plan="FREE")):
        assert refused(run) == ("InvalidParameterCombination", FREE_TIER, 400)
        run(InstanceType="t3.micro")
    with local.faults.limit(Limits(plan="PAID")):
        run()


@pytest.mark.parametrize(
    ("plan", "eligible"), [("", {"t2.micro"}), ("FREE", {"t3.micro"}), ("PAID", {"t3.micro"})]
)
def test_eligible_types_depend_on_the_age_of_the_account(
    local: Running, plan: Any, eligible: set[str]
) -> None:
    filters = [{"Name": "free-tier-eligible", "Values": ["true"]}]
    pair = ["t2.micro", "t3.micro"]
    with local.faults.limit(Limits(plan=plan)):
        found = local.ec2.describe_instance_types(InstanceTypes=pair, Filters=filters)
        marked = local.ec2.describe_instance_types(InstanceTypes=pair)["InstanceTypes"]
    assert {kind["InstanceType"] for kind in found["InstanceTypes"]} == eligible
    assert {kind["InstanceType"] for kind in marked if kind["FreeTierEligible"]} == eligible


def test_plan_can_be_asked(local: Running) -> None:
    client = local.client("freetier")
    with local.faults.limit(Limits(plan="FREE")):
        state = client.get_account_plan_state()
    assert (state["accountId"], state["accountPlanType"]) == ("123456789012", "FREE")
    code, _, status = refused(client.get_account_plan_state)
    assert (code, status) == ("ResourceNotFoundException", 400)


def test_unverified_account_launches_nothing(local: Running, run: Launch) -> None:
    with local.faults.limit(Limits(pending_verification=True)):
        code, text, status = refused(run)
    assert (code, status) == ("PendingVerification", 400)
    assert text.startswith("Your request for accessing resources in this region is being validated")
    assert text.endswith("writing to aws-verification@amazon.com for further assistance.")


# -- zones -----------------------------------------------------------------------------------------


def test_zone_without_the_type_names_the_others(local: Running, run: Launch) -> None:
    with local.faults.limit(NO_T2):
        assert refused(run) == (
            "Unsupported",
            (
                "Your requested instance type (t2.micro) is not supported in your requested"
                " Availability Zone (eu-west-1a). Please retry your request by not specifying an"
                " Availability Zone or choosing eu-west-1b, eu-west-1c."
            ),
            400,
        )
        run(zone="eu-west-1b")
        run(InstanceType="t3.micro")
        filters = [{"Name": "instance-type", "Values": ["t2.micro"]}]
        offers = local.ec2.describe_instance_type_offerings(
            LocationType="availability-zone", Filters=filters
        )["InstanceTypeOfferings"]
    assert {offer["Location"] for offer in offers} == {"eu-west-1b", "eu-west-1c"}


def test_zone_without_room_is_an_error_of_the_server(local: Running, run: Launch) -> None:
    with local.faults.limit(FULL):
        assert refused(run) == (
            "InsufficientInstanceCapacity",
            (
                "We currently do not have sufficient t2.micro capacity in the Availability Zone you"
                " requested (eu-west-1a). Our system will be working on provisioning additional"
                " capacity. You can currently get t2.micro capacity by not specifying an"
                " Availability Zone in your request or choosing eu-west-1b, eu-west-1c."
            ),
            500,
        )
        run(zone="eu-west-1b")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Limits(), "DryRunOperation"),
        (Limits(vcpus=0), "DryRunOperation"),
        (Limits(plan="FREE"), "DryRunOperation"),
        (Limits(pending_verification=True), "DryRunOperation"),
        (FULL, "DryRunOperation"),
        (NO_T2, "Unsupported"),
    ],
)
def test_dry_run_names_a_missing_offer_and_nothing_else(
    local: Running, run: Launch, given: Limits, said: str
) -> None:
    with local.faults.limit(given):
        code, _, status = refused(run, DryRun=True)
        assert (code, status) == (said, 412 if said == "DryRunOperation" else 400)


def test_refused_launch_leaves_nothing(local: Running, run: Launch) -> None:
    for given in (Limits(vcpus=0), Limits(plan="FREE"), NO_T2, FULL):
        with local.faults.limit(given):
            refused(run)
    assert local.ec2.describe_instances()["Reservations"] == []
    assert local.ec2.describe_volumes()["Volumes"] == []
    assert local.ec2.describe_network_interfaces()["NetworkInterfaces"] == []


# -- who may ask, and set --------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["service-quotas", "freetier"])
def test_others_than_the_owner_need_a_permission(local: Running, service: str) -> None:
    iam = local.client("iam")
    iam.create_user(UserName="operator")
    key = iam.create_access_key(UserName="operator")["AccessKey"]
    keys = {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    client = local.client(service, **keys)
    action, call, arguments = {
        "service-quotas": (
            "servicequotas:GetServiceQuota",
            "get_service_quota",
            {"ServiceCode": "ec2", "QuotaCode": QUOTA_CODE},
        ),
        "freetier": ("freetier:GetAccountPlanState", "get_account_plan_state", {}),
    }[service]
    code, text, _ = refused(getattr(client, call), **arguments)
    assert code == "AccessDeniedException"
    assert f"is not authorized to perform: {action} because no identity-based policy" in text
    statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    iam.put_user_policy(UserName="operator", PolicyName="ask", PolicyDocument=document)
    with local.faults.limit(Limits(plan="PAID")):
        getattr(client, call)(**arguments)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"vcpu": 5}'])
def test_wrong_limits_are_refused(body: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        limits.parse(body)
