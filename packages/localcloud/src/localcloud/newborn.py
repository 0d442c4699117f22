"""Things that EC2 and IAM do not know yet, although they have just made them.

An answer of AWS tells what all of its parts agree on, and they agree some time after a change. So
the id that a call has returned is refused by the next call, and a list does not have it:
https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html#troubleshoot_general_eventual-consistency
The codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree as ET

PROFILE_IN_LAUNCH = "IamInstanceProfile.Name"


@dataclass(frozen=True)
class Kind:
    """A kind of thing that can be new.

    Attributes:
        makes: the actions that make one; to these it is known.
        key: the element of answers that has its id.
        code: the error code of a call with the id of one that is unknown.
        message: the text of that error, with `{}` for the id.
    """

    makes: tuple[str, ...]
    key: str
    code: str
    message: str


KINDS = (
    Kind(("CreateVpc",), "vpcId", "InvalidVpcID.NotFound", "The vpc ID '{}' does not exist"),
    Kind(
        ("CreateSubnet",), "subnetId", "InvalidSubnetID.NotFound",
        "The subnet ID '{}' does not exist",
    ),
    Kind(
        ("CreateInternetGateway",), "internetGatewayId", "InvalidInternetGatewayID.NotFound",
        "The internetGateway ID '{}' does not exist",
    ),
    Kind(
        ("CreateRouteTable",), "routeTableId", "InvalidRouteTableID.NotFound",
        "The routeTable ID '{}' does not exist",
    ),
    Kind(
        ("CreateVpcEndpoint",), "vpcEndpointId", "InvalidVpcEndpointId.NotFound",
        "The Vpc Endpoint Id '{}' does not exist",
    ),
    Kind(
        ("CreateSecurityGroup",), "groupId", "InvalidGroup.NotFound",
        "The security group '{}' does not exist",
    ),
    Kind(
        ("AllocateAddress",), "allocationId", "InvalidAllocationID.NotFound",
        "The allocation ID '{}' does not exist",
    ),
    Kind(
        ("CreateKeyPair", "ImportKeyPair"), "keyName", "InvalidKeyPair.NotFound",
        "The key pair '{}' does not exist",
    ),
    Kind(
        ("RunInstances",), "instanceId", "InvalidInstanceID.NotFound",
        "The instance ID '{}' does not exist",
    ),
    Kind(
        ("CreateRole",), "RoleName", "NoSuchEntity",
        "The role with name {} cannot be found.",
    ),
    Kind(
        ("CreateInstanceProfile",), "InstanceProfileName", "NoSuchEntity",
        "Instance Profile {} cannot be found.",
    ),
)  # fmt: skip


class Newborn:
    """What nobody knows yet.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._until: dict[tuple[Kind, str], float] = {}

    def add(self, action: str, answer: bytes, seconds: float) -> None:
        """Have what a call has made be unknown for so many seconds."""
        for kind in KINDS:
            if action not in kind.makes:
                continue
            tree = ET.fromstring(answer)  # noqa: S314 - it is moto's
            found = [one.text for one in tree.iter() if _name(one) == kind.key]
            with self._lock:
                for name in found[:1]:
                    self._until[kind, name or ""] = self._now() + seconds

    def forget(self) -> None:
        """Have everything be known."""
        with self._lock:
            self._until.clear()

    def _unknown(self) -> list[tuple[Kind, str]]:
        with self._lock:
            self._until = {key: end for key, end in self._until.items() if end > self._now()}
            return list(self._until)

    def refusal(self, action: str, form: Mapping[str, str]) -> tuple[str, str] | None:
        """Return code and message of the error of a call that names something unknown, or None."""
        for kind, name in self._unknown():
            if action in kind.makes:
                continue
            keys = [key for key, value in form.items() if value == name]
            if PROFILE_IN_LAUNCH in keys and kind.key == "InstanceProfileName":
                return "InvalidParameterValue", (
                    f"Value ({name}) for parameter iamInstanceProfile.name is invalid."
                    " Invalid IAM Instance Profile name"
                )
            if any(_names(key, kind) for key in keys):
                return kind.code, kind.message.format(name)
        return None

    def without(self, answer: bytes) -> bytes:
        """Return the answer of a call that reads, without what is unknown."""
        unknown = {(kind.key, name) for kind, name in self._unknown()}
        if not unknown or not answer.startswith(b"<"):
            return answer
        tree = ET.fromstring(answer)  # noqa: S314 - it is moto's
        for parent, child in list(_items(tree)):
            if any((_name(one), one.text) in unknown for one in child):
                parent.remove(child)
        return ET.tostring(tree)


def _names(parameter: str, kind: Kind) -> bool:
    """Return whether a parameter says which thing a call is about, and not what to look for."""
    if parameter.startswith("Filter."):
        return False
    # A name may also be the text of something else, such as a tag.
    named = kind.key in ("keyName", "RoleName", "InstanceProfileName")
    last = parameter.rpartition(".")[2] if not parameter[-1].isdigit() else parameter.split(".")[-2]
    return not named or last.lower() == kind.key.lower()


def _items(tree: ET.Element) -> Iterator[tuple[ET.Element, ET.Element]]:
    """Yield the entries of all lists in an answer, with what they are in."""
    for parent in tree.iter():
        for child in parent:
            if _name(child) in ("item", "member"):
                yield parent, child


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]
