"""The site's public address, which a new deployment needs before its first machine.

The certificate and `base_url` name it. The foundation (salt/aws/address.sls) finds the address by
its Name tag, and allocates it if nobody has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from stackctl import cost, preflight
from stackctl.deployment import Deployment
from stackctl.errors import SecretsError
from stackctl.machines import ec2_client
from stackctl.tree_modules import load

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import TagTypeDef


def price() -> str:
    """Return the USD an hour of a public IPv4 address, in use or not."""
    return str(cost.prices().services["ipv4"]["hour"])


@dataclass(frozen=True)
class EdgeAddress:
    """An Elastic IP.

    Attributes:
        name: its Name tag.
        public: the address.
        is_new: it has just been allocated.
    """

    name: str
    public: str
    is_new: bool

    @property
    def base_url(self) -> str:
        """The address that users type when the site has no name."""
        return f"https://{self.public}"

    def __str__(self) -> str:
        verb = "Allocated" if self.is_new else "Found"
        return (
            f"{verb} the Elastic IP {self.name}: {self.public}."
            f" It costs {price()} USD an hour, also while no machine has it."
        )


def ensure(deployment: Deployment, account: str) -> EdgeAddress:
    """Return the deployment's address; allocate it if the account has none of it.

    Args:
        deployment: one that is not on this machine.
        account: the number of its AWS account.

    Raises:
        PreflightError: the credentials belong to another account; nothing is allocated.
        SecretsError: several addresses have the name, or one that is not the deployment's, or the
            account may have no more.
    """
    preflight.check_credentials(deployment, account, "--account")
    aws = deployment.base_pillar("aws")
    name, owner = deployment.in_account(aws["edge_address"]["name"]), deployment.owner()
    client = ec2_client(deployment)
    found = client.describe_addresses(Filters=[{"Name": "tag:Name", "Values": [name]}])["Addresses"]
    if len(found) > 1:
        raise SecretsError(
            f"{len(found)} Elastic IPs are called {name} in {deployment.region()}.",
            "Release those that are not wanted.",
        )
    for address in found:
        known = {tag["Key"]: tag["Value"] for tag in address.get("Tags", [])}
        if not owner.items() <= known.items():
            given = ", ".join(f"{key}={value}" for key, value in owner.items())
            raise SecretsError(
                f"The Elastic IP {address['PublicIp']} is called {name}, but does not have the tags"
                f" {given}: it is not this deployment's.",
                "Give it another name; or, if it is this deployment's, those tags.",
            )
    if found:
        return EdgeAddress(name, found[0]["PublicIp"], is_new=False)
    tags: list[TagTypeDef] = [
        {"Key": key, "Value": value} for key, value in {"Name": name, **owner}.items()
    ]
    try:
        made = client.allocate_address(
            Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": tags}]
        )
    except ClientError as error:
        states = load(deployment, "elastic_ip")  # the foundation says the same
        if error.response["Error"]["Code"] != states.LIMIT_REACHED:
            raise
        reason = str(states.limit_reached(name, deployment.region()))
        raise SecretsError(f"{reason[0].upper()}{reason[1:]}.") from None
    return EdgeAddress(name, made["PublicIp"], is_new=True)
