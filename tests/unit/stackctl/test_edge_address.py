"""A new deployment gets its address before its first machine, from the right account."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_ip_addresses import ElasticAddressBackend

from stackctl import edge_address
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError, SecretsError

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client


@pytest.fixture
def ec2(client: EC2Client) -> Iterator[EC2Client]:
    """The account without addresses."""
    yield client
    for address in client.describe_addresses()["Addresses"]:
        client.release_address(AllocationId=address["AllocationId"])


@pytest.fixture
def new(checkout: Path) -> Deployment:
    """A deployment that nobody has initialised."""
    return Deployment("new", checkout)


def test_address_is_allocated_once_and_found_again(ec2: EC2Client, new: Deployment) -> None:
    first = edge_address.ensure(new, ACCOUNT)
    (address,) = ec2.describe_addresses()["Addresses"]
    assert {tag["Key"]: tag["Value"] for tag in address["Tags"]} == {
        "Name": "airflow-stack-new-edge",
        "project": "airflow-stack",
        "deployment": "new",
    }
    assert first.base_url == f"https://{address['PublicIp']}"
    assert str(first) == (
        f"Allocated the Elastic IP airflow-stack-new-edge: {address['PublicIp']}."
        " It costs 0.005 USD an hour, also while no machine has it."
    )
    second = edge_address.ensure(new, ACCOUNT)
    assert second.base_url == first.base_url
    assert str(second).startswith("Found the Elastic IP airflow-stack-new-edge: ")
    assert len(ec2.describe_addresses()["Addresses"]) == 1


def test_nothing_is_allocated_in_another_account(ec2: EC2Client, new: Deployment) -> None:
    with pytest.raises(
        PreflightError,
        match=rf"belong to the AWS account {ACCOUNT}, and new lives in 210987654321 \(--account\)",
    ):
        edge_address.ensure(new, "210987654321")
    assert ec2.describe_addresses()["Addresses"] == []


def test_full_account_is_told_what_to_do(
    ec2: EC2Client, new: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EC2ClientError(code, "The maximum number of addresses has been reached.")

    code = "AddressLimitExceeded"
    monkeypatch.setattr(ElasticAddressBackend, "allocate_address", refuse)
    with pytest.raises(
        SecretsError,
        match=r"^The account has as many elastic addresses in eu-west-1 as it may \(5, .*"
        r" airflow-stack-new-edge cannot be allocated: release one .* L-0263D0A3\)\.$",
    ):
        edge_address.ensure(new, ACCOUNT)
    code = "UnauthorizedOperation"
    with pytest.raises(ClientError, match=code):
        edge_address.ensure(new, ACCOUNT)


def test_two_addresses_of_one_name_are_an_error(ec2: EC2Client, new: Deployment) -> None:
    for _ in range(2):
        ec2.allocate_address(
            Domain="vpc",
            TagSpecifications=[
                {
                    "ResourceType": "elastic-ip",
                    "Tags": [{"Key": "Name", "Value": "airflow-stack-new-edge"}],
                }
            ],
        )
    with pytest.raises(
        SecretsError, match="2 Elastic IPs are called airflow-stack-new-edge in eu-west-1"
    ):
        edge_address.ensure(new, ACCOUNT)


@pytest.mark.parametrize(
    "tags", [{}, {"project": "airflow-stack"}, {"project": "airflow-stack", "deployment": "old"}]
)
def test_address_of_somebody_else_is_an_error(
    ec2: EC2Client, new: Deployment, tags: dict[str, str]
) -> None:
    given = {"Name": "airflow-stack-new-edge", **tags}
    ec2.allocate_address(
        Domain="vpc",
        TagSpecifications=[
            {
                "ResourceType": "elastic-ip",
                "Tags": [{"Key": key, "Value": value} for key, value in given.items()],
            }
        ],
    )
    with pytest.raises(SecretsError, match=r"does not have the tags .*deployment=new"):
        edge_address.ensure(new, ACCOUNT)
    assert len(ec2.describe_addresses()["Addresses"]) == 1


def test_address_of_another_deployment_is_no_obstacle(ec2: EC2Client, new: Deployment) -> None:
    first = edge_address.ensure(new, ACCOUNT)
    second = edge_address.ensure(Deployment("second", new.root), ACCOUNT)
    assert first.public != second.public
