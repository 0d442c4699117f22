"""The site's address is allocated once, and given to the machine that has lost it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_ip_addresses import ElasticAddressBackend
from salt.exceptions import CommandExecutionError

from saltmodules import load

REGION = "eu-west-1"
TAGS = {"project": "airflow-stack"}


@pytest.fixture(scope="module", autouse=True)
def account() -> Iterator[None]:
    """An account in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        patch.setenv("MOTO_ENABLE_EC2_INSTANCE_TYPE_VALIDATION", "false")
        with mock_aws():
            yield


@pytest.fixture
def ec2() -> Iterator[Any]:
    """A client of the account, which has neither machines nor addresses."""
    client = boto3.client("ec2", region_name=REGION)
    yield client
    for address in client.describe_addresses()["Addresses"]:
        client.release_address(AllocationId=address["AllocationId"])
    for group in client.describe_instances()["Reservations"]:
        client.terminate_instances(InstanceIds=[one["InstanceId"] for one in group["Instances"]])


State = Callable[..., dict[str, Any]]


def state(name: str, *, test: bool = False) -> State:
    """Return a function of the state module."""
    call = load("_modules", "ec2").call
    module: ModuleType = load("_modules", "elastic_ip", __salt__={"ec2.call": call})
    functions = {
        f"elastic_ip.{function}": getattr(module, function)
        for function in ("find", "allocate", "machine", "associate")
    }
    made = load("_states", "elastic_ip", __salt__=functions, __opts__={"test": test})
    function: State = getattr(made, name)
    return function


def present(*, test: bool = False) -> dict[str, Any]:
    return state("present", test=test)("edge", TAGS, REGION)


def associated(*, test: bool = False) -> dict[str, Any]:
    return state("associated", test=test)("edge", "lb-1", "airflow-stack", REGION)


def launch(ec2: Any, name: str, project: str = "airflow-stack") -> str:
    """Launch an instance, and return the id of its interface."""
    tags = [{"Key": "Name", "Value": name}, {"Key": "project", "Value": project}]
    answer = ec2.run_instances(
        ImageId="ami-1", MinCount=1, MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )  # fmt: skip
    return str(answer["Instances"][0]["NetworkInterfaces"][0]["NetworkInterfaceId"])


def addresses(ec2: Any) -> list[dict[str, Any]]:
    return list(ec2.describe_addresses()["Addresses"])


# -- present ---------------------------------------------------------------------------------------


def test_address_is_allocated_once_with_its_tags(ec2: Any) -> None:
    predicted = present(test=True)
    assert (predicted["result"], addresses(ec2)) == (None, [])
    assert predicted["changes"]["new"]
    made = present()
    (address,) = addresses(ec2)
    assert made["result"] is True
    assert made["changes"] == {"old": None, "new": address["PublicIp"]}
    assert {tag["Key"]: tag["Value"] for tag in address["Tags"]} == {"Name": "edge", **TAGS}
    for test in (False, True):
        again = present(test=test)
        assert (again["result"], again["changes"]) == (True, {})
    assert addresses(ec2) == [address]


def test_two_addresses_of_one_name_are_an_error(ec2: Any) -> None:
    present()
    named = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "Name", "Value": "edge"}]}]
    ec2.allocate_address(Domain="vpc", TagSpecifications=named)
    with pytest.raises(CommandExecutionError, match="2 elastic addresses are called edge"):
        present()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("AddressLimitExceeded", r"^the account has as many .* in eu-west-1 .* edge cannot be"),
        ("UnauthorizedOperation", r"^allocate_address: .*UnauthorizedOperation"),
    ],
)
def test_refused_allocation_says_what_to_do(
    ec2: Any, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EC2ClientError(code, "The maximum number of addresses has been reached.")

    monkeypatch.setattr(ElasticAddressBackend, "allocate_address", refuse)
    with pytest.raises(CommandExecutionError, match=said):
        present()
    assert addresses(ec2) == []


# -- associated ------------------------------------------------------------------------------------


def test_without_address_it_fails_and_predicts_that_it_will_not(ec2: Any) -> None:
    assert addresses(ec2) == []
    assert associated(test=True)["result"] is None
    failed = associated()
    assert failed["result"] is False
    assert "there is no elastic address edge" in failed["comment"]


@pytest.mark.parametrize("case", ["no machine", "another project", "terminated"])
def test_nothing_is_done_before_the_machine_is_there(ec2: Any, case: str) -> None:
    present()
    if case != "no machine":
        launch(ec2, "lb-1", "other" if case == "another project" else "airflow-stack")
    if case == "terminated":
        groups = ec2.describe_instances()["Reservations"]
        ids = [one["InstanceId"] for group in groups for one in group["Instances"]]
        ec2.terminate_instances(InstanceIds=ids)
    for test in (False, True):
        result = associated(test=test)
        assert (result["result"], result["changes"]) == (True, {})
        assert "lb-1 gets it when it is launched" in result["comment"]
    assert not addresses(ec2)[0].get("NetworkInterfaceId")


def test_running_machine_gets_the_address(ec2: Any) -> None:
    present()
    interface = launch(ec2, "lb-1")
    launch(ec2, "web-1")
    address = addresses(ec2)[0]["PublicIp"]
    predicted = associated(test=True)
    assert predicted["result"] is None
    assert predicted["changes"] == {"old": None, "new": f"{address} of lb-1"}
    assert not addresses(ec2)[0].get("NetworkInterfaceId")
    made = associated()
    assert (made["result"], made["changes"]) == (True, predicted["changes"])
    assert addresses(ec2)[0]["NetworkInterfaceId"] == interface
    for test in (False, True):
        again = associated(test=test)
        assert (again["result"], again["changes"]) == (True, {})


@pytest.mark.parametrize("test", [False, True])
def test_address_is_not_taken_from_another(ec2: Any, test: bool) -> None:
    present()
    launch(ec2, "lb-1")
    other = launch(ec2, "web-1")
    ec2.associate_address(AllocationId=addresses(ec2)[0]["AllocationId"], NetworkInterfaceId=other)
    result = associated(test=test)
    assert (result["result"], result["changes"]) == (False, {})
    assert other in result["comment"]
    assert addresses(ec2)[0]["NetworkInterfaceId"] == other


def test_two_machines_of_one_name_are_an_error(ec2: Any) -> None:
    present()
    launch(ec2, "lb-1")
    launch(ec2, "lb-1")
    with pytest.raises(CommandExecutionError, match="2 machines are called lb-1"):
        associated()


def test_refusal_of_ec2_is_an_error(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    present()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(CommandExecutionError, match="describe_addresses: "):
        present()
